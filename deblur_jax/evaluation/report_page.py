"""``report.html``: one page with everything in it, to be opened from disk or sent to others."""

import base64
import importlib.resources
import io
import math
from collections.abc import Sequence
from typing import Any

import jinja2
import numpy as np
from etils import epath
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from deblur_jax.data import PairSource
from deblur_jax.images.files import as_8_bits
from deblur_jax.images.reading import read_rgb
from deblur_jax.runtime.names import file_name

_TEMPLATE = "report.html"
_CROP = 240
_SHOWN_WIDTH = 1280
_BLUE, _GREY = "#2563a8", "#8a8a8a"


def page(
    summary: dict[str, Any],
    facts: dict[str, str],
    remarks: Sequence[str],
    pairs: PairSource,
    restored: epath.Path,
) -> str:
    """The page as HTML.

    It shows the summary, the distribution of gains, and for the best, the median and the worst
    image a slider between before and after, with crops at full resolution.

    Args:
        summary: of ``report.summarize``.
        facts: what else a reader should know of the run.
        remarks: what the means leave out.
        pairs: the data set.
        restored: the folder of the restored images.
    """
    rows = sorted(summary["per_image"], key=lambda row: row["gain"])
    chosen = {}
    if rows:
        chosen = {"Best": rows[-1], "Median": rows[len(rows) // 2], "Worst": rows[0]}
    indices = {name: index for index, name in enumerate(pairs.names)}
    images = [
        _shown(title, row, pairs[indices[row["name"]]], restored) for title, row in chosen.items()
    ]
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(
        importlib.resources.files(__package__).joinpath(_TEMPLATE).read_text(encoding="utf-8")
    )
    return template.render(
        title=f"{summary.get('model', 'Evaluation')}: {summary['psnr']:.2f} dB",
        summary=summary,
        facts=facts,
        remarks=remarks,
        histogram=_as_png(_histogram([row["gain"] for row in rows])),
        images=images,
    )


def _shown(
    title: str, row: dict[str, Any], pair: dict[str, Any], restored: epath.Path
) -> dict[str, Any]:
    """What the template needs of one image; the images as data URLs."""
    after = read_rgb(restored / file_name(row["name"], ".png"))
    before = as_8_bits(pair["blurred"])
    truth = as_8_bits(pair["sharp"] if isinstance(pair["sharp"], np.ndarray) else pair["sharp"][0])
    window = _most_changed(before, after)
    crops = {"before": before, "after": after, "truth": truth}
    return {
        "title": title,
        "row": row,
        "before": _as_jpeg(before),
        "after": _as_jpeg(after),
        "crops": {name: _as_png(Image.fromarray(crop[window])) for name, crop in crops.items()},
    }


def _most_changed(before: np.ndarray, after: np.ndarray) -> tuple[slice, slice]:
    """The window of ``_CROP`` pixels, on a grid, that changed most."""
    change = np.square(after.astype(np.float32) - before).mean(-1)
    windows = [
        (slice(top, top + _CROP), slice(left, left + _CROP))
        for top in _starts(change.shape[0])
        for left in _starts(change.shape[1])
    ]
    return max(windows, key=lambda window: change[window].mean())


def _starts(length: int) -> list[int]:
    last = max(0, length - _CROP)
    return sorted({*range(0, last, _CROP // 2), last})


def _histogram(gains: list[float]) -> Image.Image:
    gains = [gain for gain in gains if math.isfinite(gain)]
    figure = Figure(figsize=(7, 2.6), layout="constrained")
    axes = figure.subplots()
    axes.hist(gains, bins=min(40, max(5, len(gains) // 3)), color=_BLUE)
    axes.axvline(0, color=_GREY, linewidth=1)
    axes.set(xlabel="gain in dB", ylabel="images")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.spines[["top", "right"]].set_visible(False)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110)
    return Image.open(stream)


def _as_png(image: Image.Image) -> str:
    return _embedded(image, "png")


def _as_jpeg(image: np.ndarray) -> str:
    """A JPEG for the slider, at most ``_SHOWN_WIDTH`` wide."""
    shown = Image.fromarray(image)
    shown.thumbnail((_SHOWN_WIDTH, _SHOWN_WIDTH))
    return _embedded(shown, "jpeg", quality=92)


def _embedded(image: Image.Image, kind: str, **options: Any) -> str:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(stream.getvalue()).decode()}"
