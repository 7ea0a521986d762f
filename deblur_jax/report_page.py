"""``report.html``: one page that needs nothing else, to be opened from disk or sent to others."""

import base64
import html
import io
import math
from typing import Any

import numpy as np
from etils import epath
from matplotlib.figure import Figure
from PIL import Image

from deblur_jax.data import PairSource
from deblur_jax.images import read_rgb

_CROP = 240
_SHOWN_WIDTH = 1280
_BLUE, _GREY = "#2563a8", "#8a8a8a"


def page(
    summary: dict[str, Any], facts: dict[str, str], pairs: PairSource, restored: epath.Path
) -> str:
    """The page as HTML.

    It shows the summary, the distribution of gains, and for the best, the median and the worst
    picture a slider between before and after, with crops at full resolution.

    Args:
        summary: of ``report.summarize``.
        facts: what else to tell of the run.
        pairs: the data set.
        restored: the folder of the restored pictures.
    """
    rows = sorted(summary["per_image"], key=lambda row: row["gain"])
    chosen = {"Best": rows[-1], "Median": rows[len(rows) // 2], "Worst": rows[0]}
    indices = {name: index for index, name in enumerate(pairs.names)}
    sections = [
        _section(title, row, pairs[indices[row["name"]]], restored) for title, row in chosen.items()
    ]
    told = "".join(
        f"<tr><th>{html.escape(key)}</th><td>{html.escape(value)}</td></tr>"
        for key, value in facts.items()
    )
    return _PAGE.format(
        title=html.escape(f"{summary.get('model', 'Evaluation')}: {summary['psnr']:.2f} dB"),
        psnr=f"{summary['psnr']:.2f}",
        ssim=f"{summary['ssim']:.4f}",
        gain=f"{summary['gain']:+.2f}",
        facts=told,
        histogram=_as_png(_histogram([row["gain"] for row in rows])),
        sections="".join(sections),
    )


def _section(title: str, row: dict[str, Any], pair: dict, restored: epath.Path) -> str:
    after = read_rgb(restored / f"{row['name']}.png")
    before = pair["blurred"]
    truth = pair["sharp"] if isinstance(pair["sharp"], np.ndarray) else pair["sharp"][0]
    window = _most_changed(before, after)
    crops = "".join(
        f'<figure><img alt="{caption}, a detail" src="{_as_png(Image.fromarray(picture[window]))}">'
        f"<figcaption>{caption}</figcaption></figure>"
        for caption, picture in (("before", before), ("after", after), ("truth", truth))
    )
    return _SECTION.format(
        title=title,
        name=html.escape(row["name"]),
        numbers=f"{row['psnr_blurred']:.2f} dB before, {row['psnr']:.2f} dB after "
        f"({row['gain']:+.2f}), SSIM {row['ssim_blurred']:.4f} and {row['ssim']:.4f}",
        before=_as_jpeg(before),
        after=_as_jpeg(after),
        crops=crops,
    )


def _most_changed(before: np.ndarray, after: np.ndarray) -> tuple[slice, slice]:
    """The window of ``_CROP`` pixels, on a grid, where most happened."""
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
    axes.set(xlabel="gain in dB", ylabel="pictures")
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.spines[["top", "right"]].set_visible(False)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110)
    return Image.open(stream)


def _as_png(picture: Image.Image) -> str:
    return _embedded(picture, "png")


def _as_jpeg(picture: np.ndarray) -> str:
    """For the slider, at most ``_SHOWN_WIDTH`` wide; the crops are exact."""
    image = Image.fromarray(picture)
    image.thumbnail((_SHOWN_WIDTH, _SHOWN_WIDTH))
    return _embedded(image, "jpeg", quality=92)


def _embedded(picture: Image.Image, kind: str, **options) -> str:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(stream.getvalue()).decode()}"


_SECTION = """
<section>
<h2>{title}: {name}</h2>
<p>{numbers}</p>
<div class="slider">
<img class="after" alt="after" src="{after}">
<img class="before" alt="before" src="{before}">
<span class="left">before</span><span class="right">after</span><i></i>
<input type="range" min="0" max="100" value="50" aria-label="before and after: {name}">
</div>
<div class="crops">{crops}</div>
</section>"""

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 80rem; margin: 2rem auto;
  padding: 0 1rem; }}
.numbers b {{ font-size: 2rem; margin-right: .3rem; }}
.numbers span {{ margin-right: 2rem; white-space: nowrap; }}
th {{ text-align: left; font-weight: 600; padding-right: 1.5rem; vertical-align: top; }}
img {{ display: block; max-width: 100%; }}
.slider {{ position: relative; width: fit-content; max-width: 100%; --at: 50%; }}
.slider .before {{ position: absolute; inset: 0; width: 100%; height: 100%;
  clip-path: inset(0 calc(100% - var(--at)) 0 0); }}
.slider i {{ position: absolute; top: 0; bottom: 0; left: var(--at); width: 2px; background: #fff;
  box-shadow: 0 0 3px #000; pointer-events: none; }}
.slider span {{ position: absolute; top: .5rem; color: #fff; background: #0008; padding: 0 .5rem;
  pointer-events: none; }}
.slider .left {{ left: .5rem; }} .slider .right {{ right: .5rem; }}
.slider input {{ position: absolute; inset: 0; width: 100%; height: 100%; margin: 0; opacity: 0;
  cursor: ew-resize; }}
.slider:focus-within {{ outline: 3px solid #2563a8; }}
.crops {{ display: flex; flex-wrap: wrap; gap: 1rem; margin-top: 1rem; }}
figure {{ margin: 0; }} figcaption {{ color: #555; }}
</style>
</head>
<body>
<h1>{title}</h1>
<p class="numbers"><span><b>{psnr}</b> dB PSNR</span><span><b>{ssim}</b> SSIM</span>
<span><b>{gain}</b> dB over the blurred pictures</span></p>
<table>{facts}</table>
<h2>Gain by picture</h2>
<img alt="how many pictures gained how much" src="{histogram}">
{sections}
<script>
for (const slider of document.querySelectorAll(".slider")) {{
  const input = slider.querySelector("input");
  const move = () => slider.style.setProperty("--at", input.value + "%");
  input.addEventListener("input", move);
  move();
}}
</script>
</body>
</html>
"""
