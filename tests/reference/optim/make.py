"""Writes PyTorch's optimisers over several steps (`optim.safetensors`) and DINO's schedules (`schedule.safetensors`).

    pip install torch safetensors numpy
    python tests/reference/optim/make.py

optim.safetensors: metadata `cases` is a JSON list of {"rule": "adamw" | "sgd" | "larc", rule's numbers, "clip": "off" |
"tensor" | "global", "limit", "lr": [...], "weight_decay": [...]}: one learning rate and weight decay per step. Case i has
the parameters `ci.start.NAME` (`weight` [3, 4] takes weight decay, `bias` [4] doesn't), the gradients `ci.gradient.J.NAME`
of step J, and `ci.after.J.NAME` after it. Gradients are clipped first: `off`, each tensor to its own norm, or all together.
Everything is f32 in, f64 inside, f64 out. `larc` is NVIDIA's formula around SGD: the rate of a tensor is
min(trust |p| / (|g| + decay |p| + eps) / lr, 1) with weight decay added to the gradient before it is multiplied; where
`trust_clip` is false it is trust |p| / (|g| + decay |p| + eps), as SwAV's authors run it; where `vectors` is false a tensor of
one dimension is not scaled.

schedule.safetensors: metadata `cases` is a JSON list of {"start", "end", "warmup_start", "warmup_epochs", "epochs",
"steps_per_epoch", "per_epoch"?}; `ci.values` is the value at every step: a straight warm-up of n points with both ends, then
a cosine; one point per epoch where `per_epoch` is true, as DINO's teacher temperature has it.
"""

import json
import math
import pathlib

import numpy
import torch
from safetensors.numpy import save_file

HERE = pathlib.Path(__file__).parent
STEPS = 6
ADAMW = {"rule": "adamw", "betas": [0.9, 0.999], "eps": 1e-8}
SGD = {"rule": "sgd", "momentum": 0.9}
CASES = [
    ADAMW | {"clip": "off", "limit": 0.0, "lr": [1e-2] * STEPS, "weight_decay": [0.04] * STEPS},
    ADAMW | {"clip": "tensor", "limit": 1.0, "lr": [0.0, 1e-3, 2e-3, 5e-3, 4e-3, 1e-3],
             "weight_decay": [0.04, 0.05, 0.1, 0.2, 0.3, 0.4]},
    ADAMW | {"betas": [0.9, 0.95], "eps": 1e-6, "clip": "global", "limit": 1.5, "lr": [1e-2] * STEPS,
             "weight_decay": [0.0] * STEPS},
    SGD | {"clip": "off", "limit": 0.0, "lr": [0.1, 0.1, 0.05, 0.05, 0.01, 0.01], "weight_decay": [1e-2] * STEPS},
    SGD | {"momentum": 0.0, "clip": "global", "limit": 1.0, "lr": [0.3] * STEPS, "weight_decay": [1e-4] * STEPS},
    {"rule": "larc", "momentum": 0.9, "trust": 0.02, "eps": 1e-8, "clip": "off", "limit": 0.0,
     "lr": [0.3, 0.6, 0.6, 0.4, 0.2, 0.1], "weight_decay": [1e-2] * STEPS},
    {"rule": "larc", "momentum": 0.9, "trust": 0.001, "eps": 1e-8, "trust_clip": False, "clip": "off", "limit": 0.0,
     "lr": [0.6, 0.6, 0.5, 0.4, 0.2, 0.1], "weight_decay": [1e-2] * STEPS},
    {"rule": "larc", "momentum": 0.9, "trust": 0.01, "eps": 1e-8, "trust_clip": False, "vectors": False, "clip": "off",
     "limit": 0.0, "lr": [0.2] * STEPS, "weight_decay": [1e-4] * STEPS},
]
SCHEDULES = [
    {"start": 5e-4, "end": 1e-6, "warmup_start": 0.0, "warmup_epochs": 2, "epochs": 10, "steps_per_epoch": 7},
    {"start": 0.04, "end": 0.4, "warmup_start": 0.0, "warmup_epochs": 0, "epochs": 5, "steps_per_epoch": 4},
    {"start": 0.996, "end": 1.0, "warmup_start": 0.0, "warmup_epochs": 0, "epochs": 3, "steps_per_epoch": 11},
    {"start": 1.0, "end": 0.1, "warmup_start": 0.25, "warmup_epochs": 1, "epochs": 4, "steps_per_epoch": 1},
    {"start": 0.07, "end": 0.07, "warmup_start": 0.04, "warmup_epochs": 5, "epochs": 9, "steps_per_epoch": 3, "per_epoch": True},
]


