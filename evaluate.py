"""Evaluates a network: ``python evaluate.py --weights WEIGHTS --data DATA --out FOLDER``.

It is the command ``deblur-jax evaluate``: ``python evaluate.py --help`` says what it takes.
"""

import sys

from deblur_jax.cli import main

if __name__ == "__main__":
    main(["evaluate", *sys.argv[1:]])
