"""The program ``deblur-jax``: one parser for all commands, and one place where errors end.

Only the command that is named is imported, so that ``--help`` and ``--version`` answer at once.
"""

import argparse
import difflib
import importlib
import os
import re
import sys
from collections.abc import Sequence
from typing import Any, Never

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
    "convert": "weights of any kind into a folder or one file",
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
        wrong = re.match(r"argument COMMAND: invalid choice: '(.*?)' ", message)
        if wrong is not None:
            near = difflib.get_close_matches(wrong[1], COMMANDS, n=1)
            meant = f"did you mean {near[0]}? " if near else ""
            message = f"there is no command {wrong[1]}: {meant}There are {', '.join(COMMANDS)}"
        raise UsageError(f"{message}; `{self.prog} --help` says what there is")


class _PrintCompletion(argparse.Action):
    """Prints the script and ends, as ``--version`` does."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> Never:
        import shtab

        print(shtab.complete(parser, shell=values))
        parser.exit()


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
            parser = make_parser(words)
            args, unknown = parser.parse_known_args(words)
            if unknown:
                raise UsageError(_unknown_words(parser, args.command, unknown))
            name_extensions(args.extensions)
            args.run(args)
        finally:
            flush_output()


def _unknown_words(parser: argparse.ArgumentParser, command: str, words: Sequence[str]) -> str:
    """Says which words of the command line have no meaning, and what was perhaps meant."""
    (commands,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    flags = commands.choices[command]._option_string_actions
    first = words[0].partition("=")[0]
    near = difflib.get_close_matches(first, flags, n=2)
    meant = f"did you mean {' or '.join(near)}? " if near else ""
    return (
        f"{command} does not take {' '.join(words)}: {meant}"
        f"`{_PROGRAM} {command} --help` says what there is"
    )


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
    parser.add_argument(
        "--completion",
        action=_PrintCompletion,
        choices=["bash", "zsh"],
        help="print a script that completes commands and flags: "
        'eval "$(deblur-jax --completion bash)"',
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
        if name == named or words[:1] == ["--completion"]:
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
