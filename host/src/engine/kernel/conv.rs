//! Convolutions of pictures whose channels lie last, and their gradients.
//!
//! In f32 they are products of gathered rows in packed panels, or, with 3 x 3 taps and stride 1, of transformed tiles
//! with fewer multiplications; no matrix of columns is kept. The plain loops in f64 are what gradient checks run in, and
//! the definition.

use super::Float;
use super::packed::gathered::{self, Gather, Lattice, Pictures, padded};
use super::packed::rows::{Plain, Rows};
use super::packed::winograd::{self, Shape, Weight};
use super::packed::{Format, Panels, WIDTH as PANEL, correlated, transposed};
use super::threads;

/// The sizes of a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv {
    /// What is read, `[B, H, W, C]`.
    pub source: Pictures,
    /// What is made, `[B, H', W', O]`.
    pub result: Pictures,
    /// Rows and columns of the kernel.
    pub kernel: [usize; 2],
    /// Pixels of the source from one pixel of the result to the next.
    pub stride: usize,
    /// Rows and columns of zeros on each side.
    pub padding: usize,
}

impl Conv {
    /// Taps of the kernel.
    pub fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }

    /// Multiplications and additions of one pass.
    pub fn flops(&self) -> usize {
        2 * self.result.len() * self.taps() * self.source.channels
    }

    /// Where tap `tap` of the kernel reads, from the first pixel on.
    fn tap(&self, tap: usize) -> [isize; 2] {
        let padding = self.padding.cast_signed();
        let [y, x] = [tap / self.kernel[1], tap % self.kernel[1]];
        [y.cast_signed() - padding, x.cast_signed() - padding]
    }

    /// Which pixels of the source are read for which of the result.
    fn gather(&self) -> Gather {
        let taps = (0..self.taps()).map(|tap| self.tap(tap)).collect();
        Gather {
            source: self.source,
            result: self.result,
            stride: self.stride,
            step: 1,
            lattices: vec![Lattice { first: [0, 0], taps }],
        }
    }

    /// The pictures of it, or of its gradient to the input where it is `turned`, if it can be made tile by tile, and has so
    /// many channels that the products which that saves take longer than the transforms.
    fn tiles(&self, turned: bool) -> Option<Shape> {
        let Self { source, result, kernel, stride, padding } = *self;
        let many = source.channels.min(result.channels) >= FEW;
        let fits = kernel == [3, 3] && stride == 1 && padding <= 2 && many;
        if !fits {
            return None;
        }
        Some(if turned {
            Shape { source: result, result: source, padding: 2 - padding }
        } else {
            Shape { source, result, padding }
        })
    }

    /// The pixel of the source that tap `tap` of pixel (`y`, `x`) reads, by its number in the picture.
    fn reads(&self, [y, x]: [usize; 2], tap: usize) -> Option<usize> {
        let [dy, dx] = self.tap(tap);
        let y = usize::try_from((self.stride * y).cast_signed() + dy).ok()?;
        let x = usize::try_from((self.stride * x).cast_signed() + dx).ok()?;
        let inside = y < self.source.height && x < self.source.width;
        inside.then_some(y * self.source.width + x)
    }
}

/// Channels below which taps side by side fill a panel better than one tap does.
const FEW: usize = 16;

/// `y` `[B, H', W', O]` from `x` `[B, H, W, C]` and `w` `[O, C, kh, kw]`, in f32 or with bf16 operands.
///
/// # Panics
/// When a slice is of another size.
pub fn forward(format: Format, x: &[f32], w: &[f32], conv: &Conv) -> Vec<f32> {
    let (taps, channels) = (conv.taps(), conv.source.channels);
    if let Some(shape) = conv.tiles(false).filter(Shape::pays) {
        let weight = Weight::forward(format, w, [channels, conv.result.channels]);
        return winograd::product(x, &weight, shape);
    }
    let wide = padded(format, channels);
    let sizes = [taps * wide, conv.result.channels];
    // Tap by tap, with the channels of each filled up to whole words.
    let panels = Panels::from_made_columns(format, sizes, |output, column| {
        let w = &w[output * channels * taps..][..channels * taps];
        for (tap, column) in column.chunks_exact_mut(wide).enumerate() {
            column.iter_mut().zip(w.chunks_exact(taps)).for_each(|(to, w)| *to = w[tap]);
        }
    });
    gathered::product(format, x, &conv.gather(), &[panels])
}

