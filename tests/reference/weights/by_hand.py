"""Takes weights of whole models into the product and out of it again, and says how far features then lie apart.

    pip install torch torchvision timm transformers safetensors numpy pillow
    python tests/reference/weights/by_hand.py PRETEXT [CASE ...]        # the binary, with its plugins beside it

In: timm's ViT-S/16, ResNet-18 and ResNet-50, Hugging Face's `ViTModel` in the size of ViT-S and `HubertModel` in its base
configuration, all weights random. Each starts a run that changes no weight; the run's features are compared with the model's, and what `pretext export` writes
with the weights that came in. Out: small networks, trained for a few steps, in every format; timm, transformers and torchvision
load the files strictly, and their features are compared with the run's. A difference is relative to the value, or to the root
mean square of all where that is larger. Nothing is kept: these weights are too large to be stored as reference values.
"""

import argparse
import os
import pathlib
import subprocess
import sys
import tempfile
import wave

os.environ.setdefault("OMP_NUM_THREADS", "1")
import numpy
import timm
import torch
import torchvision
from PIL import Image
from safetensors.torch import load_file, save_file
from timm.models.vision_transformer import VisionTransformer

# None of these models needs torchaudio, which transformers would load.
sys.modules["torchaudio"] = None
from transformers import HubertConfig, HubertModel, ViTConfig, ViTModel, logging  # noqa: E402

logging.disable_progress_bar()
torch.set_num_threads(1)
TOLERANCE = 1e-4
MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
STILL = ["train.steps=1", "lr=0", "lr_final=0", "weight_decay=0", "weight_decay_end=0"]
SMALL = ["train.steps=4", "lr=1e-3", "lr_final=1e-3"]
COMMON = ["threads=1", "data=shapes", "lr_batch=0", "warmup_epochs=0", "batch=2", "probe.every=0", "bank=4", "queries=4", "k=1", "n=8"]
DINO = ["prototypes=16", "head_hidden=16", "head_bottleneck=8", "local_crops=0"]
SWAV = ["prototypes=16", "head_hidden=16", "head_dim=8", "local_crops=0", "queue_length=0"]
HUBERT = ["iterations=1", "clusters_first=4", "cluster_tries=1", "cluster_epochs=1", "cluster_share=1"]
RATE, SECONDS = 16000, [1.0, 0.8, 0.55, 0.9]


class Place:
    """A folder to work in, with pictures and sounds, and the program."""

    def __init__(self, program, folder):
        self.program, self.folder = pathlib.Path(program).resolve(), pathlib.Path(folder)
        generator = numpy.random.default_rng(0)
        for side in (32, 224):
            pictures = generator.integers(0, 256, (4, side, side, 3), dtype=numpy.uint8)
            for i, picture in enumerate(pictures):
                self.file(f"pictures{side}/c/{i}.png").parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(picture).save(self.file(f"pictures{side}/c/{i}.png"))
        for name, seconds in (("equal", [1.0] * len(SECONDS)), ("padded", SECONDS)):
            self.file(name).mkdir()
            for i, length in enumerate(seconds):
                samples = (3000 * generator.standard_normal(int(RATE * length))).clip(-32768, 32767).astype("<i2")
                with wave.open(str(self.file(f"{name}/{i}_{name}.wav")), "wb") as out:
                    out.setparams((1, 2, RATE, len(samples), "NONE", ""))
                    out.writeframes(samples.tobytes())

    def file(self, name):
        """A path below the folder."""
        return self.folder / name

    def pretext(self, *words):
        """Runs the program; its words where it fails."""
        done = subprocess.run([self.program, *map(str, words)], cwd=self.folder, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"pretext {' '.join(map(str, words))}\n{done.stdout}{done.stderr}")
        return done.stdout + done.stderr

    def features(self, run, data, *words):
        """The features [N, D] that a run's student has of data, in the order of the files."""
        out = self.file("features.safetensors")
        self.pretext("embed", f"runs/{run}", "--which", "student", f"data={data}", "threads=1", *words, "--out", out)
        read = load_file(out)
        return read["features"][read["indices"].argsort()]

    def export(self, run, form, out):
        """Writes a run's student."""
        self.pretext("export", f"runs/{run}", "--which", "student", "--format", form, "--out", self.file(out))
        return self.file(out)

    def pictures(self, side):
        """Pictures as models take them [N, 3, S, S]."""
        files = sorted(self.file(f"pictures{side}/c").iterdir())
        pixels = torch.stack([torch.from_numpy(numpy.array(Image.open(file))) for file in files])
        return ((pixels / 255.0 - MEAN) / STD).permute(0, 3, 1, 2).contiguous()

    def sounds(self, name):
        """Waveforms with silence behind the shorter ones [N, T], and what of them is sound."""
        waves = []
        for file in sorted(self.file(name).iterdir()):
            with wave.open(str(file)) as sound:
                waves.append(torch.frombuffer(bytearray(sound.readframes(sound.getnframes())), dtype=torch.int16) / 32768.0)
        lengths = torch.tensor([len(samples) for samples in waves])
        padded = torch.nn.utils.rnn.pad_sequence(waves, batch_first=True)
        return padded, (torch.arange(padded.shape[1]) < lengths[:, None]).long()


