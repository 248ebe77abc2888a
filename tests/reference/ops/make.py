"""Writes PyTorch's values for every op of docs/ops.md, one small safetensors file per op.

    pip install torch lightly safetensors numpy
    python tests/reference/ops/make.py            # every op
    python tests/reference/ops/make.py softmax    # these ops only

The cases stand in catalogue.py. Inputs are f32; PyTorch computes from them in f64, and outputs and gradients are
stored in f64, so that a difference is the engine's rounding and never PyTorch's. `tests/it/ops.rs` reads the files.

A file's metadata `cases` is a JSON list. A case with values:

    {"args": [{"tensor": "c0.arg0"}, {"int": 1}, {"float": 0.5}, {"ints": [1, 2]}, {"stream": 7}, {"none": true}],
     "outputs": ["c0.out0"], "seed": "c0.seed", "gradients": {"0": "c0.grad0"}}

`gradients` are those of sum(first output * seed), by argument; a float argument that isn't named there takes none.
Ops without a gradient have neither `seed` nor `gradients`. A case of a random op has no values but a law:

    {"args": [...], "property": "distribution", "shape": [...], "points": "c0.points", "shares": "c0.shares"}
    {"args": [...], "property": "dropped", "dropped": 0.3, "scale": 1.43, "together": 1}

`distribution`: the share of the output below each point, by PyTorch's cdf. `dropped`: each run of `together` elements is
either zero, with probability `dropped`, or `scale` times the input, and the gradient is zero or `scale` in the same places.
"""

import json
import pathlib
import sys
import zlib

import numpy
import torch
from catalogue import OPS, Law, Stream
from safetensors.numpy import save_file

HERE = pathlib.Path(__file__).parent


class Draw:
    """Draws the inputs of one op: f32 values held as f64, always the same for the same name."""

    def __init__(self, name):
        self.generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))

    def __call__(self, *shape, scale=1.0):
        """Normal values of `shape`."""
        return self.exact(torch.randn(shape, generator=self.generator) * scale)

    def positive(self, *shape):
        """Values in [0.2, 2.2), for logarithms, roots and divisors."""
        return self.exact(torch.rand(shape, generator=self.generator) * 2.0 + 0.2)

    def below(self, n, *shape):
        """Whole numbers in [0, n), repeats allowed."""
        return torch.randint(n, shape, generator=self.generator)

    def distinct(self, n, rows, k):
        """`rows` draws of `k` different whole numbers in [0, n)."""
        return torch.stack([torch.randperm(n, generator=self.generator)[:k] for _ in range(rows)])

    def mask(self, *shape):
        """True or false, evenly."""
        return torch.rand(shape, generator=self.generator) < 0.5

    @staticmethod
    def exact(values):
        """`values` rounded to f32 and held as f64."""
        return torch.as_tensor(values, dtype=torch.float32).double()


def stored(tensor, kind=numpy.float64):
    """`tensor` as the file keeps it: u32 for indices, u8 for masks, `kind` for real numbers."""
    array = tensor.detach().numpy()
    if array.dtype == numpy.bool_:
        kind = numpy.uint8
    elif array.dtype == numpy.int64:
        kind = numpy.uint32
    return numpy.ascontiguousarray(array.astype(kind)).reshape(tensor.shape)


def described(value, name, tensors):
    """An argument as JSON; a tensor goes to `tensors` under `name`."""
    if isinstance(value, torch.Tensor):
        tensors[name] = stored(value, numpy.float32)
        return {"tensor": name}
    if isinstance(value, Stream):
        return {"stream": value.seed}
    if value is None:
        return {"none": True}
    return {{int: "int", float: "float", list: "ints"}[type(value)]: value}


def write_values(case, reference, args, draw, tensors):
    """Adds the outputs of `reference` on `args`, and the gradients where the first output has any."""
    inputs = [a.requires_grad_() if isinstance(a, torch.Tensor) and a.is_floating_point() else a for a in args]
    outputs = reference(*inputs)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    prefix = case["prefix"]
    case["outputs"] = [f"{prefix}.out{i}" for i in range(len(outputs))]
    for name, output in zip(case["outputs"], outputs):
        tensors[name] = stored(output)
    if not outputs[0].requires_grad:
        return
    seed = draw(*outputs[0].shape)
    case["seed"] = f"{prefix}.seed"
    tensors[case["seed"]] = stored(seed, numpy.float32)
    wanted = [i for i, a in enumerate(inputs) if isinstance(a, torch.Tensor) and a.requires_grad]
    gradients = torch.autograd.grad(outputs[0], [inputs[i] for i in wanted], seed, allow_unused=True)
    case["gradients"] = {}
    for i, gradient in zip(wanted, gradients):
        if gradient is not None:
            case["gradients"][str(i)] = f"{prefix}.grad{i}"
            tensors[f"{prefix}.grad{i}"] = stored(gradient)


def write_law(case, law, tensors):
    """Adds what must hold of a random output."""
    case["property"] = law.name
    for key, value in law.facts.items():
        if isinstance(value, torch.Tensor):
            name = f"{case['prefix']}.{key}"
            tensors[name] = stored(value)
            value = name
        case[key] = value


def write(name):
    """Writes the file of the op `name`; returns its size in bytes."""
    draw, tensors, cases = Draw(name), {}, []
    for number, (reference, args) in enumerate(OPS[name](draw)):
        case = {"prefix": f"c{number}"}
        case["args"] = [described(a, f"c{number}.arg{i}", tensors) for i, a in enumerate(args)]
        if isinstance(reference, Law):
            write_law(case, reference, tensors)
        else:
            write_values(case, reference, args, draw, tensors)
        del case["prefix"]
        cases.append(case)
    path = HERE / f"{name}.safetensors"
    save_file(tensors, path, metadata={"cases": json.dumps(cases)})
    return path.stat().st_size


def main():
    """Writes the ops named on the command line, or all."""
    for name in sys.argv[1:] or OPS:
        print(f"{name}: {write(name)} bytes")


if __name__ == "__main__":
    main()
