"""The main job on a small scale: trains, evaluates, restores an image; minutes on a CPU.

Each step is a command that is printed before it runs, to be tried again with other options.
"""

import json
import shlex
import subprocess
import sys
from pathlib import Path

from deblur_jax.data import open_pairs
from deblur_jax.evaluation.results_folder import RESULTS
from deblur_jax.images.files import StoredImage
from deblur_jax.images.writing import write_image

WORKDIR = Path("runs/quickstart")
DATA = "synthetic:pan"
EXAMPLE = Path("deblur_jax/demo/examples/street.jpg")


def main() -> None:
    """Runs the three commands and says what came of them."""
    config = "configs/quickstart.py"
    run("train.py", "--config", config, "--workdir", WORKDIR)

    evaluation = WORKDIR / "evaluation"
    words = ("--weights", WORKDIR, "--data", DATA, "--out", evaluation, "--replace")
    run("evaluate.py", *words)

    blurred = WORKDIR / "blurred.png"
    write_held_out_image(blurred)
    restored = WORKDIR / "restored"
    run("-m", "deblur_jax", "restore", blurred, "--weights", WORKDIR, "--out", restored)

    gain = json.loads((evaluation / RESULTS).read_text())["gain"]
    print(
        f"\nOn held-out photographs the network gains {gain:+.2f} dB over the blurred input.\n"
        f"  before, after, truth: {evaluation / 'sheets'}\n"
        f"  an image restored:   {blurred} -> {restored / blurred.name}\n"
        f"It has learnt one motion of the camera only (the family {DATA}), which is what minutes\n"
        "allow: other blur it does not undo. For photographs there are weights in the package:\n\n"
        f"$ python -m deblur_jax restore {EXAMPLE}\n\n"
        "Next: configs/mimo_unet_gopro.py, the paper's experiment, on real pairs."
    )


def run(*arguments: str | Path) -> None:
    """Runs a command of the project, printed first; ends with its status if it fails."""
    words = [str(argument) for argument in arguments]
    print("\n$ python " + shlex.join(words), flush=True)
    status = subprocess.run([sys.executable, *words]).returncode
    if status:
        sys.exit(status)


def write_held_out_image(file: Path) -> None:
    """A blurred photograph that training has not seen, of a size it has not seen either."""
    pair = open_pairs(DATA, "test", size=385, seed=1)[0]
    write_image(file, StoredImage(pair["blurred"]))


if __name__ == "__main__":
    main()
