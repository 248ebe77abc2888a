"""Writes statistics of torchaudio's masks of spans, which are fairseq's (`masks.safetensors`).

    pip install torch torchaudio safetensors numpy
    python tests/reference/hubert/masks.py

Metadata `cases` is a JSON list of {"side", "probability", "length", "min_spans", "batch", "batches"}: rows of side * side frames.
Case `i` has `ci.share` [F], how often a frame is hidden, and `ci.share_std` [F], the standard deviation over batches of its share in a
batch; `ci.count` [2], mean and standard deviation over batches of how many frames of a row are hidden, the same in all of a batch.
"""

import json

import numpy
import torch
from make import HERE, logit_generator
from safetensors.numpy import save_file

CASES = [{"side": side, "probability": probability, "length": length, "min_spans": spans, "batch": 8, "batches": 4000}
         for side, probability, length, spans in ((7, 0.8, 10, 2), (9, 0.65, 10, 2), (4, 0.8, 10, 2), (8, 0.5, 4, 1))]


def main():
    """Writes the file."""
    torch.manual_seed(9)
    torch.set_num_threads(1)
    logit_generator()
    from torchaudio.models.wav2vec2.components import _compute_mask_indices

    tensors = {}
    for i, case in enumerate(CASES):
        shape = (case["batch"], case["side"] ** 2)
        # fairseq's collater always gives one, so that the number of spans is drawn for each row.
        nothing_padded = torch.zeros(shape, dtype=torch.bool)
        drawn = torch.stack([
            _compute_mask_indices(shape, nothing_padded, case["probability"], case["length"], min_masks=case["min_spans"])
            for _ in range(case["batches"])]).double()
        shares, counts = drawn.mean(1), drawn[:, 0].sum(1)
        tensors[f"c{i}.share"], tensors[f"c{i}.share_std"] = shares.mean(0).numpy(), shares.std(0).numpy()
        tensors[f"c{i}.count"] = numpy.array([counts.mean(), counts.std()])
        print(case, tensors[f"c{i}.count"])
    save_file(tensors, HERE / "masks.safetensors", metadata={"cases": json.dumps(CASES)})


if __name__ == "__main__":
    main()
