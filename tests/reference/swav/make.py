"""Writes lightly's SwAV: its loss with and without queue (`loss.safetensors`), and ten training steps (`larc.safetensors`,
`adamw.safetensors`).

    pip install torch torchvision lightly safetensors numpy
    python tests/reference/swav/make.py

Inputs and first weights are f32; everything is computed from them in f64.

loss.safetensors: metadata `cases` is a JSON list of {"batch", "prototypes", "locals", "queue", "temperature", "epsilon",
"iterations"}. Case `i` has `ci.scores` [V, B, K] (the two assigned crops first), `ci.queue_0` and `ci.queue_1` [L, K] where
`queue` is above 0, `ci.loss` [1], `ci.gradient` [V, B, K], and `ci.codes` [2, B, K] of the assigned crops.

The other two: a narrow ResNet (../resnet/network.py), lightly's head with batch norm, prototypes whose rows are normalised in
place before each forward pass and frozen at first, and a queue from step `queue_start` on. Metadata `settings`. `start.*` and
`running.*` are parameters and running statistics before; `globals.S.V` and `locals.S.V` two sets of views [B, 3, H, W], of
which step J takes S = J mod 2; `gradient.*` the gradients of step 0; `loss.J` [1]; `after.0.*` and `after.9.*` the parameters
after the first and the last step, `running_after.*` the running statistics after the last one, `queue_0` and `queue_1` [L, D]
the queue then. LARC is written from NVIDIA's formula without clipping, over all parameters, as the authors run it.
"""

import json
import pathlib
import sys
import unittest.mock

import numpy
import torch
import torch.nn.functional as F
from lightly.loss import SwaVLoss, swav_loss
from lightly.loss.swav_loss import sinkhorn
from lightly.models.modules import SwaVProjectionHead
from safetensors.numpy import save_file
from torch import nn

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "resnet"))
from network import ResNet, start  # noqa: E402

LOSSES = [
    # batch, prototypes, locals, queue, temperature, epsilon, iterations
    (1, 8, 0, 0, 0.1, 0.05, 3),
    (4, 8, 2, 0, 0.1, 0.05, 3),
    (3, 16, 6, 9, 0.1, 0.05, 3),
    (8, 33, 1, 8, 0.2, 0.1, 5),
    (16, 5, 4, 40, 0.1, 0.03, 3),
]
COMMON = {"batch": 8, "locals": 2, "size": 12, "local_size": 8, "width": 2, "hidden": 12, "dim": 6, "prototypes": 10,
          "queue": 16, "frozen": 2, "temperature": 0.1, "epsilon": 0.05, "iterations": 3, "steps": 10}
LARC = COMMON | {"queue_start": 0, "optimizer": "larc", "lr": 0.6, "momentum": 0.9, "trust": 0.001, "weight_decay": 1e-4}
ADAMW = COMMON | {"queue_start": 3, "optimizer": "adamw", "lr": 1e-3, "betas": [0.9, 0.999], "eps": 1e-8,
                  "weight_decay": 0.04}


def stored(tensor, kind):
    """`tensor` as the file keeps it; a number gets one dimension."""
    return numpy.ascontiguousarray(numpy.atleast_1d(tensor.detach().numpy().astype(kind)))


def exact(*shape, generator):
    """Normal values rounded to f32 and held as f64."""
    return torch.randn(shape, generator=generator).float().double()


def loss_case(number, case, generator, tensors):
    """Computes one case; returns its description."""
    batch, k, n_locals, queue, temperature, epsilon, iterations = case
    objective = SwaVLoss(temperature, iterations, epsilon)
    # Cosines, so that they lie within 1.
    scores = exact(2 + n_locals, batch, k, generator=generator).tanh().float().double().requires_grad_()
    past = [exact(queue, k, generator=generator).tanh().float().double() for _ in range(2)] if queue else None
    codes = []
    assign = lambda *arguments, **named: codes.append(sinkhorn(*arguments, **named)) or codes[-1]
    with unittest.mock.patch.object(swav_loss, "sinkhorn", assign):
        loss = objective(list(scores[:2]), list(scores[2:]), past)
    (gradient,) = torch.autograd.grad(loss, scores)
    tensors[f"c{number}.scores"] = stored(scores, numpy.float32)
    for i, rows in enumerate(past or []):
        tensors[f"c{number}.queue_{i}"] = stored(rows, numpy.float32)
    tensors[f"c{number}.loss"] = stored(loss, numpy.float64)
    tensors[f"c{number}.gradient"] = stored(gradient, numpy.float64)
    tensors[f"c{number}.codes"] = stored(torch.stack([code[:batch] for code in codes]), numpy.float64)
    return {"batch": batch, "prototypes": k, "locals": n_locals, "queue": queue, "temperature": temperature,
            "epsilon": epsilon, "iterations": iterations}


class Network(nn.Module):
    """Backbone, head and prototypes; every size of crops is one batch, the head runs once."""

    def __init__(self, s):
        super().__init__()
        self.backbone = ResNet(s["width"], 1, False, "cifar")
        self.head = SwaVProjectionHead(self.backbone.dim, s["hidden"], s["dim"])
        self.prototypes = nn.Linear(s["dim"], s["prototypes"], bias=False)

    def forward(self, sizes):
        """Embeddings [V B, D] of length 1."""
        features = torch.cat([self.backbone(torch.cat(views)) for views in sizes])
        return F.normalize(self.head(features), dim=1)


