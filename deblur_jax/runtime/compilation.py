"""How programs are compiled, and kept."""

import os
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from deblur_jax.runtime.differentiation import naming_the_plain_backend

Options = dict[str, str | bool]
"""Compiler options of ``jax.jit``, by name."""


def compiler_options(platform: str, *, deterministic: bool = True) -> Options:
    """What ``jax.jit`` asks of the compiler for programs as large as a network.

    On the CPU there are two options. The first runs operations in the order that needs least
    memory, not in the order that could run most of them at once: every convolution takes all cores
    anyway. SVRNN then restores an image of 1280x720 in 0.7 GB of temporaries instead of 0.8 GB, in
    the same time. The second takes Eigen's convolutions instead of YNNPACK's, which leave a core
    idle where the rows of an image are short. MIMO-UNet then takes 0.7 to 0.9 of the time; SVRNN
    takes the same time, and 0.3 GB less for an image of 1280x720.

    Args:
        platform: "cpu", "tpu" or "gpu".
        deterministic: as for ``deterministic_options``.
    """
    if platform == "cpu":
        return {
            "xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED",
            "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT",
        }
    return deterministic_options(platform, deterministic=deterministic)


def deterministic_options(platform: str, *, deterministic: bool) -> Options:
    """What ``jax.jit`` asks of the compiler for results that are the same bits in every run.

    Only GPUs need to be asked: their fastest convolutions add up in an order that changes.
    """
    if platform == "gpu" and deterministic:
        return {"xla_gpu_deterministic_ops": True}
    return {}


def quick_compilation(platform: str) -> Options:
    """What ``jax.jit`` asks of the compiler for programs that run once.

    On the CPU the program that makes a network's initial parameters compiles in 4 instead of 15 s.
    """
    return {"xla_backend_optimization_level": "0"} if platform == "cpu" else {}


class Compiled:
    """A function of arrays that is compiled with options where it is called at the top level.

    Inside another transformation (``jit``, ``grad``, ``vmap``, ``shard_map`` and others) JAX takes
    no options of an inner function: there it is an ordinary ``jax.jit`` of the function, which
    donates nothing, since a transformation may use an argument again.

    Options that this version of XLA does not know are left out, with one warning.

    Args:
        function: pure.
        options: of the compiler, as of ``compiler_options``.
        max_programs: when more were compiled at the top level, all are forgotten.
        donate_argnums: of ``jax.jit``, for calls at the top level.
        **jit_options: other arguments of ``jax.jit``.
    """

    def __init__(
        self,
        function: Callable,
        options: Options,
        *,
        max_programs: int | None = None,
        donate_argnums: int | tuple[int, ...] = (),
        **jit_options: Any,
    ):
        self._function = function
        self._max_programs = max_programs
        self._options = options
        self._inner = jax.jit(function, **jit_options)
        self._jit_options = {**jit_options, "donate_argnums": donate_argnums}
        self._top = self._make_top()
        self.__name__ = getattr(function, "__name__", type(self).__name__)
        self.__doc__ = function.__doc__

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        """Calls the function."""
        if _is_inside_a_transformation(arguments, keywords):
            with naming_the_plain_backend():
                return self._inner(*arguments, **keywords)
        result = self._with_known_options(lambda top: top(*arguments, **keywords))
        if self._max_programs is not None and self.count_programs() > self._max_programs:
            self._top.clear_cache()
        return result

    def compile(self, *arguments: Any, **keywords: Any) -> jax.stages.Compiled:
        """The compiled program for arguments, or shapes of them."""
        return self._with_known_options(lambda top: top.lower(*arguments, **keywords).compile())

    def trace(self, *arguments: Any, **keywords: Any) -> jax.stages.Traced:
        """The traced function for arguments, or shapes of them: ``trace`` of ``jax.jit``."""
        return self._top.trace(*arguments, **keywords)

    def lower(self, *arguments: Any, **keywords: Any) -> jax.stages.Lowered:
        """The program for arguments, or shapes of them, before it is compiled."""
        return self._top.lower(*arguments, **keywords)

    def count_programs(self) -> int:
        """How many programs were compiled at the top level, one for each shape of arguments."""
        return self._top._cache_size()

    def _make_top(self) -> Any:
        options = self._options or None
        return jax.jit(self._function, compiler_options=options, **self._jit_options)

    def _with_known_options(self, call: Callable) -> Any:
        while True:
            try:
                return call(self._top)
            except jax.errors.JaxRuntimeError as error:
                refused = [name for name in self._options if f"option: '{name}'" in str(error)]
                if not refused:
                    raise
            self._options = {k: v for k, v in self._options.items() if k not in refused}
            self._top = self._make_top()
            warnings.warn(
                f"this version of XLA does not take {', '.join(refused)}: programs may be slower",
                stacklevel=3,
            )


def _is_inside_a_transformation(*arguments: Any) -> bool:
    """Whether the arguments, or what is made of constants here, are traced."""
    leaves = [*jax.tree.leaves(arguments), jnp.zeros(())]
    return any(isinstance(leaf, jax.core.Tracer) for leaf in leaves)


def keep_compiled_programs() -> None:
    """Keeps the programs that a command compiles, ready for the next one.

    They go to ``JAX_COMPILATION_CACHE_DIR``, if that is set, else to ``deblur_jax`` in the user's
    folder for caches; a user without one does without. Programs that call oneDNN on the CPU
    can't be kept; where the variable is set there are none (``ops/cpu/onednn.py``).
    """
    if _cache_folder() is None and _own_cache_folder() is not None:
        jax.config.update("jax_compilation_cache_dir", _own_cache_folder())


def shall_keep_every_program() -> bool:
    """Whether the user asked JAX for a cache on disk: then no program may be one it can't keep."""
    folder = _cache_folder()
    enabled: bool = jax.config.jax_enable_compilation_cache  # type: ignore[attr-defined]
    return enabled and folder is not None and folder != _own_cache_folder()


def _cache_folder() -> str | None:
    return jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]


def _own_cache_folder() -> str | None:
    caches = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return os.path.join(caches, "deblur_jax") if os.path.isabs(caches) else None
