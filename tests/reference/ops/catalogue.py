"""The cases of every op: two to five each, as (reference in PyTorch, arguments in the catalogue's order).

A reference receives the arguments as they stand. A new op is a new function here, under `@op("name")`.
"""

import functools

import torch
import torch.nn.functional as F
from lightly.loss.swav_loss import sinkhorn as lightly_sinkhorn
from lightly.utils.debug import std_of_l2_normalized

OPS = {}


class Stream:
    """A random stream of the host, known by its seed."""

    def __init__(self, seed):
        self.seed = seed


class Law:
    """What holds of a random output, where no value can be stored."""

    def __init__(self, name, **facts):
        self.name, self.facts = name, facts


def op(*names):
    """Registers a function as the cases of `names`; with several, it also receives the name."""

    def register(cases):
        for name in names:
            OPS[name] = functools.partial(cases, name) if len(names) > 1 else cases
        return cases

    return register


def expand(indices, like):
    """Token indices [B, K] as [B, K, D], for torch's gather and scatter."""
    return indices[..., None].expand(-1, -1, like.shape[-1])


# Arithmetic, elementwise.


@op("add", "sub", "mul", "div")
def arithmetic(name, draw):
    """Broadcasting as in NumPy, down to a number without dimensions."""
    for left, right in [((2, 3), (2, 3)), ((4, 1, 3), (5, 1)), ((1,), (3, 2)), ((), (4,)), ((2, 3, 5), (5,))]:
        yield getattr(torch, name), [draw(*left), draw.positive(*right)]


@op("affine")
def affine(draw):
    for shape, alpha, beta in [((3, 5), -1.5, 0.25), ((1,), 0.0, 2.0), ((2, 1, 7), 1e-3, -3.0)]:
        yield lambda x, alpha, beta: alpha * x + beta, [draw(*shape), alpha, beta]


@op("lerp")
def lerp(draw):
    for shape, w in [((3, 5), 0.3), ((7,), 0.0), ((2, 1, 3), 1.0)]:
        yield torch.lerp, [draw(*shape), draw(*shape), w]


@op("exp", "log", "sqrt", "square", "abs", "relu", "gelu", "silu", "tanh", "sigmoid")
def elementwise(name, draw):
    """Random values, and the ends of the range where a careless formula overflows or loses digits."""
    reference = {"gelu": F.gelu, "silu": F.silu}.get(name) or getattr(torch, name)
    ends = [-60.0, -12.0, -3.0, -1e-3, 0.0, 1e-3, 3.0, 12.0, 60.0]
    if name in ("log", "sqrt"):
        yield reference, [draw.positive(3, 5)]
        yield reference, [draw.positive(1, 1)]
        yield reference, [draw.exact([1e-6, 1e-3, 1.0, 1e3, 1e6])]
        return
    yield reference, [draw(3, 5)]
    yield reference, [draw(2, 1, 7)]
    yield reference, [draw.exact(ends)]


@op("clamp")
def clamp(draw):
    """A value on a bound takes no gradient."""
    for x, low, high in [(draw(3, 5), -0.5, 0.75), (draw.exact([-1.0, -0.5, 0.0, 0.5, 1.0]), -0.5, 0.5)]:
        yield torch.clamp, [x, low, high]


@op("grad_scale")
def grad_scale(draw):
    def reference(x, factor):
        y = x.clone()
        y.register_hook(lambda gradient: gradient * factor)
        return y

    for shape, factor in [((3, 5), 0.1), ((1,), 0.0), ((2, 3, 2), -1.0)]:
        yield reference, [draw(*shape), factor]


@op("stop_grad")
def stop_grad(draw):
    for shape in [(3, 5), (1, 2, 1)]:
        yield torch.detach, [draw(*shape)]


@op("equal", "greater")
def compare(name, draw):
    reference = {"equal": torch.eq, "greater": torch.gt}[name]
    yield reference, [draw.exact([1.0, 2.0, 2.0, -3.0]), draw.exact([1.0, 1.0, 2.5, -3.0])]
    yield reference, [draw.exact([[1.0], [2.0], [0.0]]), draw.exact([1.0, 2.0])]


@op("where")
def where(draw):
    for shape in [(3, 5), (1, 7), (2, 3, 1)]:
        yield torch.where, [draw.mask(*shape), draw(*shape), draw(*shape)]


# Shapes and places.


@op("reshape")
def reshape(draw):
    for shape, to in [((2, 3, 4), [6, 4]), ((2, 6), [-1, 4]), ((1, 5), [5]), ((3, 2), [1, 2, -1, 1])]:
        yield torch.reshape, [draw(*shape), to]


