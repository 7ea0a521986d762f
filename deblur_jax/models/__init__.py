"""The networks: one file each, and the registry that knows them by name."""

from deblur_jax.models.compute import Compute, ComputeConfig
from deblur_jax.models.mimo_unet import MIMOUNet, MIMOUNetConfig
from deblur_jax.models.registry import (
    NetworkConfig,
    abstract_model,
    build_model,
    count_params,
    initialize,
    model_config,
    network_names,
    register_network,
    restores_images,
)
from deblur_jax.models.svrnn import SVRNN, SVRNNConfig, VGG16Config, VGGEncoder

__all__ = [
    "SVRNN",
    "Compute",
    "ComputeConfig",
    "MIMOUNet",
    "MIMOUNetConfig",
    "NetworkConfig",
    "SVRNNConfig",
    "VGG16Config",
    "VGGEncoder",
    "abstract_model",
    "build_model",
    "count_params",
    "initialize",
    "model_config",
    "network_names",
    "register_network",
    "restores_images",
]
