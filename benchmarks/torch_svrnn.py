"""SVRNN in PyTorch, written from its published description: the baseline of the benchmarks.

The recurrence is a loop over rows or columns in Python, as PyTorch's users would write it. Layers
carry the names of the official Caffe file; kernels are transposed in space against it. PyTorch is
needed here and nowhere else in the project.
"""

import torch
from torch import nn
from torch.nn import functional as F

LAYERS = {
    "conve1_1": (3, 16, 11),
    "conve1_2": (16, 32, 7),
    "convg1_1": (3, 64, 3),
    "convg1_2": (64, 64, 3),
    "convg2_1": (64, 128, 3),
    "convg2_2": (128, 128, 3),
    "convg3_1": (128, 256, 3),
    "convg3_2": (256, 256, 3),
    "convg3_3": (256, 256, 3),
    "convg4_1": (256, 512, 3),
    "convg4_2": (512, 512, 3),
    "convg4_3": (512, 256, 3),
    "convgd1": (512, 128, 3),
    "convgd1_2": (128, 128, 3),
    "convgd2": (256, 256, 3),
    "convgd2_2": (256, 512, 3),
    **{f"conv_rnn{stage}": (128, 32, 3) for stage in range(1, 5)},
    "convd1_1": (64, 16, 9),
    "convd1_2": (32, 3, 5),
}
"""Input channels, output channels and kernel size, in the order of the official file."""

_ROWS, _COLUMNS = 2, 3


class SVRNN(nn.Module):
    def __init__(self):
        super().__init__()
        for name, (i, o, size) in LAYERS.items():
            stride = 2 if name == "conve1_2" else 1
            self.add_module(name, nn.Conv2d(i, o, size, stride=stride, padding=size // 2))

    def forward(self, x):
        full = F.leaky_relu(self.conve1_1(x), 0.1)
        half = self.conve1_2(full)
        gates = self._gates(x)
        scanned = half
        for stage in range(4):
            # The official order of a stage's gates: x1, y1, x2, y2.
            x1, y1, x2, y2 = gates[:, 128 * stage : 128 * (stage + 1)].split(32, 1)
            ways = (
                _scan(scanned, x1, _ROWS),
                _scan(scanned, x2, _ROWS, reverse=True),
                _scan(scanned, y1, _COLUMNS),
                _scan(scanned, y2, _COLUMNS, reverse=True),
            )
            merge = getattr(self, f"conv_rnn{stage + 1}")
            scanned = F.leaky_relu(merge(torch.cat(ways, 1)), 0.1)
        z = F.leaky_relu(self.convd1_1(torch.cat([half, scanned], 1)), 0.1)
        return self.convd1_2(torch.cat([full, _double(z)], 1))

    def _gates(self, x):
        def stack(z, *names):
            for name in names:
                z = F.relu(getattr(self, name)(z))
            return z

        half = stack(F.max_pool2d(stack(x, "convg1_1", "convg1_2"), 2), "convg2_1", "convg2_2")
        quarter = stack(F.max_pool2d(half, 2), "convg3_1", "convg3_2")
        eighth = F.max_pool2d(stack(quarter, "convg3_3"), 2)
        z = stack(eighth, "convg4_1", "convg4_2", "convg4_3")
        z = stack(torch.cat([quarter, _double(z)], 1), "convgd1", "convgd1_2")
        z = stack(torch.cat([half, _double(z)], 1), "convgd2")
        return torch.tanh(self.convgd2_2(z))


def _scan(x, gates, axis, reverse=False):
    pairs = list(zip(x.unbind(axis), gates.unbind(axis), strict=True))
    state, states = 0.0, []
    for line, gate in reversed(pairs) if reverse else pairs:
        state = gate * (state - line) + line
        states.append(state)
    return torch.stack(states[::-1] if reverse else states, axis)


def _double(x):
    """Caffe's bilinear resize: what follows the last row or column counts as 0."""
    for axis in (_ROWS, _COLUMNS):
        padding = (0, 1, 0, 0) if axis == _COLUMNS else (0, 0, 0, 1)
        following = F.pad(x, padding).narrow(axis, 1, x.shape[axis])
        x = torch.stack([x, 0.5 * (x + following)], axis + 1).flatten(axis, axis + 1)
    return x