/// The gradient to `x`, from `dy` `[B, H', W', O]`.
///
/// # Panics
/// When a slice is of another size.
pub fn grad_input(format: Format, dy: &[f32], w: &[f32], conv: &Conv) -> Vec<f32> {
    if let Some(shape) = conv.tiles(true).filter(Shape::pays) {
        return winograd::product(dy, &turned_weight(format, w, conv), shape);
    }
    let (gather, panels) = turned(format, w, conv);
    gathered::product(format, dy, &gather, &panels)
}

/// Adds the gradient to `x` to `dx`, as [`grad_input`] makes it.
///
/// # Panics
/// When a slice is of another size.
pub fn add_grad_input(format: Format, dy: &[f32], w: &[f32], conv: &Conv, dx: &mut [f32]) {
    if let Some(shape) = conv.tiles(true).filter(Shape::pays) {
        return winograd::add_product(dy, &turned_weight(format, w, conv), shape, dx);
    }
    let (gather, panels) = turned(format, w, conv);
    gathered::add_product(format, dy, &gather, &panels, dx);
}

/// The weight of the gradient to `x`, made tile by tile.
fn turned_weight(format: Format, w: &[f32], conv: &Conv) -> Weight {
    Weight::turned(format, w, [conv.result.channels, conv.source.channels])
}

/// The gradient to `x` as a gathered product for each pixel that the stride tells apart.
fn turned(format: Format, w: &[f32], conv: &Conv) -> (Gather, Vec<Panels<'static>>) {
    let (channels, outputs) = (conv.source.channels, conv.result.channels);
    let (taps, stride) = (conv.taps(), conv.stride.cast_signed());
    let wide = padded(format, outputs);
    let lattice = |first: [usize; 2]| {
        // Pixel s i + f of the source is read by pixel i + (f - tap) / s of the result, where that is whole.
        let away = |tap: usize| {
            let [dy, dx] = conv.tap(tap);
            [first[0].cast_signed() - dy, first[1].cast_signed() - dx]
        };
        let mut used: Vec<([isize; 2], usize)> = (0..taps)
            .map(|tap| (away(tap), tap))
            .filter(|([y, x], _)| y % stride == 0 && x % stride == 0)
            .map(|([y, x], tap)| ([y / stride, x / stride], tap))
            .collect();
        // In the order of pixels, so that neighbours lie together.
        used.sort_unstable();
        let sizes = [used.len() * wide, channels];
        let panels = Panels::from_made_rows(format, sizes, |first, count, rows| {
            for (output, w) in w.chunks_exact(channels * taps).enumerate() {
                let w = &w[first * taps..][..count * taps];
                for (at, (_, tap)) in used.iter().enumerate() {
                    let row = &mut rows[(at * wide + output) * PANEL..][..count];
                    row.iter_mut().zip(w.chunks_exact(taps)).for_each(|(to, w)| *to = w[*tap]);
                }
            }
        });
        (Lattice { first, taps: used.into_iter().map(|(tap, _)| tap).collect() }, panels)
    };
    let firsts = (0..conv.stride).flat_map(|y| (0..conv.stride).map(move |x| [y, x]));
    let (lattices, panels): (Vec<Lattice>, Vec<Panels<'_>>) = firsts.map(lattice).unzip();
    let (source, result) = (conv.result, conv.source);
    (Gather { source, result, stride: 1, step: conv.stride, lattices }, panels)
}

/// The gradient to `w`, `[O, C, kh, kw]`, from `dy` and `x`.
///
/// # Panics
/// When a slice is of another size.
pub fn grad_weight(format: Format, dy: &[f32], x: &[f32], conv: &Conv) -> Vec<f32> {
    if let Some(shape) = conv.tiles(false).filter(Shape::pays) {
        return winograd::gradient::weight(format, dy, x, shape);
    }
    let (taps, channels) = (conv.taps(), conv.source.channels);
    if channels >= FEW {
        return correlated::product(format, dy, x, &conv.gather());
    }
    let n = taps * channels;
    let shape = transposed::Shape { k: conv.result.pixels(), m: conv.result.channels, n };
    let dy = Plain { x: dy, width: shape.m };
    let product = transposed::product(format, &dy, &Patches { x, conv }, shape);
    if taps == 1 {
        return product;
    }
    threads::made(
        (product.len(), n),
        || (),
        |(), o, dw: &mut [f32]| {
            let rows = &product[o * n..][..n];
            for (t, row) in rows.chunks_exact(channels).enumerate() {
                for (dw, value) in dw.chunks_exact_mut(taps).zip(row) {
                    dw[t] = *value;
                }
            }
        },
    )
}

/// What each pixel of the result reads, as a row `[taps, C]`.
struct Patches<'a> {
    x: &'a [f32],
    conv: &'a Conv,
}