def difference(got, want):
    """As the tests measure it."""
    assert got.shape == want.shape, (got.shape, want.shape)
    got, want = got.double(), want.double()
    size = want.pow(2).mean().sqrt()
    return ((got - want).abs() / want.abs().maximum(size)).max().item()


def fill(model):
    """Gives every parameter and running statistic a random value, none its usual start of 0 or 1."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if not tensor.is_floating_point():
                continue
            value = torch.randn(tensor.shape, generator=generator)
            if name.endswith("original0") or (tensor.dim() == 1 and name.endswith(("weight", "running_var"))):
                value = 1.0 + 0.2 * value.clamp(-2.0, 2.0)
            elif tensor.dim() > 1:
                value = value / max(1, tensor[0].numel()) ** 0.5
            else:
                value = 0.2 * value
            tensor.copy_(value)
    return model.eval()


def same(place, run, form, out, given):
    """The largest difference of a tensor that went through a run; running statistics move with each batch."""
    path = place.export(run, form, out)
    written = load_file(path / "model.safetensors" if path.is_dir() else path)
    left_out = ("head.", "fc.", "pooler.", "masked_spec_embed")
    wanted = {name: tensor for name, tensor in given.items()
              if not name.startswith(left_out) and not name.endswith("num_batches_tracked")}
    assert written.keys() - {"masked_spec_embed"} == wanted.keys(), written.keys() ^ wanted.keys()
    return max(difference(written[name], tensor) for name, tensor in wanted.items() if "running" not in name)


def pooled(model, inputs, inside=None):
    """The mean of a `HubertModel`'s tokens that are sound."""
    tokens = model(inputs, attention_mask=inside).last_hidden_state
    if inside is None:
        return tokens.mean(1)
    valid = model._get_feature_vector_attention_mask(tokens.shape[1], inside).unsqueeze(-1)
    return (tokens * valid).sum(1) / valid.sum(1)


def loaded_timm(model, path):
    """`model` with the weights in a file, which have to be all of it."""
    model.load_state_dict(load_file(path), strict=True)
    return model.eval()


def loaded_hf(kind, path, **more):
    """A model of a folder, of which nothing may be missing or left over."""
    model, told = kind.from_pretrained(path, output_loading_info=True, **more)
    wrong = {key: value for key, value in told.items() if value}
    assert not wrong, wrong
    return model.eval()


def vit_in_timm(place):
    """timm's ViT-S/16."""
    model = fill(timm.create_model("vit_small_patch16_224", pretrained=False))
    save_file(model.state_dict(), place.file("in.safetensors"))
    place.pretext("train", "dino:vit-small", "run=vit-timm", "init=in.safetensors",
                  "global_size=224", *STILL, *DINO, *COMMON)
    yield "weights", same(place, "vit-timm", "timm", "out.safetensors", model.state_dict())
    got = place.features("vit-timm", "pictures224", "data.size=224")
    yield "features", difference(got, model.forward_features(place.pictures(224))[:, 0])


def vit_in_hf(place):
    """Hugging Face's `ViTModel` as it is made, but for the size of ViT-S: small tokens, to which the norms' 1e-12 matters."""
    torch.manual_seed(2)
    config = ViTConfig(hidden_size=384, num_attention_heads=6, intermediate_size=1536)
    model = ViTModel(config).eval()
    model.save_pretrained(place.file("in"))
    place.pretext("train", "dino:vit-small", "run=vit-hf", "init=in", f"norm_eps={config.layer_norm_eps}",
                  "global_size=224", *STILL, *DINO, *COMMON)
    yield "weights", same(place, "vit-hf", "hf", "out", load_file(place.file("in/model.safetensors")))
    got = place.features("vit-hf", "pictures224", "data.size=224")
    yield "features", difference(got, model(place.pictures(224)).last_hidden_state[:, 0])


def resnet_in(size):
    """timm's ResNet."""
    def case(place):
        model = fill(timm.create_model(f"resnet{size}", pretrained=False))
        file = f"in{size}.safetensors"
        save_file(model.state_dict(), place.file(file))
        run = f"resnet-timm-{size}"
        place.pretext("train", "swav:resnet50", f"run={run}", f"init={file}", f"backbone.size={size}", "global_size=224",
                      *STILL, *SWAV, *COMMON)
        yield "weights", same(place, run, "timm", "out.safetensors", model.state_dict())
        # One step moved the running statistics, so the model takes over those of the run.
        kept = load_file(place.file("out.safetensors"))
        model.load_state_dict({name: kept.get(name, tensor) for name, tensor in model.state_dict().items()})
        got = place.features(run, "pictures224", "data.size=224")
        yield "features", difference(got, model.forward_features(place.pictures(224)).mean((2, 3)))
    return case


