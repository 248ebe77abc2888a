"""Writes torchaudio's HuBERT head and loss (`loss.safetensors`), and ten whole training steps (`steps.safetensors`).

    pip install torch torchaudio safetensors numpy
    python tests/reference/hubert/make.py

The logits are those of torchaudio's `LogitGenerator`, which restates fairseq's `compute_nce`; the loss is fairseq's
`HubertCriterion`: cross-entropy summed over the frames that count over their number, plus the penalty. Inputs and first
weights are f32; everything is computed from them in f64: `LogitGenerator` would round cosines to f32, which is undone here.

loss.safetensors: metadata `cases` is a JSON list of {"batch", "frames", "dim", "width", "classes", "masked", "unmasked"}. Case
`i` has `ci.tokens` [B, F, D], `ci.units` u32 [B, F], `ci.mask` u8 [B, F], `ci.weight` [W, D], `ci.bias` [W], `ci.codewords`
[K, W], `ci.loss` [1], and `ci.gradient.*` of the tokens, weight, bias and codewords.

steps.safetensors: a ViT with a mask token over ten steps; metadata `settings`. `student.*` are the weights before,
`images.J` [B, 3, H, W], `mask.J` u8 [B, N], `units.J` u32 [B, N] the views of step J, `loss.J` [1]; `gradient.*` the
gradients in step 0 before clipping, `norm.J` [1] their norm; `student.0.*` and `student.9.*` the weights after those steps.
"""

import functools
import importlib.util
import json
import pathlib
import sys
import types

import numpy
import torch
from network import DIM, GRID, PATCH, SIZE, Network
from safetensors.numpy import save_file

HERE = pathlib.Path(__file__).parent

LOSSES = [
    # batch, frames, dim, width, classes, weight of masked frames, of unmasked ones
    (1, 5, 4, 3, 2, 1.0, 0.0),
    (2, 17, 12, 8, 9, 1.0, 0.0),
    (3, 11, 8, 16, 104, 1.0, 1.0),
    (4, 9, 6, 5, 33, 0.5, 0.25),
    (2, 8, 7, 6, 12, 0.0, 1.0),
]
STEP = {"batch": 4, "lr": 5e-4, "weight_decay": 0.01, "betas": [0.9, 0.98], "eps": 1e-6, "clip": 10.0, "steps": 10,
        "units": 20, "extra_classes": 4, "width": 16, "hidden": 0.5}


@functools.cache
def logit_generator():
    """torchaudio's class, from its file alone: the package wants compiled parts that this needs nothing of."""
    root = pathlib.Path(importlib.util.find_spec("torchaudio").origin).parent
    for name in ("torchaudio", "torchaudio.models", "torchaudio.models.wav2vec2"):
        module = types.ModuleType(name)
        module.__path__ = [str(root.joinpath(*name.split(".")[1:]))]
        sys.modules[name] = module
    from torchaudio.models.wav2vec2.components import LogitGenerator

    return LogitGenerator


def exact(tensor):
    """`tensor` rounded to f32 and held as f64."""
    return tensor.to(torch.float32).double()


def stored(tensor, kind=numpy.float32):
    """`tensor` as the file keeps it; a number gets one dimension."""
    return numpy.atleast_1d(tensor.detach().numpy().astype(kind))


def criterion(head, tokens, units, mask, masked, unmasked):
    """fairseq's loss of the units, without the penalty."""
    logits = head(tokens, units, mask, ~mask)
    loss, frames = 0.0, 0
    for logit, weight in zip(logits, (masked, unmasked)):
        if weight > 0.0:
            target = torch.zeros(len(logit), dtype=torch.long)
            loss = loss + weight * torch.nn.functional.cross_entropy(logit, target, reduction="sum")
            frames += len(logit)
    return loss / frames


def random_mask(shape, share, generator):
    """A mask that hides and shows at least one frame of each row."""
    mask = torch.rand(shape, generator=generator) < share
    mask[:, 0], mask[:, 1] = True, False
    return mask


