"""Configurations on the command line: ``--config FILE`` and ``--config.FIELD=VALUE``."""

import argparse
import contextlib
import importlib.util
import os
import sys
import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import deblur_jax
from deblur_jax.commands.flags import flag_values
from deblur_jax.config import settings, unknown_field
from deblur_jax.errors import ConfigError
from deblur_jax.runtime.files import real_place
from deblur_jax.runtime.python_files import is_there, spec_of
from deblur_jax.training.config import Config

_PREFIX = "--config."
_FIELD = "config_field:"
_NETWORK = "model.name"
_RENAMED = {
    f"model.{name}": f"compute.{name}" for name in ("dtype", "precision", "remat", "unroll")
}
_RENAMED["data.picture_size"] = "data.image_size"
"""Fields of version 1 and their names now."""


def add_config_arguments(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    """Adds ``--config`` and a flag for each field of the configuration that it names.

    Args:
        parser: of a command.
        words: the command line, which names the configuration.

    Raises:
        ConfigError: if the file can't be read, or a field does not exist.
    """
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="the experiment: a file with get_config(), or the name of one that comes with this "
        "package, as mimo_unet_gopro; FILE:ARGUMENT calls get_config(ARGUMENT)",
    )
    files = flag_values(words, "--config")
    config = load_config(files[-1]) if files else Config()
    networks = flag_values(words, _PREFIX + _NETWORK)
    if networks:
        config = config.with_overrides({_NETWORK: networks[-1]})
    _check_fields(words, config)
    group = parser.add_argument_group("fields of the configuration")
    group.add_argument(
        _PREFIX + _NETWORK,
        dest=_FIELD + _NETWORK,
        metavar="NAME",
        default=argparse.SUPPRESS,
        help=f"take another network, with its own sizes (default: {config.model.name})",
    )
    for name, hint, value, rule in settings(config):
        shown = "none" if value is None else str(value).lower() if hint is bool else value
        options: dict[str, Any] = {"nargs": "?", "const": "true"} if hint is bool else {}
        choices = rule.options() if rule else []
        described = f"{rule.meaning if rule else ''} (default: {shown or 'empty'})"
        group.add_argument(
            _PREFIX + name,
            dest=_FIELD + name,
            metavar=f"{{{','.join(choices)}}}" if choices else name.rpartition(".")[2].upper(),
            default=argparse.SUPPRESS,
            help=described.replace("%", "%%"),
            **options,
        )


def config_from(args: argparse.Namespace) -> Config:
    """The configuration that the command line describes.

    Raises:
        ConfigError: if ``--config`` is missing, or a value can't be.
    """
    if args.config is None:
        raise ConfigError("--config is missing: name a file of configs/")
    given = vars(args).items()
    texts = {name.removeprefix(_FIELD): text for name, text in given if name.startswith(_FIELD)}
    return load_config(args.config).with_overrides(texts)


def load_config(name: str) -> Config:
    """Reads a configuration.

    Args:
        name: a file, or a file of the package's ``configs/`` without ".py"; with ":ARGUMENT" behind
            it, ``get_config`` gets that.

    Raises:
        ConfigError: if there is no such file, it can't be run, or it returns no ``Config``.
    """
    path, argument = _find(name)
    module = _run(path)
    if not hasattr(module, "get_config"):
        raise ConfigError(f"--config {name}: has no function get_config")
    with _one_line(name):
        config = module.get_config() if argument is None else module.get_config(argument)
    if not isinstance(config, Config):
        raise ConfigError(f"--config {name}: get_config returns no deblur_jax.Config")
    return config


def _find(name: str) -> tuple[str, str | None]:
    package = Path(deblur_jax.__file__).parent
    folders = (package / "configs", package.parent / "configs")  # in a wheel, in a checkout
    file, _, argument = name.rpartition(":")
    for candidate, rest in ((name, None), (file, argument)):
        path = os.path.expanduser(candidate)
        if is_there(path):
            return path, rest
        if candidate and os.path.basename(path) == candidate:
            for packaged in (folder / f"{candidate}.py" for folder in folders):
                if packaged.is_file():
                    return str(packaged), rest
    raise ConfigError(f"--config {name}: no such file")


def _run(path: str) -> types.ModuleType:
    stem = Path(path).stem
    named = sys.modules.get(stem)
    if named and getattr(named, "__file__", None) == real_place(path):  # by --import too
        return named
    spec = spec_of(f"config_{stem}", path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"--config {path}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    with _one_line(path):
        spec.loader.exec_module(module)
    return module


@contextlib.contextmanager
def _one_line(name: str) -> Iterator[None]:
    """Makes one line of whatever the code of a user raises."""
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:
        line = " ".join(str(error).split())
        raise ConfigError(
            f"--config {name}: can't be run: {type(error).__name__}: {line}"
        ) from error


def _check_fields(words: Sequence[str], config: Config) -> None:
    known = [name for name, *_ in settings(config)]
    for word in words:
        name = word.removeprefix(_PREFIX).partition("=")[0]
        if not word.startswith(_PREFIX) or name in known or name == _NETWORK:
            continue
        if name in _RENAMED:
            raise ConfigError(f"{_PREFIX}{name} is called {_PREFIX}{_RENAMED[name]} now")
        if name.startswith("model."):
            config.with_overrides({name: ""})  # it says which network has the field
        raise ConfigError(unknown_field(name, known))
