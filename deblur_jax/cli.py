"""The program ``deblur-jax``: one parser for all commands, and one place where errors end.

Only the command that is named is imported, so that ``--help`` and ``--version`` answer at once.
"""

import argparse
import importlib
import os
import re
import sys
from collections.abc import Sequence
from typing import Never

import deblur_jax
from deblur_jax.commands.flags import flag_values
from deblur_jax.errors import UsageError, one_line_errors
from deblur_jax.extensions import name_extensions
from deblur_jax.runtime.signals import stop_at_signals
from deblur_jax.runtime.streams import flush_output, prepare_streams

COMMANDS = {
    "restore": "deblur images",
    "train": "train a network, or go on with a run",
    "evaluate": "restore the pairs of a data set and measure them",
    "score": "measure restored images against sharp ones",
    "prepare": "pairs of images into array_record files",
    "convert": "official weights into a weights folder",
    "analyse": "inverse filters, receptive fields, gates",
    "export": "a network for other programs, as StableHLO or ONNX",
    "plan": "plan a run on TPUs: memory, operations, days",
    "demo": "a page on this machine to try restoration on",
}
"""Each is a module of ``deblur_jax.commands`` with ``add_arguments(parser, words)`` and ``run``."""

_RENAMED = {"pod": "plan"}
_PROGRAM = "deblur-jax"


class _Parser(argparse.ArgumentParser):
    """Complains in one line."""

    def error(self, message: str) -> Never:
        raise UsageError(f"{message}; `{self.prog} --help` says what there is")


def main(words: Sequence[str] | None = None) -> None:
    """Parses the command line and runs the command.

    Args:
        words: the command line without the program; that of the process by default.
    """
    words = [_at_home(word) for word in (sys.argv[1:] if words is None else words)]
    prepare_streams()
    with one_line_errors(), stop_at_signals():
        _check_current_folder()
        try:
            args = make_parser(words).parse_args(words)
            name_extensions(args.extensions)
            args.run(args)
        finally:
            flush_output()


def _at_home(word: str) -> str:
    """``--flag=~/x``, which shells leave as it is, with the user's folder."""
    flag = re.match(r"--[\w.]+=(?=~(/|$))", word)
    return word if flag is None else flag[0] + os.path.expanduser(word[flag.end() :])


def _check_current_folder() -> None:
    try:
        os.getcwd()
    except OSError as error:
        raise UsageError(
            f"the current folder is gone ({error.strerror}): change to one that exists"
        ) from None


def make_parser(words: Sequence[str]) -> argparse.ArgumentParser:
    """The parser for a command line, with the arguments of the command that it names.

    Args:
        words: the command line; the first one that is no flag is the command.

    Raises:
        UsageError: for a command that has another name now.
        UserError: if what the command line names can't be read.
    """
    parser = _Parser(prog=_PROGRAM, description=deblur_jax.__doc__.splitlines()[0])
    parser.add_argument(
        "--version", action="version", version=f"{_PROGRAM} {deblur_jax.__version__}"
    )
    commands = parser.add_subparsers(
        required=True, metavar="COMMAND", dest="command", parser_class=_Parser
    )
    named = next((word for word in words if not word.startswith("-")), None)
    if named in _RENAMED:
        raise UsageError(f"the command {named} is called {_RENAMED[named]} now")
    for name, summary in COMMANDS.items():
        command = commands.add_parser(
            name,
            help=summary,
            description=summary.capitalize() + ".",
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if name == named:
            _fill(command, name, words)
    return parser


def _fill(command: argparse.ArgumentParser, name: str, words: Sequence[str]) -> None:
    command.add_argument(
        "--import",
        dest="extensions",
        metavar="FILE_OR_MODULE",
        action="append",
        default=[],
        help="a Python file or module that registers networks, losses, optimisers or schedules",
    )
    name_extensions(flag_values(words, "--import"))
    module = importlib.import_module(f"deblur_jax.commands.{name}")
    module.add_arguments(command, words)
    command.set_defaults(run=module.run)
