"""`python bench`: the benchmark of `python -m cyopt bench`, with other libraries beside cyopt."""

from __future__ import annotations

import argparse
import os
import sys
from importlib.metadata import version

from hosts import HOSTS

from cyopt.bench import add_arguments, main

DISTRIBUTIONS = {"cupy": "cupy-cuda13x"}  # library -> package, where that has another name

if __name__ == "__main__":
    parser = argparse.ArgumentParser("python bench")
    add_arguments(parser)
    parser.add_argument(
        "--bars",
        action="store_true",
        help="measure what cyopt promises instead: each bar, and the figure. Whether they hold is"
        " printed, and does not affect the exit code",
    )
    parser.add_argument(
        "--hosts",
        nargs="*",
        choices=HOSTS,
        metavar="HOST",
        help="measure trainings in other frameworks instead, with their own optimizers and with"
        f" cyopt's: all, or any of {', '.join(HOSTS)}",
    )
    args = parser.parse_args()
    plain = parser.parse_args([])
    for name in ("only", "unit", "device", "quick", "plot"):
        if (args.bars or args.hosts is not None) and getattr(args, name) != getattr(plain, name):
            parser.error(f"--{name} has no meaning with --bars or --hosts: leave it out")

    if args.hosts is not None:
        from hosts.app import run

        sys.exit(run(args.hosts or list(HOSTS), args.json))

    # Imported after the arguments are parsed, and not for --help.
    from peers import HOW, HOW_ON_GPU, load

    on_gpu = args.device == "cuda"
    if not on_gpu:
        print("Importing the peers; DeepSpeed compiles its kernel, for a minute.", file=sys.stderr)
    peers = load(args.device)
    if peers.missing:
        missing = "; ".join(f"{peer} ({how})" for peer, how in peers.missing.items())
        print(f"Measuring without {missing}", file=sys.stderr)
    there = [name for name in (HOW_ON_GPU if on_gpu else HOW) if name not in peers.missing]
    about = {name: version(DISTRIBUTIONS.get(name, name)) for name in there}
    if not on_gpu:
        about["GOMP_SPINCOUNT"] = os.environ["GOMP_SPINCOUNT"]
    if args.bars:
        from bars import report

        sys.exit(report(peers.implementations, peers.clipping, about, args.json))
    sys.exit(main(args, peers.implementations, about))
