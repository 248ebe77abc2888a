//! Convolutions over time as packed products of overlapping windows: nothing is unfolded in memory.
//!
//! Frames are rows, so a window of k frames is one run of k C numbers, and the next window begins
//! `stride` frames later: the left operand of the product is the frames themselves, read with overlap.
//! The gradient to x is such a product too, one per phase of the stride. The gradient to w of a group
//! with few channels packs the frames once and shifts them tap by tap.

use super::super::activation::{self, Activation};
use super::super::conv1d::Conv;
use super::super::matmul::{self, Write};
use super::super::threads::{self, Shared};
use super::{Cow, Format, Left, Panels, TASK, add_bias, multiply, pack};

#[cfg(test)]
mod tests;
mod weight;

/// What the windows are cut from.
#[derive(Clone, Copy)]
struct Source<'a> {
    /// `[B, frames, groups * width]`.
    frames: &'a [f32],
    /// Frames of a sample.
    count: usize,
    /// Numbers per frame and group.
    width: usize,
    groups: usize,
    /// Whether windows are cut from GELU of the frames.
    gelu: bool,
}

impl Source<'_> {
    /// Copies `out.len() / width` frames of one sample and group from `first` on; zeros outside.
    fn gather(&self, (sample, group): (usize, usize), first: isize, out: &mut [f32]) {
        let stride = self.groups * self.width;
        let count = out.len() / self.width;
        let before = first.min(0).unsigned_abs().min(count);
        let from = first.max(0).unsigned_abs();
        let inside = self.count.saturating_sub(from).min(count - before);
        let (zeros, rest) = out.split_at_mut(before * self.width);
        let (rows, after) = rest.split_at_mut(inside * self.width);
        zeros.fill(0.0);
        after.fill(0.0);
        let start = (sample * self.count + from) * stride + group * self.width;
        if self.groups == 1 {
            rows.copy_from_slice(&self.frames[start..][..rows.len()]);
        } else {
            for (i, row) in rows.chunks_exact_mut(self.width).enumerate() {
                row.copy_from_slice(&self.frames[start + i * stride..][..self.width]);
            }
        }
    }
}

/// A product of windows whose rows go to every `step`-th row of the result.
struct Phase {
    /// Per group, `[taps * width, columns]`.
    panels: Vec<Panels<'static>>,
    /// Frames in a window.
    taps: usize,
    /// Rows per sample.
    count: usize,
    /// The first row's place in the result, and the way from row to row.
    to: (usize, usize),
    /// The first frame of the first window, and the way from window to window.
    from: (isize, usize),
}

impl Phase {
    /// The rows whose places lie in `places` of a sample.
    fn rows(&self, places: std::ops::Range<usize>) -> std::ops::Range<usize> {
        let (first, step) = self.to;
        let row = |place: usize| place.saturating_sub(first).div_ceil(step).min(self.count);
        row(places.start)..row(places.end)
    }
}

/// Scratch space of one thread.
#[derive(Default)]
struct Space {
    frames: Vec<f32>,
    made: Vec<f32>,
    words: Vec<u32>,
    product: Vec<f32>,
}

impl Space {
    /// Some rows of a phase for one (sample, group): `[rows, columns]`.
    fn rows(
        &mut self,
        source: &Source<'_>,
        phase: &Phase,
        (sample, group): (usize, usize),
        rows: std::ops::Range<usize>,
    ) -> &[f32] {
        let panels = &phase.panels[group];
        let (width, (first, step)) = (source.width, phase.from);
        let first = first + (rows.start * step).cast_signed();
        let frames = (rows.len() - 1) * step + phase.taps;
        self.frames.resize(frames * width, 0.0);
        source.gather((sample, group), first, &mut self.frames);
        if source.gelu {
            self.made.resize(self.frames.len(), 0.0);
            activation::forward_on_one_thread(Activation::Gelu, &self.frames, &mut self.made);
            std::mem::swap(&mut self.frames, &mut self.made);
        }
        let k = phase.taps * width;
        let (words, stride): (&[u32], usize) = match panels.format {
            Format::F32 => (bytemuck::cast_slice(&self.frames), step * width),
            format if width.is_multiple_of(format.group()) => {
                self.words.resize(format.words(self.frames.len()), 0);
                pack::write_row(format, &mut self.words, &self.frames);
                (&self.words, format.words(step * width))
            }
            format => {
                // A window may begin in the middle of a pair: each gets a row of its own.
                let height = format.words(k);
                self.words.resize(rows.len() * height, 0);
                for (i, words) in self.words.chunks_exact_mut(height).enumerate() {
                    pack::write_row(format, words, &self.frames[i * step * width..][..k]);
                }
                (&self.words, height)
            }
        };
        let (words, format) = (Cow::Borrowed(words), panels.format);
        let left = Left { words, format, rows: rows.len(), k, tiled: false, stride };
        self.product.resize(rows.len() * panels.n, 0.0);
        multiply(&left, 0, panels, &mut self.product, false);
        &self.product
    }
}

