"""``deblur-jax demo``: a page on this machine to try restoration on."""

import argparse
from collections.abc import Sequence

from deblur_jax.demo.page import gradio, show
from deblur_jax.demo.service import Service
from deblur_jax.errors import UsageError
from deblur_jax.runtime.devices import require_devices
from deblur_jax.weights.shipped import shipped_weights


def add_arguments(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    """Says what the command takes."""
    del words
    parser.add_argument(
        "--weights",
        action="append",
        help="to choose from, as of restore; may be given several times (default: those that come "
        "with the package)",
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="the address to listen on; others than the default let other machines in "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--port", type=int, default=7860, help="of that address (default: %(default)s)"
    )
    parser.add_argument(
        "--max_megapixels",
        type=float,
        default=25.0,
        help="refuse larger images (default: %(default)s)",
    )
    parser.add_argument(
        "--max_waiting",
        type=int,
        default=16,
        help="refuse more requests than this many that wait (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> None:
    """Serves the page until Ctrl-C.

    Raises:
        UsageError: for a wrong number.
        DemoError: if the page can't be shown.
    """
    if not 0 < args.port < 65536:
        raise UsageError(f"--port is 1 to 65535, not {args.port}")
    for name in ("max_megapixels", "max_waiting"):
        if getattr(args, name) <= 0:
            raise UsageError(f"--{name} must be above 0, not {getattr(args, name)}")
    gradio()
    require_devices()
    service = Service(args.weights or shipped_weights(), args.max_megapixels)
    show(service, host=args.host, port=args.port, max_waiting=args.max_waiting)
