"""`python -m cyopt`: try cyopt, measure it, and show what is in use."""

import argparse
import os
import sys

from cyopt import __version__, bench, demo, info


def main(argv: list[str] | None = None) -> int:
    """Run one of the commands; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m cyopt", description="The optimizer step for array programs."
    )
    parser.add_argument("--version", action="version", version=f"cyopt {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    demo.add_arguments(
        commands.add_parser("demo", help="train on handwritten digits, against NumPy's optimizers")
    )
    bench.add_arguments(commands.add_parser("bench", help="how fast a step is, and against what"))
    commands.add_parser("info", help="versions and settings: the first lines of a bug report")
    arguments = parser.parse_args(argv)
    if arguments.command == "demo":
        return demo.main(arguments)
    if arguments.command == "bench":
        return bench.main(arguments)
    print(info())
    return 0


if __name__ == "__main__":
    try:
        code = main()
        if sys.stdout is not None:  # as without a console
            sys.stdout.flush()
        sys.exit(code)
    except BrokenPipeError:  # whoever reads the output, such as head, has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except KeyboardInterrupt:  # during imports; later the commands themselves say what was done
        sys.exit(130)
