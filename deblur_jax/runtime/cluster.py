"""How the processes of a run find each other: by flags, by variables, or as a launcher says."""

import argparse
import dataclasses
import importlib.util
import os
import sys
from collections.abc import Callable, Mapping

# JAX knows the launchers; it has no public name for what it knows before it joins the processes.
from jax._src import clusters, hardware_utils

from deblur_jax.errors import ConfigError

FLAGS = {
    "coordinator": (str, None, "host:port of process 0, for several processes"),
    "num_processes": (int, None, "how many there are"),
    "process_id": (int, None, "which one this is, from 0"),
    "start_timeout": (int, 300, "seconds to wait for all of them (default: 300)"),
}
"""Flags by which processes find each other: type, default and help by name."""

_VARIABLES = {
    "coordinator": ("JAX_COORDINATOR_ADDRESS", "COORDINATOR_ADDRESS"),
    "num_processes": ("JAX_NUM_PROCESSES", "NUM_PROCESSES"),
    "process_id": ("JAX_PROCESS_ID", "PROCESS_ID", "JOB_COMPLETION_INDEX"),
}
"""What stands for a flag in the jobs of Kubernetes (Kubeflow's JAXJob, an indexed Job), the first
that is set. Only the address, or a name that begins with JAX, says that processes are meant."""
_PORT = "COORDINATOR_PORT"

_GPU_LIBRARIES = ("jax_cuda12_plugin", "jax_cuda13_plugin")
"""Without one of them JAX does not see the GPUs of a machine."""

_UNSTARTED = {
    "SLURM_NTASKS": ("srun", ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_PROCID")),
    "OMPI_COMM_WORLD_SIZE": ("mpirun", ("OMPI_MCA_orte_hnp_uri", "OMPI_COMM_WORLD_RANK")),
}
"""By the variable with the number of processes: who starts them, and what it sets."""
_TASKS_PER_HOST = (
    "SLURM_STEP_TASKS_PER_NODE",
    "SLURM_TASKS_PER_NODE",
    "OMPI_COMM_WORLD_LOCAL_SIZE",
)


@dataclasses.dataclass(frozen=True)
class Place:
    """The place of this process among those of a run.

    Attributes:
        found_by: who said so.
        host, port: where process 0 waits for the others.
        index: of this process.
        count: of all.
        local_devices: those that this process is to use of its host's; None for all.
    """

    found_by: str
    host: str
    port: int
    index: int
    count: int
    local_devices: list[int] | None = None

    def __str__(self) -> str:
        return (
            f"process {self.index} of {self.count}, by {self.found_by}; process 0 is at "
            f"{self.coordinator}"
        )

    @property
    def coordinator(self) -> str:
        """host:port of process 0."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds ``FLAGS`` to a parser."""
    for name, (kind, default, text) in FLAGS.items():
        parser.add_argument(f"--{name}", type=kind, default=default, help=text)


def find_place(args: argparse.Namespace) -> Place | None:
    """The place of this process; None where it is alone.

    Flags come first, then variables, then the launchers: the hosts of a TPU slice, Slurm, Open MPI.

    Raises:
        ConfigError: if only half of what is needed is given, or it can't be understood.
    """
    flags = {name: getattr(args, name) for name in _VARIABLES}
    if any(value is not None for value in flags.values()):
        return _given("flags", {f"--{name}": value for name, value in flags.items()})
    variables = {names[0]: _variable(names) for names in _VARIABLES.values()}
    meant = [name for names in _VARIABLES.values() for name in names if name.startswith("JAX_")]
    if "COORDINATOR_ADDRESS" in os.environ or any(name in os.environ for name in meant):
        return _given("variables", variables)
    return _of_launcher()


def has_accelerator() -> bool:
    """Whether JAX will find a TPU or a GPU here. No backend is started by the question."""
    wanted = os.environ.get("JAX_PLATFORMS", "").lower()
    if wanted:
        return not wanted.startswith("cpu")
    has_gpu_library = any(importlib.util.find_spec(name) for name in _GPU_LIBRARIES)
    return _tpu_chips() > 0 or (has_gpu_library and hardware_utils.has_visible_nvidia_gpu())


def _tpu_chips() -> int:
    # A file /dev/vfio/0 says little: every device that is passed on to a virtual machine has one.
    return hardware_utils.num_available_tpu_chips_and_device_id()[0]


def _variable(names: tuple[str, ...]) -> str | None:
    for name in names:
        value = os.environ.get(name)
        if value is not None:
            has_port = name != "COORDINATOR_ADDRESS" or _PORT not in os.environ
            return value if has_port else f"{value}:{os.environ[_PORT]}"
    return None


def _given(found_by: str, values: Mapping[str, object]) -> Place:
    """The place that three values say, by their names: address, number, index."""
    missing = [name for name, value in values.items() if value is None]
    if missing:
        raise ConfigError(f"{', '.join(values)} are given together; missing: {', '.join(missing)}")
    (address_name, address), (count_name, count), (index_name, index) = values.items()
    host, colon, port = str(address).rpartition(":")
    if not (host and colon and port.isdigit()):
        raise ConfigError(f"{address_name} is host:port, not {address}")
    for name, value in ((count_name, count), (index_name, index)):
        if not str(value).removeprefix("-").isdigit():
            raise ConfigError(f"{name} is a number, not {value}")
    if not 0 <= int(str(index)) < int(str(count)):
        raise ConfigError(f"{index_name} is 0 to {int(str(count)) - 1}, not {index}")
    return Place(found_by, host.strip("[]"), int(port), int(str(index)), int(str(count)))


def _of_launcher() -> Place | None:
    launchers: tuple[tuple[str, type[clusters.ClusterEnv], Callable[[], bool]], ...] = (
        ("the TPU slice", clusters.GkeTpuCluster, lambda: _tpu_chips() > 0),
        ("the TPU slice", clusters.GceTpuCluster, lambda: _tpu_chips() > 0),
        ("Slurm", clusters.SlurmCluster, lambda: _has_started("SLURM_NTASKS")),
        ("Open MPI", clusters.OmpiCluster, lambda: _has_started("OMPI_COMM_WORLD_SIZE")),
    )
    for name, launcher, is_likely in launchers:
        try:
            if not (is_likely() and launcher.is_env_present()):
                continue
            count = launcher.get_process_count()
            if count < 2:
                continue
            address = launcher.get_coordinator_address(
                timeout_secs=60, override_coordinator_port=os.environ.get("JAX_COORDINATOR_PORT")
            )
            index, local = launcher.get_process_id(), launcher.get_local_process_id()
        except Exception as error:  # what a launcher says can be wrong in any way
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ConfigError(
                f"{name}: the other processes of this job can't be found ({reason}): give "
                "--coordinator, --num_processes and --process_id"
            ) from error
        host, _, port = address.rpartition(":")
        devices = None if local is None or _is_alone_on_host() else [local]
        return Place(name, host.strip("[]"), int(port), index, count, devices)
    return None


def _has_started(variable: str) -> bool:
    """Whether a launcher has started this process as one of several."""
    count = os.environ.get(variable, "1")
    if not count.isdigit() or int(count) < 2:
        return False
    launcher, needed = _UNSTARTED[variable]
    if all(name in os.environ for name in needed):
        return True
    print(
        f"{variable} is {count}, but {launcher} did not start this process: it runs alone",
        file=sys.stderr,
    )
    return False


def _is_alone_on_host() -> bool:
    """Whether each host runs one process, which then uses all of its devices."""
    for name in _TASKS_PER_HOST:
        if name in os.environ:
            return os.environ[name].partition("(")[0] == "1"
    return False
