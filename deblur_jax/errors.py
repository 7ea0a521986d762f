"""What a user can put right: errors that the commands print as one line."""

import contextlib
import sys
from collections.abc import Iterator


class UserError(Exception):
    """Base of errors whose message names a file or a field, and says what to do."""


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Ends the program with one line and status 1 where a ``UserError`` arrives."""
    try:
        yield
    except UserError as error:
        sys.exit(f"error: {error}")
