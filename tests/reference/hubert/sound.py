"""Writes ten whole training steps on sound, with the penalty of the first features (`sound.safetensors`).

    pip install torch torchaudio transformers safetensors numpy
    python tests/reference/hubert/sound.py

The network is transformers' `HubertModel` with torchaudio's head; the loss is fairseq's: the units' over the hidden frames, plus
`penalty` times the mean square of what the convolutions make, padding and all, before the layer norm; and the gradient that
enters the convolutions is multiplied by `grad_factor`, that of the penalty as well. Computed in f64 from f32.

Metadata `settings`. `student.*` are the weights before, by the host's names, `samples.J` [B, T], `lengths.J` u32 [B], `mask.J` u8
[B, F], `units.J` u32 [B, F] and `known.J` u8 [B, F] (0 beyond the sound) the views of step J; `loss.J`, `prediction.J` (the loss
without the penalty), `penalty.J` (the mean square) and `norm.J` [1]. Of step 0, before clipping: `gradient.*` of the loss and
`penalty_gradient.*` of the weighted penalty alone, for the parameters that it reaches. `student.0.*` and `student.9.*` are the
weights after those steps.
"""

import json
import sys

import numpy
import torch
from safetensors.numpy import save_file

# Neither does transformers need torchaudio, nor the head's file the package.
sys.modules["torchaudio"] = None
from transformers import HubertConfig, HubertModel  # noqa: E402

del sys.modules["torchaudio"]
from make import HERE, STEP, criterion, exact, logit_generator, stored  # noqa: E402

MODEL = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48,
         "conv_dim": [8, 12, 12], "conv_kernel": [10, 3, 2], "conv_stride": [5, 2, 2], "num_conv_pos_embeddings": 8,
         "num_conv_pos_embedding_groups": 4, "layerdrop": 0.0, "hidden_dropout": 0.0, "attention_dropout": 0.0,
         "activation_dropout": 0.0, "feat_proj_dropout": 0.0, "attn_implementation": "eager"}
SAMPLES, LENGTHS = 700, [700, 451, 230]
SETTINGS = STEP | {"batch": len(LENGTHS), "penalty": 10.0, "grad_factor": 0.1, "samples": SAMPLES}
RENAMED = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v",
           "head.final_proj.": "projection.", "head.label_embeddings": "codewords"}


class Network(torch.nn.Module):
    """Backbone and head."""

    def __init__(self):
        super().__init__()
        self.backbone = HubertModel(HubertConfig(**MODEL)).eval()
        classes = SETTINGS["units"] + SETTINGS["extra_classes"]
        self.head = logit_generator()(MODEL["hidden_size"], classes, SETTINGS["width"], False, False)

    def frames(self, samples):
        """What the convolutions make [B, F, C]; gradients that enter them are made smaller."""
        frames, factor = self.backbone.feature_extractor(samples).transpose(1, 2), SETTINGS["grad_factor"]
        return factor * frames + (1.0 - factor) * frames.detach()

    def tokens(self, frames, mask, valid):
        """Tokens [B, F, D] of frames."""
        hidden = self.backbone.feature_projection(frames)
        hidden = torch.where(mask.unsqueeze(-1), self.backbone.masked_spec_embed, hidden)
        return self.backbone.encoder(hidden, attention_mask=valid).last_hidden_state

    def named(self, value):
        """(name, tensor) by the host's names, of parameters of which `value` gives a tensor: queries, keys, values in one."""
        for name, parameter in self.named_parameters():
            for theirs, ours in RENAMED.items():
                name = name.replace(theirs, ours)
            if "k_proj" in name or "v_proj" in name:
                continue
            if "q_proj" in name:
                thirds = [value(self.get_parameter(name.replace("q_proj", f"{third}_proj"))) for third in "qkv"]
                if thirds[0] is not None:
                    yield name.replace("q_proj", "qkv"), torch.cat(thirds)
            elif value(parameter) is not None:
                yield name, value(parameter)


def start(network):
    """Gives every parameter a random value, none its usual start of 0 or 1."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            fan_in = max(1, parameter[0].numel()) if parameter.dim() > 1 else 25
            value = torch.randn(parameter.shape, generator=generator) / fan_in**0.5
            if name.endswith("layer_norm.weight") or name.endswith("original0"):
                value = 1.0 + 0.2 * value
            parameter.copy_(exact(value))


def batch(network, generator):
    """Waveforms, lengths, and what of the frames is hidden, sound, and which unit."""
    samples, lengths = exact(torch.randn(len(LENGTHS), SAMPLES, generator=generator)), torch.tensor(LENGTHS)
    samples[torch.arange(SAMPLES) >= lengths[:, None]] = 0.0
    counts = network.backbone._get_feat_extract_output_lengths(lengths)
    valid = torch.arange(int(counts.max())) < counts[:, None]
    mask = (torch.rand(valid.shape, generator=generator) < SETTINGS["hidden"]) & valid
    mask[:, 0] = True
    units = torch.randint(SETTINGS["units"], valid.shape, generator=generator)
    return samples, lengths, mask, units, valid


def main():
    """Writes the file."""
    torch.set_default_dtype(torch.float64)
    torch.Tensor.float = lambda tensor: tensor
    network = Network()
    start(network)
    parameters = list(network.parameters())
    groups = [{"params": [p for p in parameters if p.dim() > 1], "weight_decay": SETTINGS["weight_decay"]},
              {"params": [p for p in parameters if p.dim() == 1], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=SETTINGS["lr"], betas=SETTINGS["betas"], eps=SETTINGS["eps"])
    generator, tensors = torch.Generator().manual_seed(6), {}
    keep = lambda prefix, value: tensors.update({f"{prefix}.{n}": stored(t) for n, t in network.named(value)})
    keep("student", lambda p: p)
    for step in range(SETTINGS["steps"]):
        samples, lengths, mask, units, valid = batch(network, generator)
        views = {"samples": (samples, numpy.float32), "lengths": (lengths, numpy.uint32), "mask": (mask, numpy.uint8),
                 "units": (units, numpy.uint32), "known": (valid, numpy.uint8)}
        tensors |= {f"{name}.{step}": stored(tensor, kind) for name, (tensor, kind) in views.items()}
        frames = network.frames(samples)
        penalty = frames.pow(2).mean()
        if step == 0:
            (SETTINGS["penalty"] * penalty).backward(retain_graph=True)
            keep("penalty_gradient", lambda p: p.grad)
        prediction = criterion(network.head, network.tokens(frames, mask, valid), units, mask, 1.0, 0.0)
        loss = prediction + SETTINGS["penalty"] * penalty
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            keep("gradient", lambda p: p.grad)
        norm = torch.nn.utils.clip_grad_norm_(parameters, SETTINGS["clip"])
        optimizer.step()
        if step in (0, SETTINGS["steps"] - 1):
            keep(f"student.{step}", lambda p: p)
        figures = {"loss": loss, "prediction": prediction, "penalty": penalty, "norm": norm}
        tensors |= {f"{name}.{step}": stored(figure, numpy.float64) for name, figure in figures.items()}
        print({name: round(figure.item(), 4) for name, figure in figures.items()})
    settings = json.dumps(SETTINGS | MODEL)
    save_file(tensors, HERE / "sound.safetensors", metadata={"settings": settings})


if __name__ == "__main__":
    main()
