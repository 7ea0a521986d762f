"""The networks by name: those of the papers, and those that users register.

A network is a frozen config dataclass, which holds its sizes, and an ``nnx.Module`` with this
contract:

- ``Module(config, *, rngs, compute)`` builds it, see ``models.compute.Compute``;
- ``module(blurred, *, dropout_keys=None)`` maps (b, h, w, 3) float32 images in [0, 1] to a tuple
  of restored ones, full size first, float32 and not clipped; ``dropout_keys`` are (b,) random
  keys, one per image, in training;
- it holds ``nnx.Param`` only, so that ``graphdef, params = nnx.split(module)`` loses nothing;
- ``size_multiple``: height and width must be multiples of it;
- ``receptive_radius``: how many pixels away the input still matters, or None for no limit;
- ``computes_by_table``, False if left out: between ``enter`` and ``leave`` it computes by
  ``compute.ops`` alone, so that images of many sizes can share a program (``ops.masked``).
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, NamedTuple, TypeVar

import jax
from flax import nnx

from deblur_jax.config import Section, Table
from deblur_jax.errors import ConfigError
from deblur_jax.models.compute import ComputeConfig
from deblur_jax.ops.operations import Operations
from deblur_jax.runtime.compilation import quick_compilation

IMAGE_CHANNELS = 3
_NAME = "name"
ModuleClass = TypeVar("ModuleClass", bound=type[nnx.Module])


@dataclasses.dataclass(frozen=True)
class NetworkConfig(Section):
    """Base of the configs of networks: sizes that decide which function a network is."""

    section: ClassVar[str] = "model"

    @property
    def name(self) -> str:
        """The registered name of the network: of a preset, where the sizes are a preset's."""
        return name_of(self)

    def to_dict(self) -> dict[str, Any]:
        """The name of the network, and its sizes."""
        return {_NAME: _network_of(type(self)).name, **super().to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "NetworkConfig":
        """The config of the network that ``values`` names.

        Raises:
            ConfigError: if it is not registered, or has no such field.
        """
        sizes = dict(values)
        name = sizes.pop(_NAME, None)
        if not isinstance(name, str):
            raise ConfigError(f"config.model.name can't be {name!r}: it must be a network's name")
        return model_config(name, **sizes)

    def with_overrides(self, texts: Mapping[str, str]) -> "NetworkConfig":
        """As of ``Section``; ``name`` takes another network with its own sizes."""
        texts = dict(texts)
        config = model_config(texts.pop(_NAME)) if _NAME in texts else self
        _check_sizes(NETWORKS[config.name], texts)
        return super(NetworkConfig, config).with_overrides(texts)


class Network(NamedTuple):
    """A registered network."""

    name: str
    config_class: type[NetworkConfig]
    module_class: Callable[..., nnx.Module]
    make_config: Callable[..., NetworkConfig]
    """Takes sizes that replace its own."""
    restores: bool
    """False for a part of a network, which is there to start a training from."""


NETWORKS: Table[Network] = Table("network")


def register_network(
    name: str,
    config_class: type[NetworkConfig],
    *,
    presets: Mapping[str, Callable[..., NetworkConfig]] | None = None,
    restores: bool = True,
) -> Callable[[ModuleClass], ModuleClass]:
    """Registers the decorated module class as a network.

    Args:
        name: of the network, for configurations, commands and files of weights.
        config_class: of its sizes; its defaults are those of ``name``.
        presets: other names for other sizes of the same network.
        restores: whether it restores images; else it can only be started from.

    Raises:
        ConfigError: if a name is taken.
    """

    def register(module_class: ModuleClass) -> ModuleClass:
        makers: dict[str, Callable[..., NetworkConfig]] = {name: config_class, **(presets or {})}
        for own_name, make_config in makers.items():
            network = Network(own_name, config_class, module_class, make_config, restores)
            NETWORKS.add(own_name, network)
        return module_class

    return register


def network_names(*, restoring: bool = True) -> list[str]:
    """The names of the networks that restore images; or of all, parts of networks too."""
    return [name for name, network in NETWORKS.items() if network.restores or not restoring]


def model_config(name: str, **sizes: Any) -> NetworkConfig:
    """The config of a registered network.

    Args:
        name: of the network: "mimo_unet", "mimo_unet_plus", "svrnn", "vgg16", or one of your own.
        **sizes: fields that replace its own.

    Raises:
        ConfigError: for an unknown name, a field that the network does not have, or a value that
            can't be.
    """
    network = NETWORKS[name]
    _check_sizes(network, sizes)
    return network.make_config(**sizes)


def name_of(config: NetworkConfig) -> str:
    """The registered name of a network: of a preset, where the sizes are exactly a preset's."""
    own = _network_of(type(config))
    for name, network in NETWORKS.items():
        if network.config_class is own.config_class and network.make_config() == config:
            return name
    return own.name


def restores_images(config: NetworkConfig) -> bool:
    """Whether the network restores images, and is not only a part of one."""
    return _network_of(type(config)).restores


def build_model(
    config: NetworkConfig,
    *,
    rngs: nnx.Rngs,
    compute: ComputeConfig | None = None,
    platform: str | None = None,
) -> Any:
    """Builds a network with random parameters.

    Args:
        config: as ``model_config("mimo_unet")`` or ``MIMOUNetConfig.plus()``.
        rngs: ``nnx.Rngs(seed)``, for the parameters.
        compute: how to compute it; float32 and the platform's own operations by default.
        platform: where it will run, "cpu", "gpu" or "tpu"; JAX's default platform if left out.

    Returns:
        A module that maps blurred (b, h, w, 3) to a tuple of restored images, full size first,
        and holds ``nnx.Param`` only: ``graphdef, params = nnx.split(model)`` loses nothing.
    """
    resolved = (compute or ComputeConfig()).resolve(platform or jax.default_backend())
    return _network_of(type(config)).module_class(config, rngs=rngs, compute=resolved)


def abstract_model(
    config: NetworkConfig,
    *,
    compute: ComputeConfig | None = None,
    platform: str | None = None,
    change_operations: Callable[[Operations], Operations] | None = None,
) -> Any:
    """``build_model`` without numbers: its parameters are shapes, and nothing is computed.

    Args:
        config: as of ``build_model``.
        compute: as of ``build_model``.
        platform: as of ``build_model``.
        change_operations: makes the table of operations of the platform's, as ``ops.masked`` does.
    """
    resolved = (compute or ComputeConfig()).resolve(platform or jax.default_backend())
    if change_operations is not None:
        resolved = dataclasses.replace(resolved, ops=change_operations(resolved.ops))
    module_class = _network_of(type(config)).module_class
    return nnx.eval_shape(lambda: module_class(config, rngs=nnx.Rngs(0), compute=resolved))


def initialize(
    config: NetworkConfig,
    *,
    seed: int,
    compute: ComputeConfig | None = None,
    platform: str | None = None,
) -> tuple[nnx.GraphDef, nnx.State]:
    """Builds a network with random parameters by one program, which a compilation cache can keep.

    Compiled one by one, a hundred small programs would take ten seconds at every start.

    Args:
        config: as of ``build_model``.
        seed: of the parameters.
        compute: as of ``build_model``.
        platform: as of ``build_model``.

    Returns:
        ``graphdef, params``, for ``nnx.merge``.
    """
    platform = platform or jax.default_backend()
    graphdef, make_params = _initializer(config, compute or ComputeConfig(), platform)
    return graphdef, make_params(jax.random.key(seed))


@functools.lru_cache(maxsize=8)
def _initializer(
    config: NetworkConfig, compute: ComputeConfig, platform: str
) -> tuple[nnx.GraphDef, Callable[[jax.Array], nnx.State]]:
    """The structure of a network, and the compiled function from a random key to parameters."""

    def build(key: jax.Array) -> nnx.Module:
        return build_model(config, rngs=nnx.Rngs(key), compute=compute, platform=platform)

    graphdef = nnx.graphdef(nnx.eval_shape(build, jax.random.key(0)))
    options = quick_compilation(platform)
    return graphdef, jax.jit(lambda key: nnx.state(build(key)), compiler_options=options)


def count_params(params: nnx.State) -> int:
    """Number of parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def check_images(images: jax.Array, size_multiple: int) -> None:
    """Checks a batch for (b, h, w, 3) with sides that are multiples of ``size_multiple``.

    Raises:
        ValueError: saying what it is instead.
    """
    if images.ndim != 4 or images.shape[-1] != IMAGE_CHANNELS:
        raise ValueError(f"expected images of shape (b, h, w, 3), got {images.shape}")
    _, h, w, _ = images.shape
    if h % size_multiple or w % size_multiple:
        raise ValueError(
            f"height and width must be multiples of {size_multiple}, got {h}x{w}: "
            "deblur_jax.Restorer pads images of any size"
        )


def _network_of(config_class: type[NetworkConfig]) -> Network:
    for _, network in NETWORKS.items():
        if network.config_class is config_class:
            return network
    raise ConfigError(
        f"{config_class.__name__} is not the config of a registered network: see register_network"
    )


def _check_sizes(network: Network, sizes: Iterable[str]) -> None:
    own = _sizes_of(network)
    for size in sizes:
        if size not in own:
            having = [name for name, other in NETWORKS.items() if size in _sizes_of(other)]
            hint = f"; {', '.join(having)} has it" if having else ""
            raise ConfigError(
                f"config.model.{size} does not exist for {network.name}, which has "
                f"{', '.join(own) or 'no sizes'}{hint}"
            )


def _sizes_of(network: Network) -> list[str]:
    return [field.name for field in dataclasses.fields(network.config_class)]
