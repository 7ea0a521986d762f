"""Foreign weights into ours, every array accounted for on both sides."""

from deblur_jax.convert.torch import load_torch, params_from_state_dict, state_dict_from_params
from deblur_jax.convert.torch_file import WeightFileError

__all__ = ["WeightFileError", "load_torch", "params_from_state_dict", "state_dict_from_params"]
