"""`python -m cyopt demo`: a small network learns handwritten digits, with four implementations.

This module imports nothing but the standard library, so that `--help` and the message about what is
missing work everywhere; the rest needs `pip install "cyopt[demo]"`.
"""

import argparse

from cyopt.extras import libraries_are_there, output_file

__all__ = ["add_arguments", "main"]

NAMES = ("sgd", "momentum", "adagrad", "rmsprop", "adam", "adamw")
LIBRARIES = {
    "sklearn": "scikit-learn",
    "matplotlib": "matplotlib",
    "rich": "rich",
    "threadpoolctl": "threadpoolctl",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the demo's arguments on the caller's parser."""
    parser.formatter_class = argparse.ArgumentDefaultsHelpFormatter
    parser.description = (
        "Train a multilayer perceptron, written in plain NumPy, on the 1,797 handwritten digits of"
        " scikit-learn (8 x 8 grey pixels; one fifth of them is kept for testing), with each"
        " optimizer named, in four implementations: in NumPy as people write it, in NumPy without"
        " temporaries, with cyopt, and with cyopt's rules run by NumPy, whose final parameters must"
        " be the same bits as cyopt's."
    )
    parser.epilog = (
        "Prints a table for each optimizer and saves one picture. The exit code is 0; 1 if the"
        ' bits differ or a library is missing (pip install "cyopt[demo]"); 130 after Ctrl-C.'
    )
    add = parser.add_argument
    add(
        "optimizers",
        nargs="*",
        type=_optimizer,
        default=["adam"],
        metavar="OPTIMIZER",
        help=f"one or more of {', '.join(NAMES)}",
    )
    add("--epochs", type=_positive, default=30, metavar="N", help="passes over the training images")
    add(
        "--hidden",
        type=_positive,
        nargs="+",
        default=[256, 128],
        metavar="WIDTH",
        help="width of each hidden layer",
    )
    add("--batch", type=_positive, default=32, metavar="N", help="images per step")
    add(
        "--seed", type=_seed, default=0, metavar="N", help="of the split, the start and the batches"
    )
    add("--dtype", choices=["float32", "float64"], default="float32", help="of every array")
    add(
        "--output",
        type=output_file(".png"),
        default="cyopt-demo.png",  # a text, which argparse checks
        metavar="PATH",
        help="where to save the picture, a .png",
    )


def main(args: argparse.Namespace) -> int:
    """Runs the demo; returns the exit code."""
    if not libraries_are_there("demo", LIBRARIES):
        return 1
    try:
        from . import app

        return app.run(args)
    except KeyboardInterrupt:
        return 130


def _optimizer(text: str) -> str:
    if text not in NAMES:
        raise argparse.ArgumentTypeError(f"{text!r} is unknown, choose from {', '.join(NAMES)}")
    return text


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive integer")
    return int(text)


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"{text!r} is not an integer from 0 to 2**32 - 1")
    return int(text)
