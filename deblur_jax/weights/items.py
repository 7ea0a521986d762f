"""Reading what Orbax stored, where files may be damaged."""

import gc
import logging
import sys
import warnings
from collections.abc import Callable
from typing import TypeVar

Items = TypeVar("Items")


class ItemError(ValueError):
    """What was stored can't be read; its message is one line of at most 200 characters."""


def read_items(read: Callable[[], Items]) -> Items:
    """Calls a function that reads by Orbax.

    Orbax reads the arrays of a tree side by side. Where one fails, it abandons the others, and
    Python would report each of them on the standard error when it is collected. They are
    collected here, without a word: what failed first is in the error.

    Args:
        read: without arguments.

    Returns:
        What ``read`` returns.

    Raises:
        ItemError: if it fails in any way, since a damaged file can fail in any way.
    """
    try:
        return read()
    except Exception as error:
        reason = first_line(error)
    # Here the error, whose frames keep what was abandoned, is gone.
    _collect_silently()
    raise ItemError(reason)


def first_line(error: BaseException) -> str:
    """What an error says, in one line of at most 200 characters."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def _collect_silently() -> None:
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    reports, logging.getLogger("asyncio").disabled = logging.getLogger("asyncio").disabled, True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            gc.collect()
    finally:
        sys.unraisablehook = hook
        logging.getLogger("asyncio").disabled = reports
