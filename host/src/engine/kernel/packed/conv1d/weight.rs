//! The gradient of a convolution to its weight: `dw[o, j, c] = sum over windows of dy[t, o] x[t stride + j, c]`.

use super::super::super::conv1d::Conv;
use super::super::super::threads;
use super::super::rows::{Plain, Rows};
use super::super::{Cow, Format, HEIGHT, Left, Panels, WIDTH, multiply, pack, transposed};
use super::Source;

/// The windows of one group as rows, `[B T, k C]`.
struct Windows<'a> {
    source: Source<'a>,
    conv: &'a Conv,
    group: usize,
}

impl Rows for Windows<'_> {
    fn width(&self) -> usize {
        self.conv.kernel * self.source.width
    }

    fn borrow(&self, _: usize, _: usize) -> Option<&[f32]> {
        None
    }

    fn write(&self, first: usize, out: &mut [f32]) {
        let frames = self.conv.out_frames();
        for (i, out) in out.chunks_exact_mut(self.width()).enumerate() {
            let (sample, t) = ((first + i) / frames, (first + i) % frames);
            let start = (t * self.conv.stride).cast_signed() - self.conv.padding.cast_signed();
            self.source.gather((sample, self.group), start, out);
        }
    }
}

/// One product per group over the windows of all samples, which are copied a few at a time.
pub(super) fn windows(format: Format, dy: &[f32], x: &[f32], conv: &Conv) -> Vec<f32> {
    let (source, gradients) = (input(x, conv), output(dy, conv));
    let rows = conv.batch * conv.out_frames();
    let mut dw = Vec::with_capacity(conv.w_len());
    for group in 0..conv.groups {
        let windows = Windows { source, conv, group };
        let shape = transposed::Shape { k: rows, m: conv.group_outputs(), n: windows.width() };
        let dy = if conv.groups == 1 {
            Cow::Borrowed(dy)
        } else {
            let mut part = vec![0.0; rows * shape.m];
            let frames = conv.out_frames() * shape.m;
            for (sample, part) in part.chunks_exact_mut(frames.max(1)).enumerate() {
                gradients.gather((sample, group), 0, part);
            }
            Cow::Owned(part)
        };
        dw.extend(transposed::product(format, &Plain { x: &dy, width: shape.m }, &windows, shape));
    }
    dw
}

fn input<'a>(x: &'a [f32], conv: &Conv) -> Source<'a> {
    let (count, width) = (conv.frames, conv.group_channels());
    Source { frames: x, count, width, groups: conv.groups, gelu: false }
}

fn output<'a>(dy: &'a [f32], conv: &Conv) -> Source<'a> {
    let (count, width) = (conv.out_frames(), conv.group_outputs());
    Source { frames: dy, count, width, groups: conv.groups, gelu: false }
}

/// Scratch space of one thread.
#[derive(Default)]
struct Space {
    frames: Vec<f32>,
    left: Vec<u32>,
    /// The frames as panels; in bf16 once from the first frame on and once from the second, since a word
    /// holds two neighbours.
    right: [Vec<u32>; 2],
    /// Per panel and tap, `[outputs, columns]`.
    sums: Vec<f32>,
}

/// For a stride of 1: the frames of a (sample, group) are packed once, and tap `j` multiplies the same
/// panels from frame `j` on.
pub(super) fn shifted(format: Format, dy: &[f32], x: &[f32], conv: &Conv) -> Vec<f32> {
    let (source, gradients) = (input(x, conv), output(dy, conv));
    let len = conv.group_outputs() * conv.kernel * conv.group_channels();
    threads::made((conv.w_len(), len), Space::default, |space: &mut Space, group, dw| {
        space.sums.clear();
        space.sums.resize(len, 0.0);
        for sample in 0..conv.batch {
            space.pack_left(format, &gradients, (sample, group));
            space.pack_right(format, &source, conv, (sample, group));
            space.add(format, conv);
        }
        let (outputs, width) = (conv.group_outputs(), conv.group_channels());
        for (panel, columns) in panels(width) {
            let start = panel * WIDTH * outputs * conv.kernel;
            for (i, sums) in space.sums[start..].chunks_exact(columns).enumerate() {
                let (tap, output) = (i / outputs, i % outputs);
                if tap == conv.kernel {
                    break;
                }
                let at = (output * conv.kernel + tap) * width + panel * WIDTH;
                dw[at..][..columns].copy_from_slice(sums);
            }
        }
    })
}

/// The panels of `width` columns: number and columns.
fn panels(width: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..width.div_ceil(WIDTH)).map(move |panel| (panel, WIDTH.min(width - panel * WIDTH)))
}

impl Space {
    /// The gradients of one (sample, group), transposed: `[outputs, T]`.
    fn pack_left(&mut self, format: Format, gradients: &Source<'_>, at: (usize, usize)) {
        let Source { count, width, .. } = *gradients;
        self.frames.resize(count * width, 0.0);
        gradients.gather(at, 0, &mut self.frames);
        let words = HEIGHT * format.words(count);
        self.left.resize(width.div_ceil(HEIGHT) * words, 0);
        let left = (self.left.as_mut_slice(), words);
        pack::interleave(format, HEIGHT, left, (&self.frames, width), (0, width));
    }

    /// The padded frames of one (sample, group), as panels from each frame on that a word can begin at.
    fn pack_right(&mut self, format: Format, source: &Source<'_>, conv: &Conv, at: (usize, usize)) {
        let width = source.width;
        let padded = conv.frames + 2 * conv.padding;
        self.frames.resize(padded * width, 0.0);
        source.gather(at, -conv.padding.cast_signed(), &mut self.frames);
        for (skipped, right) in self.right.iter_mut().take(format.group()).enumerate() {
            let height = format.words(padded - skipped);
            right.resize(width.div_ceil(WIDTH) * height * WIDTH, 0);
            let frames = &self.frames[skipped * width..];
            let right = (right.as_mut_slice(), height * WIDTH);
            pack::interleave(format, WIDTH, right, (frames, width), (0, width));
        }
    }

    /// Adds what one (sample, group) gives to every tap.
    fn add(&mut self, format: Format, conv: &Conv) {
        let (outputs, k) = (conv.group_outputs(), conv.out_frames());
        let padded = conv.frames + 2 * conv.padding;
        let words = Cow::Borrowed(self.left.as_slice());
        let left = Left { words, format, rows: outputs, k, tiled: true, stride: 0 };
        for (panel, columns) in panels(conv.group_channels()) {
            let start = panel * WIDTH * outputs * conv.kernel;
            for (tap, sums) in
                self.sums[start..].chunks_exact_mut(outputs * columns).take(conv.kernel).enumerate()
            {
                let (skipped, word) = (tap % format.group(), tap / format.group());
                let height = format.words(padded - skipped);
                let words = &self.right[skipped][(panel * height + word) * WIDTH..];
                let words = Cow::Borrowed(&words[..format.words(k) * WIDTH]);
                let right = Panels { words, format, lanes: WIDTH, k, n: columns };
                multiply(&left, 0, &right, sums, true);
            }
        }
    }
}