def loss_case(number, case, generator, tensors):
    """One case; returns its description."""
    batch, frames, dim, width, classes, masked, unmasked = case
    head = logit_generator()(dim, classes, width, False, False)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.copy_(exact(torch.rand(parameter.shape, generator=generator) - 0.2))
    tokens = exact(torch.randn(batch, frames, dim, generator=generator)).requires_grad_()
    units = torch.randint(classes, (batch, frames), generator=generator)
    mask = random_mask((batch, frames), 0.4, generator)
    loss = criterion(head, tokens, units, mask, masked, unmasked)
    parts = {"tokens": tokens, "weight": head.final_proj.weight, "bias": head.final_proj.bias,
             "codewords": head.label_embeddings}
    gradients = torch.autograd.grad(loss, list(parts.values()))
    for (name, part), gradient in zip(parts.items(), gradients):
        tensors[f"c{number}.{name}"] = stored(part)
        tensors[f"c{number}.gradient.{name}"] = stored(gradient, numpy.float64)
    tensors[f"c{number}.units"] = stored(units, numpy.uint32)
    tensors[f"c{number}.mask"] = stored(mask, numpy.uint8)
    tensors[f"c{number}.loss"] = stored(loss, numpy.float64)
    names = ("batch", "frames", "dim", "width", "classes", "masked", "unmasked")
    return dict(zip(names, case))


def start(network, seed):
    """Gives every parameter its first value, such that nothing is 0 or 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named():
            value = 0.2 * torch.randn(parameter.shape, generator=generator)
            if "norm" in name and name.endswith("weight"):
                value = 1.0 + value
            parameter.copy_(exact(value))


def keep(tensors, prefix, network):
    """Stores the parameters of `network`."""
    for name, parameter in network.named():
        tensors[f"{prefix}.{name}"] = stored(parameter)


def write_steps():
    """Writes ten training steps; returns the losses."""
    classes = STEP["units"] + STEP["extra_classes"]
    network = Network(logit_generator()(DIM, classes, STEP["width"], False, False))
    start(network, 2)
    parameters = [p for _, p in network.named()]
    groups = [{"params": [p for p in parameters if p.dim() > 1], "weight_decay": STEP["weight_decay"]},
              {"params": [p for p in parameters if p.dim() == 1], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=STEP["lr"], betas=STEP["betas"], eps=STEP["eps"])
    generator, tensors, losses = torch.Generator().manual_seed(4), {}, []
    keep(tensors, "student", network)
    for step in range(STEP["steps"]):
        images = exact(torch.randn(STEP["batch"], 3, SIZE, SIZE, generator=generator))
        mask = random_mask((STEP["batch"], GRID**2), STEP["hidden"], generator)
        units = torch.randint(STEP["units"], mask.shape, generator=generator)
        for name, tensor, kind in (("images", images, numpy.float32), ("mask", mask, numpy.uint8),
                                   ("units", units, numpy.uint32)):
            tensors[f"{name}.{step}"] = stored(tensor, kind)
        loss = criterion(network.head, network(images, mask), units, mask, 1.0, 0.0)
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            for name, parameter in network.named():
                tensors[f"gradient.{name}"] = stored(parameter.grad)
        norm = torch.nn.utils.clip_grad_norm_(parameters, STEP["clip"])
        optimizer.step()
        if step in (0, STEP["steps"] - 1):
            keep(tensors, f"student.{step}", network)
        tensors[f"loss.{step}"], tensors[f"norm.{step}"] = stored(loss, numpy.float64), stored(norm, numpy.float64)
        losses.append(loss.item())
    settings = STEP | {"patch": PATCH, "size": SIZE, "dim": DIM}
    save_file(tensors, HERE / "steps.safetensors", metadata={"settings": json.dumps(settings)})
    return losses


def main():
    """Writes every file."""
    torch.set_default_dtype(torch.float64)
    torch.Tensor.float = lambda tensor: tensor
    generator, tensors = torch.Generator().manual_seed(1), {}
    cases = [loss_case(i, case, generator, tensors) for i, case in enumerate(LOSSES)]
    save_file(tensors, HERE / "loss.safetensors", metadata={"cases": json.dumps(cases)})
    print([tensors[f"c{i}.loss"].item() for i in range(len(cases))])
    print(write_steps())


if __name__ == "__main__":
    main()
