"""How programs are compiled, and kept."""

import os
from pathlib import Path

import jax


def compiler_options(platform: str) -> dict[str, str]:
    """What ``jax.jit`` is to ask of the compiler, for programs as large as a network.

    On the CPU two things. To run operations in the order that needs least memory, not in the order
    that could run most at once: every convolution takes all cores anyway. SVRNN restores a picture
    of 1280x720 in 0.7 GB of temporaries so, and in 0.8 GB otherwise, in the same time. And to take
    Eigen's convolutions, not YNNPACK's, which leave a core idle where the rows of a picture are
    short: MIMO-UNet takes 0.7 to 0.9 of the time so. SVRNN takes the same time, and 0.3 GB less for
    a picture of 1280x720.

    Args:
        platform: "cpu", "tpu" or "gpu".
    """
    if platform == "cpu":
        return {
            "xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED",
            "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT",
        }
    return {}


def quick_compilation(platform: str) -> dict[str, str]:
    """What ``jax.jit`` is to ask of the compiler, for programs that run once.

    A network's random start compiles in 4 instead of 15 s so, on the CPU.
    """
    return {"xla_backend_optimization_level": "0"} if platform == "cpu" else {}


def keep_compiled_programs() -> None:
    """Has programs compiled by one run of a command ready for the next.

    They go to ``JAX_COMPILATION_CACHE_DIR``, if that is set, else to ``deblur_jax`` in the user's
    folder for caches.
    """
    if jax.config.jax_compilation_cache_dir is None:
        caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(caches / "deblur_jax"))
