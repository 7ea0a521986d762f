"""Networks in onnxruntime against their plain form in JAX: ``python -m benchmarks.exports``.

In turns, with random parameters, one image at a time; ratios are those of neighbouring runs.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime

from deblur_jax.export.function import exportable
from deblur_jax.export.onnx_file import INPUT, to_onnx
from deblur_jax.models import MIMOUNetConfig, SVRNNConfig, initialize
from deblur_jax.weights.folder import save_weights

_NETWORKS = {
    "MIMO-UNet": MIMOUNetConfig(),
    "MIMO-UNet+": MIMOUNetConfig.plus(),
    "SVRNN": SVRNNConfig(),
}


def main() -> None:
    """Prints a line for each network and size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", nargs="+", default=["256x256", "1280x720"], metavar="WxH")
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--networks", nargs="+", default=[*_NETWORKS], choices=_NETWORKS)
    args = parser.parse_args()
    for name in args.networks:
        with tempfile.TemporaryDirectory() as folder:
            weights = Path(folder) / "weights"
            save_weights(weights, initialize(_NETWORKS[name], seed=0)[1], _NETWORKS[name])
            network = exportable(weights)
        model = to_onnx(network)
        session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        restorer = network.restorer
        for size in args.sizes:
            width, height = map(int, size.split("x"))
            image = np.random.default_rng(0).random((1, height, width, 3), np.float32)
            in_jax = np.asarray(restorer.restore_fn(restorer.params, image))
            difference = np.abs(session.run(None, {INPUT: image})[0] - in_jax).max()
            pairs = []
            for _ in range(args.runs):
                start = time.perf_counter()
                session.run(None, {INPUT: image})
                middle = time.perf_counter()
                restorer.restore_fn(restorer.params, image).block_until_ready()
                pairs.append((middle - start, time.perf_counter() - middle))
            ratios = sorted(onnx / plain for onnx, plain in pairs)
            seconds, plain_seconds = map(statistics.median, zip(*pairs, strict=True))
            print(
                f"{name} ({len(model) / 1e6:.1f} MB) {size}: {seconds:.2f} s, plain "
                f"{plain_seconds:.2f} s, ratio {statistics.median(ratios):.2f} "
                f"({ratios[0]:.2f} to {ratios[-1]:.2f}), differs by {difference:.0e}",
                flush=True,
            )


if __name__ == "__main__":
    main()
