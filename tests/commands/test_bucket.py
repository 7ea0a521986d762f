"""Commands with paths of ``gs://``, as typed, against a stand-in of the bucket."""

import socket
import subprocess
import sys
import urllib.parse
import urllib.request

import numpy as np
import pytest
import safetensors.numpy
from array_record.python.array_record_module import ArrayRecordWriter

from tests.bucket import running_bucket
from tests.commands import ROOT, environment, run_command
from tests.commands.test_train import CONFIG
from tests.photographs import write_photograph

pytestmark = pytest.mark.slow
pytest.importorskip("gcsfs", reason="gcsfs is not installed")
pytest.importorskip("gcp_storage_emulator", reason="gcp-storage-emulator is not installed")

_STEPS = ("--config.num_steps=20", "--config.checkpoint_every=10")


@pytest.fixture(scope="module")
def bucket():
    with running_bucket() as running:
        yield running


@pytest.fixture
def run(bucket):
    """Runs a command that has to succeed."""

    def run(*arguments):
        result = run_command(*arguments, variables=bucket.environment)
        assert result.returncode == 0, result.stderr
        assert "Traceback" not in result.stderr
        return result

    return run


def train(workdir, data, *options):
    return ("train", "--config", CONFIG, *_STEPS, "--workdir", workdir, *options, *data)


def test_every_command_gives_the_same_in_a_bucket_as_in_a_folder(bucket, run, make_pairs, tmp_path):
    pairs = make_pairs({f"{number}": (40, 48) for number in range(4)})
    photographs = tmp_path / "photographs"
    for number in range(2):
        write_photograph(photographs / f"{number}.png", seed=number)

    def outputs(place):
        run("prepare", pairs, f"{place}/pairs")
        run(
            *("prepare", "synthesize", f"photographs:{photographs}", f"{place}/made"),
            *("--pairs", "4", "--size", "32", "--validation_fraction", "0", "--workers", "1"),
        )
        data = [f"--config.data.train={place}/pairs=0.5,{place}/made=0.5"]
        run(*train(f"{place}/run", data, "--config.profile"))
        options = ["--config.init_from", f"{place}/run", "--config.num_steps=2"]
        run(*train(f"{place}/again", [], *options))
        run("convert", f"{place}/again", f"{place}/again.safetensors")
        run("convert", f"{place}/run", f"{place}/weights")
        run("convert", f"{place}/weights", f"{place}/weights.safetensors")
        weights = ["--weights", f"{place}/weights.safetensors"]
        run("evaluate", *weights, "--data", f"{place}/pairs", "--out", f"{place}/table")
        restored = f"{place}/table/restored"
        run("restore", restored, *weights, "--out", f"{place}/out", "--compare")
        scores = run("score", f"{place}/out", restored, "--mode", "float").stdout
        run("export", *weights, "--out", f"{place}/network.stablehlo")
        run("analyse", *weights, "--size", "32", "--out", f"{place}/figures")
        return scores

    scores = outputs("gs://bucket/all")
    assert scores == outputs(tmp_path)
    for name in ("weights.safetensors", "again.safetensors"):
        assert arrays(read(bucket, f"all/{name}")) == arrays((tmp_path / name).read_bytes()), name
    for name in ("network.stablehlo", "out/0.png", "table/restored/0.png", "table/restored/3.png"):
        assert read(bucket, f"all/{name}") == (tmp_path / name).read_bytes(), name
    table = "table/per_image.csv"
    assert read(bucket, f"all/{table}") == (tmp_path / table).read_bytes()
    for name in ("run/log.jsonl", "out/compare.html", "figures/analysis.json"):
        assert read(bucket, f"all/{name}")
    stored = request(bucket, "/storage/v1/b/bucket/o?prefix=all/run/profile/").decode()
    assert ".xplane.pb" in stored


def test_a_video_in_a_bucket_is_read(bucket, run, tmp_path):
    cv2 = pytest.importorskip("cv2", reason="OpenCV, of the extra video, is not installed")
    file = tmp_path / "video.avi"
    video = cv2.VideoWriter(str(file), cv2.VideoWriter.fourcc(*"MJPG"), 240, (64, 48))
    frame = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    for number in range(20):
        video.write(np.roll(frame, 2 * number, axis=1))
    video.release()
    write(bucket, "video.avi", file.read_bytes())
    words = ("--pairs", "3", "--size", "32", "--validation_fraction", "0", "--workers", "1")
    places = (("gs://bucket/video.avi", "gs://bucket/of_video"), (file, tmp_path / "of_video"))
    for source, out in places:
        run("prepare", "synthesize", source, out, *words)
    name = "of_video/examples.jpg"
    assert read(bucket, name) == (tmp_path / name).read_bytes()