@op("permute")
def permute(draw):
    for shape, order in [((2, 3), [1, 0]), ((2, 3, 4), [2, 0, 1]), ((2, 1, 3, 2), [0, 2, 1, 3])]:
        yield torch.permute, [draw(*shape), order]


@op("broadcast_to")
def broadcast_to(draw):
    for shape, to in [((1, 3), [4, 3]), ((3,), [2, 5, 3]), ((2, 1, 1), [2, 3, 4]), ((2, 3), [2, 3])]:
        yield torch.broadcast_to, [draw(*shape), to]


@op("narrow")
def narrow(draw):
    for shape, dim, start, length in [((5, 3), 0, 1, 3), ((2, 4, 3), 1, 0, 1), ((2, 3, 5), -1, 2, 3)]:
        yield torch.narrow, [draw(*shape), dim, start, length]


@op("cat")
def cat(draw):
    def reference(dim, *parts):
        return torch.cat(parts, dim)

    yield reference, [0, draw(2, 3), draw(1, 3)]
    yield reference, [1, draw(2, 1, 3), draw(2, 4, 3), draw(2, 2, 3)]
    yield reference, [-1, draw(3, 2)]


@op("index_select")
def index_select(draw):
    for shape, dim, k in [((5, 3), 0, 7), ((2, 4, 3), 1, 2), ((2, 3), -1, 5), ((1, 2), 0, 3)]:
        yield torch.index_select, [draw(*shape), dim, draw.below(shape[dim], k)]


@op("gather_tokens")
def gather_tokens(draw):
    """Repeats add their gradients up."""
    for batch, tokens, width, k in [(2, 5, 3, 4), (1, 1, 2, 1), (3, 4, 1, 6)]:
        args = [draw(batch, tokens, width), draw.below(tokens, batch, k)]
        yield lambda x, indices: x.gather(1, expand(indices, x)), args


@op("scatter_tokens")
def scatter_tokens(draw):
    for batch, tokens, width, k in [(2, 5, 3, 2), (1, 1, 4, 1), (3, 4, 1, 4)]:
        args = [draw(batch, tokens, width), draw.distinct(tokens, batch, k), draw(batch, k, width)]
        yield lambda x, indices, y: x.scatter(1, expand(indices, x), y), args


@op("mask_tokens")
def mask_tokens(draw):
    for batch, tokens, width in [(2, 5, 3), (1, 1, 2), (3, 7, 1)]:
        args = [draw(batch, tokens, width), draw.mask(batch, tokens), draw(width)]
        yield lambda x, mask, token: torch.where(mask[..., None], token, x), args


@op("one_hot")
def one_hot(draw):
    for shape, classes in [((4,), 3), ((2, 3), 5), ((1,), 1)]:
        yield lambda x, classes: F.one_hot(x, classes).double(), [draw.below(classes, *shape), classes]


@op("patchify")
def patchify(draw):
    """The columns of a convolution whose stride is its kernel's size."""
    for shape, patch in [((2, 3, 4, 6), 2), ((1, 1, 3, 3), 3), ((2, 2, 2, 3), 1)]:
        yield lambda x, patch: F.unfold(x, patch, stride=patch).transpose(1, 2), [draw(*shape), patch]


@op("queue_push")
def queue_push(draw):
    def reference(queue, rows):
        return torch.cat([rows, queue])[: len(queue)].detach()

    for length, batch in [(5, 2), (3, 3), (4, 1)]:
        yield reference, [draw(length, 3), draw(batch, 3)]


# Reductions.


@op("sum", "mean")
def reduce(name, draw):
    """An empty list of dimensions means all of them."""

    def reference(x, dims, keep):
        return getattr(torch, name)(x, dims or list(range(x.dim())), keepdim=bool(keep))

    for shape, dims, keep in [((3, 5), [1], 0), ((2, 3, 4), [0, -1], 1), ((2, 3), [], 0), ((2, 1, 3), [1], 1)]:
        yield reference, [draw(*shape), dims, keep]


@op("var")
def var(draw):
    def reference(x, dim, unbiased, keep):
        return torch.var(x, dim, correction=unbiased, keepdim=bool(keep))

    for shape, dim, unbiased, keep in [((3, 5), 1, 1, 0), ((4, 3), 0, 0, 1), ((2, 5, 3), -2, 1, 1), ((2, 1), 1, 0, 0)]:
        yield reference, [draw(*shape), dim, unbiased, keep]
    # Far from zero: a difference of two large sums would lose every digit.
    yield reference, [Shifted(draw, 1000.0)(3, 8), 1, 0, 0]