def hubert_in(place):
    """Hugging Face's `HubertModel` of the base configuration."""
    model = fill(HubertModel(HubertConfig(attn_implementation="eager")))
    model.save_pretrained(place.file("in"))
    place.pretext("train", "hubert", "run=hubert", "init=in", "pad=true", "backbone=wave", "backbone.size=base",
                  *STILL, *HUBERT, *COMMON, "data=padded")
    yield "weights", same(place, "hubert", "hf", "out", load_file(place.file("in/model.safetensors")))
    got = place.features("hubert", "equal", "data.max_seconds=0")
    yield "features", difference(got, pooled(model, place.sounds("equal")[0]))
    got = place.features("hubert", "padded", "data.max_seconds=0")
    yield "features of padded sound", difference(got, pooled(model, *place.sounds("padded")))


def vit_out(run, words, options, forms=("timm",)):
    """A small ViT for timm, and for Hugging Face where it has a place for all of it."""
    def case(place):
        place.pretext("train", "dino", f"run={run}", "backbone=vit", "width=48", "depth=3", "heads=3", "patch=8",
                      "global_size=32", *words, *SMALL, *DINO, *COMMON)
        got, pictures = place.features(run, "pictures32", "data.size=32"), place.pictures(32)
        for form in forms:
            path = place.export(run, form, f"{run}.{form}")
            if form == "hf":
                model = loaded_hf(ViTModel, path, add_pooling_layer=False)
                features = model(pictures).last_hidden_state[:, 0]
            else:
                model = loaded_timm(VisionTransformer(img_size=32, patch_size=8, embed_dim=48, depth=3, num_heads=3,
                                                      num_classes=0, **options), path)
                features = model(pictures)
            yield f"features by {form}", difference(features, got)
    return case


def resnet_out(size):
    """A trained ResNet for timm and torchvision."""
    def case(place):
        run = f"resnet-out-{size}"
        place.pretext("train", "swav:resnet50", f"run={run}", f"backbone.size={size}", "global_size=32",
                      *SMALL, *SWAV, *COMMON)
        got, pictures = place.features(run, "pictures32", "data.size=32"), place.pictures(32)
        path = place.export(run, "timm", f"{run}.safetensors")
        model = loaded_timm(timm.create_model(f"resnet{size}", pretrained=False, num_classes=0), path)
        yield "features by timm", difference(model(pictures), got)
        model = getattr(torchvision.models, f"resnet{size}")()
        model.fc = torch.nn.Identity()
        yield "features by torchvision", difference(loaded_timm(model, path)(pictures), got)
    return case


def wave_out(place):
    """A small `wave` for transformers."""
    place.pretext("train", "hubert", "run=wave-out", "pad=true", "backbone=wave", "backbone.width=48",
                  "backbone.depth=2", "backbone.heads=3", "conv_widths=32", *SMALL, *HUBERT, *COMMON, "data=padded")
    model = loaded_hf(HubertModel, place.export("wave-out", "hf", "wave-out"), attn_implementation="eager")
    got = place.features("wave-out", "equal", "data.max_seconds=0")
    yield "features", difference(pooled(model, place.sounds("equal")[0]), got)
    got = place.features("wave-out", "padded", "data.max_seconds=0")
    yield "features of padded sound", difference(pooled(model, *place.sounds("padded")), got)


CASES = {
    "in-vit-timm": vit_in_timm, "in-vit-hf": vit_in_hf, "in-resnet18": resnet_in(18), "in-resnet50": resnet_in(50),
    "in-hubert": hubert_in,
    "out-vit": vit_out("plain", [], {}, ("safetensors", "timm", "hf")),
    "out-vit-masked": vit_out("masked", ["mask_token=true"], {}, ("timm", "hf")),
    "out-vit-registers": vit_out("registers", ["registers=2"], {"reg_tokens": 2, "no_embed_class": True}),
    "out-vit-scaled": vit_out("scaled", ["layer_scale=0.1"], {"init_values": 0.1}),
    "out-vit-mean": vit_out("mean", ["class_token=false", "pool=mean"],
                            {"class_token": False, "global_pool": "avg", "fc_norm": False}),
    "out-vit-sincos": vit_out("sincos", ["positions=sin-cos"], {}, ("timm", "hf")),
    "out-vit-no-bias": vit_out("no-bias", ["qkv_bias=false"], {"qkv_bias": False}, ("timm", "hf")),
    "out-resnet18": resnet_out(18), "out-resnet50": resnet_out(50), "out-wave": wave_out,
}


def main():
    """Goes through the cases that were asked for, or all."""
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("cases", nargs="*", choices=[*CASES, []], metavar="CASE")
    asked = parser.parse_args()
    worst = 0.0
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        place = Place(asked.program, folder)
        for name in asked.cases or CASES:
            for what, far in CASES[name](place):
                print(f"{name}: {what} {far:.1e}{'' if far <= TOLERANCE else ', TOO FAR'}", flush=True)
                worst = max(worst, far)
    print(f"largest difference: {worst:.1e}")
    return int(worst > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
