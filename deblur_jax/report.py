"""Rows, tables and pictures of an evaluation."""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath
from PIL import Image, ImageDraw, ImageFont

from deblur_jax.images import to_uint8

_CAPTION_HEIGHT = 22


@dataclasses.dataclass(frozen=True)
class Row:
    """What one picture gained."""

    name: str
    psnr_blurred: float
    psnr: float

    @property
    def gain(self) -> float:
        """In dB."""
        return self.psnr - self.psnr_blurred


def summarize(rows: Sequence[Row], **described: Any) -> dict[str, Any]:
    """The means over pictures and the rows, as one JSON object.

    Args:
        rows: one a picture.
        **described: what else the reader should know: weights, data, precision.
    """
    psnr = float(np.mean([row.psnr for row in rows]))
    psnr_blurred = float(np.mean([row.psnr_blurred for row in rows]))
    return {
        **described,
        "mode": "float",
        "count": len(rows),
        "psnr": psnr,
        "psnr_blurred": psnr_blurred,
        "gain": psnr - psnr_blurred,
        "per_image": [{**dataclasses.asdict(row), "gain": row.gain} for row in rows],
    }


def table(summary: dict[str, Any]) -> str:
    """The summary for a terminal: a line a picture, and the means."""
    rows = [*summary["per_image"], {**summary, "name": f"mean of {summary['count']}"}]
    width = max(len(row["name"]) for row in rows)
    lines = [f"{'picture':<{width}}  {'blurred':>8}  {'restored':>8}  {'gain':>6}"]
    lines += [
        f"{row['name']:<{width}}  {row['psnr_blurred']:8.2f}  {row['psnr']:8.2f}  "
        f"{row['gain']:+6.2f}"
        for row in rows
    ]
    return "\n".join([*lines[:-1], "-" * len(lines[0]), lines[-1]])


def comparison_sheet(
    blurred: np.ndarray, restored: np.ndarray, sharp: np.ndarray, row: Row
) -> Image.Image:
    """Before, after and truth side by side, captioned with their PSNR.

    Args:
        blurred, restored, sharp: (h, w, 3) in [0, 1].
    """
    pictures = [to_uint8(picture) for picture in (blurred, restored, sharp)]
    captions = (
        f"before  {row.psnr_blurred:.2f} dB",
        f"after  {row.psnr:.2f} dB ({row.gain:+.2f})",
        "truth",
    )
    height, width = pictures[0].shape[:2]
    sheet = Image.new("RGB", (3 * width, height + _CAPTION_HEIGHT), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(14)
    for column, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        sheet.paste(Image.fromarray(picture), (column * width, _CAPTION_HEIGHT))
        draw.text((column * width + 4, 2), caption, "black", font)
    return sheet


def write_json(path: epath.Path, value: Any) -> None:
    """Writes one JSON object, indented."""
    path.write_text(json.dumps(value, indent=2) + "\n")
