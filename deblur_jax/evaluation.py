"""Evaluation: every pair of a data set restored, measured, saved and shown."""

from typing import Any

import numpy as np
from etils import epath

from deblur_jax import metrics, report
from deblur_jax.data import PairSource
from deblur_jax.images import PathLike, Photograph, make_folder, write_photograph
from deblur_jax.inference import Restorer
from deblur_jax.progress import progress_bar

RESULTS = "results.json"


def evaluate(restorer: Restorer, pairs: PairSource, out: PathLike, **described: Any) -> dict:
    """Restores all pairs and measures them.

    Writes to ``out``: ``restored/NAME.png``, ``sheets/NAME.png`` (before, after, truth) and
    ``results.json``.

    Args:
        restorer: the network.
        pairs: a data set.
        out: the folder to write to; made if missing.
        **described: goes into the results: which weights, which data.

    Returns:
        What is in ``results.json``: see ``report.summarize``.

    Raises:
        ImageError: if a picture can't be read or written.
    """
    out = epath.Path(out)
    rows = []
    for index, name in enumerate(progress_bar(pairs.names, desc="evaluating", unit="picture")):
        pair = pairs[index]
        blurred, sharp = (pair[key].astype(np.float32) / 255.0 for key in ("blurred", "sharp"))
        restored = restorer(blurred)
        row = report.Row(
            name=name,
            psnr_blurred=float(metrics.psnr(blurred, sharp)),
            psnr=float(metrics.psnr(restored, sharp)),
        )
        rows.append(row)
        sheet = np.asarray(report.comparison_sheet(blurred, restored, sharp, row)) / np.float32(255)
        for folder, picture in (("restored", restored), ("sheets", sheet)):
            file = out / folder / f"{name}.png"
            make_folder(file.parent)
            write_photograph(file, Photograph(picture))
    summary = report.summarize(rows, **described)
    report.write_json(out / RESULTS, summary)
    return summary
