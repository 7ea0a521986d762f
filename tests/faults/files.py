"""Damaged files of every kind that the package reads, and how each reading ends."""

import collections
import concurrent.futures
import io
import multiprocessing
import os
import random
import shutil
import sys
import tarfile
import tempfile
import time
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from deblur_jax.errors import UserError
from tests.faults.mutations import mutated

SECONDS = 10.0
"""A reading that takes longer hangs."""
FIXTURES = Path(__file__).parents[1] / "fixtures"


def base_files(kind: str) -> dict[str, bytes]:
    """Whole files of a kind, by name."""
    return {"torch": _torch, "caffe": _caffe, "image": _images, "archive": _archives}[kind]()


def read(kind: str, path: Path, scratch: Path) -> None:
    """Reads a file as the commands do.

    Raises:
        UserError: if it is damaged; anything else is a fault.
    """
    if kind == "torch":
        from deblur_jax.models import MIMOUNetConfig
        from deblur_jax.weights.official import load_torch

        load_torch(path, MIMOUNetConfig(base_channels=2, num_res_blocks=1))
    elif kind == "caffe":
        from deblur_jax.weights.official import load_caffe
        from tests.weights.caffe_like import TINY

        load_caffe(path, TINY)
    elif kind == "image":
        from deblur_jax.images.reading import read_image

        read_image(path)
    else:
        from deblur_jax.data.archives import unpack

        unpack(path, scratch)


def count_readings(kind: str, number: int, seed: int = 0) -> collections.Counter:
    """Reads ``number`` damaged files, each in a process that is watched.

    Returns:
        How many were "read", "refused" in one line, a "fault" (another exception, a crash, memory,
        code that was executed) or a "hang".
    """
    files = base_files(kind)
    counts: collections.Counter = collections.Counter()
    with tempfile.TemporaryDirectory() as folder:
        jobs = []
        for index in range(number):
            rng = random.Random(f"{kind} {seed} {index}")
            name = sorted(files)[index % len(files)]
            path = Path(folder) / f"{index:04d}_{name}"
            path.write_bytes(mutated(files[name], rng))
            jobs.append((kind, str(path)))
        for (_, path), outcome in zip(jobs, _watched(jobs), strict=True):
            counts[outcome.split(":")[0]] += 1
            if outcome.startswith(("fault", "hang")):
                kept = Path(tempfile.gettempdir()) / f"fault_{Path(path).name}"
                shutil.copy(path, kept)
                print(f"{outcome}\n  file kept: {kept}")
    return counts


def _watched(jobs: list[tuple[str, str]]) -> list[str]:
    outcomes = []
    pool = _pool()
    for job in jobs:
        future = pool.submit(_outcome, *job)
        try:
            outcomes.append(future.result(timeout=SECONDS + 20))
        except concurrent.futures.TimeoutError:
            outcomes.append(f"hang: {job[1]}")
            for process in multiprocessing.active_children():
                process.kill()
            pool = _pool()
        except concurrent.futures.process.BrokenProcessPool:
            outcomes.append(f"fault: the process died: {job[1]}")
            pool = _pool()
    pool.shutdown()
    return outcomes


def _pool() -> concurrent.futures.ProcessPoolExecutor:
    context = multiprocessing.get_context("spawn")
    return concurrent.futures.ProcessPoolExecutor(1, mp_context=context, initializer=_limit_memory)


def _limit_memory() -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (16 << 30, 16 << 30))
    sys.addaudithook(_forbid)


def _forbid(event: str, arguments: tuple) -> None:
    """Code in a file would have to start a program, or to compile and run some."""
    if event in ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn") and _READING:
        os._exit(99)


_READING: list[bool] = []


def _outcome(kind: str, path: str) -> str:
    begin = time.monotonic()
    _READING.append(True)
    with tempfile.TemporaryDirectory() as scratch:
        try:
            read(kind, Path(path), Path(scratch))
            outcome = "read"
        except UserError as error:
            lines = str(error).splitlines()
            outcome = "refused" if len(lines) == 1 and path in lines[0] else f"fault: {error}"
        except BaseException as error:
            outcome = f"fault: {type(error).__name__}: {error}"
    _READING.clear()
    if time.monotonic() - begin > SECONDS:
        return f"hang: {time.monotonic() - begin:.0f} s"
    return outcome


def _torch() -> dict[str, bytes]:
    names = ("tiny_zip.pkl", "tiny_legacy.pkl")
    return {name: (FIXTURES / name).read_bytes() for name in names}


def _caffe() -> dict[str, bytes]:
    from tests.weights.caffe_like import tiny_net

    return {"tiny.caffemodel": tiny_net()[0].SerializeToString()}


def _images() -> dict[str, bytes]:
    rng = np.random.default_rng(0)
    colour = Image.fromarray(rng.integers(0, 256, (24, 30, 3), np.uint8))
    grey16 = Image.fromarray(rng.integers(0, 65536, (24, 30), np.uint16))
    kinds: dict[str, tuple[Image.Image, dict]] = {
        "a.png": (colour, {}),
        "b.png": (grey16, {}),
        "c.png": (colour.convert("P"), {}),
        "d.jpg": (colour, {"quality": 90}),
        "e.jpg": (colour, {"progressive": True}),
        "f.tif": (colour, {}),
        "g.tif": (colour, {"compression": "tiff_adobe_deflate"}),
        "h.tif": (grey16, {"compression": "tiff_lzw"}),
        "i.webp": (colour, {}),
        "j.bmp": (colour, {}),
    }
    files = {}
    for name, (image, options) in kinds.items():
        stream = io.BytesIO()
        image.save(stream, Image.registered_extensions()[Path(name).suffix], **options)
        files[name] = stream.getvalue()
    return files


def _archives() -> dict[str, bytes]:
    image = _images()["a.png"]
    names = [f"{kind}/{i}.png" for kind in ("blur", "sharp") for i in range(2)]
    files = {}
    for suffix, method in (("a", zipfile.ZIP_STORED), ("b", zipfile.ZIP_DEFLATED)):
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", method) as archive:
            for name in names:
                archive.writestr(name, image)
        files[f"{suffix}.zip"] = stream.getvalue()
    for suffix, mode in (
        (".tar", "w"),
        (".tar.gz", "w:gz"),
        (".tar.bz2", "w:bz2"),
        (".tar.xz", "w:xz"),
    ):
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode=mode) as archive:
            for name in names:
                member = tarfile.TarInfo(name)
                member.size = len(image)
                archive.addfile(member, io.BytesIO(image))
        files[f"c.tar{suffix}"] = stream.getvalue()
    return files
