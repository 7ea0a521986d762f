"""The commands: ``python -m deblur_jax {restore,convert,prepare,score,analyse,pod}``."""

import argparse

from deblur_jax.commands import analyse, convert, pod, prepare, restore, score
from deblur_jax.compilation import keep_compiled_programs
from deblur_jax.errors import one_line_errors


def main() -> None:
    """Parses, and runs the command."""
    parser = argparse.ArgumentParser(prog="python -m deblur_jax", description="Image deblurring.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in (restore, convert, prepare, score, analyse, pod):
        command.add_parser(commands)
    args = parser.parse_args()
    keep_compiled_programs()
    with one_line_errors():
        args.run(args)


if __name__ == "__main__":
    main()
