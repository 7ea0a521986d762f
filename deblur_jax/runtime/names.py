r"""Names of files, which are bytes: they need not be UTF-8, and may have 255 of them.

Python keeps a byte that is no UTF-8 as a lone surrogate, which no text file, terminal or JSON
takes. It is shown as ``\xe9``.
"""

import codecs
import hashlib
import os

ESCAPED = "deblur_jax.escaped"
"""An error handler for encoding: ``text.encode("utf-8", ESCAPED)`` never fails."""

_LONGEST = 255
_FIRST_SURROGATE, _LAST_SURROGATE = 0xDC80, 0xDCFF


def shown(name: str) -> str:
    """A name as any text file, terminal or JSON can hold it."""
    return name.encode("utf-8", ESCAPED).decode()


def file_name(name: str, suffix: str) -> str:
    """The name of the file for something that was called ``name``.

    Args:
        name: perhaps with folders, divided by "/".
        suffix: to add, with its dot.

    Returns:
        ``name`` and ``suffix``; where a file system would not take it, a beginning of it and eight
        digits of its SHA-256.
    """
    folder, slash, last = name.rpartition("/")
    whole = os.fsencode(last + suffix)
    if len(whole) <= _LONGEST:
        return name + suffix
    ending = f"-{hashlib.sha256(whole).hexdigest()[:8]}{suffix}"
    beginning = os.fsencode(last)[: _LONGEST - len(os.fsencode(ending))]
    # A character may have been cut in two.
    return folder + slash + beginning.decode("utf-8", "ignore") + ending


def _escape(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    characters = error.object[error.start : error.end]
    return "".join(map(_escaped, characters)), error.end


def _escaped(character: str) -> str:
    code = ord(character)
    if _FIRST_SURROGATE <= code <= _LAST_SURROGATE:
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("ascii", "backslashreplace").decode()


codecs.register_error(ESCAPED, _escape)
