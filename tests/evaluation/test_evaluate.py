import concurrent.futures
import csv
import json
import shutil
import socket
import subprocess
import time

import numpy as np
import pytest

import deblur_jax
from deblur_jax.data import open_pairs
from deblur_jax.data.sources import Subset
from deblur_jax.errors import ConfigError
from deblur_jax.evaluation import report
from deblur_jax.evaluation.evaluate import evaluate
from deblur_jax.evaluation.metrics import MetricError, score
from deblur_jax.evaluation.report import write_json
from deblur_jax.evaluation.results_folder import ResultsError, ResultsFolder
from deblur_jax.images.files import ImageError, to_uint8
from deblur_jax.images.reading import read_rgb
from deblur_jax.inference.restorer import Restorer
from tests.commands import run_command, run_script


def test_every_pair_is_measured_saved_and_shown(make_pairs, tiny_weights, tmp_path):
    root = make_pairs({"seq/a": (17, 22), "b": (16, 16)})
    restorer, pairs = Restorer.load(tiny_weights), open_pairs(str(root), "test")
    summary = evaluate(restorer, pairs, tmp_path / "out", data="pairs")

    assert summary == json.loads((tmp_path / "out/results.json").read_text())
    assert {k: summary[k] for k in ("mode", "count", "data")} == {
        "mode": "float",
        "count": 2,
        "data": "pairs",
    }
    assert [row["name"] for row in summary["per_image"]] == ["b", "seq/a"]
    for index, row in enumerate(summary["per_image"]):
        blurred, sharp = (pairs[index][key] / np.float32(255) for key in ("blurred", "sharp"))
        restored = restorer(blurred)
        assert (row["height"], row["width"]) == sharp.shape[:2]
        for value, image in ((row["psnr"], restored), (row["psnr_blurred"], blurred)):
            expected = -10 * np.log10(np.mean((image - sharp) ** 2))
            assert value == pytest.approx(expected, abs=1e-3)
        saved = read_rgb(tmp_path / f"out/restored/{row['name']}.png")
        np.testing.assert_array_equal(saved, np.round(restored * 255))
        sheet = read_rgb(tmp_path / f"out/sheets/{row['name']}.png")
        height, width = sharp.shape[:2]
        np.testing.assert_array_equal(
            sheet[-height:], to_uint8(np.concatenate([blurred, restored, sharp], axis=1))
        )
        assert sheet.shape[1] == 3 * width
    mean = np.mean([row["psnr"] for row in summary["per_image"]])
    assert summary["psnr"] == pytest.approx(mean)
    assert summary["gain"] == pytest.approx(summary["psnr"] - summary["psnr_blurred"])


def test_the_table_lists_every_image_and_the_mean():
    rows = [
        report.Row("a", 8, 9, 20.0, 0.5, 25.0, 0.75),
        report.Row("long/name", 8, 9, 30.0, 0.9, 29.0, 0.85, aligned=False),
    ]
    lines = report.table(report.summarize(rows)).splitlines()
    assert lines[1].split() == ["a", "20.00", "25.00", "+5.00", "0.7500"]
    assert lines[2].split() == ["long/name", "30.00", "29.00", "-1.00", "0.8500"]
    assert lines[4].split() == ["mean", "of", "2", "25.00", "27.00", "+2.00", "0.8000"]
    assert lines[-1] == "not aligned, compared as they are: 1"


