"""The tiny network of the HuBERT steps: a ViT with a mask token under timm's names, and torchaudio's head."""

import torch
import torch.nn.functional as F
from torch import nn

DIM, DEPTH, HEADS, PATCH, SIZE = 24, 2, 3, 4, 16
GRID = SIZE // PATCH


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
    """A ViT that gives its normed patches; a learned token stands in for those that are hidden."""

    def __init__(self):
        super().__init__()
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, DIM, PATCH, PATCH)})
        self.cls_token = nn.Parameter(torch.zeros(1, 1, DIM))
        self.mask_token = nn.Parameter(torch.zeros(1, 1, DIM))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + GRID**2, DIM))
        self.blocks = nn.Sequential(*[Block() for _ in range(DEPTH)])
        self.norm = nn.LayerNorm(DIM, 1e-6)

    def forward(self, images, mask):
        tokens = self.patch_embed["proj"](images).flatten(2).transpose(1, 2)
        tokens = torch.where(mask.unsqueeze(-1), self.mask_token, tokens)
        x = torch.cat([self.cls_token.expand(len(images), -1, -1), tokens], 1) + self.pos_embed
        return self.norm(self.blocks(x))[:, 1:]


class Network(nn.Module):
    """Backbone and head."""

    def __init__(self, head):
        super().__init__()
        self.backbone, self.head = Vit(), head

    def forward(self, images, mask):
        return self.backbone(images, mask)

    def named(self):
        """The trained parameters by the host's names: (name, parameter)."""
        for name, parameter in self.named_parameters():
            name = name.replace("head.final_proj.", "projection.")
            yield name.replace("head.label_embeddings", "codewords"), parameter
