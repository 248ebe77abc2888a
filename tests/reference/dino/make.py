"""Writes lightly's DINO: its loss with center (`loss.safetensors`), and whole training steps (`step*.safetensors`,
`ten_steps.safetensors`).

    pip install torch lightly safetensors numpy
    python tests/reference/dino/make.py

Inputs and first weights are f32; everything is computed from them in f64.

loss.safetensors: metadata `cases` is a JSON list of {"batch", "prototypes", "globals", "locals", "temperature_student",
"temperature_teacher_start", "temperature_teacher_end", "warmup_epochs", "center_decay", "epochs": [...]}. Case `i` takes one
step per entry of `epochs`; step `j` has `ci.sj.student` [V, B, K], `ci.sj.teacher` [2, B, K], `ci.sj.temperature_teacher` [1],
`ci.sj.loss` [1], `ci.sj.gradient` [V, B, K], and `ci.sj.center` [K] after the step. The center starts at 0.

step.safetensors, step_official.safetensors: the network of network.py over two steps; metadata `settings`. `student.*` and
`teacher.*` are the weights before, `globals.J.V`, `locals.J.V` the views of step J [B, 3, H, W], `loss.J` [1], `center.J` [K];
`gradient.*` the student's gradients in step 0 before clipping, `norm.J` [1] their norm; `student.J.*` the student after
step J; `teacher.0.*` the teacher after step 0. `step.safetensors` clips the global norm and resizes positions by size;
`step_official.safetensors` clips each tensor and resizes them by DINO's scale factors, as the authors' code does.
ten_steps.safetensors: the same as step.safetensors over ten steps, with the weights after the last one only.

plain.safetensors: one batch of plain logits, which student and teacher share, for a step without a network: metadata
`settings`; `global_1.0.values`, `global_2.0.values`, `local.V.values` [B, K] as `pretext step` names them; `loss` [1],
`gradient.*` by view, `center` [1, K] after the step.
"""

import json
import pathlib

import numpy
import torch
from lightly.loss import DINOLoss
from network import PROTOTYPES, SIZE, Network
from safetensors.numpy import save_file

HERE = pathlib.Path(__file__).parent

LOSSES = [
    # batch, prototypes, locals, student's, teacher's start, end, warm-up, epochs
    (1, 8, 0, 0.1, 0.04, 0.04, 0, [0]),
    (3, 8, 2, 0.1, 0.04, 0.04, 0, [0, 0, 1]),
    (2, 16, 8, 0.1, 0.04, 0.07, 5, [0, 2, 4, 5, 9]),
    (8, 64, 1, 0.2, 0.07, 0.07, 0, [3]),
    (4, 33, 3, 0.1, 0.04, 0.06, 30, [29, 30]),
]
STEP = {"batch": 4, "locals": 3, "local_size": 8, "lr": 1e-3, "weight_decay": 0.04, "betas": [0.9, 0.999], "eps": 1e-8,
        "teacher_decay": 0.99, "center_decay": 0.9, "temperature_student": 0.1, "temperature_teacher": 0.04,
        "clip": 3.0, "steps": 2}


def exact(tensor):
    """`tensor` rounded to f32 and held as f64."""
    return tensor.float().double()


def stored(tensor, kind):
    """`tensor` as the file keeps it; a number gets one dimension."""
    return numpy.atleast_1d(tensor.detach().numpy().astype(kind))


def loss_case(number, case, generator, tensors):
    """Takes the steps of one case; returns its description."""
    batch, k, n_locals, student_t, start, end, warmup, epochs = case
    objective = DINOLoss(k, start, end, warmup, student_t, center_momentum=0.9)
    for j, epoch in enumerate(epochs):
        # Odd cases have the logits of a normed head, even ones have larger ones.
        draw = [torch.randn(v, batch, k, generator=generator) for v in (2 + n_locals, 2)]
        student, teacher = [exact(torch.tanh(x) if number % 2 else 2.0 * x) for x in draw]
        student.requires_grad_()
        temperature = torch.tensor(end) if epoch >= warmup else objective.teacher_temp_schedule[epoch]
        loss = objective(list(teacher), list(student), epoch=epoch)
        (gradient,) = torch.autograd.grad(loss, student)
        prefix = f"c{number}.s{j}"
        tensors[f"{prefix}.student"] = stored(student, numpy.float32)
        tensors[f"{prefix}.teacher"] = stored(teacher, numpy.float32)
        tensors[f"{prefix}.temperature_teacher"] = stored(temperature, numpy.float64)
        tensors[f"{prefix}.loss"] = stored(loss, numpy.float64)
        tensors[f"{prefix}.gradient"] = stored(gradient, numpy.float32)
        tensors[f"{prefix}.center"] = stored(objective.center.flatten(), numpy.float64)
    return {"batch": batch, "prototypes": k, "globals": 2, "locals": n_locals, "temperature_student": student_t,
            "temperature_teacher_start": start, "temperature_teacher_end": end, "warmup_epochs": warmup,
            "center_decay": 0.9, "epochs": epochs}


def write_losses():
    """Writes loss.safetensors."""
    generator, tensors = torch.Generator().manual_seed(1), {}
    cases = [loss_case(i, case, generator, tensors) for i, case in enumerate(LOSSES)]
    save_file(tensors, HERE / "loss.safetensors", metadata={"cases": json.dumps(cases)})


