"""Narrow residual networks of torchvision's blocks, under the names that torchvision and timm share."""

import torch
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck, conv1x1


class ResNet(nn.Module):
    """Four stages of `blocks` blocks whose width starts at `width`; gives the mean over the last stage's pixels."""

    def __init__(self, width, blocks, bottleneck, stem):
        super().__init__()
        kind = Bottleneck if bottleneck else BasicBlock
        kernel, stride = (7, 2) if stem == "imagenet" else (3, 1)
        self.conv1 = nn.Conv2d(3, width, kernel, stride, kernel // 2, bias=False)
        self.bn1, self.relu = nn.BatchNorm2d(width), nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, 2, 1) if stem == "imagenet" else nn.Identity()
        inside = width
        for stage in range(4):
            planes, layers = width << stage, []
            for i in range(blocks):
                step, outside = (2 if i == 0 and stage > 0 else 1), planes * kind.expansion
                down = None
                if step > 1 or inside != outside:
                    down = nn.Sequential(conv1x1(inside, outside, step), nn.BatchNorm2d(outside))
                layers.append(kind(inside, planes, step, down))
                inside = outside
            setattr(self, f"layer{stage + 1}", nn.Sequential(*layers))
        self.dim = inside

    def stages(self, x):
        """What every stage makes of images [B, 3, H, W]."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for stage in range(4):
            x = getattr(self, f"layer{stage + 1}")(x)
            yield x

    def forward(self, x):
        *_, last = self.stages(x)
        return last.mean((2, 3))


def start(network, seed):
    """Random values for all parameters and running statistics, none at its usual start of 0 or 1; f32 held as f64."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
            if not tensor.is_floating_point():
                continue
            value = torch.randn(tensor.shape, generator=generator)
            if tensor.dim() > 1:
                value = value * (2.0 / tensor[0].numel()) ** 0.5
            elif name.endswith(("running_var", "weight")):
                value = 1.0 + 0.2 * value.clamp(-2.0, 2.0)
            else:
                value = 0.2 * value
            tensor.copy_(value.float().double())
