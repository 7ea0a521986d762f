"""The benchmarks by name: their data, how they are measured, and what the papers report."""

import dataclasses

from deblur_jax.evaluation.metrics import Mode


@dataclasses.dataclass(frozen=True)
class Published:
    """A row of a paper's table; nothing of this was measured here."""

    method: str
    psnr: float
    ssim: float
    source: str


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How a benchmark is evaluated.

    Attributes:
        title: for tables.
        data: the folder that ``prepare`` makes by default; None asks for ``--data``.
        mode: of ``metrics.MODES``.
        published: what others report, for the table.
    """

    title: str
    data: str | None
    mode: Mode
    published: tuple[Published, ...] = ()


_MIMO, _SVRNN = "Cho et al. 2021", "Zhang et al. 2018"
_OTHERS = "their papers"

PROTOCOLS = {
    "gopro": Protocol(
        title="GoPro test, 1111 pairs, `blur`",
        data="data/gopro",
        mode="matlab",
        published=(
            Published("SVRNN", 29.19, 0.931, _SVRNN),
            Published("MIMO-UNet", 31.73, 0.951, _MIMO),
            Published("MIMO-UNet+", 32.45, 0.957, _MIMO),
            Published("MIMO-UNet++", 32.68, 0.959, _MIMO),
            Published("MPRNet", 32.66, 0.959, _OTHERS),
            Published("Restormer", 32.92, 0.961, _OTHERS),
            Published("MAXIM-3S", 32.86, 0.961, _OTHERS),
            Published("NAFNet-64", 33.71, 0.967, _OTHERS),
        ),
    ),
    "hide": Protocol(
        title="HIDE test, 2025 pairs, weights trained on GoPro",
        data="data/hide",
        mode="matlab",
        published=(
            Published("MIMO-UNet+", 29.99, 0.930, _MIMO),
            Published("MPRNet", 30.96, 0.939, _OTHERS),
            Published("Restormer", 31.22, 0.942, _OTHERS),
            Published("MAXIM-3S", 32.83, 0.956, _OTHERS),
        ),
    ),
    "realblur_j": Protocol(
        title="RealBlur-J test, 980 pairs, aligned",
        data="data/realblur_j",
        mode="realblur",
        published=(
            Published("MIMO-UNet+ trained on GoPro", 27.63, 0.837, _MIMO),
            Published("MIMO-UNet+ trained on RealBlur", 31.92, 0.919, _MIMO),
            Published("MIMO-UNet++ trained on RealBlur", 32.05, 0.921, _MIMO),
            Published("MPRNet trained on GoPro", 28.70, 0.873, _OTHERS),
            Published("Restormer trained on GoPro", 28.96, 0.879, _OTHERS),
            Published("MAXIM-3S trained on RealBlur", 32.84, 0.935, _OTHERS),
        ),
    ),
    "realblur_r": Protocol(
        title="RealBlur-R test, 980 pairs, aligned, weights trained on GoPro",
        data="data/realblur_r",
        mode="realblur",
        published=(
            Published("MIMO-UNet+", 35.54, 0.947, _MIMO),
            Published("MPRNet", 35.99, 0.952, _OTHERS),
            Published("Restormer", 36.19, 0.957, _OTHERS),
        ),
    ),
    "kohler": Protocol(
        title="Kohler, 48 shots, the best of about 199 frames each, aligned",
        data="data/kohler",
        mode="realblur",
    ),
    "folder": Protocol(title="a folder of pairs", data=None, mode="float"),
}
