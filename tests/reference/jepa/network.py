"""I-JEPA in PyTorch, written from the paper (arXiv 2301.08243): a ViT under timm's names, the predictor, the loss."""

import torch
import torch.nn.functional as F
from torch import nn


def sin_cos(rows, cols, width):
    """Fixed positions [1, rows cols, width]: sin and cos of the column, then of the row (as MAE has them)."""
    omega = 10000.0 ** (-torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    row, col = torch.meshgrid(torch.arange(rows), torch.arange(cols), indexing="ij")
    parts = [f(place.flatten()[:, None] * omega) for place in (col, row) for f in (torch.sin, torch.cos)]
    # The host keeps them as f32.
    return torch.cat(parts, 1)[None].float().double()


def gather(tokens, indices):
    """Tokens [B, K, D] of [B, N, D] at `indices` [B, K]."""
    return tokens.gather(1, indices[..., None].expand(-1, -1, tokens.shape[-1]))


class Attention(nn.Module):
    """Multi-head self-attention, with timm's names."""

    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x):
        b, n, d = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, d))


class Mlp(nn.Module):
    """Two layers with a GELU between, with timm's names."""

    def __init__(self, dim):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, dim, heads):
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(dim, 1e-6), Attention(dim, heads)
        self.norm2, self.mlp = nn.LayerNorm(dim, 1e-6), Mlp(dim)

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Stack(nn.Module):
    """Blocks with a norm after the last."""

    def __init__(self, dim, depth, heads):
        super().__init__()
        self.blocks = nn.Sequential(*[Block(dim, heads) for _ in range(depth)])
        self.norm = nn.LayerNorm(dim, 1e-6)

    def forward(self, x):
        return self.norm(self.blocks(x))


class Encoder(Stack):
    """A ViT without a class token; it computes nothing of the patches that it is not shown."""

    def __init__(self, sizes):
        dim, patch = sizes["dim"], sizes["patch"]
        super().__init__(dim, sizes["depth"], sizes["heads"])
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, dim, patch, patch)})
        self.register_buffer("positions", sin_cos(sizes["rows"], sizes["cols"], dim), persistent=False)

    def forward(self, images, keep=None):
        tokens = self.patch_embed["proj"](images).flatten(2).transpose(1, 2) + self.positions
        return super().forward(tokens if keep is None else gather(tokens, keep))


class Predictor(nn.Module):
    """From the context's features to those at the targets, one pass of the context for each target block."""

    def __init__(self, sizes):
        super().__init__()
        dim, width = sizes["dim"], sizes["predictor_width"]
        self.register_parameter("mask_token", nn.Parameter(torch.zeros(1, 1, width)))
        self.add_module("in", nn.Linear(dim, width))
        self.stack = Stack(width, sizes["predictor_depth"], sizes["predictor_heads"])
        self.out = nn.Linear(width, dim)
        self.register_buffer("positions", sin_cos(sizes["rows"], sizes["cols"], width), persistent=False)

    def forward(self, context, seen, targets):
        """Features [M, B, Kt, D] from `context` [B, Kc, D], at `seen` [B, Kc], for `targets` [M, B, Kt]."""
        places = self.positions.expand(len(context), -1, -1)
        context = getattr(self, "in")(context) + gather(places, seen)
        out = []
        for target in targets:
            hidden = self.mask_token + gather(places, target)
            mixed = self.stack(torch.cat([context, hidden], 1))
            out.append(self.out(mixed[:, context.shape[1]:]))
        return torch.stack(out)

    def named(self):
        """The trained parameters by the host's names."""
        for name, parameter in self.named_parameters():
            yield f"predictor.{name}".replace("predictor.stack.", "predictor.blocks."), parameter


def loss_of(predicted, told, targets):
    """Smooth L1 between predictions [M, B, Kt, D] and the normed features `told` [B, N, D] at the targets."""
    told = F.layer_norm(told, told.shape[-1:])
    wanted = torch.stack([gather(told, target) for target in targets])
    return F.smooth_l1_loss(predicted, wanted)
