"""Record what the frameworks' own optimizers compute, for tests/test_golden.py.

Each framework runs its own code over trajectory.json; no update rule is written here. Install what
you record (CPU builds do), then name it: `python tests/golden/make.py torch keras`.

    torch      torch==2.13.0
    keras      keras==3.15.1 jax==0.10.2
    optax      optax==0.2.8 jax==0.10.2
    tf1        tensorflow==2.21.0
    sklearn    scikit-learn==1.9.1
    thinc      thinc==9.1.1
    autograd   autograd==1.9.1
    onnx       onnx==1.23.2
"""

import argparse
import importlib
import json

import numpy as np
from trajectory import FILE, FOLDER, RECORDED, Case, make_trajectory, read, split

FRAMEWORKS = ("torch", "keras", "optax", "tf1", "sklearn", "thinc", "autograd", "onnx")


def record(framework, case: Case, dtype: str) -> dict:
    trajectory = read()
    grads = [split(row, dtype) for row in trajectory["grads"]]
    rows = []
    for params in framework.run(case, split(trajectory["start"], dtype), grads):
        rows.append(np.concatenate([np.array(p, dtype).ravel() for p in params]).tolist())
    assert len(rows) == len(grads)
    return {
        "name": case.name,
        "class": case.cls,
        "like": framework.LIKE,
        "kwargs": case.kwargs,
        "dtype": dtype,
        "steps": RECORDED,
        "params": [rows[step - 1] for step in RECORDED],
    }


def write_lines(path, head: dict, key: str, items: list) -> None:
    """JSON with one line for each of `items`, so that a diff says what changed."""
    lines = ",\n".join(json.dumps(item) for item in items)
    path.write_text(f"{json.dumps(head)[:-1]}, {json.dumps(key)}: [\n{lines}\n]}}\n")


def make(name: str) -> None:
    if name == "trajectory":
        head = make_trajectory()
        return write_lines(FILE, head, "grads", head.pop("grads"))
    framework = importlib.import_module(f"from_{name}")
    cases = [
        record(framework, case, dtype) for case in framework.CASES for dtype in framework.DTYPES
    ]
    head = {"framework": name, "version": framework.VERSION, "made_by": f"make.py {name}"}
    write_lines(FOLDER / f"{name}.json", head, "cases", cases)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="+", choices=(*FRAMEWORKS, "trajectory"))
    for name in parser.parse_args().names:
        make(name)
