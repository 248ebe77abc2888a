"""Writes timm's features of a small ViT with random weights: `vit.safetensors`.

    pip install torch timm safetensors numpy
    python tests/reference/vit/make.py

Weights and images are f32; timm computes from them in f64; features are stored as f64, gradients as f32.
Metadata `settings`: {"size", "patch", "dim", "depth", "heads"}. `weights.*` by timm's names, `images` [B, 3, H, W];
`tokens` [B, N, D] (normed patch tokens, without the class token), `cls` [B, D] (normed class token), `pooled` [B, D] (mean
of `tokens`), `layer.K` [B, 1 + N, D] after block K, counted from 1, before the last norm; `seed` [B, D] and `gradient.*`:
of sum(cls * seed). `keep` u32 [B, K], `kept_tokens` [B, K, D], `kept_cls` [B, D]: the same where only those patch tokens
enter the blocks. Case I of the setting `resized`, {"height", "width", "offset"}, has `resized.I.images` of another size,
`.tokens`, `.cls` and `.gradient` (of sum(cls * seed) to `pos_embed`): positions are resized by PyTorch's bicubic
interpolation (timm itself smoothes them first), to the size of the grid, or by DINO's scale factors, (size + offset) / own.
"""

import json
import pathlib

import numpy
import torch
import torch.nn.functional as F
from safetensors.numpy import save_file
from timm.models.vision_transformer import VisionTransformer

HERE = pathlib.Path(__file__).parent
SETTINGS = {"size": 32, "patch": 8, "dim": 48, "depth": 2, "heads": 3}
BATCH, KEPT = 3, 5
RESIZED = [{"height": 16, "width": 16, "offset": 0.0}, {"height": 24, "width": 40, "offset": 0.0},
           {"height": 16, "width": 24, "offset": 0.1}, {"height": 48, "width": 40, "offset": 0.1}]
GRADIENTS = ("cls_token", "patch_embed.proj.bias", "blocks.0.norm1.weight", "blocks.0.attn.qkv.bias",
             "blocks.0.attn.proj.weight", "blocks.1.mlp.fc1.bias", "blocks.1.mlp.fc2.weight", "norm.weight", "norm.bias")


def build(generator):
    """A ViT whose every weight and bias is random, none at its usual start of 0 or 1."""
    vit = VisionTransformer(img_size=SETTINGS["size"], patch_size=SETTINGS["patch"], embed_dim=SETTINGS["dim"],
                            depth=SETTINGS["depth"], num_heads=SETTINGS["heads"], num_classes=0)
    with torch.no_grad():
        for name, parameter in vit.named_parameters():
            value = 0.2 * torch.randn(parameter.shape, generator=generator)
            if "norm" in name and name.endswith("weight"):
                value = 1.0 + value
            parameter.copy_(value)
    return vit.double()


def embedded(vit, images):
    """Class and patch tokens with their positions, [B, 1 + N, D]."""
    tokens = vit.patch_embed(images)
    return torch.cat([vit.cls_token.expand(len(images), -1, -1), tokens], 1) + vit.pos_embed


def kept(vit, images, keep):
    """What the blocks make of the class token and the patch tokens in `keep`."""
    x = embedded(vit, images)
    places = torch.cat([torch.zeros(len(keep), 1, dtype=keep.dtype), keep + 1], 1)
    x = x.gather(1, places[..., None].expand(-1, -1, x.shape[-1]))
    return vit.norm(vit.blocks(x))


def resized(vit, images, offset):
    """Normed class token and patch tokens of images of another size, whose positions are interpolated."""
    own, wanted = (SETTINGS["size"] // SETTINGS["patch"], [size // SETTINGS["patch"] for size in images.shape[2:]])
    grid = vit.pos_embed[:, 1:].unflatten(1, (own, own)).permute(0, 3, 1, 2)
    how = {"scale_factor": [(size + offset) / own for size in wanted]} if offset else {"size": wanted}
    grid = F.interpolate(grid, **how, mode="bicubic")
    assert list(grid.shape[2:]) == wanted
    tokens = vit.patch_embed.proj(images).flatten(2).transpose(1, 2)
    x = torch.cat([vit.cls_token.expand(len(images), -1, -1), tokens], 1)
    return vit.norm(vit.blocks(x + torch.cat([vit.pos_embed[:, :1], grid.flatten(2).transpose(1, 2)], 1)))


def main():
    """Writes the file."""
    generator = torch.Generator().manual_seed(5)
    vit = build(generator)
    images = torch.randn(BATCH, 3, SETTINGS["size"], SETTINGS["size"], generator=generator).double()
    features = vit.forward_features(images)
    cls, tokens = features[:, 0], features[:, 1:]
    out = {"cls": cls, "tokens": tokens, "pooled": tokens.mean(1)}
    x = embedded(vit, images)
    for number, block in enumerate(vit.blocks, 1):
        x = out[f"layer.{number}"] = block(x)
    assert torch.allclose(vit.norm(x), features)
    patches = (SETTINGS["size"] // SETTINGS["patch"]) ** 2
    keep = torch.stack([torch.randperm(patches, generator=generator)[:KEPT] for _ in range(BATCH)])
    few = kept(vit, images, keep)
    out |= {"kept_cls": few[:, 0], "kept_tokens": few[:, 1:]}
    seed = torch.randn(cls.shape, generator=generator)
    parameters = dict(vit.named_parameters())
    gradients = torch.autograd.grad((cls * seed).sum(), [parameters[name] for name in GRADIENTS])
    single = {"images": images, "seed": seed}
    single |= {f"weights.{name}": parameter for name, parameter in parameters.items()}
    single |= {f"gradient.{name}": gradient for name, gradient in zip(GRADIENTS, gradients)}
    for number, case in enumerate(RESIZED):
        images = torch.randn(BATCH, 3, case["height"], case["width"], generator=generator).double()
        features = resized(vit, images, case["offset"])
        (gradient,) = torch.autograd.grad((features[:, 0] * seed).sum(), vit.pos_embed)
        single |= {f"resized.{number}.images": images, f"resized.{number}.gradient": gradient}
        out |= {f"resized.{number}.cls": features[:, 0], f"resized.{number}.tokens": features[:, 1:]}
    tensors = {name: value.detach().numpy() for name, value in out.items()}
    tensors |= {name: value.detach().float().numpy() for name, value in single.items()}
    tensors["keep"] = keep.numpy().astype(numpy.uint32)
    tensors = {name: numpy.ascontiguousarray(value) for name, value in tensors.items()}
    save_file(tensors, HERE / "vit.safetensors", metadata={"settings": json.dumps(SETTINGS | {"resized": RESIZED})})


if __name__ == "__main__":
    main()