class Shifted:
    """Draws values around `by`."""

    def __init__(self, draw, by):
        self.draw, self.by = draw, by

    def __call__(self, *shape):
        return self.draw.exact(self.draw(*shape) + self.by)


@op("max")
def maximum(draw):
    """The first of equals takes the gradient."""

    def reference(x, dim, keep):
        place = (x == x.amax(dim, keepdim=True)).int().argmax(dim, keepdim=True)
        y = x.gather(dim, place)
        return y if keep else y.squeeze(dim)

    for shape, dim, keep in [((3, 5), 1, 0), ((2, 3, 4), 0, 1), ((2, 1), -1, 1)]:
        yield reference, [draw(*shape), dim, keep]
    yield reference, [draw.exact([[1.0, 2.0, 2.0], [3.0, 3.0, 3.0]]), 1, 0]


@op("logsumexp")
def logsumexp(draw):
    def reference(x, dim, keep):
        return torch.logsumexp(x, dim, keepdim=bool(keep))

    for shape, dim, keep in [((3, 5), 1, 0), ((2, 3, 4), 0, 1), ((2, 1), -1, 0)]:
        yield reference, [draw(*shape), dim, keep]
    yield reference, [draw.exact([[900.0, 901.0, 0.0], [-900.0, -901.0, -905.0]]), -1, 1]


@op("softmax", "log_softmax")
def softmax(name, draw):
    def reference(x, dim, temperature):
        return getattr(F, name)(x / temperature, dim)

    for shape, dim, temperature in [((3, 5), 1, 1.0), ((2, 3, 4), 1, 0.1), ((4, 2), 0, 0.04), ((3, 1), -1, 0.5)]:
        yield reference, [draw(*shape), dim, temperature]
    yield reference, [draw.exact([[900.0, 901.0, 0.0], [-900.0, -901.0, -905.0]]), -1, 1.0]


@op("argmax")
def argmax(draw):
    for shape, dim in [((3, 5), 1), ((2, 3, 4), 0), ((2, 1), -1)]:
        yield torch.argmax, [draw(*shape), dim]


@op("topk")
def topk(draw):
    for shape, k in [((3, 5), 2), ((7,), 7), ((2, 3, 4), 1)]:
        yield lambda x, k: tuple(t.detach() for t in torch.topk(x, k)), [draw(*shape), k]


@op("spread")
def spread(draw):
    """lightly's measure of collapse; the standard deviation is the unbiased one."""
    yield lambda x: std_of_l2_normalized(x).detach(), [draw(8, 5)]
    yield lambda x: std_of_l2_normalized(x).detach(), [Shifted(draw, 5.0)(3, 4)]


# Products, norms, attention.


@op("matmul")
def matmul(draw):
    for a, b in [((3, 4), (4, 5)), ((2, 3, 4), (4, 2)), ((2, 2, 3, 4), (2, 2, 4, 3)), ((1, 1), (1, 1)), ((2, 1, 3), (2, 3, 1))]:
        yield torch.matmul, [draw(*a), draw(*b)]


@op("linear", "linear_gelu", "gelu_linear")
def linear(name, draw):
    def reference(x, w, b=None):
        y = F.linear(F.gelu(x) if name == "gelu_linear" else x, w, b)
        return F.gelu(y) if name == "linear_gelu" else y

    yield reference, [draw(3, 5), draw(4, 5), draw(4)]
    yield reference, [draw(2, 3, 4), draw(7, 4), None]
    yield reference, [draw(2, 1, 3), draw(1, 3), draw(1)]
    yield reference, [draw(2, 2, 3, 1), draw(2, 1), None]


@op("norm_linear")
def norm_linear(draw):
    def reference(x, g, c, w, b, eps):
        return F.linear(F.layer_norm(x, x.shape[-1:], g, c, eps), w, b)

    yield reference, [draw(3, 5), draw(5), draw(5), draw(4, 5), draw(4), 1e-6]
    yield reference, [draw(2, 3, 4), draw(4), draw(4), draw(7, 4), None, 1e-5]


