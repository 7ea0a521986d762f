import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deblur_jax.data.layouts import PairError
from deblur_jax.data.pipeline import training_batches
from deblur_jax.data.transforms import augmented_patch, random_patch
from deblur_jax.extensions import VARIABLE, name_extensions


class Numbered:
    """Pair i is filled with i but for its first column, which is 100 + i."""

    def __init__(self, length=5, size=(9, 12)):
        self.names = [str(i) for i in range(length)]
        self._size = size

    def __len__(self):
        return len(self.names)

    def __getitem__(self, index):
        rng = np.random.default_rng(index)
        image = rng.integers(0, 256, (*self._size, 3), np.uint8)
        image[0, 0] = index
        return {"blurred": image, "sharp": 255 - image}


def take(count, source=None, **options):
    options = {"batch_size": 4, "patch_size": 8, "seed": 1, **options}
    batches = training_batches(source or Numbered(), **options)
    taken = [next(batches) for _ in range(count)]
    batches.close()
    return taken


def assert_equal(a, b):
    for x, y in zip(a, b, strict=True):
        np.testing.assert_array_equal(x["blurred"], y["blurred"])
        np.testing.assert_array_equal(x["sharp"], y["sharp"])


def test_workers_import_the_modules_of_the_user(tmp_path, monkeypatch):
    """The class of the source is in a file that only ``--import`` names."""
    monkeypatch.setenv(VARIABLE, "")
    file = tmp_path / "own_source.py"
    file.write_text(
        "import numpy as np\n"
        "class Own:\n"
        "    names = ['a', 'b']\n"
        "    def __len__(self):\n"
        "        return 2\n"
        "    def __getitem__(self, index):\n"
        "        image = np.full((9, 9, 3), 10 + index, np.uint8)\n"
        "        return {'blurred': image, 'sharp': image}\n"
    )
    name_extensions([str(file)])
    source = sys.modules["own_source"].Own()
    (batch,) = take(1, source, num_workers=1)
    assert set(np.unique(batch["blurred"])) <= {10, 11}


def test_a_batch_is_a_function_of_seed_and_step():
    first = take(8)
    assert_equal(first, take(8))
    assert_equal(first[5:], take(3, start_step=5))
    assert not np.array_equal(first[0]["blurred"], take(1, seed=2)[0]["blurred"])
    assert first[0]["blurred"].shape == (4, 8, 8, 3)
    assert first[0]["blurred"].dtype == np.uint8


def test_both_images_get_the_same_patch():
    for batch in take(4):
        np.testing.assert_array_equal(batch["sharp"], 255 - batch["blurred"])


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_processes_share_a_batch_in_order(processes):
    whole = take(4)
    shares = [take(4, process_index=i, process_count=processes) for i in range(processes)]
    for step, batch in enumerate(whole):
        together = np.concatenate([share[step]["blurred"] for share in shares])
        np.testing.assert_array_equal(together, batch["blurred"])


def test_a_process_reads_its_share_only():
    class Remembered(Numbered):
        read: set[int]

        def __getitem__(self, index):
            self.read.add(index)
            return super().__getitem__(index)

    reads = []
    for process in range(2):
        source = Remembered(length=200)
        source.read = set()
        take(2, source, process_index=process, process_count=2)
        reads.append(source.read)
    assert not reads[0] & reads[1]
    assert all(4 <= len(read) < 60 for read in reads), "what is read ahead is bounded"


def test_worker_processes_and_the_cache_change_nothing():
    assert_equal(take(4), take(4, num_workers=2))
    assert_equal(take(8), take(8, cache_gib=1.0))


def test_every_epoch_visits_every_pair_once_with_new_patches():
    source = Numbered(length=4, size=(8, 8))
    epochs = take(6, source)
    corners = [np.sort(b["blurred"][:, 0, [0, -1], 0].min(-1)).tolist() for b in epochs]
    assert all(min(values) >= 0 for values in corners)
    seen = [frozenset(image.tobytes() for image in np.sort(b["blurred"], 2)) for b in epochs]
    assert len(set(seen)) == 1
    orders = {tuple(np.sort(image, 1).tobytes() for image in b["blurred"]) for b in epochs}
    assert len(orders) > 1, "another permutation each epoch"


@given(st.integers(4, 12), st.integers(4, 12), st.integers(0, 1000))
def test_a_patch_is_part_of_its_image(height, width, seed):
    image = np.arange(height * width * 3).reshape(height, width, 3)
    pair = {"blurred": image, "sharp": image + 1}
    patch = random_patch(pair, np.random.default_rng(seed), 4)
    np.testing.assert_array_equal(patch["blurred"] + 1, patch["sharp"])
    rows, columns = patch["sharp"][:, 0, 0] // (3 * width), patch["sharp"][0, :, 0] // 3 % width
    assert np.diff(rows).tolist() == [1, 1, 1]
    assert np.diff(columns).tolist() in ([1, 1, 1], [-1, -1, -1])


def test_flips_and_corners_all_occur():
    image = np.arange(6 * 6 * 3).reshape(6, 6, 3)
    rng = np.random.default_rng(0)
    patches = [random_patch({"sharp": image}, rng, 4)["sharp"] for _ in range(300)]
    assert len({patch.tobytes() for patch in patches}) == 3 * 3 * 2
    flipped = np.mean([patch[0, 0, 0] > patch[0, 1, 0] for patch in patches])
    assert flipped == pytest.approx(0.5, abs=0.1)


def test_a_image_smaller_than_the_patch_says_what_to_set():
    with pytest.raises(PairError, match="12x6, smaller than 8 pixels: set a smaller patch_size"):
        random_patch({"sharp": np.zeros((6, 12, 3))}, np.random.default_rng(0), 8)


def test_augmentation_does_the_same_to_both_images():
    image = np.random.default_rng(0).integers(0, 200, (40, 50, 3), np.uint8)
    pair = {"blurred": image, "sharp": image}
    for seed in range(20):
        patch = augmented_patch(pair, np.random.default_rng(seed), 32)
        assert patch["sharp"].shape == (32, 32, 3)
        np.testing.assert_array_equal(patch["blurred"], patch["sharp"])


def test_augmentation_rotates_mirrors_rescales_and_permutes_colours():
    rows, columns = np.mgrid[0:60, 0:60]
    image = np.stack([rows, 100 + columns, np.full_like(rows, 240)], -1).astype(np.uint8)
    seen, scales = set(), []
    for seed in range(400):
        patch = augmented_patch({"sharp": image}, np.random.default_rng(seed), 30)["sharp"]
        colours = patch.mean((0, 1)).argsort()
        by_row, by_column, _ = np.moveaxis(patch.astype(int)[..., colours], -1, 0)
        slopes = [
            (int(channel[-1, 0] - channel[0, 0]), int(channel[0, -1] - channel[0, 0]))
            for channel in (by_row, by_column)
        ]
        seen.add((*colours.tolist(), *np.sign(slopes).ravel().tolist()))
        scales.append(np.abs(slopes).max() / 29)
    assert len(seen) == 6 * 8, "every permutation with every turn and reflection"
    assert 0.88 < min(scales) < 0.95
    assert 1.05 < max(scales) < 1.15
