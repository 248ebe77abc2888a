#!/usr/bin/env python3
"""I-JEPA's training step as a PyTorch user would write it: a ViT with fused attention, fused AdamW, foreach average.

    pip install torch
    python benches/peer/jepa_torch.py                       # f32
    python benches/peer/jepa_torch.py --dtype bf16 --compile

Prints one JSON line: milliseconds of a step on random pictures and masks (median, least, most) and images per second. Compare
with the fastest setting. The host's side, of the same shapes:

    pretext time jepa:cifar10-small data=shapes batch=128
"""
import argparse
import json
import resource
import statistics
import time

import torch
import torch.nn.functional as F
from torch import nn


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(dim, 1e-6), nn.LayerNorm(dim, 1e-6)
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.fc1, self.fc2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, x):
        b, n, d = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        x = x + self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, d))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


def stack(dim, depth, heads):
    """Blocks with a norm after the last."""
    return nn.Sequential(*[Block(dim, heads) for _ in range(depth)], nn.LayerNorm(dim, 1e-6))


def gather(tokens, indices):
    """Tokens [B, K, D] at `indices` [B, K]."""
    return tokens.gather(1, indices[..., None].expand(-1, -1, tokens.shape[-1]))


class Encoder(nn.Module):
    """A ViT without a class token that computes only what it is shown."""

    def __init__(self, a):
        super().__init__()
        self.patch, self.stack = nn.Conv2d(3, a.dim, a.patch, a.patch), stack(a.dim, a.depth, a.heads)
        self.pos = nn.Parameter(0.02 * torch.randn(1, (a.size // a.patch) ** 2, a.dim), requires_grad=False)

    def forward(self, images, keep=None):
        tokens = self.patch(images).flatten(2).transpose(1, 2) + self.pos
        return self.stack(tokens if keep is None else gather(tokens, keep))


class Predictor(nn.Module):
    """All target blocks of a batch in one pass."""

    def __init__(self, a):
        super().__init__()
        self.into, self.out = nn.Linear(a.dim, a.predictor_width), nn.Linear(a.predictor_width, a.dim)
        self.stack = stack(a.predictor_width, a.predictor_depth, a.predictor_heads)
        self.token = nn.Parameter(0.02 * torch.randn(1, 1, a.predictor_width))
        shape = (1, (a.size // a.patch) ** 2, a.predictor_width)
        self.pos = nn.Parameter(0.02 * torch.randn(shape), requires_grad=False)

    def forward(self, context, keep, targets):
        pos = self.pos.expand(len(context), -1, -1)
        x = (self.into(context) + gather(pos, keep)).repeat(len(targets), 1, 1)
        hidden = self.token + torch.cat([gather(pos, target) for target in targets])
        return self.out(self.stack(torch.cat([x, hidden], 1))[:, keep.shape[1]:])


def main():
    """Times steps."""
    p = argparse.ArgumentParser()
    for name, default in dict(batch=128, size=32, patch=4, dim=192, depth=6, heads=3, predictor_width=96, predictor_depth=3,
                              predictor_heads=3, context=24, target=9, blocks=4, steps=20, threads=0).items():
        p.add_argument("--" + name.replace("_", "-"), type=int, default=default)
    p.add_argument("--dtype", default="f32", choices=["f32", "bf16"])
    p.add_argument("--compile", action="store_true")
    a = p.parse_args()
    torch.manual_seed(0)
    if a.threads:
        torch.set_num_threads(a.threads)
    student, teacher, predictor = Encoder(a), Encoder(a).requires_grad_(False), Predictor(a)
    teacher.load_state_dict(student.state_dict())
    trained = [q for q in [*student.parameters(), *predictor.parameters()] if q.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3, weight_decay=0.04, fused=True)
    images, patches = torch.randn(a.batch, 3, a.size, a.size), (a.size // a.patch) ** 2
    draw = lambda k: torch.stack([torch.randperm(patches)[:k].sort().values for _ in range(a.batch)])
    keep, targets = draw(a.context), [draw(a.target) for _ in range(a.blocks)]

    def objective(images, keep, targets):
        with torch.no_grad():
            told = F.layer_norm(teacher(images).float(), (a.dim,))
            wanted = torch.cat([gather(told, target) for target in targets])
        return F.smooth_l1_loss(predictor(student(images, keep), keep, targets).float(), wanted)

    run = torch.compile(objective) if a.compile else objective

    def step():
        with torch.autocast("cpu", torch.bfloat16, enabled=a.dtype == "bf16"):
            loss = run(images, keep, targets)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            t, s = list(teacher.parameters()), list(student.parameters())
            torch._foreach_mul_(t, 0.996)
            torch._foreach_add_(t, s, alpha=0.004)

    times = []
    for i in range(a.steps + 3):
        started = time.perf_counter()
        step()
        if i >= 3:
            times.append(time.perf_counter() - started)
    median = statistics.median(times)
    print(json.dumps({"dtype": a.dtype, "compile": a.compile, "threads": torch.get_num_threads(),
                      "step_ms": round(1e3 * median, 1), "step_ms_min": round(1e3 * min(times), 1),
                      "step_ms_max": round(1e3 * max(times), 1), "images_per_s": round(a.batch / median, 1),
                      "peak_rss_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)}))


if __name__ == "__main__":
    main()
