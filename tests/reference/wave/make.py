"""Writes the features of transformers' `HubertModel` with random weights: `wave.safetensors`.

    pip install torch transformers safetensors numpy
    python tests/reference/wave/make.py                # the small one, which is kept
    python tests/reference/wave/make.py --base FILE    # the base configuration, 360 MiB: features only

Weights and waveforms are f32; transformers computes from them in f64 (base: f32); features are stored as f64, gradients as
f32. Metadata `settings`: the configuration. `weights.*` by the names of released checkpoints, so with `weight_g` and
`weight_v`. Cases `plain`, `masked` (with `mask` u8 [B, F]) and `padded` (with `mask` and `lengths` u32 [B], in samples) have
`CASE.frames` [B, F, C], `CASE.layer.K` [B, F, D] after block K, counted from 1; the last is also the model's output. `seed`
[B, F, D] and, by the names of the weights, `gradient.*`: of sum(output * seed) of the case `padded`, where the seed is 0 beyond
a sample's frames; nothing is said of the tokens there.
"""

import argparse
import json
import pathlib

import numpy
import torch
from safetensors.numpy import save_file
from transformers import HubertConfig, HubertModel

HERE = pathlib.Path(__file__).parent
SMALL = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48,
         "conv_dim": [8, 12, 12], "conv_kernel": [10, 3, 2], "conv_stride": [5, 2, 2], "num_conv_pos_embeddings": 8,
         "num_conv_pos_embedding_groups": 4}
SAMPLES, LENGTHS = 700, [700, 451, 230]
OLD_NAMES = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}


def named(parameters):
    """Parameters by the names of released checkpoints."""
    for name, value in parameters:
        for new, old in OLD_NAMES.items():
            name = name.replace(new, old)
        yield name, value


def build(settings, generator):
    """A model whose every weight and bias is random, none at its usual start of 0 or 1."""
    model = HubertModel(HubertConfig(**settings, mask_time_prob=0.5, attn_implementation="eager")).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            fan_in = max(1, parameter[0].numel()) if parameter.dim() > 1 else 25
            value = torch.randn(parameter.shape, generator=generator) / fan_in**0.5
            if name.endswith("layer_norm.weight") or name.endswith("original0"):
                value = 1.0 + 0.2 * value
            parameter.copy_(value)
    return model


def run(model, waveforms, mask=None, lengths=None):
    """Frames and the tokens after every block."""
    inside = None if lengths is None else (torch.arange(waveforms.shape[1]) < lengths[:, None]).long()
    frames = model.feature_extractor(waveforms).transpose(1, 2)
    out = model(waveforms, attention_mask=inside, mask_time_indices=mask, output_hidden_states=True)
    return frames, list(out.hidden_states[1:])


def stored(value, kind):
    """`value` as the file keeps it."""
    return numpy.ascontiguousarray(value.detach().numpy().astype(kind))


def write(path, settings, tensors):
    """Writes one file."""
    save_file(tensors, path, metadata={"settings": json.dumps(settings)})
    print(f"{path}: {path.stat().st_size} bytes")


def small():
    """The kept file."""
    generator = torch.Generator().manual_seed(7)
    model = build(SMALL, generator).double()
    waveforms = torch.randn(len(LENGTHS), SAMPLES, generator=generator).double()
    lengths = torch.tensor(LENGTHS)
    waveforms[torch.arange(SAMPLES) >= lengths[:, None]] = 0.0
    with torch.no_grad():
        frames = model.feature_extractor(waveforms).shape[2]
    mask = torch.rand(len(LENGTHS), frames, generator=generator) < 0.4
    tensors = {f"weights.{name}": stored(value, numpy.float32) for name, value in named(model.named_parameters())}
    tensors |= {"waveforms": stored(waveforms, numpy.float32), "mask": stored(mask, numpy.uint8),
                "lengths": stored(lengths, numpy.uint32)}
    for case, inputs in {"plain": {}, "masked": {"mask": mask}, "padded": {"mask": mask, "lengths": lengths}}.items():
        frames, layers = run(model, waveforms, **inputs)
        tensors[f"{case}.frames"] = stored(frames, numpy.float64)
        tensors |= {f"{case}.layer.{i}": stored(layer, numpy.float64) for i, layer in enumerate(layers, 1)}
    valid = model._get_feat_extract_output_lengths(lengths)
    seed = torch.randn(layers[-1].shape, generator=generator)
    seed[torch.arange(seed.shape[1]) >= valid[:, None]] = 0.0
    (layers[-1] * seed).sum().backward()
    tensors["seed"] = stored(seed, numpy.float32)
    gradients = named((name, parameter.grad) for name, parameter in model.named_parameters())
    tensors |= {f"gradient.{name}": stored(value, numpy.float32) for name, value in gradients}
    write(HERE / "wave.safetensors", SMALL, tensors)


def base(path):
    """Features of the base configuration, for one second of noise."""
    generator = torch.Generator().manual_seed(8)
    config = HubertConfig()
    settings = {key: getattr(config, key) for key in SMALL}
    model = build(settings, generator)
    waveforms = torch.randn(2, 16000, generator=generator)
    with torch.no_grad():
        frames, layers = run(model, waveforms)
    tensors = {f"weights.{name}": stored(value, numpy.float32) for name, value in named(model.named_parameters())}
    tensors |= {"waveforms": stored(waveforms, numpy.float32), "plain.frames": stored(frames, numpy.float32)}
    tensors |= {f"plain.layer.{i}": stored(layer, numpy.float32) for i, layer in enumerate(layers, 1)}
    write(path, settings, tensors)


def main():
    """Writes the file that was asked for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--base", type=pathlib.Path)
    asked = parser.parse_args()
    if asked.base:
        base(asked.base)
    else:
        small()


if __name__ == "__main__":
    main()