impl Rows for Patches<'_> {
    fn width(&self) -> usize {
        self.conv.taps() * self.conv.source.channels
    }

    fn borrow(&self, first: usize, count: usize) -> Option<&[f32]> {
        let Conv { kernel, stride, padding, source, .. } = *self.conv;
        let plain = kernel == [1, 1] && stride == 1 && padding == 0;
        plain.then(|| &self.x[first * source.channels..][..count * source.channels])
    }

    fn write(&self, first: usize, out: &mut [f32]) {
        let Conv { source, result, kernel, .. } = self.conv;
        let [picture, channels] = [result.height * result.width, source.channels];
        let width = self.width();
        for (pixel, row) in (first..).zip(out.chunks_exact_mut(width)) {
            let at = [pixel % picture / result.width, pixel % result.width];
            let x = &self.x[pixel / picture * source.height * source.width * channels..];
            for (line, row) in row.chunks_exact_mut(kernel[1] * channels).enumerate() {
                let (first, last) = (line * kernel[1], (line + 1) * kernel[1] - 1);
                if let (Some(start), Some(_)) =
                    (self.conv.reads(at, first), self.conv.reads(at, last))
                {
                    row.copy_from_slice(&x[start * channels..][..row.len()]);
                    continue;
                }
                for (tap, to) in (first..).zip(row.chunks_exact_mut(channels)) {
                    match self.conv.reads(at, tap) {
                        Some(pixel) => to.copy_from_slice(&x[pixel * channels..][..channels]),
                        None => to.fill(0.0),
                    }
                }
            }
        }
    }
}

/// Calls `body` with the number of every pixel of the result, tap, and pixel of the source that it reads.
fn each_tap(conv: &Conv, mut body: impl FnMut(usize, usize, usize)) {
    let Conv { source, result, .. } = conv;
    let picture = result.height * result.width;
    for to in 0..result.pixels() {
        let at = [to % picture / result.width, to % result.width];
        let first = to / picture * source.height * source.width;
        for tap in 0..conv.taps() {
            if let Some(from) = conv.reads(at, tap) {
                body(to, tap, first + from);
            }
        }
    }
}

/// [`forward`] by its definition.
///
/// # Panics
/// When a slice is too short.
pub fn forward_plain<T: Float>(x: &[T], w: &[T], conv: &Conv) -> Vec<T> {
    let (c, n, taps) = (conv.source.channels, conv.result.channels, conv.taps());
    let mut out = vec![T::ZERO; conv.result.len()];
    each_tap(conv, |to, tap, from| {
        for (o, y) in out[to * n..][..n].iter_mut().enumerate() {
            for (i, x) in x[from * c..][..c].iter().enumerate() {
                *y += *x * w[(o * c + i) * taps + tap];
            }
        }
    });
    out
}

