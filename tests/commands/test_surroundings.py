"""Every command in hostile surroundings: no traceback, one line, the right status."""

import os
import shutil
import subprocess
import sys

import pytest

from tests.commands import ROOT, environment

CONFIG = ROOT / "tests/fixtures/tiny_run.py"
COMMANDS = {
    "version": ("--version",),
    "help": ("--help",),
    "restore": ("restore", "{pairs}/blur", "--weights", "{weights}", "--out", "{out}"),
    "evaluate": (
        *("evaluate", "--weights", "{weights}", "--data", "{pairs}"),
        *("--mode", "float", "--out", "{out}"),
    ),
    "score": ("score", "{pairs}/blur", "{pairs}/sharp", "--mode", "float"),
    "prepare": ("prepare", "{pairs}", "{out}"),
    "convert": (
        *("convert", "{root}/tests/fixtures/tiny_zip.pkl", "{out}", "--model", "mimo_unet"),
        *("--base_channels", "2", "--num_res_blocks", "1"),
    ),
    "train": (
        *("train", "--config", str(CONFIG), "--config.num_steps=1"),
        *("--config.data.train={pairs}", "--config.data.validation=none"),
        *("--config.data.validation_fraction=0", "--workdir", "{out}"),
    ),
    "analyse": ("analyse", "--weights", "{weights}", "--out", "{out}"),
}
WRITING = ("restore", "evaluate", "prepare", "convert", "train", "analyse")
COMPUTING = ("restore", "evaluate", "score", "train", "analyse")
ALL = tuple(COMMANDS)

IN_NAMESPACE = ("unshare", "-U", "--map-user=4242", "--map-group=4242")
"""This user with another number, which nobody has, and without the rights of root."""


SHELL = {
    "stdout closed": 'exec "$@" >&-',
    "stderr closed": 'exec "$@" 2>&-',
    "stdout full": 'exec "$@" >/dev/full',
    "nobody reads stdout": 'set -o pipefail; "$@" | true',
    "a small limit to the size of files": 'ulimit -f 1; exec "$@"',
    "the current folder is gone": 'cd "$(mktemp -d)" && rmdir "$PWD"; exec "$@"',
}
SURROUNDINGS = {
    # name: (commands, status, what the line says, changes of the environment, folder for --out)
    "nothing unusual": (ALL, 0, None, {}, None),
    "no home and an unknown user": (ALL, 0, None, {"HOME": None}, None),
    "variables of Slurm without srun": (
        *(("evaluate", "train"), 0, "srun did not start this process: it runs alone"),
        *({"SLURM_NTASKS": "4", "SLURM_JOB_ID": "7", "SLURM_PROCID": "0"}, None),
    ),
    "half the variables of Open MPI": (
        *(("evaluate", "train"), 0, "mpirun did not start this process: it runs alone"),
        *({"OMPI_COMM_WORLD_SIZE": "4"}, None),
    ),
    "variables of Slurm that lead nowhere": (
        *(("evaluate", "train"), 1, "the other processes of this job can't be found"),
        {
            **{"SLURM_NTASKS": "4", "SLURM_JOB_ID": "x", "SLURM_PROCID": "0"},
            **{"SLURM_STEP_NODELIST": "n[1-4]", "SLURM_LOCALID": "0"},
        },
        None,
    ),
    "stdout closed": (ALL, 0, None, {}, None),
    "stderr closed": (ALL, 0, None, {}, None),
    "stdout full": (ALL, 1, "the standard output can't be written to: No space left", {}, None),
    "nobody reads stdout": (ALL, 141, None, {}, None),
    "the cache is a file": (COMPUTING, 0, None, {"JAX_COMPILATION_CACHE_DIR": "{file}"}, None),
    "the home is a file": (ALL, 0, None, {"HOME": "{file}", "XDG_CACHE_HOME": "{file}"}, None),
    "an unknown platform": (COMPUTING, 1, "JAX_PLATFORMS=foo: ", {"JAX_PLATFORMS": "foo"}, None),
    "out is a file": (WRITING, 1, "{file}", {}, "{file}"),
    "out is below a file": (WRITING, 1, "{file}", {}, "{file}/x"),
    "out is a link in a circle": (WRITING, 1, "{circle}", {}, "{circle}"),
    "out can't be written to": (WRITING, 1, "/proc/x", {}, "/proc/x"),
    "no permission": (WRITING, 1, "{denied}/x", {}, "{denied}/x"),
    "out is a device": (WRITING, 1, "/dev/full", {}, "/dev/full"),
    "the current folder is gone": (ALL, 1, "the current folder is gone", {}, None),
    "a small limit to the size of files": (
        *(("evaluate", "prepare", "train", "analyse"), 1, "File too large", {}, None),
    ),
    "a plain locale": (ALL, 0, None, {"LC_ALL": "C", "PYTHONUTF8": "0"}, None),
    "no folder for temporary files": (COMPUTING, 0, None, {"TMPDIR": "/nowhere"}, None),
}
QUICK = {
    ("stdout full", "version"),
    ("nobody reads stdout", "help"),
    ("stdout closed", "version"),
    ("the current folder is gone", "help"),
    ("no home and an unknown user", "restore"),
    ("an unknown platform", "score"),
    ("out is a link in a circle", "restore"),
    ("variables of Slurm without srun", "evaluate"),
    ("a small limit to the size of files", "prepare"),
}
CASES = [
    pytest.param(
        surroundings,
        command,
        marks=() if (surroundings, command) in QUICK else pytest.mark.slow,
        id=f"{surroundings}-{command}",
    )
    for surroundings, (commands, *_) in SURROUNDINGS.items()
    for command in commands
]


@pytest.fixture
def places(tmp_path, make_pairs, tiny_weights):
    make_pairs({"a_0": (16, 16), "a_1": (16, 16)}, tmp_path / "pairs")
    (tmp_path / "file").write_text("in the way")
    os.symlink("circle", tmp_path / "circle")
    (tmp_path / "denied").mkdir()
    (tmp_path / "denied").chmod(0)
    yield {
        **{name: str(tmp_path / name) for name in ("pairs", "file", "circle", "denied")},
        "weights": str(tiny_weights),
        "out": str(tmp_path / "out"),
        "root": str(ROOT),
    }
    (tmp_path / "denied").chmod(0o700)


def has_namespaces():
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*IN_NAMESPACE, "true"], capture_output=True).returncode == 0


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the surroundings are Linux's")
@pytest.mark.parametrize(("surroundings", "command"), CASES)
def test_one_line_and_the_right_status(surroundings, command, places):
    _, status, message, changes, out = SURROUNDINGS[surroundings]
    if out is not None:
        places = {**places, "out": out.format(**places)}
    words = [sys.executable, "-m", "deblur_jax"]
    words += [word.format(**places) for word in COMMANDS[command]]
    if surroundings in ("no permission", "no home and an unknown user"):
        if not has_namespaces():
            pytest.skip("no user namespaces here")
        words = [*IN_NAMESPACE, *words]
    if surroundings in SHELL:
        words = ["bash", "-c", SHELL[surroundings], "bash", *words]
    changed = {**environment(), "PYTHONPATH": str(ROOT)}
    for name, value in changes.items():
        changed.pop(name, None)
        if value is not None:
            changed[name] = value.format(**places)
    result = subprocess.run(words, env=changed, capture_output=True, text=True, timeout=300)
    assert "Traceback" not in result.stderr + result.stdout, result.stderr[-3000:]
    assert result.returncode == status, result.stderr
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == (status == 1), result.stderr
    if message is not None:
        assert message.format(**places) in (errors[0] if errors else result.stderr)
