"""Image deblurring in JAX and Flax: MIMO-UNet, MIMO-UNet+ and SVRNN.

``Restorer.load(weights)(image)`` restores an image; ``build_model`` makes a network of your own.
Public names are imported at their first use, so that ``import deblur_jax`` itself is quick.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

_PLACES = {
    "Config": "training.config",
    "ComputeConfig": "models",
    "DataConfig": "data.config",
    "LossConfig": "training.losses",
    "MIMOUNetConfig": "models",
    "NetworkConfig": "models",
    "OptimizerConfig": "training.optimizer",
    "Restorer": "inference.restorer",
    "SVRNNConfig": "models",
    "build_model": "models",
    "load_weights": "weights.load",
    "model_config": "models",
    "open_pairs": "data.sources",
    "register_loss": "training.losses",
    "register_network": "models",
    "register_optimizer": "training.optimizer",
    "register_schedule": "training.optimizer",
    "save_weights": "weights.folder",
    "setting": "config",
}

__all__ = [
    "ComputeConfig",
    "Config",
    "DataConfig",
    "LossConfig",
    "MIMOUNetConfig",
    "NetworkConfig",
    "OptimizerConfig",
    "Restorer",
    "SVRNNConfig",
    "build_model",
    "load_weights",
    "model_config",
    "open_pairs",
    "register_loss",
    "register_network",
    "register_optimizer",
    "register_schedule",
    "save_weights",
    "setting",
]

if TYPE_CHECKING:
    from deblur_jax.config import setting
    from deblur_jax.data.config import DataConfig
    from deblur_jax.data.sources import open_pairs
    from deblur_jax.inference.restorer import Restorer
    from deblur_jax.models import (
        ComputeConfig,
        MIMOUNetConfig,
        NetworkConfig,
        SVRNNConfig,
        build_model,
        model_config,
        register_network,
    )
    from deblur_jax.training.config import Config
    from deblur_jax.training.losses import LossConfig, register_loss
    from deblur_jax.training.optimizer import (
        OptimizerConfig,
        register_optimizer,
        register_schedule,
    )
    from deblur_jax.weights.folder import save_weights
    from deblur_jax.weights.load import load_weights


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