@op("feed_forward")
def feed_forward(draw):
    def reference(x, g, c, w1, b1, w2, b2, eps):
        n = x if g is None else F.layer_norm(x, x.shape[-1:], g, c, eps)
        return F.linear(F.gelu(F.linear(n, w1, b1)), w2, b2)

    yield reference, [draw(3, 5), draw(5), draw(5), draw(8, 5), draw(8), draw(4, 8), draw(4), 1e-6]
    yield reference, [draw(2, 3, 4), None, None, draw(7, 4), draw(7), draw(4, 7), None, 1e-5]


@op("weight_norm")
def weight_norm(draw):
    def reference(v, g):
        g = torch.ones(len(v), dtype=v.dtype) if g is None else g
        return torch._weight_norm(v, g.reshape(-1, *[1] * (v.dim() - 1)), 0)

    yield reference, [draw(4, 5), draw.positive(4)]
    yield reference, [draw(3, 7), None]
    yield reference, [draw(2, 3, 2), draw(2)]


@op("layer_norm")
def layer_norm(draw):
    def reference(x, w, b, eps):
        return F.layer_norm(x, x.shape[-1:], w, b, eps)

    yield reference, [draw(3, 5), draw(5), draw(5), 1e-6]
    yield reference, [draw(2, 3, 4), None, None, 1e-5]
    yield reference, [draw(2, 1, 7), draw(7), None, 1e-2]
    # Far from zero, where a difference of two large sums would lose every digit.
    yield reference, [Shifted(draw, 1000.0)(2, 6), draw(6), draw(6), 1e-6]


@op("conv2d")
def conv2d(draw):
    for x, w, bias, stride, padding in [
        ((2, 3, 8, 7), (5, 3, 3, 3), True, 1, 1),
        ((3, 4, 9, 6), (6, 4, 3, 3), False, 2, 1),
        ((1, 5, 6, 6), (34, 5, 1, 1), False, 2, 0),
        ((1, 3, 15, 16), (4, 3, 7, 7), False, 2, 3),
        ((1, 20, 4, 4), (17, 20, 3, 3), False, 1, 1),
    ]:
        b = draw(w[0]) if bias else None
        yield (lambda x, w, b, stride, padding: F.conv2d(x, w, b, stride, padding)), [draw(*x), draw(*w), b, stride, padding]


def normed(x, w, b, mean, var, eps):
    """A batch norm with the statistics that it used: the batch's own where none are given."""
    given = [None if t is None else t.detach() for t in (mean, var)]
    y = F.batch_norm(x, *given, w, b, training=mean is None, eps=eps)
    if mean is None:
        dims = [d for d in range(x.dim()) if d != 1]
        mean, var = x.mean(dims), x.var(dims, unbiased=False)
    return y, mean.detach(), var.detach()


def norm_cases(draw):
    """Shapes with weight and bias, without, and with statistics."""
    yield [draw(4, 3, 5, 2), draw(3), draw(3), None, None]
    yield [draw.exact(draw(9, 6) * 2.0 + 3.0), None, None, None, None]
    yield [draw(2, 5, 3, 3), draw(5), draw(5), draw(5), draw.positive(5)]
    yield [draw(20, 18, 2, 2), draw(18), draw(18), None, None]


@op("batch_norm")
def batch_norm(draw):
    for args in norm_cases(draw):
        yield normed, [*args, 1e-5]


@op("batch_norm_relu")
def batch_norm_relu(draw):
    def reference(x, w, b, mean, var, residual, eps):
        y, mean, var = normed(x, w, b, mean, var, eps)
        return F.relu(y if residual is None else y + residual), mean, var

    for i, args in enumerate(norm_cases(draw)):
        yield reference, [*args, draw(*args[0].shape) if i % 2 == 0 else None, 1e-5]


@op("max_pool2d")
def max_pool2d(draw):
    for shape, kernel, stride, padding in [((2, 3, 7, 8), 3, 2, 1), ((1, 5, 4, 4), 2, 2, 0), ((2, 1, 5, 5), 3, 1, 1)]:
        yield (lambda x, k, s, p: F.max_pool2d(x, k, s, p)), [draw(*shape), kernel, stride, padding]


@op("rms_norm")
def rms_norm(draw):
    def reference(x, w, eps):
        return F.rms_norm(x, x.shape[-1:], w, eps)

    yield reference, [draw(3, 5), draw(5), 1e-6]
    yield reference, [draw(2, 3, 4), None, 1e-2]
    yield reference, [draw(1, 1), draw(1), 1e-5]


