"""Writes I-JEPA's values from the network of network.py, which is written from the paper, and PyTorch's AdamW.

    pip install torch safetensors numpy
    python tests/reference/jepa/make.py

Inputs and first weights are f32; everything is computed from them in f64.

loss.safetensors: metadata `cases` is a JSON list of sizes {"batch", "rows", "cols", "dim", "heads", "context", "target",
"blocks", "predictor_width", "predictor_depth", "predictor_heads"}. Case `i` has the student's tokens `ci.student` and the
teacher's `ci.teacher` [B, N, D], the masks `ci.context` [B, Kc] and `ci.targets` [M, B, Kt], the predictor's weights
`ci.predictor.*`, and `ci.loss` [1] with its gradients `ci.gradient.student` [B, N, D] and `ci.gradient.predictor.*`.

step.safetensors: ten training steps of encoder, predictor and teacher; metadata `settings`. `student.*` and `teacher.*` are
the weights before, `images.J` [B, 3, H, W], `context.J`, `targets.J` what step J sees, `loss.J` [1]; `gradient.*` the
gradients of step 0; `student.0.*`, `teacher.0.*` and `student.9.*`, `teacher.9.*` the weights after the first and last step.
The teacher's decay goes on a straight line from 0.9 to 1 over the ten steps.
"""

import json
import pathlib

import numpy
import torch
from network import Encoder, Predictor, gather, loss_of
from safetensors.numpy import save_file

HERE = pathlib.Path(__file__).parent

LOSSES = [
    # batch, rows, cols, dim, heads, context, target, blocks, predictor's width, depth and heads
    (1, 2, 2, 8, 1, 2, 2, 1, 8, 1, 1),
    (3, 4, 4, 16, 2, 7, 4, 4, 8, 1, 2),
    (2, 3, 5, 24, 3, 6, 5, 2, 16, 2, 4),
    (5, 6, 4, 32, 4, 11, 6, 3, 12, 1, 3),
    (2, 8, 8, 48, 6, 30, 12, 4, 32, 2, 2),
]
SIZES = ("batch", "rows", "cols", "dim", "heads", "context", "target", "blocks", "predictor_width", "predictor_depth",
         "predictor_heads")
STEP = {"batch": 3, "rows": 4, "cols": 4, "dim": 24, "depth": 2, "heads": 3, "patch": 4, "context": 6, "target": 4,
        "blocks": 4, "predictor_width": 16, "predictor_depth": 2, "predictor_heads": 2, "lr": 1e-3, "weight_decay": 0.04,
        "betas": [0.9, 0.999], "eps": 1e-8, "decay_start": 0.9, "decay_end": 1.0, "steps": 10}


def exact(tensor):
    """`tensor` rounded to f32 and held as f64."""
    return tensor.float().double()


def stored(tensor, kind=numpy.float32):
    """`tensor` as the file keeps it; a number gets one dimension."""
    return numpy.atleast_1d(tensor.detach().numpy().astype(kind))


def start(parameters, generator):
    """Gives every parameter its first value: around what training gives, biases and all, so that nothing is 0 or 1."""
    with torch.no_grad():
        for name, parameter in parameters:
            value = 0.2 * torch.randn(parameter.shape, generator=generator)
            parameter.copy_(exact(1.0 + value if "norm" in name and name.endswith("weight") else value))


def masks(sizes, generator):
    """Context [B, Kc] and targets [M, B, Kt], ascending, different for each sample."""
    def draw(k):
        patches = sizes["rows"] * sizes["cols"]
        return torch.stack([torch.randperm(patches, generator=generator)[:k].sort().values
                            for _ in range(sizes["batch"])])
    return draw(sizes["context"]), torch.stack([draw(sizes["target"]) for _ in range(sizes["blocks"])])


