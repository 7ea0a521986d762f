"""What ``prepare`` stores of a data set: its pairs, or patches that are cut from them."""

from collections.abc import Iterator, Mapping

import numpy as np
from etils import epath

from deblur_jax.data.layouts import PairError
from deblur_jax.data.prepared import EncodedPair
from deblur_jax.data.transforms import augmented_patch, random_patch
from deblur_jax.images.files import as_8_bits
from deblur_jax.images.reading import read_png, read_rgb
from deblur_jax.images.writing import encoded_png

PairFiles = Mapping[str, tuple[epath.Path, epath.Path | tuple[epath.Path, ...]]]
"""Files (blurred, sharp) by name, as ``folder.find_pairs`` gives them; sharp may be several."""


def encoded_pairs(pairs: PairFiles) -> Iterator[EncodedPair]:
    """The pairs, whole.

    Raises:
        ImageError: if an image is broken.
    """
    for name, (blurred, sharp) in pairs.items():
        if isinstance(sharp, tuple):
            yield name, read_png(blurred), [read_png(frame) for frame in sharp]
        else:
            yield name, read_png(blurred), read_png(sharp)


def encoded_patches(
    pairs: PairFiles, *, size: int, per_image: int, augment: bool, seed: int = 0
) -> Iterator[EncodedPair]:
    """Random patches of the pairs, named after them: "SEQUENCE/000001-007".

    Args:
        pairs: the files.
        size: height and width of a patch, in pixels.
        per_image: patches of each pair.
        augment: cut them by ``transforms.augmented_patch``.
        seed: of places and augmentation.

    Raises:
        PairError: if an image is smaller than a patch.
        ImageError: if it is broken.
    """
    cut = augmented_patch if augment else random_patch
    digits = len(str(per_image - 1))
    for index, (name, (blurred, sharp)) in enumerate(pairs.items()):
        assert not isinstance(sharp, tuple), "only test pairs have several sharp images"
        pair = {
            "blurred": as_8_bits(read_rgb(blurred)),
            "sharp": as_8_bits(read_rgb(sharp)),
        }
        for number in range(per_image):
            rng = np.random.default_rng([seed, index, number])
            try:
                patch = cut(pair, rng, size)
            except PairError as error:
                raise PairError(f"{sharp}: {error}") from None
            images = encoded_png(patch["blurred"]), encoded_png(patch["sharp"])
            yield f"{name}-{number:0{digits}}", *images
