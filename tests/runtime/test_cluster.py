import argparse
import re

import pytest

from deblur_jax.errors import ConfigError
from deblur_jax.runtime import cluster
from deblur_jax.runtime.cluster import Place, find_place

SLURM = {
    "SLURM_JOB_ID": "4096",
    "SLURM_STEP_NODELIST": "node[03-05]",
    "SLURM_NTASKS": "3",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "0",
}
OPEN_MPI = {
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911",
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
}
KUBERNETES = {
    "JAX_COORDINATOR_ADDRESS": "job-0.svc:1234",
    "JAX_NUM_PROCESSES": "4",
    "JOB_COMPLETION_INDEX": "2",
}


@pytest.fixture
def found(monkeypatch):
    """What is found with some flags and variables, on a host without TPUs."""

    def find(flags=(), **variables):
        for names in cluster._VARIABLES.values():
            for name in names:
                monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        values = dict.fromkeys(("coordinator", "num_processes", "process_id")) | dict(flags)
        return find_place(argparse.Namespace(**values))

    return find


def test_a_process_that_nobody_started_is_alone(found):
    assert found() is None
    assert found(JOB_COMPLETION_INDEX="3", NUM_PROCESSES="8") is None, "tasks of a job of their own"


@pytest.mark.parametrize(
    ("variables", "place"),
    [
        (SLURM, Place("Slurm", "node03", 61440, 1, 3, [0])),
        (
            {**SLURM, "SLURM_STEP_TASKS_PER_NODE": "1(x3)"},
            Place("Slurm", "node03", 61440, 1, 3, None),
        ),
        ({**SLURM, "SLURM_TASKS_PER_NODE": "2,1"}, Place("Slurm", "node03", 61440, 1, 3, [0])),
        (OPEN_MPI, Place("Open MPI", "10.96.0.1", 62624, 3, 4, [1])),
        (
            {**OPEN_MPI, "OMPI_COMM_WORLD_LOCAL_SIZE": "1"},
            Place("Open MPI", "10.96.0.1", 62624, 3, 4, None),
        ),
        (KUBERNETES, Place("variables", "job-0.svc", 1234, 2, 4)),
        (
            {
                **{"COORDINATOR_ADDRESS": "job-0.svc", "COORDINATOR_PORT": "99"},
                **{"NUM_PROCESSES": "4", "PROCESS_ID": "0"},
            },
            Place("variables", "job-0.svc", 99, 0, 4),
        ),
    ],
)
def test_launchers_and_variables_are_understood(found, variables, place):
    assert found(**variables) == place


def test_flags_come_first(found):
    flags = {"coordinator": "[::1]:80", "num_processes": 2, "process_id": 1}
    place = found(flags, **SLURM, **KUBERNETES)
    assert place == Place("flags", "::1", 80, 1, 2)
    assert str(place) == "process 1 of 2, by flags; process 0 is at [::1]:80"


@pytest.mark.parametrize(
    ("flags", "variables", "message"),
    [
        (
            {"process_id": 0},
            {},
            "together; missing: --coordinator, --num_processes",
        ),
        ({}, {**KUBERNETES, "JAX_COORDINATOR_ADDRESS": "host"}, "is host:port, not host"),
        ({}, {**KUBERNETES, "JAX_NUM_PROCESSES": "two"}, "JAX_NUM_PROCESSES is a number, not two"),
        ({}, {**KUBERNETES, "JOB_COMPLETION_INDEX": "4"}, "JAX_PROCESS_ID is 0 to 3, not 4"),
        ({}, {"JAX_PROCESS_ID": "1"}, "missing: JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES"),
        ({}, {"COORDINATOR_ADDRESS": "host:1"}, "missing: JAX_NUM_PROCESSES, JAX_PROCESS_ID"),
        (
            {},
            {**SLURM, "SLURM_JOB_ID": "x"},
            "Slurm: the other processes of this job can't be found",
        ),
        ({}, {**OPEN_MPI, "OMPI_MCA_orte_hnp_uri": "?"}, "Open MPI: the other processes"),
    ],
)
def test_what_is_half_said_is_refused_in_one_line(found, flags, variables, message):
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        found(flags, **variables)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("variables", [{"SLURM_NTASKS": "4"}, {"OMPI_COMM_WORLD_SIZE": "4"}])
def test_a_process_of_a_job_that_was_started_by_hand_is_alone(found, variables, capsys):
    assert found(**variables) is None
    assert "did not start this process: it runs alone" in capsys.readouterr().err


def test_a_device_for_virtual_machines_makes_no_tpu_host(monkeypatch, found):
    """``/dev/vfio/0`` is there for every device that is passed on; a TPU is known by its number."""
    monkeypatch.setattr("os.path.exists", lambda path: True)
    monkeypatch.setattr(cluster.hardware_utils, "has_visible_nvidia_gpu", lambda: False)
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    assert found() is None
    assert not cluster.has_accelerator()


@pytest.mark.parametrize("installed", [True, False])
def test_a_gpu_counts_where_jax_can_use_it(monkeypatch, installed):
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.setattr(cluster.hardware_utils, "has_visible_nvidia_gpu", lambda: True)
    monkeypatch.setattr(cluster, "_GPU_LIBRARIES", ("json",) if installed else ("no_such_library",))
    assert cluster.has_accelerator() is installed


@pytest.mark.parametrize(
    ("platforms", "expected"), [("cpu", False), ("cuda,cpu", True), ("tpu", True)]
)
def test_named_platforms_decide(monkeypatch, platforms, expected):
    monkeypatch.setenv("JAX_PLATFORMS", platforms)
    assert cluster.has_accelerator() is expected
