"""Writes statistics of I-JEPA's block masks (`masks.safetensors`), sampled by NumPy from the facts about the authors' code.

    pip install numpy safetensors
    python tests/reference/jepa/masks.py

The facts: block sizes are drawn once per batch; one uniform draw gives scale and ratio; n = int(scale H W) patches make
round(sqrt(n ratio)) rows and round(sqrt(n / ratio)) columns, made smaller until strictly below the grid; places are drawn
below H - h and W - w; the context block (scale 0.85 to 1, ratio 1) loses the patches of the four target blocks (0.15 to 0.2,
0.75 to 1.5); it must keep more than 10 patches, and after 20 failed tries one target less counts; all masks of a batch are
cut to the shortest, keeping the first patches in raster order. The corrected variant draws scale and ratio apart, allows
blocks in the last row and column, and keeps any patches.

Metadata `cases` is a JSON list of {"side", "corrected", "batch", "batches"}; case `i` has `ci.target` [side, side], how often
a patch lies in a target mask, as a share of masks, `ci.context` [side, side] the same of contexts, and `ci.lengths` [4]: mean
and standard deviation over batches of Kt, then of Kc.
"""

import json
import pathlib

import numpy
from safetensors.numpy import save_file

HERE = pathlib.Path(__file__).parent
CASES = [{"side": side, "corrected": corrected, "batch": 16, "batches": 4000}
         for side in (14, 16) for corrected in (False, True)]
CONTEXT, TARGET = ((0.85, 1.0), (1.0, 1.0)), ((0.15, 0.2), (0.75, 1.5))
BLOCKS, MIN_KEEP, TRIES = 4, 10, 20


def block_size(random, side, extent, corrected):
    """Rows and columns of a batch's blocks."""
    (low, high), (narrow, wide) = extent
    first = random.random()
    second = random.random() if corrected else first
    patches = int(side * side * (low + first * (high - low)))
    ratio = narrow + second * (wide - narrow)
    rows, cols = round((patches * ratio) ** 0.5), round((patches / ratio) ** 0.5)
    most = side if corrected else side - 1
    return min(rows, most), min(cols, most)


def place(random, side, size, corrected):
    """A grid of the block's patches."""
    last = 1 if corrected else 0
    top, left = [random.integers(0, side - length + last) for length in size]
    grid = numpy.zeros((side, side), bool)
    grid[top:top + size[0], left:left + size[1]] = True
    return grid


def sample(random, side, sizes, corrected):
    """The patches of the targets and of the context of one sample."""
    target, context = sizes
    targets = [place(random, side, target, corrected) for _ in range(BLOCKS)]
    tries = 0
    while True:
        counted = targets[:max(BLOCKS - tries // TRIES, 0)]
        free = place(random, side, context, corrected)
        for grid in counted:
            free = free & ~grid
        if free.sum() > MIN_KEEP:
            return [numpy.flatnonzero(grid) for grid in targets], numpy.flatnonzero(free)
        tries += 1


def cut(random, mask, length, corrected):
    """`length` patches of `mask`."""
    return numpy.sort(random.choice(mask, length, replace=False)) if corrected else mask[:length]


def statistics(number, case, tensors):
    """Samples one case."""
    side, corrected = case["side"], case["corrected"]
    random = numpy.random.default_rng(number)
    target, context, lengths = numpy.zeros(side * side), numpy.zeros(side * side), []
    for _ in range(case["batches"]):
        sizes = [block_size(random, side, extent, corrected) for extent in (TARGET, CONTEXT)]
        drawn = [sample(random, side, sizes, corrected) for _ in range(case["batch"])]
        shortest = min(len(mask) for targets, _ in drawn for mask in targets), min(len(mask) for _, mask in drawn)
        lengths.append(shortest)
        for targets, mask in drawn:
            for one in targets:
                target[cut(random, one, shortest[0], corrected)] += 1.0 / BLOCKS
            context[cut(random, mask, shortest[1], corrected)] += 1.0
    samples = case["batches"] * case["batch"]
    lengths = numpy.array(lengths, float)
    tensors[f"c{number}.target"] = target.reshape(side, side) / samples
    tensors[f"c{number}.context"] = context.reshape(side, side) / samples
    tensors[f"c{number}.lengths"] = numpy.stack([lengths.mean(0), lengths.std(0)], 1).flatten()


def main():
    """Writes the file."""
    tensors = {}
    for number, case in enumerate(CASES):
        statistics(number, case, tensors)
        print(case, tensors[f"c{number}.lengths"])
    save_file(tensors, HERE / "masks.safetensors", metadata={"cases": json.dumps(CASES)})


if __name__ == "__main__":
    main()
