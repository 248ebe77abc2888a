#!/usr/bin/env python3
"""A training step of SwAV with a ResNet-18 (CIFAR stem) in PyTorch, to be timed beside `pretext time swav`.

    python benches/peer/swav_torch.py --batch 64 --dtype bf16 --compile

Views lie in memory; a step is forward on all crops, Sinkhorn, loss, backward, SGD with LARC. Prints one JSON object:
{"step_ms": median, "images_per_s", "peak_rss_mib"}. Needs torch, torchvision and lightly.
"""

import argparse
import json
import resource
import statistics
import time

import torch
import torch.nn.functional as F
from lightly.loss import SwaVLoss
from lightly.models.modules import SwaVProjectionHead
from torch import nn
from torchvision.models import resnet18


class Network(nn.Module):
    """Backbone, head and prototypes; every size of crops is one batch, the head runs once."""

    def __init__(self, asked):
        super().__init__()
        self.backbone = resnet18()
        self.backbone.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
        self.backbone.maxpool, self.backbone.fc = nn.Identity(), nn.Identity()
        self.head = SwaVProjectionHead(512, asked.hidden, asked.dim)
        self.prototypes = nn.Linear(asked.dim, asked.prototypes, bias=False)

    def forward(self, *sizes):
        """Scores of all crops."""
        features = torch.cat([self.backbone(views) for views in sizes])
        return self.prototypes(F.normalize(self.head(features), dim=1))


def larc(parameters, trust=0.001, decay=1e-6):
    """Scales gradients by layer, all at once."""
    values, slopes = [p.detach() for p in parameters], [p.grad for p in parameters]
    sizes, norms = torch._foreach_norm(values), torch._foreach_norm(slopes)
    rates = [trust * s / (n + decay * s + 1e-8) for s, n in zip(sizes, norms)]
    torch._foreach_add_(slopes, values, alpha=decay)
    torch._foreach_mul_(slopes, rates)


def main():
    """Times the steps."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--size", type=int, default=32)
    add("--local-size", type=int, default=16)
    add("--locals", type=int, default=2)
    add("--batch", type=int, default=64)
    add("--prototypes", type=int, default=512)
    add("--hidden", type=int, default=512)
    add("--dim", type=int, default=128)
    add("--steps", type=int, default=8)
    add("--threads", type=int, default=0)
    add("--dtype", choices=["f32", "bf16"], default="f32")
    add("--channels-last", action="store_true")
    add("--compile", action="store_true")
    asked = parser.parse_args()
    if asked.threads:
        torch.set_num_threads(asked.threads)
    torch.manual_seed(0)
    network = Network(asked)
    layout = torch.channels_last if asked.channels_last else torch.contiguous_format
    network = network.to(memory_format=layout)
    kinds = ((2, asked.size), (asked.locals, asked.local_size))
    views = [torch.randn(n * asked.batch, 3, size, size).to(memory_format=layout) for n, size in kinds if n]
    parameters = list(network.parameters())
    optimizer = torch.optim.SGD(parameters, lr=0.6, momentum=0.9)
    objective = SwaVLoss()
    call = torch.compile(network) if asked.compile else network

    def step():
        with torch.no_grad():
            network.prototypes.weight.copy_(F.normalize(network.prototypes.weight, dim=1))
        with torch.autocast("cpu", torch.bfloat16, enabled=asked.dtype == "bf16"):
            scores = call(*views)
        crops = scores.float().split(asked.batch)
        loss = objective(list(crops[:2]), list(crops[2:]))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        larc(parameters)
        optimizer.step()

    for _ in range(3):
        step()
    times = []
    for _ in range(asked.steps):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    median = statistics.median(times)
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    told = {"step_ms": 1e3 * median, "images_per_s": asked.batch / median, "peak_rss_mib": rss}
    print(json.dumps({key: round(value, 2) for key, value in told.items()}))


main()
