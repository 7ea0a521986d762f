"""Foreign weights into ours, every array accounted for on both sides."""

from deblur_jax.convert.caffe import load_caffe
from deblur_jax.convert.errors import WeightFileError
from deblur_jax.convert.torch import (
    load_torch,
    params_from_state_dict,
    state_dict_from_params,
    torch_model_name,
)
from deblur_jax.convert.vgg16 import load_vgg16

__all__ = [
    "WeightFileError",
    "load_caffe",
    "load_torch",
    "load_vgg16",
    "params_from_state_dict",
    "state_dict_from_params",
    "torch_model_name",
]
