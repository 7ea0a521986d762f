"""Checks the PyTorch baselines against the recorded numbers of the official codes.

``TORCH_PYTHON -m benchmarks.torch_goldens``, with a Python that has PyTorch. The numbers are those
of ``tests/goldens``; how weights and inputs are drawn is said in ``tests/golden.py`` and
``tests/svrnn_golden.py``.
"""

from pathlib import Path

import numpy as np
import torch

from benchmarks.torch_mimo_unet import MIMOUNet
from benchmarks.torch_svrnn import LAYERS, SVRNN

_GOLDENS = Path(__file__).parents[1] / "tests" / "goldens"
_SVRNN_GAINS = {"convgd2_2": 1.0, "convd1_1": 1.0, "convd1_2": 0.5} | {
    f"conv_rnn{stage}": 0.7 for stage in range(1, 5)
}


def main() -> None:
    """Prints the relative errors."""
    for name, blocks in (("mimo_unet", 8), ("mimo_unet_plus", 20)):
        blurred = torch.from_numpy(_rng(7).random((1, 3, 64, 96), np.float32))
        _report(name, _mimo_unet(name, blocks)(blurred)[0], f"{name}.npz", "out_full")
    blurred = torch.from_numpy(_rng(7).random((1, 64, 96, 3), np.float32))
    restored = _svrnn()(blurred.permute(0, 3, 1, 2))
    _report("svrnn", restored, "svrnn/forward.npz", "output")


def _report(name, restored, file, key) -> None:
    with np.load(_GOLDENS / file) as arrays:
        recorded = arrays[key].astype(np.float64)
    restored = restored.detach().numpy().transpose(0, 2, 3, 1)
    if recorded.shape != restored.shape:
        recorded = recorded.transpose(0, 2, 3, 1)
    error = np.linalg.norm(restored - recorded) / np.linalg.norm(recorded)
    print(f"{name}: {error:.1e}")


def _rng(seed):
    return np.random.Generator(np.random.PCG64(seed))


def _mimo_unet(name, blocks):
    network = MIMOUNet(n=blocks)
    with np.load(_GOLDENS / f"{name}.npz") as arrays:
        names = arrays["param_names"].tolist()
    parameters = dict(network.named_parameters())
    with torch.no_grad():
        for index, parameter in enumerate(names):
            shape = tuple(parameters[parameter].shape)
            values = _rng(1000 + index).standard_normal(shape, np.float32)
            if len(shape) == 1:
                values = values * np.float32(0.02)
            else:
                transposed = parameter.startswith(("feat_extract.3.", "feat_extract.4."))
                fan = shape[0 if transposed else 1] * shape[2] * shape[3]
                values = values * np.float32(0.5 * np.sqrt(1 / fan))
            parameters[parameter].copy_(torch.from_numpy(values))
    return network.eval()


def _svrnn():
    network = SVRNN()
    with torch.no_grad():
        for layer, name in enumerate(LAYERS):
            convolution = getattr(network, name)
            shape = tuple(convolution.weight.shape)
            values = _rng(1000 + 2 * layer).standard_normal(shape, np.float32)
            gain = _SVRNN_GAINS.get(name, np.sqrt(2))
            values = values * np.float32(gain * np.sqrt(1 / np.prod(shape[1:])))
            convolution.weight.copy_(torch.from_numpy(values.transpose(0, 1, 3, 2).copy()))
            bias = _rng(1001 + 2 * layer).standard_normal(shape[:1], np.float32)
            convolution.bias.copy_(torch.from_numpy(bias * np.float32(0.05)))
    return network


if __name__ == "__main__":
    main()
