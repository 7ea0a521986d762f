"""The networks, by name."""

import dataclasses
import functools
import inspect

import jax
from flax import nnx

from deblur_jax.compilation import quick_compilation
from deblur_jax.config import ConfigError, ModelConfig
from deblur_jax.models.mimo_unet import MIMOUNet
from deblur_jax.models.svrnn import SVRNN, VGGEncoder

_PRESETS = {
    "mimo_unet": (MIMOUNet, {"num_res_blocks": 8, "dropout_rate": 0.0}),
    "mimo_unet_plus": (MIMOUNet, {"num_res_blocks": 20, "dropout_rate": 0.1}),
    "svrnn": (SVRNN, {}),
    "vgg16": (VGGEncoder, {}),
}

START_NAMES = ("vgg16",)
"""Parts of networks, to start training from: they restore nothing."""
MODEL_NAMES = tuple(name for name in _PRESETS if name not in START_NAMES)
"""The networks that restore pictures."""


def build_model(name: str, *, rngs: nnx.Rngs, **options) -> nnx.Module:
    """Builds a network with freshly initialised parameters.

    Args:
        name: one of ``MODEL_NAMES``, with the sizes of its paper, or of ``START_NAMES``.
        rngs: ``nnx.Rngs(seed)``, for the parameters.
        **options: constructor arguments that replace the preset's; see ``MIMOUNet`` and ``SVRNN``.

    Returns:
        A module that maps blurred (b, h, w, 3) to a tuple of restored pictures, full size first,
        and holds ``nnx.Param`` only: ``graphdef, params = nnx.split(model)`` loses nothing.

    Raises:
        ConfigError: for an unknown name, or an option that the network does not have.
    """
    if name not in _PRESETS:
        raise ConfigError(f"unknown model {name!r}: choose from {', '.join(_PRESETS)}")
    model_class, preset = _PRESETS[name]
    strangers = set(options) - _options_of(model_class)
    if strangers:
        raise ConfigError(f"model {name} has no option {', '.join(sorted(strangers))}")
    return model_class(**{**preset, **options}, rngs=rngs)


def _options_of(model_class: type[nnx.Module]) -> set[str]:
    return set(inspect.signature(model_class.__init__).parameters) - {"self", "rngs"}


def default_unroll(platform: str) -> bool | int:
    """How far to unroll stacks of equal blocks on a platform: "cpu", "tpu" or "gpu".

    On the CPU the gradient of a convolution inside a loop is 10 to 100 times slower, so the stack
    is unrolled. Elsewhere the loop compiles several times faster and needs a third of the memory.
    """
    return True if platform == "cpu" else 1


def build_from_config(
    config: ModelConfig, *, rngs: nnx.Rngs, platform: str = "cpu", precision: str | None = None
) -> nnx.Module:
    """Builds the network that a configuration describes.

    Args:
        config: None in a field keeps the named model's own value.
        rngs: for the parameters.
        platform: where it will run, "cpu", "tpu" or "gpu": it decides how far to unroll.
        precision: replaces ``config.precision``, as "highest" for evaluation.
    """
    options = {k: v for k, v in dataclasses.asdict(config).items() if v is not None}
    name = options.pop("name")
    if name in _PRESETS and "unroll" in _options_of(_PRESETS[name][0]):
        options.setdefault("unroll", default_unroll(platform))
    if precision is not None:
        options["precision"] = precision
    return build_model(name, rngs=rngs, **options)


def initialize(
    config: ModelConfig, *, seed: int, platform: str = "cpu"
) -> tuple[nnx.GraphDef, nnx.State]:
    """Builds the network that a configuration describes, with random parameters.

    The random numbers are made by one program, which a compilation cache can keep; compiled one by
    one, a hundred small programs would take ten seconds at every start.

    Args:
        config: as of ``build_from_config``.
        seed: of the parameters.
        platform: as of ``build_from_config``.

    Returns:
        ``graphdef, params``, for ``nnx.merge``.
    """
    graphdef, start = _start(tuple(dataclasses.asdict(config).items()), platform)
    return graphdef, start(jax.random.key(seed))


@functools.lru_cache(maxsize=8)
def _start(fields: tuple, platform: str):
    """The structure of a network, and the compiled function from a random key to parameters."""
    config = ModelConfig(**dict(fields))

    def build(key: jax.Array) -> nnx.Module:
        return build_from_config(config, rngs=nnx.Rngs(key), platform=platform)

    graphdef = nnx.graphdef(nnx.eval_shape(build, jax.random.key(0)))
    start = jax.jit(lambda key: nnx.state(build(key)), compiler_options=quick_compilation(platform))
    return graphdef, start
