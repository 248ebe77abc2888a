"""Writes weights of timm and Hugging Face models with random weights, and what those models make of images.

    pip install torch timm transformers safetensors numpy
    python tests/reference/weights/make.py

timm.safetensors, timm_registers.safetensors: `state_dict()` of a `VisionTransformer`, the one with a classifier, the other with
registers that have places. hf_vit/: what `ViTModel.save_pretrained` writes. values.safetensors: `images` [B, 3, S, S]; for each
MODEL of timm, timm_registers, hf_vit, timm_resized: `MODEL.cls` [B, D], `MODEL.tokens` [B, N, D] in f64; timm_resized is timm on
`small_images` of another size, its positions resized by PyTorch's bicubic interpolation. Metadata `settings`, and `names.timm`,
`names.hf`: the names that each program gives the tensors of such a backbone, without heads.
"""

import json
import pathlib

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from transformers import ViTConfig, ViTModel

HERE = pathlib.Path(__file__).parent
SETTINGS = {"size": 16, "small": 8, "patch": 4, "dim": 24, "depth": 2, "heads": 3, "registers": 2}
BATCH = 3


def fill(model, generator):
    """Gives every parameter a random value, none its usual start of 0 or 1."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            value = 0.2 * torch.randn(parameter.shape, generator=generator)
            if "norm" in name and name.endswith("weight"):
                value = 1.0 + value
            parameter.copy_(value)
    return model


def timm_vit(**options):
    """A small `VisionTransformer`."""
    return VisionTransformer(img_size=SETTINGS["size"], patch_size=SETTINGS["patch"], embed_dim=SETTINGS["dim"],
                             depth=SETTINGS["depth"], num_heads=SETTINGS["heads"], **options)


def hf_vit():
    """A small `ViTModel` with the layer norms' constant of timm."""
    return ViTModel(ViTConfig(hidden_size=SETTINGS["dim"], num_hidden_layers=SETTINGS["depth"],
                              num_attention_heads=SETTINGS["heads"], intermediate_size=4 * SETTINGS["dim"],
                              image_size=SETTINGS["size"], patch_size=SETTINGS["patch"], layer_norm_eps=1e-6))


def resized(vit, images):
    """What `vit` makes of images of another size, with its positions interpolated."""
    own, wanted = SETTINGS["size"] // SETTINGS["patch"], images.shape[-1] // SETTINGS["patch"]
    grid = vit.pos_embed[:, 1:].unflatten(1, (own, own)).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=(wanted, wanted), mode="bicubic")
    places = torch.cat([vit.pos_embed[:, :1], grid.flatten(2).transpose(1, 2)], 1)
    tokens = vit.patch_embed.proj(images).flatten(2).transpose(1, 2)
    return vit.norm(vit.blocks(torch.cat([vit.cls_token.expand(len(images), -1, -1), tokens], 1) + places))


def main():
    """Writes every file."""
    generator = torch.Generator().manual_seed(11)
    plain = fill(timm_vit(num_classes=5), generator)
    registers = fill(timm_vit(num_classes=0, reg_tokens=SETTINGS["registers"]), generator)
    hf = fill(hf_vit(), generator).eval()
    for name, model in (("timm", plain), ("timm_registers", registers)):
        save_file(model.state_dict(), HERE / f"{name}.safetensors", metadata={"format": "pt"})
    hf.save_pretrained(HERE / "hf_vit")
    names = {"names.timm": sorted(name for name in plain.state_dict() if not name.startswith("head.")),
             "names.hf": sorted(name for name in saved(HERE / "hf_vit") if not name.startswith("pooler."))}
    images = torch.randn(BATCH, 3, SETTINGS["size"], SETTINGS["size"], generator=generator)
    small = torch.randn(BATCH, 3, SETTINGS["small"], SETTINGS["small"], generator=generator)
    tensors = {"images": images, "small_images": small}
    plain, registers, hf = (model.double().eval() for model in (plain, registers, hf))
    with torch.no_grad():
        out = {"timm": plain.forward_features(images.double()),
               "timm_registers": registers.forward_features(images.double()),
               "timm_resized": resized(plain, small.double()),
               "hf_vit": hf(images.double()).last_hidden_state}
    for name, tokens in out.items():
        before = 1 + (SETTINGS["registers"] if name == "timm_registers" else 0)
        tensors |= {f"{name}.cls": tokens[:, 0], f"{name}.tokens": tokens[:, before:]}
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    metadata = {"settings": json.dumps(SETTINGS)} | {key: json.dumps(value) for key, value in names.items()}
    save_file(tensors, HERE / "values.safetensors", metadata=metadata)


def saved(folder):
    """Names in the file that a folder of Hugging Face has."""
    with safe_open(folder / "model.safetensors", "np") as file:
        return list(file.keys())


if __name__ == "__main__":
    main()
