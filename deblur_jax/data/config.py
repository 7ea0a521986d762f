"""The section ``data`` of a configuration."""

import dataclasses
from typing import Any, ClassVar

from deblur_jax.config import Section, setting


@dataclasses.dataclass(frozen=True)
class DataConfig(Section):
    """Where pairs come from; ``deblur_jax.open_pairs`` says what a name may be."""

    section: ClassVar[str] = "data"

    train: str = setting(
        "synthetic:dynamic", "the data set to train on, or several with their shares: A=0.7,B=0.3"
    )
    validation: str | None = setting(
        None, "a data set of its own for validation; none cuts validation_fraction off train"
    )
    validation_fraction: float = setting(
        0.1, "share of the training pairs to hold out for validation", at_least=0, below=1
    )
    validation_limit: int = setting(
        16, "at most so many validation pairs, spread evenly over the split", at_least=1
    )
    length: int = setting(
        1000, "number of training pairs of the embedded data set; others have their own", at_least=1
    )
    image_size: int = setting(
        256, "height and width of the embedded data set's images, in pixels", at_least=8
    )
    patch_size: int = setting(256, "height and width of training patches, in pixels", at_least=4)
    num_workers: int = setting(
        0, "processes that read and crop; 0: threads of the training process", at_least=0
    )
    cache_gib: float = setting(
        4.0, "GiB of memory for decoded images, over all workers of a process", at_least=0
    )

    def __post_init__(self) -> None:
        """Writes a list of data sets and shares as text, and checks every field.

        Raises:
            ConfigError: naming the field, the value and what it must be.
        """
        listed: Any = self.train
        if isinstance(listed, list | tuple) and all(
            isinstance(item, list | tuple) and len(item) == 2 for item in listed
        ):
            text = ",".join(f"{name}={share}" for name, share in listed)
            object.__setattr__(self, "train", text)
        super().__post_init__()