def test_the_command(make_pairs, tiny_weights):
    root = make_pairs({"a": (16, 16)})
    result = run_script("evaluate.py", "--data", root, "--weights", tiny_weights)
    assert result.returncode == 0, result.stderr
    assert "mean of 1" in result.stdout
    digest = Restorer.load(tiny_weights).digest
    out = tiny_weights / f"evaluation/pairs-test-float-{digest[:8]}"
    assert read_rgb(out / "restored/a.png").shape == (16, 16, 3)
    results = json.loads((out / "results.json").read_text())
    assert results["precision"] == "highest"
    assert results["digest"] == digest
    assert results["version"] == deblur_jax.__version__
    assert results["date"] >= "2026"
    assert results["flags"]["data"] == str(root)
    assert results["speed"]["size"] == [16, 16]
    assert results["speed"]["seconds"] > 0
    assert "| **mimo_unet** |" in (out / "results.md").read_text()
    with (out / "per_image.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert float(row["psnr"]) == results["psnr"]

    # Once more, as one JSON object, in another mode: beside the first.
    options = ("--json", "--protocol", "gopro", "--ensemble", "rot4")
    refused = run_script("evaluate.py", "--data", root, "--weights", tiny_weights, *options)
    assert refused.returncode == 1
    assert "incomplete, 1 of the 1,111 pairs of GoPro" in refused.stderr
    options += ("--allow_incomplete",)
    again = run_script("evaluate.py", "--data", root, "--weights", tiny_weights, *options)
    printed = json.loads(again.stdout)
    assert printed["mode"] == "matlab"
    assert {"mode", "count", "psnr", "ssim", "per_image"} <= set(printed)
    other = tiny_weights / f"evaluation/pairs-test-matlab-rot4-{digest[:8]}"
    assert "published: Cho et al. 2021" in (other / "results.md").read_text()
    for table in ("results.md", "report.html"):
        assert "1 of the 1,111 pairs of GoPro" in (other / table).read_text()
    assert json.loads((out / "results.json").read_text()) == results


def test_two_evaluations_never_mix_in_one_folder(make_pairs, tiny_weights, tmp_path):
    out, described = tmp_path / "out", {"digest": "a", "data": "x", "split": "test"}
    ResultsFolder(out, described)
    write_json(out / "results.json", described)
    for folder in ("restored", "sheets"):
        (out / folder).mkdir()
        (out / folder / "old.png").touch()
    (out / "notes.txt").touch()
    ResultsFolder(out, {**described, "date": "now"})
    assert (out / "restored/old.png").exists()
    with pytest.raises(ResultsError, match=r"another evaluation \(data x, not y\).*--replace"):
        ResultsFolder(out, {**described, "data": "y"})
    ResultsFolder(out, {**described, "data": "y"}, replace=True)
    assert not (out / "restored").exists()
    assert not (out / "sheets").exists()
    assert (out / "notes.txt").exists()
    for content in ("[]", "{", '{"psnr": 3}'):
        (out / "results.json").write_text(content)
        with pytest.raises(ResultsError, match="holds results of another evaluation"):
            ResultsFolder(out, described)


def test_a_split_that_is_not_there_is_refused(make_pairs, tiny_weights, tmp_path):
    words = ("--weights", tiny_weights, "--out", tmp_path / "out")
    root = make_pairs({"a": (16, 16)})
    for data, split, message in (
        (root, "validation", "--split validation: "),
        (root, "tset", "invalid choice: 'tset'"),
    ):
        result = run_command("evaluate", *words, "--data", data, "--split", split)
        assert result.returncode == 1
        assert message in result.stderr
        assert len(result.stderr.splitlines()) == 1


def test_a_pair_that_cannot_be_measured_is_named(make_pairs, tiny_weights, tmp_path):
    pairs = open_pairs(str(make_pairs({"small": (8, 40)})), "test")
    restorer = Restorer.load(tiny_weights)
    with pytest.raises(MetricError, match="small: mode skimage needs images of at least 11x11"):
        evaluate(restorer, pairs, tmp_path / "out", mode="skimage")
    with pytest.raises(ConfigError, match="--num_devices is 1 to 8 on this machine, not 9"):
        evaluate(restorer, pairs, tmp_path / "out", num_devices=9)


def test_a_pair_that_is_equal_has_no_finite_score(make_pairs, tiny_weights, tmp_path):
    root = make_pairs({"equal": (16, 16), "other": (16, 16)})
    shutil.copy(root / "blur/equal.png", root / "sharp/equal.png")
    out = tmp_path / "out"
    summary = evaluate(Restorer.load(tiny_weights), open_pairs(str(root), "test"), out)
    rows = {row["name"]: row for row in summary["per_image"]}
    assert rows["equal"]["psnr_blurred"] == np.inf
    assert summary["psnr_blurred"] == rows["other"]["psnr_blurred"]
    assert summary["gain"] == rows["other"]["gain"]
    assert summary["infinite"] == {"psnr_blurred": 1, "gain": 1}
    stored = json.loads((out / "results.json").read_text())
    assert stored["psnr_blurred"] == summary["psnr_blurred"]
    assert [row["psnr_blurred"] is None for row in stored["per_image"]] == [True, False]
    assert "left out of the mean (blurred): 1 of 2" in (out / "results.md").read_text()
    assert (out / "report.html").exists()


@pytest.mark.parametrize("mode", [pytest.param("float", marks=pytest.mark.slow), "matlab"])
def test_any_number_of_devices_gives_the_same(make_pairs, tiny_weights, tmp_path, mode):
    sizes = {f"a{i}": (16, 20) for i in range(5)} | {f"b{i}": (20, 16) for i in range(2)}
    pairs = open_pairs(str(make_pairs({**sizes, "c": (17, 19)})), "test")
    restorer = Restorer.load(tiny_weights)
    results = {}
    for count in (1, 3, 8):
        out = tmp_path / str(count)
        summary = evaluate(restorer, pairs, out, mode=mode, num_devices=count)
        files = {file.name: file.read_bytes() for file in (out / "restored").iterdir()}
        results[count] = summary["per_image"], files
        assert summary["devices"] == count
    assert len(results[1][0]) == 8
    assert results[1] == results[3] == results[8]


@pytest.mark.slow
def test_many_sizes_share_few_programs_and_change_no_result(make_pairs, tiny_weights, tmp_path):
    sizes = {f"p{i}": (12 + 4 * i, 16 + 4 * ((3 * i) % 5)) for i in range(5)}
    pairs = open_pairs(str(make_pairs(sizes)), "test")
    restorer = Restorer.load(tiny_weights)
    summary = evaluate(restorer, pairs, tmp_path / "out", num_devices=2)
    assert len({restorer.layout(size) for size in sizes.values()}) == 4
    alone = Restorer.load(tiny_weights)
    shared = [i for i, size in enumerate(sizes.values()) if restorer.layout(size).is_framed]
    assert len(shared) == 2
    for row, pair in ((summary["per_image"][i], pairs[i]) for i in shared):
        restored = alone(pair["blurred"] / np.float32(255))
        expected = score(restored, pair["sharp"] / np.float32(255), "float")
        assert row["psnr"] == pytest.approx(expected.psnr, abs=1e-4)


def test_large_images_are_restored_in_parts(make_pairs, tiny_weights, tmp_path):
    pairs = open_pairs(str(make_pairs({"big": (40, 60), "a": (20, 20), "b": (52, 36)})), "test")
    restorer = Restorer.load(tiny_weights, tile=32, overlap=8)
    summary = evaluate(restorer, pairs, tmp_path / "out", num_devices=2)
    assert summary["in_parts"] == 2
    for count in (1, 3):
        again = evaluate(restorer, pairs, tmp_path / str(count), num_devices=count)
        assert again["per_image"] == summary["per_image"]
    assert summary["speed"]["size"] == [20, 20]
    assert "- restored in parts: 2 of 3" in (tmp_path / "out/results.md").read_text()
    for row, index in zip(summary["per_image"], range(3), strict=True):
        pair = pairs[index]
        restored = restorer(pair["blurred"] / np.float32(255))
        expected = score(restored, pair["sharp"] / np.float32(255), "float")
        assert row["psnr"] == pytest.approx(expected.psnr, abs=1e-4)


class Counting:
    """Pairs of which the reads are counted; the one called "last" can't be read at first."""

    def __init__(self, pairs):
        self.names, self.sizes, self._pairs = pairs.names, pairs.sizes, pairs
        self.is_broken, self.read = True, []

    def __len__(self):
        return len(self.names)

    def __getitem__(self, index):
        if self.is_broken and self.names[index] == "last":
            raise ImageError("last: can't be read")
        self.read.append(self.names[index])
        return self._pairs[index]


def kept_rows(out):
    """The names of images whose results are kept, though not all are there yet."""
    files = [file for file in out.glob("unfinished/*.json") if file.name != "identity.json"]
    return {json.loads(file.read_text())["name"] for file in files}


def test_a_stopped_evaluation_goes_on(make_pairs, tiny_weights, tmp_path):
    sizes = {f"p{i:02}": (16, 16) for i in range(12)} | {"last": (16, 16), "seq/x": (16, 16)}
    pairs = open_pairs(str(make_pairs(sizes)), "test")
    order = sorted(range(len(pairs)), key=lambda index: pairs.names[index] == "last")
    counting, restorer = Counting(Subset(pairs, order)), Restorer.load(tiny_weights)
    out = tmp_path / "out"
    with pytest.raises(ImageError):
        evaluate(restorer, counting, out, num_devices=1, data="x")
    kept = kept_rows(out)
    assert kept
    assert not (out / "results.json").exists()
    with pytest.raises(ResultsError, match=r"another evaluation \(data x, not y\)"):
        evaluate(restorer, counting, out, num_devices=1, data="y", skip_existing=True)

    # One of them is measured again, since an image of it is gone.
    again = min(kept)
    (out / "sheets" / f"{again}.png").unlink()
    counting.is_broken, counting.read = False, []
    summary = evaluate(restorer, counting, out, num_devices=1, data="x", skip_existing=True)
    restored = counting.read[: len(pairs) - len(kept) + 1]  # the report page reads more
    assert set(restored) == set(pairs.names) - kept | {again}
    undisturbed = evaluate(restorer, pairs, tmp_path / "other", num_devices=1, data="x")
    assert summary["per_image"] == undisturbed["per_image"]
    assert not (out / "unfinished").exists()

    # A finished one has nothing left to restore.
    finished = evaluate(restorer, pairs, out, num_devices=1, data="x", skip_existing=True)
    assert finished["per_image"] == undisturbed["per_image"]


def run_processes(count, folders, *words):
    """``evaluate`` by several processes at once, each in a folder of its own."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    words = [*words, "--coordinator", address, "--num_processes", count, "--json", "--process_id"]
    with concurrent.futures.ThreadPoolExecutor(count) as threads:
        ends = threads.map(
            lambda i: run_command("evaluate", *words, i, cwd=folders[i]), range(count)
        )
        return list(ends)


@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_processes_share_the_work(make_pairs, tiny_weights, tmp_path, count):
    """They have no disk in common, and give what one process gives, to the bit."""
    root = make_pairs({f"p{i}": (16, 16 + 4 * (i % 2)) for i in range(7)})
    folders = [tmp_path / f"host{i}" for i in range(count)]
    for folder in folders:
        folder.mkdir()
    words = ("--weights", tiny_weights, "--data", root, "--out", "out")
    first, *others = run_processes(count, folders, *words)
    assert first.returncode == 0, first.stderr
    for other in others:
        assert other.returncode == 0, other.stderr
        assert other.stdout == ""
    pairs, one = open_pairs(str(root), "test"), tmp_path / "one/out"
    alone = evaluate(Restorer.load(tiny_weights), pairs, one, num_devices=1)
    merged = json.loads(first.stdout)
    assert merged["per_image"] == alone["per_image"]
    assert merged["devices"] == count
    for name in (f"{kind}/p{i}.png" for kind in ("restored", "sheets") for i in range(7)):
        there = folders[0] / "out" / name
        assert there.read_bytes() == (tmp_path / "one/out" / name).read_bytes()
    for folder in folders:
        assert not (folder / "out/unfinished").exists()
    assert not (folders[1] / "out/results.json").exists()


@pytest.mark.slow
def test_processes_go_on_where_they_were_stopped(make_pairs, tiny_weights, tmp_path):
    root = make_pairs({f"p{i:03}": (16, 16) for i in range(200)})
    words = ("--weights", tiny_weights, "--data", root, "--out", tmp_path / "out")
    with concurrent.futures.ThreadPoolExecutor(1) as threads:
        running = threads.submit(run_processes, 2, [tmp_path] * 2, *words)
        deadline = time.monotonic() + 120
        while len(kept_rows(tmp_path / "out")) < 20:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        subprocess.run(["pkill", "-TERM", "-f", "--", f"--out {tmp_path}/out .*--process_id 1"])
        ends = running.result()
    assert [end.returncode for end in ends] == [1, 143], [end.stderr for end in ends]
    assert ends[0].stderr.splitlines()[-1].startswith("error: process 1 is gone")
    assert "Traceback" not in ends[0].stderr
    assert 20 <= len(kept_rows(tmp_path / "out")) < 200
    first, second = run_processes(2, [tmp_path] * 2, *words, "--skip_existing")
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    alone = evaluate(Restorer.load(tiny_weights), open_pairs(str(root), "test"), tmp_path / "one")
    assert json.loads(first.stdout)["per_image"] == alone["per_image"]


@pytest.mark.parametrize(
    ("weights", "data", "message"),
    [
        ("nowhere", "synthetic:pan", "nowhere: no weights here"),
        (None, "nowhere", "nowhere: no such folder"),
        (None, "synthetic:fast", "unknown family 'fast'"),
    ],
)
def test_a_wrong_argument_gets_one_line(tiny_weights, tmp_path, weights, data, message):
    arguments = ("--weights", weights or tiny_weights, "--data", data, "--out", tmp_path / "out")
    result = run_script("evaluate.py", *arguments)
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert not (tmp_path / "out").exists()


def test_a_benchmark_that_is_not_there_says_how_to_make_it(tiny_weights):
    result = run_script("evaluate.py", "--weights", tiny_weights, "--protocol", "hide")
    assert result.returncode == 1
    assert "data/hide: not there; `deblur-jax prepare hide` makes it" in result.stderr
