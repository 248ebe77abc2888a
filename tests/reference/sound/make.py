"""Writes torchaudio's features of sounds (`features.safetensors`).

    pip install torch torchaudio safetensors numpy
    python tests/reference/sound/make.py

features.safetensors: metadata `cases` is a JSON list of {"rate", "bands"}. Case i has the sound `ci.wave` [T], f32, -1 to 1;
`ci.mfcc` [frames, 39]: 13 MFCC by `torchaudio.compliance.kaldi.mfcc` with its defaults but `use_energy=False`, which is what
fairseq's HuBERT dumps, then `torchaudio.functional.compute_deltas` once and twice; and `ci.log_mel` [bands, frames] by
`torchaudio.compliance.kaldi.fbank` with its defaults, no dither, and `bands` bands. Computed in f64 from the f32 sound, so
that a difference is the product's rounding; torchaudio's floor of energies is that of f32 in either case.
"""

import json
import pathlib

import numpy
import torch
import torchaudio
from safetensors.numpy import save_file

HERE = pathlib.Path(__file__).parent
kaldi = torchaudio.compliance.kaldi


def sound(rate, seconds, seed):
    """A rising tone with harmonics that comes and goes, over a little noise."""
    n = int(rate * seconds)
    time = numpy.arange(n) / rate
    noise = numpy.random.default_rng(seed).standard_normal(n)
    phase = 2 * numpy.pi * (150 * time + 400 * time**2)
    tone = sum(numpy.sin(k * phase) / k for k in range(1, 6))
    swell = 0.5 - 0.5 * numpy.cos(2 * numpy.pi * 3 * time)
    return (0.2 * swell * tone + 0.003 * noise).astype(numpy.float32)


CASES = [
    ({"rate": 16000, "bands": 64}, sound(16000, 0.6, 0)),
    ({"rate": 8000, "bands": 23}, sound(8000, 0.5, 1)),
    ({"rate": 22050, "bands": 80}, sound(22050, 0.3, 2)),
    # Digital silence at both ends: the floor.
    ({"rate": 16000, "bands": 40}, numpy.pad(sound(16000, 0.2, 3), 1000)),
    # One frame.
    ({"rate": 16000, "bands": 64}, sound(16000, 0.025, 4)),
]


def main():
    tensors = {}
    for i, (case, wave) in enumerate(CASES):
        rows = torch.from_numpy(wave).double()[None]
        rate = float(case["rate"])
        mfcc = kaldi.mfcc(rows, sample_frequency=rate, use_energy=False).T
        slopes = torchaudio.functional.compute_deltas(mfcc)
        slopes_of_slopes = torchaudio.functional.compute_deltas(slopes)
        mel = kaldi.fbank(rows, sample_frequency=rate, num_mel_bins=case["bands"], dither=0.0)
        tensors[f"c{i}.wave"] = wave
        tensors[f"c{i}.mfcc"] = torch.cat([mfcc, slopes, slopes_of_slopes]).T.contiguous().float().numpy()
        tensors[f"c{i}.log_mel"] = mel.T.contiguous().float().numpy()
    cases = json.dumps([case for case, _ in CASES])
    save_file(tensors, HERE / "features.safetensors", metadata={"cases": cases})


if __name__ == "__main__":
    main()
