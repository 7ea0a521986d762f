"""Where pairs of blurred and sharp images come from, and how they become batches."""

from deblur_jax.data.cache import CachedPairs
from deblur_jax.data.mixture import PairSource
from deblur_jax.data.sources import open_pairs, open_training_pairs

__all__ = ["CachedPairs", "PairSource", "open_pairs", "open_training_pairs"]