@op("l2_normalize")
def l2_normalize(draw):
    """With a large eps some norms lie below it: there x is divided by eps."""
    for shape, dim, eps in [((3, 5), 1, 1e-12), ((2, 3, 4), 1, 1e-6), ((5, 2), -1, 1.2), ((4, 1), 0, 1e-12)]:
        yield lambda x, dim, eps: F.normalize(x, p=2, dim=dim, eps=eps), [draw(*shape), dim, eps]


@op("attention")
def attention(draw):
    def reference(qkv, heads, scale):
        b, n, d = qkv.shape
        q, k, v = qkv.reshape(b, n, 3, heads, d // 3 // heads).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, scale=scale or None)
        return y.transpose(1, 2).reshape(b, n, d // 3)

    for batch, tokens, heads, width, scale in [(2, 5, 2, 3, 0.0), (1, 1, 1, 4, 0.0), (1, 7, 3, 1, 0.7), (2, 3, 1, 2, 0.1)]:
        yield reference, [draw(batch, tokens, 3 * heads * width), heads, scale]
    # More tokens than a block of a tiled kernel holds, and logits that need the running maximum.
    yield reference, [draw(1, 70, 3 * 2, scale=3.0), 1, 0.0]


@op("padded_attention")
def padded_attention(draw):
    """Keys beyond a sample's length are masked out; so are, with a result of 0, the queries there."""

    def reference(qkv, lengths, heads, scale):
        b, n, d = qkv.shape
        valid = torch.arange(n) < lengths[:, None]
        q, k, v = qkv.reshape(b, n, 3, heads, d // 3 // heads).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=valid[:, None, None, :], scale=scale or None)
        return y.transpose(1, 2).reshape(b, n, d // 3) * valid[..., None]

    for shape, lengths, heads, scale in [((3, 6, 24), [6, 4, 1], 2, 0.0), ((1, 5, 9), [3], 1, 0.7)]:
        yield reference, [draw(*shape), torch.tensor(lengths), heads, scale]
    # Two blocks of queries in one sample, one in the other.
    yield reference, [draw(2, 120, 12), torch.tensor([120, 96]), 2, 0.0]


@op("conv1d", "gelu_conv1d")
def conv1d(name, draw):
    """HuBERT's layers in small: the first, those with strides, and the grouped convolution of positions."""

    def reference(x, w, b, stride, padding, groups):
        return F.conv1d(F.gelu(x) if name == "gelu_conv1d" else x, w, b, stride, padding, 1, groups)

    for x, w, bias, numbers in [((2, 1, 53), (6, 1, 10), False, (5, 0, 1)), ((2, 6, 21), (4, 6, 3), False, (2, 0, 1)),
                                ((1, 4, 8), (5, 4, 2), True, (2, 0, 1)), ((2, 12, 20), (12, 3, 8), True, (1, 4, 4)),
                                ((1, 6, 9), (4, 3, 2), True, (4, 3, 2)), ((1, 1, 1), (1, 1, 1), True, (1, 0, 1))]:
        yield reference, [draw(*x), draw(*w), draw(w[0]) if bias else None, *numbers]


@op("group_norm")
def group_norm(draw):
    def reference(x, groups, w, b, eps):
        return F.group_norm(x, groups, w, b, eps)

    yield reference, [draw(2, 6, 11), 6, draw(6), draw(6), 1e-5]
    yield reference, [draw(2, 6, 3, 4), 2, draw(6), draw(6), 1e-5]
    yield reference, [draw(3, 4, 5), 1, None, None, 1e-3]
    yield reference, [draw(4, 6), 2, draw(6), None, 1e-5]


@op("resize_bicubic")
def resize_bicubic(draw):
    """With an offset: the scale factors of DINO's released interpolation of position embeddings.

    There PyTorch is asked for each input pixel's weights, and the product with x is differentiated: its own backward
    (2.15) copies the gradient where input and output have the same size, although its forward then doesn't copy.
    """

    def reference(x, height, width, offset):
        if offset == 0.0:
            return F.interpolate(x, size=(height, width), mode="bicubic", align_corners=False)
        rows, columns = x.shape[2:]
        factors = ((height + offset) / rows, (width + offset) / columns)
        pixels = torch.eye(rows * columns, dtype=x.dtype).reshape(-1, 1, rows, columns)
        weights = F.interpolate(pixels, scale_factor=factors, mode="bicubic", align_corners=False)
        return torch.einsum("bcp,pyx->bcyx", x.flatten(2), weights[:, 0])

    for shape, height, width, offset in [
        ((1, 2, 4, 4), 2, 2, 0.0),
        ((1, 2, 4, 4), 2, 2, 0.1),
        ((2, 1, 3, 5), 7, 4, 0.0),
        ((1, 1, 3, 4), 5, 6, 0.1),
        ((1, 2, 1, 2), 3, 3, 0.0),
        ((1, 2, 3, 3), 3, 3, 0.1),
    ]:
        yield reference, [draw(*shape), height, width, offset]


# Objectives.


@op("cross_entropy")
def cross_entropy(draw):
    def reference(logits, targets, temperature):
        return F.cross_entropy(logits / temperature, targets, reduction="none")

    for rows, classes, temperature in [(4, 5, 1.0), (1, 3, 0.1), (3, 1, 0.5), (2, 7, 0.04)]:
        yield reference, [draw(rows, classes), draw.below(classes, rows), temperature]


@op("soft_cross_entropy")
def soft_cross_entropy(draw):
    """Targets are probabilities, a part of them, or weights that sum to more than 1."""

    def reference(logits, targets, temperature):
        return F.cross_entropy(logits / temperature, targets.detach(), reduction="none")

    for rows, classes, temperature, total in [(4, 5, 1.0, 1.0), (1, 3, 0.1, 0.5), (3, 1, 0.5, 1.0), (2, 7, 0.04, 3.0)]:
        targets = draw.exact(F.softmax(draw(rows, classes), -1) * total)
        yield reference, [draw(rows, classes), targets, temperature]


@op("smooth_l1")
def smooth_l1(draw):
    def reference(a, b, beta):
        return F.smooth_l1_loss(a, b, beta=beta, reduction="none")

    for shape, beta in [((3, 5), 1.0), ((2, 1, 7), 2.0), ((4,), 0.1), ((2, 3), 0.0)]:
        yield reference, [draw(*shape), draw(*shape), beta]


@op("sinkhorn")
def sinkhorn(draw):
    """lightly's, on scores that are cosines, as SwAV's are."""

    def reference(scores, epsilon, iterations):
        return lightly_sinkhorn(scores.detach(), iterations, epsilon)

    for batch, k, epsilon, iterations in [(6, 4, 0.05, 3), (3, 7, 0.5, 1), (1, 5, 0.1, 3), (8, 3, 0.03, 10)]:
        yield reference, [draw.exact(torch.tanh(draw(batch, k))), epsilon, iterations]


# Many processes: these are the values of one.


@op("all_reduce")
def all_reduce(draw):
    """The sum and the mean over one rank."""
    yield lambda x, mean: torch.stack([x]).sum(0), [draw(3, 5), 0]
    yield lambda x, mean: torch.stack([x]).mean(0), [draw(1), 1]


@op("all_gather")
def all_gather(draw):
    """The rows of one rank."""
    for shape in [(3, 5), (1, 2, 2)]:
        yield lambda x: torch.cat([x]), [draw(*shape)]


# Randomness.


@op("dropout", "drop_path")
def dropout(name, draw):
    """Values where chance has no say (p of 0 and 1), a law elsewhere."""
    for shape, p in [((3, 4), 0.0), ((2, 1, 3), 1.0)]:
        yield lambda x, p, stream: F.dropout(x, p, training=True), [draw(*shape), p, Stream(1)]
    for seed, p in [(2, 0.3), (3, 0.75)]:
        width = 3
        together = width if name == "drop_path" else 1
        law = Law("dropped", dropped=p, scale=1.0 / (1.0 - p), together=together)
        yield law, [draw(400, width), p, Stream(seed)]


@op("uniform")
def uniform(draw):
    for seed, shape, low, high in [(1, [40, 50], 0.0, 1.0), (2, [3001], -2.0, 0.5), (3, [2, 1, 800], 4.0, 4.5)]:
        yield distribution(torch.distributions.Uniform(low, high), shape, 1.0), [Stream(seed), shape, low, high]


@op("normal")
def normal(draw):
    for seed, shape, mean, std in [(1, [40, 50], 0.0, 1.0), (2, [3001], -2.0, 0.02), (3, [2, 1, 800], 4.0, 10.0)]:
        yield distribution(torch.distributions.Normal(mean, std), shape, 0.999), [Stream(seed), shape, mean, std]


def distribution(of, shape, widest):
    """Where `of` has 0, 5, ..., 100 % of its mass (the outermost points hold `widest` of it, if not all)."""
    shares = torch.linspace(0.0, 1.0, 21, dtype=torch.float64).clamp(1.0 - widest, widest)
    points = of.icdf(shares)
    return Law("distribution", shape=shape, points=points, shares=of.cdf(points))
