"""What a user can put right: errors that the commands print as one line."""

import contextlib
import os
import sys
from collections.abc import Iterator

from absl import logging


class UserError(Exception):
    """Base of errors whose message names a file or a field, and says what to do."""


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Ends the program with one line and status 1 where a ``UserError`` arrives.

    What libraries log below the level of an error is left out, so that the line is seen.
    """
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    except UserError as error:
        sys.stdout.flush()
        print(f"error: {error}", file=sys.stderr, flush=True)
        # Not sys.exit: the tasks that a failed save leaves behind would bury the line.
        os._exit(1)
