"""Writes features, gradients and running statistics of narrow residual networks: `basic.safetensors`, `bottleneck.safetensors`.

    pip install torch torchvision safetensors numpy
    python tests/reference/resnet/make.py
    python tests/reference/resnet/make.py --rounding    # writes nothing: how far PyTorch's own f32 lies from its f64

The networks are those of network.py, made of torchvision's blocks. Weights and images are f32; PyTorch computes from them in
f64. Metadata `settings`: {"width", "blocks", "bottleneck", "stem", "size"}. `weights.*` and `running.*` (buffers) by
torchvision's names, `images` [B, 3, H, W]; `asked` [B, D]: the pooled output in evaluation. In training: `pooled` [B, D],
`stage.K` [B, C, H, W] after stage K, `running_after.*`, and `gradient.*` of sum(pooled * seed), `seed` [B, D].
"""

import argparse
import copy
import json
import pathlib

import numpy
import torch
from network import ResNet, start
from safetensors.numpy import save_file

HERE = pathlib.Path(__file__).parent
CASES = {
    "basic": {"width": 4, "blocks": 1, "bottleneck": False, "stem": "cifar", "size": 16},
    "bottleneck": {"width": 2, "blocks": 2, "bottleneck": True, "stem": "imagenet", "size": 64},
}
BATCH = 3


def run(network, images, seed):
    """What is compared, by the names of the file; of gradients those of sum(pooled * seed)."""
    running = [(key, b) for key, b in network.named_buffers() if b.is_floating_point()]
    network.eval()
    out = {"asked": network(images)}
    network.train()
    stages = list(network.stages(images))
    pooled = stages[-1].mean((2, 3))
    out |= {f"stage.{number}": stage for number, stage in enumerate(stages, 1)} | {"pooled": pooled}
    (pooled * seed).sum().backward()
    out |= {f"gradient.{key}": p.grad for key, p in network.named_parameters()}
    return out | {f"running_after.{key}": buffer for key, buffer in running}


def started(case):
    """A network, images and a seed, in f64."""
    torch.manual_seed(0)
    network = ResNet(case["width"], case["blocks"], case["bottleneck"], case["stem"]).double()
    start(network, 7)
    generator = torch.Generator().manual_seed(8)
    images = torch.randn(BATCH, 3, case["size"], case["size"], generator=generator).double()
    return network, images, torch.randn((BATCH, network.dim), generator=generator).double()


def write(name, case):
    """Writes the file of one network."""
    network, images, seed = started(case)
    out = {"images": images, "seed": seed}
    out |= {f"weights.{key}": p.detach().clone() for key, p in network.named_parameters()}
    out |= {f"running.{key}": b.clone() for key, b in network.named_buffers() if b.is_floating_point()}
    out |= run(network, images, seed)
    tensors = {key: numpy.ascontiguousarray(value.detach().float().numpy()) for key, value in out.items()}
    save_file(tensors, HERE / f"{name}.safetensors", metadata={"settings": json.dumps(case)})


def difference(got, want):
    """As the tests measure it: relative to the value, or to the root mean square of all where that is larger."""
    return ((got - want).abs() / want.abs().maximum(want.pow(2).mean().sqrt())).max().item()


def rounding(name, case):
    """Prints how far f32 lies from f64, with PyTorch's kernels for either order of channels and without oneDNN's."""
    network, images, seed = started(case)
    kinds = {"as stored": (torch.contiguous_format, True), "channels last": (torch.channels_last, True),
             "without oneDNN": (torch.contiguous_format, False)}
    singles = {kind: copy.deepcopy(network).float().to(memory_format=order) for kind, (order, _) in kinds.items()}
    exact, largest = run(network, images, seed), {}
    for kind, (order, onednn) in kinds.items():
        with torch.backends.mkldnn.flags(enabled=onednn):
            out = run(singles[kind], images.float().contiguous(memory_format=order), seed.float())
        for key, value in out.items():
            part = key if key.startswith("stage") else key.partition(".")[0]
            far = difference(value.detach().double(), exact[key].detach())
            largest[kind, part] = max(far, largest.get((kind, part), 0.0))
    for (kind, part), far in largest.items():
        print(f"{name}, {kind}: {part} {far:.1e}")


def main():
    """Writes both files, or prints what rounding does to them."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounding", action="store_true")
    act = rounding if parser.parse_args().rounding else write
    for name, case in CASES.items():
        act(name, case)


if __name__ == "__main__":
    main()
