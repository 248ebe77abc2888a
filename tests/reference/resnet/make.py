"""Writes features, gradients and running statistics of narrow residual networks: `basic.safetensors`, `bottleneck.safetensors`.

    pip install torch torchvision safetensors numpy
    python tests/reference/resnet/make.py

The networks are those of network.py, made of torchvision's blocks. Weights and images are f32; PyTorch computes from them in
f64. Metadata `settings`: {"width", "blocks", "bottleneck", "stem", "size"}. `weights.*` and `running.*` (buffers) by
torchvision's names, `images` [B, 3, H, W]; `asked` [B, D]: the pooled output in evaluation. In training: `pooled` [B, D],
`stage.K` [B, C, H, W] after stage K, `running_after.*`, and `gradient.*` of sum(pooled * seed), `seed` [B, D].
"""

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


def write(name, case):
    """Writes the file of one network."""
    torch.manual_seed(0)
    network = ResNet(case["width"], case["blocks"], case["bottleneck"], case["stem"]).double()
    start(network, 7)
    generator = torch.Generator().manual_seed(8)
    images = torch.randn(BATCH, 3, case["size"], case["size"], generator=generator).double()
    out = {"images": images}
    out |= {f"weights.{key}": p.detach().clone() for key, p in network.named_parameters()}
    running = [(key, b) for key, b in network.named_buffers() if b.is_floating_point()]
    out |= {f"running.{key}": buffer.clone() for key, buffer in running}
    network.eval()
    out["asked"] = network(images)
    network.train()
    stages = list(network.stages(images))
    pooled = stages[-1].mean((2, 3))
    out |= {f"stage.{number}": stage for number, stage in enumerate(stages, 1)} | {"pooled": pooled}
    seed = torch.randn(pooled.shape, generator=generator).double()
    (pooled * seed).sum().backward()
    out["seed"] = seed
    out |= {f"gradient.{key}": p.grad for key, p in network.named_parameters()}
    out |= {f"running_after.{key}": buffer for key, buffer in running}
    tensors = {key: numpy.ascontiguousarray(value.detach().float().numpy()) for key, value in out.items()}
    save_file(tensors, HERE / f"{name}.safetensors", metadata={"settings": json.dumps(case)})


def main():
    """Writes both files."""
    for name, case in CASES.items():
        write(name, case)


if __name__ == "__main__":
    main()