def loss_case(number, case, tensors):
    """Computes one case; returns its description."""
    sizes = dict(zip(SIZES, case))
    generator = torch.Generator().manual_seed(100 + number)
    predictor = Predictor(sizes)
    start(predictor.named(), generator)
    shape = (sizes["batch"], sizes["rows"] * sizes["cols"], sizes["dim"])
    student, teacher = [exact(torch.randn(shape, generator=generator)) for _ in range(2)]
    context, targets = masks(sizes, generator)
    student.requires_grad_()
    loss = loss_of(predictor(gather(student, context), context, targets), teacher, targets)
    loss.backward()
    prefix = f"c{number}"
    for key, value in (("student", student), ("teacher", teacher), ("gradient.student", student.grad)):
        tensors[f"{prefix}.{key}"] = stored(value)
    for key, value in (("context", context), ("targets", targets)):
        tensors[f"{prefix}.{key}"] = stored(value, numpy.uint32)
    for name, parameter in predictor.named():
        tensors[f"{prefix}.{name}"] = stored(parameter)
        tensors[f"{prefix}.gradient.{name}"] = stored(parameter.grad)
    tensors[f"{prefix}.loss"] = stored(loss, numpy.float64)
    return sizes


def keep(tensors, prefix, parameters):
    """Stores parameters under their names."""
    for name, parameter in parameters:
        tensors[f"{prefix}.{name}"] = stored(parameter)


def groups(parameters):
    """Weight decay on what has more than one dimension."""
    return [{"params": [p for p in parameters if p.dim() > 1], "weight_decay": STEP["weight_decay"]},
            {"params": [p for p in parameters if p.dim() == 1], "weight_decay": 0.0}]


def write_steps():
    """Writes ten training steps."""
    generator, tensors = torch.Generator().manual_seed(7), {}
    student, teacher, predictor = Encoder(STEP), Encoder(STEP).requires_grad_(False), Predictor(STEP)
    encoder = lambda network: [(f"backbone.{name}", p) for name, p in network.named_parameters()]
    trained = encoder(student) + list(predictor.named())
    start(trained, generator)
    start(encoder(teacher), generator)
    optimizer = torch.optim.AdamW(groups([p for _, p in trained]), lr=STEP["lr"], betas=STEP["betas"], eps=STEP["eps"])
    keep(tensors, "student", trained)
    keep(tensors, "teacher", encoder(teacher))
    for step in range(STEP["steps"]):
        side = STEP["rows"] * STEP["patch"]
        images = exact(torch.randn(STEP["batch"], 3, side, side, generator=generator))
        context, targets = masks(STEP, generator)
        loss = loss_of(predictor(student(images, context), context, targets), teacher(images), targets)
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            for name, parameter in trained:
                tensors[f"gradient.{name}"] = stored(parameter.grad)
        optimizer.step()
        decay = STEP["decay_start"] + (STEP["decay_end"] - STEP["decay_start"]) * step / STEP["steps"]
        with torch.no_grad():
            for (_, t), (_, s) in zip(encoder(teacher), encoder(student)):
                t.mul_(decay).add_(s, alpha=1.0 - decay)
        if step in (0, STEP["steps"] - 1):
            keep(tensors, f"student.{step}", trained)
            keep(tensors, f"teacher.{step}", encoder(teacher))
        tensors[f"images.{step}"] = stored(images)
        tensors[f"context.{step}"] = stored(context, numpy.uint32)
        tensors[f"targets.{step}"] = stored(targets, numpy.uint32)
        tensors[f"loss.{step}"] = stored(loss, numpy.float64)
    save_file(tensors, HERE / "step.safetensors", metadata={"settings": json.dumps(STEP)})
    return [float(tensors[f"loss.{step}"][0]) for step in range(STEP["steps"])]


def main():
    """Writes every file."""
    torch.set_default_dtype(torch.float64)
    tensors = {}
    cases = [loss_case(i, case, tensors) for i, case in enumerate(LOSSES)]
    save_file(tensors, HERE / "loss.safetensors", metadata={"cases": json.dumps(cases)})
    print("losses", [float(tensors[f"c{i}.loss"][0]) for i in range(len(cases))])
    print("steps", write_steps())


if __name__ == "__main__":
    main()