def start(network, seed):
    """Gives every parameter its first value: around what training gives, biases and all, so that nothing is 0 or 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named():
            value = 0.2 * torch.randn(parameter.shape, generator=generator)
            if "norm" in name and name.endswith("weight"):
                value = 1.0 + value
            parameter.copy_(exact(value))


def groups(student):
    """Weight decay on what has more than one dimension."""
    parameters = [p for _, p in student.named()]
    return [{"params": [p for p in parameters if p.dim() > 1], "weight_decay": STEP["weight_decay"]},
            {"params": [p for p in parameters if p.dim() == 1], "weight_decay": 0.0}]


def clip(parameters, per_tensor):
    """Clips gradients; returns their norm before that."""
    total = torch.stack([p.grad.norm() for p in parameters]).norm()
    for p in parameters:
        norm = p.grad.norm() if per_tensor else total
        p.grad.mul_((STEP["clip"] / (norm + 1e-6)).clamp(max=1.0))
    return total


def keep(tensors, prefix, network):
    """Stores the parameters of `network`."""
    for name, parameter in network.named():
        tensors[f"{prefix}.{name}"] = stored(parameter, numpy.float32)


def views(generator, tensors, step):
    """Draws and stores the views of one step: globals and locals."""
    out = []
    for kind, count, size in (("globals", 2, SIZE), ("locals", STEP["locals"], STEP["local_size"])):
        drawn = [exact(torch.randn(STEP["batch"], 3, size, size, generator=generator)) for _ in range(count)]
        for v, view in enumerate(drawn):
            tensors[f"{kind}.{step}.{v}"] = stored(view, numpy.float32)
        out.append(drawn)
    return out


def write_steps(file, offset, per_tensor, steps=STEP["steps"]):
    """Writes `steps` training steps; of more than two, the weights after the last one only."""
    student, teacher = Network(offset), Network(offset).requires_grad_(False)
    start(student, 2)
    start(teacher, 3)
    objective = DINOLoss(PROTOTYPES, warmup_teacher_temp_epochs=0, teacher_temp=STEP["temperature_teacher"],
                         student_temp=STEP["temperature_student"], center_momentum=STEP["center_decay"])
    optimizer = torch.optim.AdamW(groups(student), lr=STEP["lr"], betas=STEP["betas"], eps=STEP["eps"])
    generator, tensors = torch.Generator().manual_seed(4), {}
    keep(tensors, "student", student)
    keep(tensors, "teacher", teacher)
    for step in range(steps):
        kept, ends = steps == STEP["steps"], step == steps - 1
        globals_, locals_ = views(generator, tensors, step)
        loss = objective(teacher([globals_]), student([globals_, locals_]), epoch=0)
        optimizer.zero_grad()
        loss.backward()
        if kept and step == 0:
            for name, parameter in student.named():
                tensors[f"gradient.{name}"] = stored(parameter.grad, numpy.float32)
        norm = clip([p for _, p in student.named()], per_tensor)
        optimizer.step()
        with torch.no_grad():
            for (_, t), (_, s) in zip(teacher.named(), student.named()):
                t.mul_(STEP["teacher_decay"]).add_(s, alpha=1.0 - STEP["teacher_decay"])
        if kept or ends:
            keep(tensors, f"student.{step}", student)
        if kept and step == 0 or not kept and ends:
            keep(tensors, f"teacher.{step}", teacher)
        for key, value in (("loss", loss), ("norm", norm), ("center", objective.center.flatten())):
            tensors[f"{key}.{step}"] = stored(value, numpy.float64)
    settings = STEP | {"offset": offset, "clip_per_tensor": per_tensor, "steps": steps}
    save_file(tensors, HERE / file, metadata={"settings": json.dumps(settings)})
    return {key: tensors[key].tolist() for key in ("loss.0", "loss.1", "norm.0", "norm.1")}


def write_plain():
    """Writes plain.safetensors."""
    batch, k, n_locals = 5, 24, 3
    generator = torch.Generator().manual_seed(7)
    views = [exact(torch.randn(batch, k, generator=generator)).requires_grad_() for _ in range(2 + n_locals)]
    objective = DINOLoss(k, warmup_teacher_temp_epochs=0, teacher_temp=0.04, student_temp=0.1, center_momentum=0.9)
    loss = objective([view.detach() for view in views[:2]], views, epoch=0)
    gradients = torch.autograd.grad(loss, views)
    names = ["global_1.0.values", "global_2.0.values"] + [f"local.{v}.values" for v in range(n_locals)]
    tensors = {name: stored(view, numpy.float32) for name, view in zip(names, views)}
    tensors |= {f"gradient.{name}": stored(gradient, numpy.float64) for name, gradient in zip(names, gradients)}
    tensors |= {"loss": stored(loss, numpy.float64), "center": stored(objective.center.reshape(1, k), numpy.float64)}
    settings = {"locals": n_locals, "temperature_student": 0.1, "temperature_teacher": 0.04, "center_decay": 0.9}
    save_file(tensors, HERE / "plain.safetensors", metadata={"settings": json.dumps(settings)})


def main():
    """Writes every file."""
    torch.set_default_dtype(torch.float64)
    write_losses()
    write_plain()
    print(write_steps("ten_steps.safetensors", 0.0, False, steps=10))
    for file, offset, per_tensor in (("step.safetensors", 0.0, False), ("step_official.safetensors", 0.1, True)):
        print(file, write_steps(file, offset, per_tensor))


if __name__ == "__main__":
    main()
