import json

import pytest
from etils import epath

from deblur_jax.training import log as run_log
from deblur_jax.training.log import LOG_FILE, RunLog
from tests.cloud import empty_bucket


class NoBoard:
    def __init__(self, *arguments, **options):
        pass

    def add_scalar(self, *arguments):
        pass

    def close(self):
        pass


@pytest.fixture(params=["local", "gs"])
def workdir(request, tmp_path, monkeypatch):
    if request.param == "local":
        return epath.Path(tmp_path / "run")
    monkeypatch.setattr(run_log, "SummaryWriter", NoBoard)
    return empty_bucket() / "run"


def steps_in(workdir):
    return [json.loads(line)["step"] for line in (workdir / LOG_FILE).read_text().splitlines()]


def test_rows_are_there_at_once_and_those_after_the_start_go(workdir):
    log = RunLog(workdir, 0)
    for step in (1, 2, 3):
        log.row(step, {"loss": 0.5})
    assert steps_in(workdir) == [1, 2, 3]
    log.close()
    log = RunLog(workdir, 2)
    log.row(3, {"loss": float("nan")})
    assert steps_in(workdir) == [1, 2, 3]
    log.close()
