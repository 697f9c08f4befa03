"""cyopt against the numbers of the frameworks' own optimizers (made by golden/make.py).

float64 agrees to rtol 1e-12, and with scikit-learn to the bit. float32 agrees to a few roundings,
counted in units of eps * (the largest absolute value the element had), because an element on its
way through zero keeps the absolute error of its larger past.
"""

import json
from pathlib import Path

import numpy as np
import pytest

import cyopt

GOLDEN = Path(__file__).parent / "golden"
FRAMEWORKS = ("torch", "keras", "optax", "tf1", "sklearn", "thinc", "autograd", "onnx")
TRAJECTORY = json.loads((GOLDEN / "trajectory.json").read_text())

# The roundings of one update add up over 50 steps. The frameworks order them differently: torch
# and Keras average as m + (g - m)*c, optax multiplies by 1/sqrt, scikit-learn's Adam and ONNX
# compute in double and round the parameter, thinc decays the weights it has just rounded. The worst
# is 7.3 (thinc's SGD), all others stay below 4.
ROUNDINGS = 10
# Their Adam has 1 - beta2**t in float32 (thinc: 1 - beta2), wrong by 3e-5 of itself at the first
# steps and so by 1.5e-5 of the update: 29 units at lr = 0.1.
ADAM_ROUNDINGS = {"keras": 40, "optax": 40, "thinc": 40, "tf1": 12}


def cases():
    for framework in FRAMEWORKS:
        for case in json.loads((GOLDEN / f"{framework}.json").read_text())["cases"]:
            name = f"{framework}-{case['class']}-{case['name']}-{case['dtype']}"
            yield pytest.param(framework, case, id=name)


def split(values, dtype):
    """Two parameters, as the frameworks had them: 2 x 2 and 2."""
    array = np.array(values, dtype)
    return [array[:4].reshape(2, 2).copy(), array[4:].copy()]


def build(case, params):
    cls = getattr(cyopt, case["class"])
    kwargs = dict(case["kwargs"])
    if "betas" in kwargs:
        kwargs["betas"] = tuple(kwargs["betas"])
    if kwargs.get("lr") == "schedule":
        kwargs["lr"] = lambda steps: TRAJECTORY["lr"][steps]
    if case["like"] is None:
        return cls(params, **kwargs)
    return cls.like(case["like"], params, **kwargs)


def run(case):
    params = split(TRAJECTORY["start"], case["dtype"])
    optimizer = build(case, params)
    rows = []
    for step, grads in enumerate(TRAJECTORY["grads"], 1):
        optimizer.step(split(grads, case["dtype"]))
        if step in case["steps"]:
            result = optimizer.averages.values() if case["name"] == "averages" else params
            rows.append(np.concatenate([array.ravel() for array in result]))
    return np.array(rows)


@pytest.mark.parametrize(("framework", "case"), list(cases()))
def test_numbers_are_those_of_the_frameworks(framework, case):
    expected = np.array(case["params"], case["dtype"])
    result = run(case)
    assert result.dtype == expected.dtype
    if case["dtype"] == "float64":
        if framework == "sklearn":
            np.testing.assert_array_equal(result, expected)
        np.testing.assert_allclose(result, expected, rtol=1e-12, atol=0)
    else:
        adam = case["class"] in ("Adam", "AdamW")
        roundings = ADAM_ROUNDINGS.get(framework, ROUNDINGS) if adam else ROUNDINGS
        largest = np.maximum(np.abs(expected).max(axis=0), np.abs(TRAJECTORY["start"]))
        error = np.abs(result.astype("f8") - expected) / (np.finfo("f4").eps * largest)
        assert error.max() <= roundings
