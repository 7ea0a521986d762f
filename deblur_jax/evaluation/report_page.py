"""``report.html``: one page with everything in it, to be opened from disk or sent to others."""

import concurrent.futures
import io
import math
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from deblur_jax.data import PairSource
from deblur_jax.images.files import StoredImage, as_8_bits
from deblur_jax.images.reading import read_rgb
from deblur_jax.pages.images import as_jpeg, as_png, embedded, preview
from deblur_jax.pages.template import render
from deblur_jax.runtime.names import file_name

_CROP = 240
_SHOWN_PIXELS = 1280
_THUMBNAIL_PIXELS = 160
_THUMBNAIL_QUALITY = 70
_THUMBNAIL_BYTES = 12_000_000
"""Of all thumbnails: a page can be sent to others. Where there are more images, those that gained
least have one."""
_LIGHT, _DARK = ("#1f5fa6", "#1c1c1c"), ("#7fb4f0", "#e8e8e8")
"""Colours of bars and of text, as in the page."""
_FOOT = ("version", "weights", "digest", "date")


def page(
    summary: dict[str, Any],
    methods: Sequence[dict[str, Any]],
    facts: dict[str, str],
    remarks: Sequence[str],
    pairs: PairSource,
    out: epath.Path,
) -> str:
    """The page as HTML.

    It shows the summary beside the published rows; the distribution of gains; for the best, the
    median and the worst image a slider between before and after, with crops at full resolution; and
    a table of all images.

    Args:
        summary: of ``report.summarize``.
        methods: of ``report.methods``.
        facts: what else a reader should know of the run.
        remarks: what the means leave out.
        pairs: the data set.
        out: the folder of the page, with restored/ and sheets/.
    """
    rows = sorted(summary["per_image"], key=lambda row: row["gain"])
    chosen = {}
    if rows:
        chosen = {"Best": rows[-1], "Median": rows[len(rows) // 2], "Worst": rows[0]}
    indices = {name: index for index, name in enumerate(pairs.names)}
    gains = [row["gain"] for row in rows]
    thumbnails = _thumbnails(rows, out)
    return render(
        "report.html",
        title=f"{summary.get('model', 'Evaluation')}: {_mean_gain(summary['psnr'])}",
        summary=summary,
        methods=methods,
        facts=facts,
        remarks=remarks,
        histogram=_histogram(gains, *_LIGHT),
        histogram_dark=_histogram(gains, *_DARK),
        images=[
            _shown(title, row, pairs[indices[row["name"]]], out) for title, row in chosen.items()
        ],
        rows=[_row(row, thumbnails) for row in summary["per_image"]],
        worse=sum(gain < 0 for gain in gains),
        failed=summary["failed"],
        foot={name: facts[name] for name in _FOOT if name in facts},
    )


def _mean_gain(psnr: float) -> str:
    return f"{psnr:.2f} dB" if math.isfinite(psnr) else "no finite PSNR"


def _row(row: dict[str, Any], thumbnails: dict[str, str]) -> dict[str, Any]:
    """What the table needs of one image."""
    file = file_name(row["name"], ".png")
    return {
        **row,
        "full": f"restored/{file}",
        "sheet": f"sheets/{file}",
        "thumbnail": thumbnails.get(row["name"]),
        "is_worse": row["gain"] < 0,
        "order": max(-1e8, min(1e8, row["gain"])),
    }


def _thumbnails(rows: Sequence[dict[str, Any]], out: epath.Path) -> dict[str, str]:
    """Data URLs by the name of the image, from the first row on until they are too many."""

    def thumbnail(row: dict[str, Any]) -> str:
        pixels = read_rgb(_restored(out, row["name"]))
        small = preview(StoredImage(pixels), _THUMBNAIL_PIXELS)
        return embedded(as_jpeg(small, _THUMBNAIL_QUALITY), "jpeg")

    made: dict[str, str] = {}
    free = _THUMBNAIL_BYTES
    at_once = 4 * (os.cpu_count() or 1)
    with concurrent.futures.ThreadPoolExecutor() as threads:
        for first in range(0, len(rows), at_once):
            part = rows[first : first + at_once]
            for row, url in zip(part, threads.map(thumbnail, part), strict=True):
                free -= len(url)
                if free < 0:
                    return made
                made[row["name"]] = url
    return made


def _restored(out: epath.Path, name: str) -> epath.Path:
    return out / "restored" / file_name(name, ".png")


def _shown(
    title: str, row: dict[str, Any], pair: dict[str, Any], out: epath.Path
) -> dict[str, Any]:
    """What the template needs of one image; the images as data URLs."""
    after = read_rgb(_restored(out, row["name"]))
    before = as_8_bits(pair["blurred"])
    truth = as_8_bits(pair["sharp"] if isinstance(pair["sharp"], np.ndarray) else pair["sharp"][0])
    window = _most_changed(before, after)
    crops = {"before": before, "after": after, "truth": truth}
    small = {name: preview(StoredImage(crops[name]), _SHOWN_PIXELS) for name in ("before", "after")}
    return {
        "title": title,
        "row": row,
        "width": small["after"].width,
        "height": small["after"].height,
        **{name: embedded(as_jpeg(image), "jpeg") for name, image in small.items()},
        "crops": {
            name: embedded(as_png(Image.fromarray(crop[window])), "png")
            for name, crop in crops.items()
        },
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


def _histogram(gains: list[float], bars: str, text: str) -> str:
    gains = [gain for gain in gains if math.isfinite(gain)]
    figure = Figure(figsize=(7, 2.6), layout="constrained")
    axes = figure.subplots()
    axes.hist(gains, bins=min(40, max(5, len(gains) // 3)), color=bars)
    axes.axvline(0, color=text, linewidth=1)
    axes.set(xlabel="gain in dB", ylabel="images", facecolor="none")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["bottom", "left"]].set_color(text)
    axes.tick_params(colors=text)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_color(text)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110, transparent=True)
    return embedded(stream.getvalue(), "png")
