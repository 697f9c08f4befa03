"""`python bench`: the tool of `python -m cyopt bench`, with other libraries beside it."""

from __future__ import annotations

import argparse
import sys

from cyopt.bench import add_arguments, main

if __name__ == "__main__":
    parser = argparse.ArgumentParser("python bench")
    add_arguments(parser)
    parser.add_argument(
        "--bars", action="store_true", help="first, what cyopt promises: each bar, and the figure"
    )
    args = parser.parse_args()

    # After the arguments, and not for --help.
    print("Importing the peers; DeepSpeed compiles its kernel once, in a minute.", file=sys.stderr)
    from peers import MISSING, PEERS

    if MISSING:
        missing = "; ".join(f"{peer} ({how})" for peer, how in MISSING.items())
        print(f"Measuring without {missing}", file=sys.stderr)
    if args.bars:
        from bars import report

        report(PEERS)
    sys.exit(main(args, PEERS))