def test_lost_connections_are_made_again(bucket, run, make_pairs, tmp_path):
    pairs = make_pairs({f"{number}": (40, 48) for number in range(4)})
    run("prepare", pairs, "gs://bucket/lost/pairs")
    data = ["--config.data.train=gs://bucket/lost/pairs"]
    results = []
    for number, part in enumerate((None, "checkpoints/10/params", "pairs-undivided", ".jsonl")):
        if part:
            bucket.break_connections(3, part)
        run(*train(f"gs://bucket/lost/{number}", data))
        run("convert", f"gs://bucket/lost/{number}", f"gs://bucket/lost/{number}.safetensors")
        results.append(arrays(read(bucket, f"lost/{number}.safetensors")))
    assert results[1:] == 3 * results[:1]


@pytest.mark.parametrize("change", ["missing", "without records"])
def test_records_that_are_not_there_are_an_error(change, bucket, run, make_pairs, tmp_path):
    place = change.replace(" ", "_")
    run("prepare", make_pairs({"0": (40, 48), "1": (40, 48)}), f"gs://bucket/{place}")
    name = f"{place}/pairs/1.0.0/pairs-undivided.array_record-00000-of-00001"
    if change == "missing":
        request(bucket, f"/storage/v1/b/bucket/o/{quoted(name)}", method="DELETE")
    else:
        ArrayRecordWriter(str(tmp_path / "empty"), "group_size:1").close()
        write(bucket, name, (tmp_path / "empty").read_bytes())
    words = train(f"gs://bucket/{place}/run", [f"--config.data.train=gs://bucket/{place}"])
    result = run_command(*words, variables=bucket.environment)
    assert result.returncode == 1
    line = result.stderr.splitlines()[-1]
    assert line.startswith("error: ")
    assert name in line or f"gs://bucket/{place}" in line


def test_two_processes_train_in_a_bucket(bucket, run, tmp_path):
    run(*train("gs://bucket/two/start", [], "--config.num_steps=2"))
    start = ["--config.init_from=gs://bucket/two/start"]
    both("gs://bucket/two/run", start, bucket)
    both(tmp_path / "run", start, bucket)
    run("convert", "gs://bucket/two/run", "gs://bucket/two/run.safetensors")
    run("convert", tmp_path / "run", tmp_path / "run.safetensors")
    stored = arrays((tmp_path / "run.safetensors").read_bytes())
    assert arrays(read(bucket, "two/run.safetensors")) == stored
    assert read(bucket, "two/run/processes/1.jsonl")


def both(workdir, options, bucket):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    words = [sys.executable, "-m", "deblur_jax", *map(str, train(workdir, [], *options))]
    words += ["--coordinator", f"localhost:{port}", "--num_processes", "2", "--process_id"]
    variables = {**environment(), **bucket.environment}
    started = {"cwd": ROOT, "env": variables, "stderr": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen([*words, str(index)], **started) for index in range(2)]
    errors = [process.communicate(timeout=240)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors


def request(bucket, path, **options):
    address = bucket.environment["STORAGE_EMULATOR_HOST"]
    with urllib.request.urlopen(urllib.request.Request(address + path, **options)) as answer:
        return answer.read()


def arrays(content):
    """The bits of the arrays of a safetensors file; its header says where they are from."""
    return {name: array.tobytes() for name, array in safetensors.numpy.load(content).items()}


def quoted(name):
    return urllib.parse.quote(name, safe="")


def read(bucket, name):
    return request(bucket, f"/storage/v1/b/bucket/o/{quoted(name)}?alt=media")


def write(bucket, name, content):
    path = f"/upload/storage/v1/b/bucket/o?uploadType=media&name={quoted(name)}"
    request(bucket, path, data=content, method="POST")


def test_a_bucket_that_does_not_answer_ends_a_run_which_goes_on_exactly(bucket, run, make_pairs):
    run("prepare", make_pairs({"0": (40, 48), "1": (40, 48)}), "gs://bucket/gone/pairs")
    data = ["--config.data.train=gs://bucket/gone/pairs"]
    run(*train("gs://bucket/gone/0", data))
    bucket.break_connections(10**6, "checkpoints/20/params")
    result = run_command(*train("gs://bucket/gone/1", data), variables=bucket.environment)
    bucket.break_connections(0, "nothing")
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    line = result.stderr.splitlines()[-1]
    assert line.startswith("error: gs://bucket/gone/1/checkpoints: a checkpoint could not be saved")
    run(*train("gs://bucket/gone/1", data))
    results = []
    for number in range(2):
        run("convert", f"gs://bucket/gone/{number}", f"gs://bucket/gone/{number}.safetensors")
        results.append(arrays(read(bucket, f"gone/{number}.safetensors")))
    assert results[0] == results[1]


def test_code_of_ones_own_may_lie_in_a_bucket(bucket, run, tmp_path):
    code = "gs://bucket/own/own_network.py"
    write(bucket, "own/own_network.py", (ROOT / "tests/fixtures/own_network.py").read_bytes())
    run("train", "--import", code, "--config", code, "--workdir", tmp_path, *_STEPS)
    missing = code.replace("network", "net")
    for words in (("--config", missing), ("--import", missing, "--config", CONFIG)):
        result = run_command("train", *words, "--workdir", tmp_path, variables=bucket.environment)
        assert result.returncode == 1
        (line,) = result.stderr.splitlines()
        assert line.startswith("error: ")
        assert missing in line
