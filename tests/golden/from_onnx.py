"""ONNX's training operators (ai.onnx.preview.training) in its reference evaluator.

Attributes are float32 in the format, so cyopt gets the float32 values in float64 too.
"""

import numpy as np
import onnx
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator
from trajectory import LR, Case

LIKE = None
VERSION = onnx.__version__
DTYPES = ("float32", "float64")

DOMAIN = "ai.onnx.preview.training"
STATES = {"Momentum": 1, "Adagrad": 1, "Adam": 2}


def single(value: float) -> float:
    return float(np.float32(value))


def case(
    name: str, cls: str, kwargs: dict, operator: str, first=0, advance=1, **attributes
) -> Case:
    """The operator's T is first + advance * (completed steps)."""

    def make(shape, dtype):
        kind = helper.np_dtype_to_tensor_dtype(dtype)
        states = [f"s{i}" for i in range(STATES[operator])]
        new = ["new_" + name for name in ["x", *states]]
        node = helper.make_node(
            operator, ["r", "t", "x", "g", *states], new, domain=DOMAIN, **attributes
        )
        inputs = [
            helper.make_tensor_value_info("r", kind, []),
            helper.make_tensor_value_info("t", TensorProto.INT64, []),
        ]
        inputs += [helper.make_tensor_value_info(name, kind, shape) for name in ["x", "g", *states]]
        outputs = [helper.make_tensor_value_info(name, kind, shape) for name in new]
        graph = helper.make_graph([node], operator, inputs, outputs)
        evaluator = ReferenceEvaluator(
            helper.make_model(graph, opset_imports=[helper.make_opsetid(DOMAIN, 1)])
        )
        return evaluator, states, lambda done: first + advance * done

    return Case(name, cls, kwargs, make)


def momentum(name: str, kwargs: dict, alpha=0.9, beta=1.0, mode="standard", norm_coefficient=0.0):
    return case(
        name,
        "SGD",
        {"momentum": single(alpha), **kwargs},
        "Momentum",
        alpha=alpha,
        beta=beta,
        mode=mode,
        norm_coefficient=norm_coefficient,
    )


def adagrad(name: str, kwargs: dict, **attributes):
    return case(name, "AdaGrad", {"eps": single(1e-6), **kwargs}, "Adagrad", **attributes)


def adam(name: str, kwargs: dict, first=1, **attributes):
    """T = 0 means no bias correction, so the first step is T = 1."""
    defaults = {"betas": (single(0.9), single(0.999)), "eps": single(1e-6), "eps_hat": True}
    return case(name, "Adam", {**defaults, **kwargs}, "Adam", first=first, **attributes)


CASES = [
    momentum("momentum", {"lr": 0.125}),
    momentum("dampening", {"lr": 0.125, "dampening": 0.25}, beta=0.75),
    momentum("nesterov", {"lr": 0.125, "nesterov": True}, mode="nesterov"),
    momentum("weight_decay", {"lr": 0.125, "weight_decay": 0.125}, norm_coefficient=0.125),
    momentum("schedule", {"lr": "schedule"}),
    adagrad("default", {"lr": 0.125}),
    adagrad("lr_decay", {"lr": 0.125, "lr_decay": 0.125}, decay_factor=0.125),
    adagrad("eps", {"lr": 0.125, "eps": 0.125}, epsilon=0.125),
    adagrad("weight_decay", {"lr": 0.125, "weight_decay": 0.125}, norm_coefficient=0.125),
    adam("default", {"lr": 0.125}),
    adam("betas", {"lr": 0.125, "betas": (0.75, 0.875)}, alpha=0.75, beta=0.875),
    adam("eps", {"lr": 0.125, "eps": 0.125}, epsilon=0.125),
    adam("weight_decay", {"lr": 0.125, "weight_decay": 0.125}, norm_coefficient=0.125),
    adam(
        "decay_after",
        {
            "lr": 0.125,
            "weight_decay": 0.25,
            "decoupled_weight_decay": True,
            "weight_decay_order": "after",
        },
        norm_coefficient_post=0.03125,
    ),
    adam(
        "no_bias_correction",
        {"lr": 0.125, "bias_correction": False, "eps_hat": False},
        first=0,
        advance=0,
    ),
    adam("schedule", {"lr": "schedule"}),
]


def run(case: Case, start, grads):
    dtype = start[0].dtype
    makers = [case.make(param.shape, dtype) for param in start]
    values = [
        [param, *(np.zeros_like(param) for _ in states)]
        for param, (_, states, _) in zip(start, makers, strict=True)
    ]
    for done, step_grads in enumerate(grads):
        lr = LR[done] if case.scheduled else case.kwargs["lr"]
        for i, (evaluator, states, count) in enumerate(makers):
            feeds = {
                "r": np.array(lr, dtype),
                "t": np.array(count(done), np.int64),
                "g": step_grads[i],
                **dict(zip(["x", *states], values[i], strict=True)),
            }
            # The evaluator may compute in double; the operator's outputs have the inputs' type.
            values[i] = [np.asarray(out, dtype) for out in evaluator.run(None, feeds)]
        yield [value[0] for value in values]
