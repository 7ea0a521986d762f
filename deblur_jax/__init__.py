"""Image deblurring in JAX and Flax: MIMO-UNet, MIMO-UNet+ and SVRNN.

``Restorer.load(weights)(image)`` restores an image; ``build_model`` makes a network of your own.
Public names are imported at their first use, so that ``import deblur_jax`` itself is quick.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

_PLACES = {
    "ComputeConfig": "models",
    "Config": "training.config",
    "DataConfig": "data.config",
    "LossConfig": "training.losses",
    "MIMOUNet": "models.mimo_unet",
    "MIMOUNetConfig": "models",
    "NetworkConfig": "models",
    "OptimizerConfig": "training.optimizer",
    "Restorer": "inference.restorer",
    "SVRNN": "models.svrnn",
    "SVRNNConfig": "models",
    "Score": "evaluation.metrics",
    "TrainState": "training.step",
    "build_model": "models",
    "content_loss": "training.losses",
    "data_mesh": "runtime.devices",
    "frequency_loss": "training.losses",
    "init_state": "training.step",
    "load_weights": "weights.load",
    "make_local_step": "training.step",
    "make_optimizer": "training.optimizer",
    "make_restore_fn": "inference.restorer",
    "make_schedule": "training.optimizer",
    "make_train_step": "training.step",
    "mimo_unet_loss": "training.losses",
    "model_config": "models",
    "open_pairs": "data.sources",
    "register_loss": "training.losses",
    "register_network": "models",
    "register_optimizer": "training.optimizer",
    "register_schedule": "training.optimizer",
    "save_weights": "weights.folder",
    "scaled_to_batch": "training.large_batch",
    "score": "evaluation.metrics",
    "setting": "config",
    "squared_error": "training.losses",
    "with_ensemble": "inference.ensemble",
}

__all__ = [
    "SVRNN",
    "ComputeConfig",
    "Config",
    "DataConfig",
    "LossConfig",
    "MIMOUNet",
    "MIMOUNetConfig",
    "NetworkConfig",
    "OptimizerConfig",
    "Restorer",
    "SVRNNConfig",
    "Score",
    "TrainState",
    "build_model",
    "content_loss",
    "data_mesh",
    "frequency_loss",
    "init_state",
    "load_weights",
    "make_local_step",
    "make_optimizer",
    "make_restore_fn",
    "make_schedule",
    "make_train_step",
    "mimo_unet_loss",
    "model_config",
    "open_pairs",
    "register_loss",
    "register_network",
    "register_optimizer",
    "register_schedule",
    "save_weights",
    "scaled_to_batch",
    "score",
    "setting",
    "squared_error",
    "with_ensemble",
]

if TYPE_CHECKING:
    from deblur_jax.config import (
        setting,
    )
    from deblur_jax.data.config import (
        DataConfig,
    )
    from deblur_jax.data.sources import (
        open_pairs,
    )
    from deblur_jax.evaluation.metrics import (
        Score,
        score,
    )
    from deblur_jax.inference.ensemble import (
        with_ensemble,
    )
    from deblur_jax.inference.restorer import (
        Restorer,
        make_restore_fn,
    )
    from deblur_jax.models import (
        ComputeConfig,
        MIMOUNetConfig,
        NetworkConfig,
        SVRNNConfig,
        build_model,
        model_config,
        register_network,
    )
    from deblur_jax.models.mimo_unet import (
        MIMOUNet,
    )
    from deblur_jax.models.svrnn import (
        SVRNN,
    )
    from deblur_jax.runtime.devices import (
        data_mesh,
    )
    from deblur_jax.training.config import (
        Config,
    )
    from deblur_jax.training.large_batch import (
        scaled_to_batch,
    )
    from deblur_jax.training.losses import (
        LossConfig,
        content_loss,
        frequency_loss,
        mimo_unet_loss,
        register_loss,
        squared_error,
    )
    from deblur_jax.training.optimizer import (
        OptimizerConfig,
        make_optimizer,
        make_schedule,
        register_optimizer,
        register_schedule,
    )
    from deblur_jax.training.step import (
        TrainState,
        init_state,
        make_local_step,
        make_train_step,
    )
    from deblur_jax.weights.folder import (
        save_weights,
    )
    from deblur_jax.weights.load import (
        load_weights,
    )


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