def named(pairs):
    """(name, tensor) by the host's names: lightly keeps its head in a Sequential, the host counts layers and norms."""
    table = {"head.layers.0.": "head.layers.0.", "head.layers.1.": "head.norms.0.", "head.layers.3.": "head.layers.1."}
    for name, tensor in pairs:
        if not tensor.is_floating_point():
            continue
        if name == "prototypes.weight":
            name = "prototypes"
        for theirs, ours in table.items():
            if name.startswith(theirs):
                name = ours + name[len(theirs):]
                break
        yield name, tensor


def make_optimizer(network, s):
    """The optimiser; AdamW spares what has one dimension of weight decay, LARC nothing."""
    parameters = list(network.parameters())
    if s["optimizer"] == "larc":
        return torch.optim.SGD(parameters, lr=s["lr"], momentum=s["momentum"])
    groups = [{"params": [p for p in parameters if p.dim() > 1], "weight_decay": s["weight_decay"]},
              {"params": [p for p in parameters if p.dim() == 1], "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=s["lr"], betas=s["betas"], eps=s["eps"])


def scale(network, s):
    """LARC without clipping: each gradient, with weight decay in it, by trust |p| / (|g| + decay |p| + eps)."""
    for p in network.parameters():
        if p.grad is not None and p.norm() != 0 and p.grad.norm() != 0:
            rate = s["trust"] * p.norm() / (p.grad.norm() + s["weight_decay"] * p.norm() + 1e-8)
            p.grad = (p.grad + s["weight_decay"] * p.detach()) * rate


def codes_and_loss(network, embedded, queue, s, step):
    """The loss of a step; queues are pushed on after their use, from the step on in which they start."""
    scores = network.prototypes(embedded).split(s["batch"])
    # The authors ask whether the last row is still 0.
    used = all(bool((rows[-1] != 0).any()) for rows in queue)
    assert used == ((step - s["queue_start"]) * s["batch"] >= s["queue"])
    past = [network.prototypes(rows).detach() for rows in queue] if used else None
    loss = SwaVLoss(s["temperature"], s["iterations"], s["epsilon"])(list(scores[:2]), list(scores[2:]), past)
    for i, rows in enumerate(queue if step >= s["queue_start"] else []):
        own = embedded[i * s["batch"]:(i + 1) * s["batch"]].detach()
        rows.copy_(torch.cat([own, rows.clone()])[:len(rows)])
    return loss


def write_steps(file, s):
    """Writes the training steps of one optimiser."""
    torch.manual_seed(0)
    network = Network(s)
    start(network, 11)
    generator, tensors = torch.Generator().manual_seed(12), {}
    keep = lambda prefix, pairs: tensors.update({f"{prefix}.{n}": stored(t, numpy.float32) for n, t in named(pairs)})
    keep("start", network.named_parameters())
    keep("running", network.named_buffers())
    views = []
    for i in range(2):
        kinds = (("globals", 2, s["size"]), ("locals", s["locals"], s["local_size"]))
        drawn = [[exact(s["batch"], 3, size, size, generator=generator) for _ in range(n)] for _, n, size in kinds]
        for (kind, *_), crops in zip(kinds, drawn):
            tensors |= {f"{kind}.{i}.{v}": stored(crop, numpy.float32) for v, crop in enumerate(crops)}
        views.append(drawn)
    queue = [torch.zeros(s["queue"], s["dim"]) for _ in range(2)]
    optimizer = make_optimizer(network, s)
    for step in range(s["steps"]):
        with torch.no_grad():
            network.prototypes.weight.copy_(F.normalize(network.prototypes.weight, dim=1))
        loss = codes_and_loss(network, network(views[step % 2]), queue, s, step)
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            keep("gradient", [(n, p.grad) for n, p in network.named_parameters()])
        if step < s["frozen"]:
            network.prototypes.weight.grad = None
        if s["optimizer"] == "larc":
            scale(network, s)
        optimizer.step()
        tensors[f"loss.{step}"] = stored(loss, numpy.float64)
        if step in (0, s["steps"] - 1):
            keep(f"after.{step}", network.named_parameters())
    keep("running_after", network.named_buffers())
    tensors |= {f"queue_{i}": stored(rows, numpy.float32) for i, rows in enumerate(queue)}
    save_file(tensors, HERE / file, metadata={"settings": json.dumps(s)})
    return [round(float(tensors[f"loss.{step}"][0]), 4) for step in range(s["steps"])]


def main():
    """Writes every file."""
    torch.set_default_dtype(torch.float64)
    generator, tensors = torch.Generator().manual_seed(10), {}
    cases = [loss_case(i, case, generator, tensors) for i, case in enumerate(LOSSES)]
    save_file(tensors, HERE / "loss.safetensors", metadata={"cases": json.dumps(cases)})
    for file, settings in (("larc.safetensors", LARC), ("adamw.safetensors", ADAMW)):
        print(file, write_steps(file, settings))


if __name__ == "__main__":
    main()
