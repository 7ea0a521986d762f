"""Rows, tables and images of an evaluation."""

import csv
import dataclasses
import io
import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath
from PIL import Image, ImageDraw, ImageFont

from deblur_jax.data import PairSource
from deblur_jax.evaluation.means import finite_mean
from deblur_jax.evaluation.protocols import PROTOCOLS
from deblur_jax.evaluation.report_page import page
from deblur_jax.images.files import to_uint8
from deblur_jax.runtime.files import write_whole
from deblur_jax.runtime.names import shown

_CAPTION_HEIGHT = 22
IDENTITY = (
    "digest",
    "data",
    "split",
    "embedded",
    "mode",
    "ensemble",
    "ema",
    "dtype",
    "precision",
    "tile",
    "overlap",
)
"""What an evaluation is of, by the keys of results.json."""
_NAMED = ("version", "date", "weights", "step", *IDENTITY, "devices")
"""What is named beside the means."""


@dataclasses.dataclass(frozen=True)
class Row:
    """What one image gained."""

    name: str
    height: int
    width: int
    psnr_blurred: float
    ssim_blurred: float
    psnr: float
    ssim: float
    aligned: bool = True
    """False where mode ``realblur`` found no alignment."""

    @property
    def gain(self) -> float:
        """In dB; 0 where both are infinite, infinite where one is."""
        return 0.0 if self.psnr == self.psnr_blurred else self.psnr - self.psnr_blurred

    def to_dict(self) -> dict[str, Any]:
        """The fields as a dict."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class Failure:
    """An image without a result: it has no part in any mean."""

    name: str
    reason: str


def summarize(
    rows: Sequence[Row], failures: Sequence[Failure] = (), **described: Any
) -> dict[str, Any]:
    """The means over images and the rows, as one JSON object.

    A mean is that of the finite values; ``infinite`` counts the others, by the name of the mean.

    Args:
        rows: one per image.
        failures: images without a result.
        **described: what else the reader should know: weights, data, mode, precision.
    """
    means = {
        key: finite_mean(getattr(row, key) for row in rows)
        for key in ("psnr", "ssim", "psnr_blurred", "ssim_blurred", "gain")
    }
    return {
        **described,
        "count": len(rows),
        **{key: mean.value for key, mean in means.items()},
        "infinite": {key: mean.infinite for key, mean in means.items() if mean.infinite},
        "failed": [dataclasses.asdict(failure) for failure in failures],
        "not_aligned": sum(not row.aligned for row in rows),
        "per_image": [{**row.to_dict(), "gain": row.gain} for row in rows],
    }


def write_all(out: epath.Path, summary: dict[str, Any], pairs: PairSource) -> None:
    """Writes ``results.json``, ``results.md``, ``per_image.csv`` and ``report.html``."""
    write_json(out / "results.json", summary)
    write_whole(out / "results.md", markdown(summary))
    write_whole(out / "per_image.csv", per_image_csv(summary))
    write_whole(
        out / "report.html",
        page(summary, methods(summary), facts(summary), remarks(summary), pairs, out),
    )


def table(summary: dict[str, Any]) -> str:
    """The summary for a terminal: one line per image, and the means."""
    rows = [*summary["per_image"], {**summary, "name": f"mean of {summary['count']}"}]
    width = max(len(row["name"]) for row in rows)
    heading = f"{'image':<{width}}  {'blurred':>8}  {'restored':>8}  {'gain':>6}  {'SSIM':>6}"
    lines = [
        f"{row['name']:<{width}}  {row['psnr_blurred']:8.2f}  {row['psnr']:8.2f}  "
        f"{row['gain']:+6.2f}  {row['ssim']:6.4f}"
        for row in rows
    ]
    lines = [heading, *lines[:-1], "-" * len(heading), lines[-1], *remarks(summary)]
    if summary["not_aligned"]:
        lines.append(f"not aligned, compared as they are: {summary['not_aligned']}")
    return "\n".join(lines)


def remarks(summary: dict[str, Any]) -> list[str]:
    """What the means leave out, a line for each."""
    words = {"psnr": "restored", "psnr_blurred": "blurred", "gain": "gain"}
    lines = [f"INCOMPLETE: {summary['incomplete']}"] if summary.get("incomplete") else []
    for key, count in summary.get("infinite", {}).items():
        which = words.get(key, key)
        lines.append(f"infinite, so left out of the mean ({which}): {count} of {summary['count']}")
    for one in summary.get("failed", []):
        lines.append(f"without a result: {one['name']}: {one['reason']}")
    return lines


def markdown(summary: dict[str, Any]) -> str:
    """A table with this run beside the published rows of its protocol."""
    protocol = PROTOCOLS[summary.get("protocol", "folder")]
    lines = [f"# {protocol.title}", "", "| method | PSNR | SSIM | |", "|---|---|---|---|"]
    for row in methods(summary):
        cells = [row["method"], f"{row['psnr']:.2f}", f"{row['ssim']:{row['form']}}"]
        if row["is_this_run"]:
            cells = [f"**{cell}**" for cell in cells]
        lines.append(f"| {' | '.join(cells)} | {row['source']} |")
    lines += ["", *(f"- {key}: {value}" for key, value in facts(summary).items())]
    lines += [f"- {remark}" for remark in remarks(summary)]
    return "\n".join(lines) + "\n"


def methods(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """This run, the blurred images, and the published rows of the protocol.

    Returns:
        For each the keys ``method``, ``psnr``, ``ssim``, ``form`` (of the SSIM), ``source`` and
        ``is_this_run``.
    """
    name = summary.get("model", "this run")
    if summary.get("ensemble"):
        name += f", {summary['ensemble']}"
    measured = {"form": ".4f", "source": "measured by this run"}
    blurred = {"psnr": summary["psnr_blurred"], "ssim": summary["ssim_blurred"]}
    restored = {"psnr": summary["psnr"], "ssim": summary["ssim"]}
    rows = [
        {"method": name, **restored, **measured, "is_this_run": True},
        {"method": "the blurred images", **blurred, **measured, "is_this_run": False},
    ]
    for row in PROTOCOLS[summary.get("protocol", "folder")].published:
        numbers = {"method": row.method, "psnr": row.psnr, "ssim": row.ssim, "form": ".3f"}
        rows.append({**numbers, "source": f"published: {row.source}", "is_this_run": False})
    return rows


def facts(summary: dict[str, Any]) -> dict[str, str]:
    """What else a reader should know of a run, in words."""
    named = {key: str(summary[key]) for key in _NAMED if summary.get(key) is not None}
    named["images"] = str(summary["count"])
    if summary["mode"] == "realblur":
        named["not aligned"] = f"{summary['not_aligned']} (compared as they are)"
    if summary.get("in_parts"):
        named["restored in parts"] = f"{summary['in_parts']} of {summary['count']}"
    if "parameters" in summary:
        named["parameters"] = f"{summary['parameters']:,}"
    speed = summary.get("speed")
    if speed:
        height, width = speed["size"]
        named["speed"] = (
            f"{speed['seconds']:.3f} s per image of {width}x{height} on one {speed['device']}, the "
            f"median of {speed['runs']} (compiled, or loaded from the cache, in "
            f"{speed['compile_seconds']:.1f} s before)"
        )
        named["multiply-accumulates"] = f"{speed['multiply_accumulates'] / 1e9:.1f} G per image"
        named["memory"] = f"{speed['peak_bytes'] / 2**30:.2f} GiB at the peak"
    return named


def per_image_csv(summary: dict[str, Any]) -> str:
    """One line per image, below a heading."""
    stream = io.StringIO()
    columns = [*(field.name for field in dataclasses.fields(Row)), "gain"]
    writer = csv.DictWriter(stream, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(summary["per_image"])
    return stream.getvalue()


def comparison_sheet(
    blurred: np.ndarray, restored: np.ndarray, sharp: np.ndarray, row: Row
) -> Image.Image:
    """Before, after and truth side by side, captioned with their PSNR.

    Args:
        blurred, restored, sharp: (h, w, 3) in [0, 1].
    """
    images = [to_uint8(image) for image in (blurred, restored, sharp)]
    captions = (
        f"before  {row.psnr_blurred:.2f} dB",
        f"after  {row.psnr:.2f} dB ({row.gain:+.2f})",
        "truth",
    )
    height, width = images[0].shape[:2]
    sheet = Image.new("RGB", (3 * width, height + _CAPTION_HEIGHT), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(14)
    for column, (image, caption) in enumerate(zip(images, captions, strict=True)):
        sheet.paste(Image.fromarray(image), (column * width, _CAPTION_HEIGHT))
        draw.text((column * width + 4, 2), caption, "black", font)
    return sheet


def to_json(value: Any) -> str:
    """One JSON object; numbers that are not finite become null, since JSON has none."""
    return json.dumps(_storable(value), indent=2) + "\n"


def write_json(path: epath.Path, value: Any) -> None:
    """Writes ``to_json``."""
    write_whole(path, to_json(value))


def _storable(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _storable(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_storable(inner) for inner in value]
    if isinstance(value, str):
        return shown(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value
