#!/usr/bin/env python3
"""The peer of the backbone `wave`: a training step of HuBERT as a PyTorch user would write it (conv1d, group_norm, a grouped
convolution of positions under weight norm, fused attention, fused AdamW). Prints one JSON line.

    pip install torch
    python benches/peer/hubert_torch.py                    # f32
    python benches/peer/hubert_torch.py --dtype bf16 --compile

The loss is HuBERT's: cosine logits against unit embeddings at temperature 0.1, cross-entropy on masked frames, and 10 times the
mean square of the frames. Shapes are those of `backbone.size=small`; give the peer its best setting and compare with the
fastest.
"""
import argparse, json, resource, time
import torch, torch.nn as nn, torch.nn.functional as F

KERNELS, STRIDES = (10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2)


class GradScale(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, factor):
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient):
        return gradient * ctx.factor, None


class Frames(nn.Module):
    def __init__(self, width):
        super().__init__()
        sizes = zip((1,) + (width,) * 6, KERNELS, STRIDES)
        self.convs = nn.ModuleList([nn.Conv1d(c, width, k, s, bias=False) for c, k, s in sizes])
        self.norm = nn.GroupNorm(width, width)

    def forward(self, waveforms):
        x = F.gelu(self.norm(self.convs[0](waveforms[:, None])))
        for conv in self.convs[1:]:
            x = F.gelu(conv(x))
        return x.transpose(1, 2)


class Block(nn.Module):
    def __init__(self, dim, heads, dropout):
        super().__init__()
        self.heads, self.drop = heads, nn.Dropout(dropout)
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.fc1, self.fc2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)
        self.norm, self.final_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)

    def forward(self, x):
        b, n, d = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, d)
        x = self.norm(x + self.drop(self.out(mixed)))
        return self.final_norm(x + self.drop(self.fc2(F.gelu(self.fc1(x)))))


class Hubert(nn.Module):
    def __init__(self, a):
        super().__init__()
        self.frames = Frames(a.conv)
        self.norm, self.proj, self.drop = nn.LayerNorm(a.conv), nn.Linear(a.conv, a.dim), nn.Dropout(a.dropout)
        self.mask_embedding = nn.Parameter(torch.rand(a.dim))
        conv = nn.Conv1d(a.dim, a.dim, 128, padding=64, groups=16)
        self.positions = nn.utils.parametrizations.weight_norm(conv, name="weight", dim=2)
        self.first_norm = nn.LayerNorm(a.dim)
        self.blocks = nn.Sequential(*[Block(a.dim, a.heads, a.dropout) for _ in range(a.depth)])
        self.head = nn.Linear(a.dim, 256)
        self.codewords = nn.Parameter(torch.rand(a.classes, 256))

    def forward(self, waveforms, mask):
        frames = GradScale.apply(self.frames(waveforms), 0.1)
        x = self.drop(self.proj(self.norm(frames)))
        x = torch.where(mask[..., None], self.mask_embedding.to(x.dtype), x)
        places = F.gelu(self.positions(x.transpose(1, 2))[..., :-1]).transpose(1, 2)
        x = self.blocks(self.drop(self.first_norm(x + places)))
        logits = F.normalize(self.head(x).float(), dim=-1) @ F.normalize(self.codewords, dim=-1).t() / 0.1
        return logits, frames.float().square().mean()


def main():
    p = argparse.ArgumentParser()
    for name, default in dict(dim=384, depth=12, heads=6, conv=256, classes=100, batch=8, samples=32000, steps=8).items():
        p.add_argument("--" + name, type=int, default=default)
    p.add_argument("--dropout", type=float, default=0.1); p.add_argument("--dtype", default="f32")
    p.add_argument("--compile", action="store_true"); p.add_argument("--device", default="cpu")
    p.add_argument("--threads", type=int, default=0)
    a = p.parse_args()
    torch.manual_seed(0)
    if a.threads: torch.set_num_threads(a.threads)
    net = Hubert(a).to(a.device)
    run = torch.compile(net) if a.compile else net
    opt = torch.optim.AdamW(net.parameters(), lr=5e-4, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    waveforms = torch.randn(a.batch, a.samples, device=a.device)
    count = (a.samples - 400) // 320 + 1
    mask = torch.rand(a.batch, count, device=a.device) < 0.5
    units = torch.randint(a.classes, (a.batch, count), device=a.device)

    def step():
        with torch.autocast(a.device, torch.bfloat16, enabled=a.dtype == "bf16"):
            logits, penalty = run(waveforms, mask)
        loss = F.cross_entropy(logits[mask], units[mask]) + 10.0 * penalty
        opt.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 10.0)
        opt.step()
        return loss.item()

    times = []
    for i in range(a.steps + 3):
        start = time.perf_counter(); step()
        if i >= 3: times.append(time.perf_counter() - start)
    times.sort()
    middle = times[len(times) // 2]
    result = {k: getattr(a, k) for k in ("device", "dtype", "compile", "dim", "depth", "conv", "batch", "samples", "dropout")}
    result |= {"what": "step", "step_ms": 1e3 * middle, "images_per_s": a.batch / middle, "seconds_per_s": a.batch * a.samples / 16000 / middle,
               "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}
    print(json.dumps(result))


main()
