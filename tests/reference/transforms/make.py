"""Writes torchvision's image transforms on PIL images: `transforms.safetensors`.

    pip install torch torchvision safetensors numpy
    python tests/reference/transforms/make.py

Metadata `cases` is a JSON list of {"transform": NAME, its numbers}; case i turns `ci.in` u8 [H, W, 3] into `ci.out` u8
[H', W', 3] (f32 [3, H, W] for `normalize`). The numbers: `resized_crop` top, left, height, width of the box and the size
[H', W'] (bicubic, antialiased); `brightness`, `contrast`, `saturation`, `hue` factor; `grayscale` none; `blur` radius (the
standard deviation in pixels; PIL makes it of three box blurs); `solarize` threshold; `flip` none; `normalize` mean and std
per channel of values in [0, 1].
"""

import json
import pathlib

import numpy
import torch
from PIL import Image, ImageFilter
from safetensors.numpy import save_file
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F

HERE = pathlib.Path(__file__).parent
CASES = [
    {"transform": "resized_crop", "top": 2, "left": 3, "height": 20, "width": 17, "size": [8, 8]},
    {"transform": "resized_crop", "top": 0, "left": 0, "height": 24, "width": 30, "size": [16, 16]},
    {"transform": "resized_crop", "top": 5, "left": 1, "height": 6, "width": 7, "size": [16, 16]},
    {"transform": "resized_crop", "top": 23, "left": 29, "height": 1, "width": 1, "size": [4, 4]},
    {"transform": "resized_crop", "top": 4, "left": 4, "height": 16, "width": 16, "size": [16, 16]},
    {"transform": "resized_crop", "top": 0, "left": 7, "height": 23, "width": 5, "size": [7, 9]},
    *({"transform": "brightness", "factor": factor} for factor in (0.0, 0.6, 1.0, 1.4)),
    *({"transform": "contrast", "factor": factor} for factor in (0.0, 0.6, 1.0, 1.4)),
    *({"transform": "saturation", "factor": factor} for factor in (0.0, 0.8, 1.0, 1.2)),
    *({"transform": "hue", "factor": factor} for factor in (-0.5, -0.1, 0.0, 0.1, 0.37)),
    {"transform": "grayscale"},
    *({"transform": "blur", "radius": radius} for radius in (0.1, 0.5, 1.0, 2.0)),
    {"transform": "solarize", "threshold": 128},
    {"transform": "flip"},
    {"transform": "normalize", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
]


def picture(seed):
    """Waves with noise, [24, 30, 3]: both smooth places and edges, every value from 0 to 255."""
    generator = numpy.random.default_rng(seed)
    y, x = numpy.mgrid[0:24, 0:30]
    waves = [numpy.sin(x / (3.0 + c) + seed) + numpy.cos(y / (2.0 + c)) for c in range(3)]
    values = 128.0 + 70.0 * numpy.stack(waves, -1) + generator.normal(0.0, 25.0, (24, 30, 3))
    return numpy.clip(values, 0.0, 255.0).astype(numpy.uint8)


def apply(case, image):
    """What torchvision makes of the PIL image `image`."""
    kind = case["transform"]
    if kind == "resized_crop":
        box = [case[key] for key in ("top", "left", "height", "width")]
        return F.resized_crop(image, *box, case["size"], InterpolationMode.BICUBIC)
    if kind in ("brightness", "contrast", "saturation", "hue"):
        return getattr(F, f"adjust_{kind}")(image, case["factor"])
    if kind == "grayscale":
        return F.rgb_to_grayscale(image, num_output_channels=3)
    if kind == "blur":
        return image.filter(ImageFilter.GaussianBlur(radius=case["radius"]))
    if kind == "solarize":
        return F.solarize(image, case["threshold"])
    if kind == "flip":
        return F.hflip(image)
    return F.normalize(F.to_tensor(image), case["mean"], case["std"])


def main():
    """Writes the file."""
    tensors = {}
    for number, case in enumerate(CASES):
        pixels = picture(number)
        out = apply(case, Image.fromarray(pixels))
        tensors[f"c{number}.in"] = pixels
        tensors[f"c{number}.out"] = out.numpy() if isinstance(out, torch.Tensor) else numpy.array(out)
    save_file(tensors, HERE / "transforms.safetensors", metadata={"cases": json.dumps(CASES)})


if __name__ == "__main__":
    main()
