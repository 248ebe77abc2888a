"""The tiny network of the DINO step: a ViT under timm's names, and lightly's head."""

import torch
import torch.nn.functional as F
from lightly.models.modules import DINOProjectionHead
from torch import nn

DIM, DEPTH, HEADS, PATCH, SIZE = 24, 2, 3, 4, 16
HIDDEN, BOTTLENECK, PROTOTYPES = 48, 16, 32


class Attention(nn.Module):
    """Multi-head self-attention, with timm's names."""

    def __init__(self):
        super().__init__()
        self.qkv, self.proj = nn.Linear(DIM, 3 * DIM), nn.Linear(DIM, DIM)

    def forward(self, x):
        b, n, d = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, HEADS, d // HEADS).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, d))


class Mlp(nn.Module):
    """Two layers with a GELU between, with timm's names."""

    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(DIM, 4 * DIM), nn.Linear(4 * DIM, DIM)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self):
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(DIM, 1e-6), Attention()
        self.norm2, self.mlp = nn.LayerNorm(DIM, 1e-6), Mlp()

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Vit(nn.Module):
    """A ViT that gives its normed class token; positions are interpolated for smaller crops.

    With `offset` 0 by `size=`, as most code does; with 0.1 by DINO's scale factors, (grid + 0.1) / own grid.
    """

    def __init__(self, offset):
        super().__init__()
        self.offset, self.grid = offset, SIZE // PATCH
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, DIM, PATCH, PATCH)})
        self.cls_token = nn.Parameter(torch.zeros(1, 1, DIM))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + self.grid**2, DIM))
        self.blocks = nn.Sequential(*[Block() for _ in range(DEPTH)])
        self.norm = nn.LayerNorm(DIM, 1e-6)

    def positions(self, grid):
        """The position embedding for `grid` x `grid` patches, [1, 1 + grid^2, D]."""
        if grid == self.grid:
            return self.pos_embed
        own = self.pos_embed[:, 1:].reshape(1, self.grid, self.grid, DIM).permute(0, 3, 1, 2)
        wanted = {"size": (grid, grid)}
        if self.offset > 0.0:
            wanted = {"scale_factor": ((grid + self.offset) / self.grid,) * 2}
        other = F.interpolate(own, **wanted, mode="bicubic")
        return torch.cat([self.pos_embed[:, :1], other.permute(0, 2, 3, 1).reshape(1, -1, DIM)], 1)

    def forward(self, x):
        x = self.patch_embed["proj"](x)
        grid = x.shape[-1]
        tokens = x.flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), tokens], 1) + self.positions(grid)
        return self.norm(self.blocks(x))[:, 0]


class Network(nn.Module):
    """Backbone and head; every size of crops is one batch."""

    def __init__(self, offset):
        super().__init__()
        self.backbone = Vit(offset)
        self.head = DINOProjectionHead(DIM, HIDDEN, BOTTLENECK, PROTOTYPES, batch_norm=False, norm_last_layer=True)

    def forward(self, sizes):
        """Logits of every view: `sizes` is a list of lists of views [B, 3, H, W] of one size."""
        out = []
        for views in sizes:
            out += self.head(self.backbone(torch.cat(views))).chunk(len(views))
        return out

    def named(self):
        """The trained parameters by the host's names: (name, parameter).

        lightly keeps its MLP in a Sequential with the activations (0, 2, 4); the host counts layers. The length of the
        last layer's rows, `weight_g`, is fixed at 1 and not trained.
        """
        for name, parameter in self.named_parameters():
            if name == "head.last_layer.weight_g":
                continue
            name = name.replace("head.last_layer.weight_v", "head.last.weight_v")
            for index, layer in ((2, 1), (4, 2)):
                name = name.replace(f"head.layers.{index}.", f"head.layers.{layer}.")
            yield name, parameter
