import importlib.util
import subprocess
import sys

import pytest

import deblur_jax
from deblur_jax.cli import COMMANDS, main
from deblur_jax.config import settings
from tests.commands import ROOT, run_command, run_script


def test_the_version_and_the_help_need_nothing_heavy():
    program = """
import sys
from deblur_jax.cli import main
try:
    main(sys.argv[1:])
finally:
    loaded = {name.partition(".")[0] for name in sys.modules}
    assert not loaded & {"jax", "flax", "numpy", "orbax", "grain", "tensorflow_datasets"}, loaded
"""
    for word in ("--version", "--help"):
        words = [sys.executable, "-c", program, word]
        result = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
    result = run_command("--version")
    assert result.stdout == f"deblur-jax {deblur_jax.__version__}\n"
    shown = run_command("--help").stdout
    assert len(shown.splitlines()) < 24
    for name, summary in COMMANDS.items():
        assert f"{name} " in shown
        assert summary in shown


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_its_help(name, capsys):
    with pytest.raises(SystemExit) as end:
        main([name, "--help"])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    assert f"usage: deblur-jax {name}" in shown
    assert "--import" in shown


def test_the_help_of_training_lists_every_field_with_its_default(capsys):
    def help_of(*words):
        with pytest.raises(SystemExit):
            main([*words, "--help"])
        return capsys.readouterr().out

    shown = " ".join(help_of("train").split())
    for name, _, value, rule in settings(deblur_jax.Config()):
        assert f"--config.{name}" in shown
        assert " ".join(rule.meaning.split())[:40] in shown, name
        assert str("none" if value is None else value).lower() in shown.lower()
    shown = help_of("train", "--config", "svrnn_gopro")
    assert "--config.model.rnn_channels" in shown
    assert "--config.model.base_channels" not in shown


@pytest.mark.parametrize("script", ["train.py", "evaluate.py"])
def test_the_scripts_are_the_commands(script):
    result = run_script(script, "--help")
    assert result.returncode == 0, result.stderr
    assert f"usage: deblur-jax {script.removesuffix('.py')}" in result.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "the following arguments are required: COMMAND"),
        (("resore",), "there is no command resore: did you mean restore?"),
        (("pod", "--config", "x"), "the command pod is called plan now"),
        (("restore", "--out", "y"), "arguments are required: images"),
        (("score", "a", "b", "--mode", "psnr"), "argument --mode: invalid choice: 'psnr'"),
        (
            ("score", "a", "b", "--mode", "float", "--jsn"),
            "does not take --jsn: did you mean --json?",
        ),
    ],
)
def test_a_wrong_command_line_gets_one_line(words, message):
    result = run_command(*words)
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert message in line


@pytest.mark.skipif(importlib.util.find_spec("gcsfs") is not None, reason="gcsfs is installed")
def test_without_gcsfs_a_bucket_is_one_line(tmp_path):
    result = run_command("restore", tmp_path / "a.png", "--out", "gs://bucket/out")
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == "error: paths of gs:// need gcsfs: pip install gcsfs"
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("words", "completions"),
    [
        (["ex"], ["export"]),
        (["restore", "--ski"], ["--skip_existing"]),
        (["train", "--config.optimizer.lea"], ["--config.optimizer.learning_rate"]),
    ],
)
def test_bash_completes(words, completions, tmp_path):
    script = run_command("--completion", "bash")
    assert script.returncode == 0, script.stderr
    (tmp_path / "completion.sh").write_text(script.stdout)
    line = " ".join(["deblur-jax", *words])
    ask = f"""source completion.sh; COMP_WORDS=({line}); COMP_CWORD={len(words)}
        _shtab_deblur_jax; echo "${{COMPREPLY[@]}}" """
    result = subprocess.run(
        ["bash", "-c", ask], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == completions


def test_every_public_name_is_there():
    for name in deblur_jax.__all__:
        assert getattr(deblur_jax, name) is not None
        assert name in dir(deblur_jax)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = deblur_jax.nothing