/// [`grad_input`] by its definition.
///
/// # Panics
/// When a slice is too short.
pub fn grad_input_plain<T: Float>(dy: &[T], w: &[T], conv: &Conv) -> Vec<T> {
    let (c, n, taps) = (conv.source.channels, conv.result.channels, conv.taps());
    let mut dx = vec![T::ZERO; conv.source.len()];
    each_tap(conv, |to, tap, from| {
        for (o, dy) in dy[to * n..][..n].iter().enumerate() {
            for (i, dx) in dx[from * c..][..c].iter_mut().enumerate() {
                *dx += *dy * w[(o * c + i) * taps + tap];
            }
        }
    });
    dx
}

/// [`grad_weight`] by its definition.
///
/// # Panics
/// When a slice is too short.
pub fn grad_weight_plain<T: Float>(dy: &[T], x: &[T], conv: &Conv) -> Vec<T> {
    let (c, n, taps) = (conv.source.channels, conv.result.channels, conv.taps());
    let mut dw = vec![T::ZERO; n * c * taps];
    each_tap(conv, |to, tap, from| {
        for (o, dy) in dy[to * n..][..n].iter().enumerate() {
            for (i, x) in x[from * c..][..c].iter().enumerate() {
                dw[(o * c + i) * taps + tap] += *dy * *x;
            }
        }
    });
    dw
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Stream;

    fn conv(
        batch: usize,
        [height, width]: [usize; 2],
        [c, o]: [usize; 2],
        k: usize,
        s: usize,
    ) -> Conv {
        let padding = k / 2;
        let out = |side: usize| (side + 2 * padding - k) / s + 1;
        Conv {
            source: Pictures { batch, height, width, channels: c },
            result: Pictures { batch, height: out(height), width: out(width), channels: o },
            kernel: [k, k],
            stride: s,
            padding,
        }
    }

    /// A convolution of 3 x 3 taps and stride 1 with other zeros around it.
    fn with_padding(conv: Conv, padding: usize) -> Conv {
        let Pictures { height, width, .. } = conv.source;
        let [height, width] = [height, width].map(|side| side + 2 * padding - 2);
        Conv { result: Pictures { height, width, ..conv.result }, padding, ..conv }
    }

    fn random(n: usize, seed: u64) -> Vec<f32> {
        let mut stream = Stream::new(seed, "conv", 0, 0);
        (0..n).map(|_| stream.normal() as f32).collect()
    }

    fn far(got: &[f32], want: &[f32]) -> f32 {
        assert_eq!(got.len(), want.len());
        let size = (want.iter().map(|x| x * x).sum::<f32>() / want.len() as f32).sqrt();
        let far = got.iter().zip(want).map(|(g, w)| (g - w).abs() / size);
        // A difference that is not a number is the largest.
        far.fold(0.0, |most, x| if x.is_nan() { f32::INFINITY } else { x.max(most) })
    }

    /// The result and both gradients tile by tile, also where that doesn't pay.
    fn by_tiles(
        format: Format,
        (x, w, dy): (&[f32], &[f32], &[f32]),
        conv: &Conv,
    ) -> Option<[Vec<f32>; 3]> {
        let (shape, turned) = (conv.tiles(false)?, conv.tiles(true)?);
        let sizes = [conv.source.channels, conv.result.channels];
        Some([
            winograd::product(x, &Weight::forward(format, w, sizes), shape),
            winograd::product(dy, &turned_weight(format, w, conv), turned),
            winograd::gradient::weight(format, dy, x, shape),
        ])
    }

    #[test]
    fn packed_convolutions_and_their_gradients_are_those_of_the_definition() {
        let cases = [
            conv(2, [8, 8], [4, 40], 3, 1),
            conv(3, [9, 7], [3, 5], 3, 2),
            conv(5, [4, 4], [33, 34], 3, 2),
            conv(1, [40, 30], [6, 8], 3, 1),
            conv(2, [5, 6], [7, 9], 1, 2),
            conv(2, [6, 5], [8, 4], 1, 1),
            conv(1, [15, 16], [3, 4], 7, 2),
            conv(1, [1, 1], [1, 1], 3, 1),
            conv(2, [7, 5], [20, 13], 3, 1),
            conv(3, [9, 9], [40, 30], 3, 2),
            conv(2, [16, 16], [32, 70], 3, 1),
            conv(1, [5, 5], [17, 3], 1, 2),
            conv(1, [9, 35], [70, 24], 3, 2),
            // Tile by tile: odd sides, pictures smaller than a tile, more tiles than one block has.
            conv(3, [7, 5], [20, 33], 3, 1),
            conv(5, [2, 2], [64, 48], 3, 1),
            conv(3, [1, 1], [17, 16], 3, 1),
            conv(2, [4, 101], [16, 40], 3, 1),
            conv(70, [4, 3], [18, 100], 3, 1),
            conv(1, [90, 8], [130, 16], 3, 1),
            with_padding(conv(2, [6, 7], [16, 20], 3, 1), 0),
            with_padding(conv(2, [3, 5], [24, 16], 3, 1), 2),
            with_padding(conv(2, [3, 3], [16, 16], 3, 1), 0),
            // Several slices of channels, alone and beside groups of blocks.
            conv(2, [6, 5], [96, 96], 3, 1),
            conv(9, [8, 8], [130, 32], 3, 1),
            conv(70, [4, 3], [96, 96], 3, 1),
        ];
        for conv in cases {
            let w = random(conv.result.channels * conv.source.channels * conv.taps(), 1);
            let (x, dy) = (random(conv.source.len(), 2), random(conv.result.len(), 3));
            let want = [
                forward_plain(&x, &w, &conv),
                grad_input_plain(&dy, &w, &conv),
                grad_weight_plain(&dy, &x, &conv),
            ];
            // bf16 keeps 8 bits of each operand, and the transforms of tiles add up to four of them.
            for (format, tolerance) in
                [(Format::F32, 2e-5), (Format::Rounded, 5e-2), (Format::of(true), 5e-2)]
            {
                let got = [
                    forward(format, &x, &w, &conv),
                    grad_input(format, &dy, &w, &conv),
                    grad_weight(format, &dy, &x, &conv),
                ];
                let tiled = by_tiles(format, (&x, &w, &dy), &conv);
                for (i, (got, want)) in tiled.iter().flatten().zip(&want).enumerate() {
                    let far = far(got, want);
                    assert!(far < tolerance, "{conv:?} {format:?} by tiles, {i}: {far}");
                }
                let mut twice = got[1].clone();
                add_grad_input(format, &dy, &w, &conv, &mut twice);
                let doubled: Vec<f32> = got[1].iter().map(|dx| 2.0 * dx).collect();
                assert!(far(&twice, &doubled) < 1e-5, "{conv:?} {format:?}");
                for (i, (got, want)) in got.iter().zip(&want).enumerate() {
                    let far = far(got, want);
                    assert!(far < tolerance, "{conv:?} {format:?} {i}: {far}");
                }
            }
        }
    }

    #[test]
    fn the_number_of_threads_changes_no_bit_of_a_convolution() {
        let cases = [
            conv(30, [8, 6], [40, 36], 3, 1),
            conv(70, [4, 6], [96, 96], 3, 1),
            conv(5, [9, 7], [40, 36], 3, 2),
        ];
        for (conv, bf16) in cases.into_iter().flat_map(|conv| [(conv, false), (conv, true)]) {
            let w = random(conv.result.channels * conv.source.channels * conv.taps(), 1);
            let (x, dy) = (random(conv.source.len(), 2), random(conv.result.len(), 3));
            let run = |threads| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                pool.install(|| {
                    let format = Format::of(bf16);
                    let mut all = forward(format, &x, &w, &conv);
                    all.extend(grad_input(format, &dy, &w, &conv));
                    add_grad_input(format, &dy, &w, &conv, &mut all[conv.result.len()..]);
                    all.extend(grad_weight(format, &dy, &x, &conv));
                    all.into_iter().map(f32::to_bits).collect::<Vec<_>>()
                })
            };
            let one = run(1);
            assert_eq!(one, run(2));
            assert_eq!(one, run(7));
        }
    }
}