/// All phases, side by side: `[B, rows, groups * columns]`. `finish` is called on every piece of the
/// result with the number of its first row.
fn products(
    source: &Source<'_>,
    phases: &[Phase],
    [batch, rows, columns]: [usize; 3],
    finish: impl Fn(usize, &mut [f32]) + Sync + Send,
) -> Vec<f32> {
    let width = source.groups * columns;
    let step = phases.iter().map(|phase| phase.to.1).max().unwrap_or(1);
    let piece = TASK * step;
    let len = batch * rows * width;
    // Calls `put` with each row of the group in the piece and its place.
    let fill =
        |space: &mut Space, group: usize, first: usize, put: &mut dyn FnMut(usize, &[f32])| {
            let end = (first + piece).min(batch * rows);
            let mut start = first;
            while start < end {
                let sample = start / rows;
                let places = start % rows..rows.min(end - sample * rows);
                for phase in phases {
                    let range = phase.rows(places.clone());
                    if range.is_empty() {
                        continue;
                    }
                    let place = sample * rows + phase.to.0 + range.start * phase.to.1;
                    let made = space.rows(source, phase, (sample, group), range);
                    for (i, row) in made.chunks_exact(columns).enumerate() {
                        put(place + i * phase.to.1, row);
                    }
                }
                start = sample * rows + places.end;
            }
        };
    if source.groups == 1 {
        return threads::made((len, piece * width), Space::default, |space, task, out| {
            let first = task * piece;
            fill(space, 0, first, &mut |place, row| {
                out[(place - first) * width..][..width].copy_from_slice(row);
            });
            finish(first, out);
        });
    }
    let mut out = threads::zeros(len);
    let pieces = (batch * rows).div_ceil(piece);
    let shared = Shared::new(&mut out);
    threads::for_each(source.groups * pieces, Space::default, |space, task| {
        let (group, i) = (task / pieces, task % pieces);
        fill(space, group, i * piece, &mut |place, row| {
            // SAFETY: each (group, row) belongs to one task and is written once at a time.
            let part = unsafe { shared.part(place * width + group * columns, columns) };
            part.copy_from_slice(row);
        });
    });
    threads::chunks(&mut out, piece * width, |i, out| finish(i * piece, out));
    out
}

/// The convolution of x, or of GELU of x; see [the plain one](super::super::conv1d::forward).
///
/// # Panics
/// When a slice has another length.
pub fn forward<const BF16: bool>(
    (x, gelu): (&[f32], bool),
    w: &[f32],
    bias: Option<&[f32]>,
    conv: &Conv,
) -> Vec<f32> {
    conv.check(Some(x), Some(w), None);
    let (width, outputs) = (conv.group_channels(), conv.group_outputs());
    let k = conv.kernel * width;
    let panels = w.chunks_exact((outputs * k).max(1));
    let panels = panels.map(|w| Panels::from_columns(Format::of(BF16), w, outputs, k)).collect();
    let source = Source { frames: x, count: conv.frames, width, groups: conv.groups, gelu };
    let phase = Phase {
        panels,
        taps: conv.kernel,
        count: conv.out_frames(),
        to: (0, 1),
        from: (-conv.padding.cast_signed(), conv.stride),
    };
    products(&source, &[phase], [conv.batch, conv.out_frames(), outputs], |_, y| add_bias(y, bias))
}

/// The gradient of [`forward`] to x, `dx`; where `h` is given, x is GELU of it and the gradient to h is
/// made.
///
/// # Panics
/// When a slice has another length.
pub fn grad_input<const BF16: bool>(
    dy: &[f32],
    w: &[f32],
    h: Option<&[f32]>,
    conv: &Conv,
) -> Vec<f32> {
    conv.check(h, Some(w), Some(dy));
    let width = conv.group_outputs();
    let source =
        Source { frames: dy, count: conv.out_frames(), width, groups: conv.groups, gelu: false };
    let phases: Vec<Phase> = (0..conv.stride.min(conv.kernel))
        .map(|phase| backward_phase(Format::of(BF16), w, conv, phase))
        .collect();
    let sizes = [conv.batch, conv.frames, conv.group_channels()];
    products(&source, &phases, sizes, |first, piece| {
        let Some(h) = h else { return };
        let h = &h[first * conv.channels..][..piece.len()];
        activation::backward_on_one_thread(Activation::Gelu, h, piece);
    })
}

/// What the taps `phase`, `phase + stride`, ... give to the frames that they meet.
///
/// Counted from the first frame of the padding, frame `stride u + phase` is met by tap
/// `phase + stride i` of window `u - i`.
fn backward_phase(format: Format, w: &[f32], conv: &Conv, phase: usize) -> Phase {
    let Conv { kernel, stride, padding, .. } = *conv;
    let (width, outputs) = (conv.group_channels(), conv.group_outputs());
    let taps = (kernel - phase).div_ceil(stride);
    let first = padding.saturating_sub(phase).div_ceil(stride);
    let end = (padding + conv.frames).saturating_sub(phase).div_ceil(stride);
    let panels = (0..conv.groups).map(|group| {
        let mut rows = Vec::with_capacity(taps * outputs * width);
        for i in (0..taps).rev() {
            for output in group * outputs..(group + 1) * outputs {
                let at = (output * kernel + phase + i * stride) * width;
                rows.extend_from_slice(&w[at..][..width]);
            }
        }
        Panels::from_rows(format, &rows, taps * outputs, width)
    });
    Phase {
        panels: panels.collect(),
        taps,
        count: end.saturating_sub(first),
        to: ((first * stride + phase).saturating_sub(padding), stride),
        from: (first.cast_signed() - (taps - 1).cast_signed(), 1),
    }
}

/// The gradient of [`forward`] to w, from the x that the windows were cut from.
///
/// # Panics
/// When a slice has another length.
pub fn grad_weight<const BF16: bool>(dy: &[f32], x: &[f32], conv: &Conv) -> Vec<f32> {
    conv.check(Some(x), None, Some(dy));
    if conv.groups > 1 && conv.stride == 1 {
        weight::shifted(Format::of(BF16), dy, x, conv)
    } else {
        weight::windows(Format::of(BF16), dy, x, conv)
    }
}

/// The gradient of [`forward`] to its bias.
pub fn grad_bias(dy: &[f32], conv: &Conv) -> Vec<f32> {
    let mut sums = vec![0.0; conv.outputs];
    matmul::column_sums(dy, Write::Set, &mut sums);
    sums
}
