"""Trains a network: ``python train.py --config configs/quickstart.py --workdir runs/quickstart``.

It is the command ``deblur-jax train``: ``python train.py --help`` lists every field.
"""

import sys

from deblur_jax.cli import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
