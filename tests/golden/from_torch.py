"""PyTorch's single-tensor path (foreach and fused kernels round differently)."""

import torch
from trajectory import LR, Case

LIKE = "torch"
VERSION = torch.__version__
DTYPES = ("float32", "float64")

CLASSES = {
    "SGD": torch.optim.SGD,
    "Momentum": lambda params, **kwargs: torch.optim.SGD(params, momentum=0.9, **kwargs),
    "RMSProp": torch.optim.RMSprop,
    "AdaGrad": torch.optim.Adagrad,
    "Adam": torch.optim.Adam,
    "AdamW": torch.optim.AdamW,
}


def case(name: str, cls: str, **kwargs) -> Case:
    """cyopt's argument names are PyTorch's."""
    own = {**kwargs, "lr": LR[0]} if kwargs.get("lr") == "schedule" else kwargs
    return Case(name, cls, kwargs, lambda params: CLASSES[cls](params, foreach=False, **own))


CASES = [
    case("default", "SGD"),
    case("lr", "SGD", lr=0.1),
    case("momentum", "SGD", lr=0.1, momentum=0.9),
    case("dampening", "SGD", lr=0.1, momentum=0.9, dampening=0.5),
    case("nesterov", "SGD", lr=0.1, momentum=0.9, nesterov=True),
    case("weight_decay", "SGD", lr=0.1, weight_decay=0.1),
    case("nesterov_weight_decay", "SGD", lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
    case("maximize", "SGD", lr=0.1, momentum=0.9, weight_decay=0.1, maximize=True),
    case("schedule", "SGD", lr="schedule", momentum=0.9),
    case("schedule_dampening", "SGD", lr="schedule", momentum=0.9, dampening=0.5),
    case("default", "Momentum"),
    case("nesterov", "Momentum", lr=0.1, nesterov=True),
    case("default", "RMSProp"),
    case("lr", "RMSProp", lr=0.1),
    case("alpha", "RMSProp", lr=0.1, alpha=0.9),
    case("eps", "RMSProp", lr=0.1, eps=0.1),
    case("weight_decay", "RMSProp", lr=0.1, weight_decay=0.1),
    case("maximize", "RMSProp", lr=0.1, weight_decay=0.1, maximize=True),
    case("momentum", "RMSProp", momentum=0.9),
    case("centered", "RMSProp", centered=True),
    case("centered_momentum_eps", "RMSProp", centered=True, momentum=0.9, eps=0.1),
    case("schedule", "RMSProp", lr="schedule", momentum=0.9),
    case("default", "AdaGrad"),
    case("lr", "AdaGrad", lr=0.1),
    case("lr_decay", "AdaGrad", lr=0.1, lr_decay=0.1),
    case("initial_accumulator", "AdaGrad", lr=0.1, initial_accumulator_value=0.1),
    case("eps", "AdaGrad", lr=0.1, eps=0.1),
    case("weight_decay", "AdaGrad", lr=0.1, weight_decay=0.1),
    case("maximize", "AdaGrad", lr=0.1, weight_decay=0.1, maximize=True),
    case("schedule", "AdaGrad", lr="schedule", lr_decay=0.1),
    case("default", "Adam"),
    case("lr", "Adam", lr=0.1),
    case("betas", "Adam", lr=0.1, betas=(0.8, 0.9)),
    case("eps", "Adam", lr=0.1, eps=0.1),
    case("weight_decay", "Adam", lr=0.1, weight_decay=0.1),
    case("decoupled", "Adam", lr=0.1, weight_decay=0.1, decoupled_weight_decay=True),
    case("amsgrad", "Adam", lr=0.1, betas=(0.8, 0.9), amsgrad=True),
    case("maximize", "Adam", lr=0.1, weight_decay=0.1, maximize=True),
    case("schedule", "Adam", lr="schedule"),
    case("default", "AdamW"),
    case("weight_decay", "AdamW", lr=0.1, weight_decay=0.1),
    case("amsgrad", "AdamW", lr=0.1, betas=(0.8, 0.9), eps=0.1, amsgrad=True),
    case("maximize", "AdamW", lr=0.1, maximize=True),
    case("schedule", "AdamW", lr="schedule", weight_decay=0.1),
]


def run(case: Case, start, grads):
    params = [torch.tensor(array, requires_grad=True) for array in start]
    optimizer = case.make(params)
    for t, step_grads in enumerate(grads):
        if case.scheduled:
            optimizer.param_groups[0]["lr"] = LR[t]
        for param, grad in zip(params, step_grads, strict=True):
            param.grad = torch.tensor(grad)
        optimizer.step()
        yield [param.detach().numpy() for param in params]