def exact(*shape, generator):
    """Normal values rounded to f32 and held as f64."""
    return torch.randn(shape, generator=generator).double()


def clip(parameters, mode, limit):
    """Scales gradients down to `limit`."""
    if mode == "global":
        torch.nn.utils.clip_grad_norm_(parameters, limit)
    elif mode == "tensor":
        for parameter in parameters:
            torch.nn.utils.clip_grad_norm_([parameter], limit)


def make_optimizer(case, weight, bias):
    """PyTorch's optimiser of one case; two groups, of which the second takes no weight decay."""
    groups = [{"params": [weight]}, {"params": [bias]}]
    if case["rule"] == "adamw":
        return torch.optim.AdamW(groups, betas=case["betas"], eps=case["eps"])
    return torch.optim.SGD(groups, momentum=case["momentum"])


def apply_larc(case, group):
    """Multiplies the gradients of `group` by each tensor's rate; weight decay then lies in the gradient already."""
    decay, lr = group["weight_decay"], group["lr"]
    for p in group["params"]:
        size, slope = p.norm(), p.grad.norm()
        if size != 0 and slope != 0 and (p.dim() > 1 or case.get("vectors", True)):
            rate = case["trust"] * size / (slope + decay * size + case["eps"])
            if case.get("trust_clip", True):
                rate = min(rate / lr, 1.0)
            p.grad = (p.grad + decay * p.detach()) * rate
    group["weight_decay"] = 0.0


def run(number, case, generator, tensors):
    """Takes the steps of one case."""
    named = {"weight": exact(3, 4, generator=generator).requires_grad_(), "bias": exact(4, generator=generator).requires_grad_()}
    optimizer = make_optimizer(case, named["weight"], named["bias"])
    for name, parameter in named.items():
        tensors[f"c{number}.start.{name}"] = parameter.detach().numpy().astype(numpy.float32)
    for step, (lr, decay) in enumerate(zip(case["lr"], case["weight_decay"])):
        for name, parameter in named.items():
            # Every third gradient is small, so that a limit clips some and leaves others.
            parameter.grad = exact(*parameter.shape, generator=generator) * (0.125 if step % 3 == 2 else 1.0)
            tensors[f"c{number}.gradient.{step}.{name}"] = parameter.grad.numpy().astype(numpy.float32)
        clip(list(named.values()), case["clip"], case["limit"])
        for group, takes in zip(optimizer.param_groups, (1.0, 0.0)):
            group["lr"], group["weight_decay"] = lr, decay * takes
            if case["rule"] == "larc":
                apply_larc(case, group)
        optimizer.step()
        for name, parameter in named.items():
            tensors[f"c{number}.after.{step}.{name}"] = parameter.detach().numpy().copy()


def schedule(start, end, warmup_start, warmup_epochs, epochs, steps_per_epoch, per_epoch=False):
    """The values of DINO's cosine schedule, written from its description."""
    if per_epoch:
        return numpy.repeat(schedule(start, end, warmup_start, warmup_epochs, epochs, 1), steps_per_epoch)
    warmup, total = warmup_epochs * steps_per_epoch, epochs * steps_per_epoch
    rise = numpy.linspace(warmup_start, start, warmup) if warmup else numpy.empty(0)
    left = total - warmup
    fall = [end + 0.5 * (start - end) * (1.0 + math.cos(math.pi * i / left)) for i in range(left)]
    return numpy.concatenate([rise, fall])


def main():
    """Writes both files."""
    generator, tensors = torch.Generator().manual_seed(6), {}
    for number, case in enumerate(CASES):
        run(number, case, generator, tensors)
    save_file(tensors, HERE / "optim.safetensors", metadata={"cases": json.dumps(CASES)})
    values = {f"c{number}.values": schedule(**case) for number, case in enumerate(SCHEDULES)}
    save_file(values, HERE / "schedule.safetensors", metadata={"cases": json.dumps(SCHEDULES)})


if __name__ == "__main__":
    main()
