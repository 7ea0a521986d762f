"""An exported file computes what the network does: it is run, in the other program."""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from deblur_jax.export.function import Exportable, ExportError
from deblur_jax.export.onnx_file import INPUT

LARGEST_DIFFERENCE = 1e-3
"""Of any value, for images in [0, 1]; rounding is below 1e-5."""
_CALL_STABLEHLO = """
import sys
import jax, numpy
artefact, images, result, *params = sys.argv[1:]
exported = jax.export.deserialize(bytearray(open(artefact, "rb").read()))
arguments = [numpy.load(images)]
if params:
    import safetensors.numpy
    arguments.insert(0, safetensors.numpy.load_file(params[0]))
numpy.save(result, numpy.asarray(exported.call(*arguments)))
assert not [name for name in sys.modules if name.startswith(("deblur_jax", "flax"))]
"""


def difference_of_stablehlo(network: Exportable, artefact: Path, params: Path | None) -> float:
    """Runs an artefact on the CPU in a fresh process, which does not import this package.

    Args:
        network: that was exported.
        artefact: the file.
        params: the file with the parameters, where they are not inside.

    Returns:
        The largest difference to the network on random images.

    Raises:
        ExportError: if it fails.
    """
    images = network.example()
    with tempfile.TemporaryDirectory() as folder:
        given, result = Path(folder) / "images.npy", Path(folder) / "result.npy"
        np.save(given, images)
        words = [sys.executable, "-c", _CALL_STABLEHLO, str(artefact.resolve()), given, result]
        ran = subprocess.run(
            [*map(str, words), *([str(params.resolve())] if params else [])],
            cwd=folder,
            capture_output=True,
            text=True,
        )
        if ran.returncode:
            last = (ran.stderr.strip().splitlines() or ["no message"])[-1]
            raise ExportError(f"{artefact}: can't be run: {last}")
        return _difference(network, images, np.load(result))


def difference_of_onnx(network: Exportable, model: bytes) -> float:
    """Runs a model in onnxruntime; returns the largest difference to the network.

    Raises:
        ExportError: without onnxruntime, or if it fails.
    """
    try:
        import onnxruntime
    except ImportError:
        raise ExportError(
            "an ONNX file is verified with onnxruntime, which is missing: pip install onnxruntime"
        ) from None
    images = network.example()
    try:
        session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        (restored,) = session.run(None, {INPUT: images})
    except Exception as error:  # onnxruntime's errors have no class in common
        raise ExportError(f"onnxruntime can't run it: {str(error).splitlines()[0]}") from None
    return _difference(network, images, restored)


def _difference(network: Exportable, images: np.ndarray, restored: np.ndarray) -> float:
    restorer = network.restorer
    expected = np.asarray(restorer.restore_fn(restorer.params, images))
    if restored.shape != expected.shape or not np.isfinite(restored).all():
        return float("inf")
    return float(np.abs(restored - expected).max())
