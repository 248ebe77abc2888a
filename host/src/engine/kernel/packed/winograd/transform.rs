//! The transforms of F(2 x 2, 3 x 3), for many channels side by side:
//!
//! ```text
//!       1  0 -1  0          1    0   0           1  1  1  0
//! B^T = 0  1  1  0     G = 1/2  1/2 1/2    A^T = 0  1 -1 -1
//!       0 -1  1  0         1/2 -1/2 1/2
//!       0  1  0 -1          0    0   1
//! ```
//!
//! Each is taken over rows first, for a whole line of pixels, and then over columns.

use std::ops::Range;

use super::super::super::dispatch::Kernel;
use super::super::WIDTH;
use super::super::tile::{COLUMNS as LANES, Target, put};

/// Places of a tile.
pub(super) const PLACES: usize = 16;
/// Taps of a kernel.
pub(super) const TAPS: usize = 9;

/// Numbers that are transformed side by side.
type Lanes = [f32; LANES];

/// `G g G^T` of kernels of 9 numbers: number `i` at place `p` goes to `p * plane + i`.
pub(super) struct Kernels<'a> {
    pub(super) weights: &'a [f32],
    /// Whether they are turned by half a circle.
    pub(super) turned: bool,
    pub(super) plane: usize,
    pub(super) made: &'a mut [f32],
}

impl Kernel for Kernels<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { weights, turned, plane, made } = self;
        for (block, weights) in weights.chunks(LANES * TAPS).enumerate() {
            let count = weights.len() / TAPS;
            let mut taps = [[0.0; LANES]; TAPS];
            for (lane, kernel) in weights.as_chunks::<TAPS>().0.iter().enumerate() {
                for (tap, value) in kernel.iter().enumerate() {
                    taps[tap][lane] = *value;
                }
            }
            if turned {
                taps.reverse();
            }
            for row in 0..4 {
                let mut columns = [[0.0; LANES]; 3];
                for (column, made) in columns.iter_mut().enumerate() {
                    *made = by_g([&taps[column], &taps[3 + column], &taps[6 + column]], row);
                }
                let [a, b, c] = &columns;
                for column in 0..4 {
                    let to = &mut made[(row * 4 + column) * plane + block * LANES..][..count];
                    to.copy_from_slice(&by_g([a, b, c], column)[..count]);
                }
            }
        }
    }
}

/// Row `row` of G times three numbers.
#[inline(always)]
fn by_g([a, b, c]: [&Lanes; 3], row: usize) -> Lanes {
    let mut made = [0.0; LANES];
    for (lane, made) in made.iter_mut().enumerate() {
        *made = match row {
            0 => a[lane],
            1 => 0.5 * (a[lane] + b[lane] + c[lane]),
            2 => 0.5 * (a[lane] - b[lane] + c[lane]),
            _ => c[lane],
        };
    }
    made
}

/// Neighbours of a tile, over rows or over columns.
#[derive(Clone, Copy)]
pub(super) enum Of<'a> {
    /// Four of the source, which `B^T` is taken of.
    Source([&'a [f32]; 4]),
    /// Two of the result, which A is taken of.
    Result([&'a [f32]; 2]),
}

/// Row `way` of `B^T` or A, over rows of pixels: some of each pixel's channels, which are put beside each other.
pub(super) struct OverRows<'a> {
    pub(super) of: Of<'a>,
    pub(super) way: usize,
    pub(super) channels: usize,
    pub(super) some: Range<usize>,
    pub(super) made: &'a mut [f32],
}

impl Kernel for OverRows<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { of, way, channels, some, made } = self;
        if some.len() == channels {
            return combine(of, way, made);
        }
        let width = made.len() / some.len();
        for (pixel, made) in (0..width).zip(made.chunks_exact_mut(some.len())) {
            let at = pixel * channels + some.start..pixel * channels + some.end;
            let of = match of {
                Of::Source([a, b, c, d]) => {
                    Of::Source([&a[at.clone()], &b[at.clone()], &c[at.clone()], &d[at]])
                }
                Of::Result([a, b]) => Of::Result([&a[at.clone()], &b[at]]),
            };
            combine(of, way, made);
        }
    }
}

/// Column `way` of B or `A^T`, over a line of pixels, tile by tile.
pub(super) struct OverColumns<'a> {
    pub(super) line: &'a [f32],
    /// Whether the line is one of the source, whose tiles overlap by two pixels.
    pub(super) source: bool,
    pub(super) way: usize,
    pub(super) channels: usize,
    pub(super) made: &'a mut [f32],
}

impl Kernel for OverColumns<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { line, source, way, channels, made } = self;
        for (tile, made) in made.chunks_exact_mut(channels).enumerate() {
            let line = &line[2 * tile * channels..];
            let (a, rest) = line.split_at(channels);
            let (b, rest) = rest.split_at(channels);
            let of = if source {
                let (c, rest) = rest.split_at(channels);
                Of::Source([a, b, c, &rest[..channels]])
            } else {
                Of::Result([a, b])
            };
            combine(of, way, made);
        }
    }
}

/// Row `way` of `B^T` or of A times what is given.
#[inline(always)]
fn combine(of: Of<'_>, way: usize, made: &mut [f32]) {
    let (left, right, combination) = match (of, way) {
        (Of::Source([a, _, c, _]), 0) => (a, c, Combination::Minus),
        (Of::Source([_, b, c, _]), 1) => (b, c, Combination::Plus),
        (Of::Source([_, b, c, _]), 2) => (c, b, Combination::Minus),
        (Of::Source([_, b, _, d]), _) => (b, d, Combination::Minus),
        (Of::Result([a, b]), 0) => (a, b, Combination::Left),
        (Of::Result([a, b]), 1) => (a, b, Combination::Plus),
        (Of::Result([a, b]), 2) => (a, b, Combination::Minus),
        (Of::Result([a, b]), _) => (a, b, Combination::MinusRight),
    };
    let pairs = made.iter_mut().zip(left.iter().zip(right));
    match combination {
        Combination::Plus => pairs.for_each(|(made, (left, right))| *made = left + right),
        Combination::Minus => pairs.for_each(|(made, (left, right))| *made = left - right),
        Combination::Left => pairs.for_each(|(made, (left, _))| *made = *left),
        Combination::MinusRight => pairs.for_each(|(made, (_, right))| *made = -right),
    }
}

/// What is made of two numbers.
enum Combination {
    Plus,
    Minus,
    Left,
    MinusRight,
}

/// `A^T m A` of a row of tiles, for up to 16 channels.
pub(super) struct Pixels<'a, 'y> {
    /// From the first tile's at the first place on; those of the next tile lie 32 numbers further.
    pub(super) sums: &'a [f32],
    /// Numbers from one place to the next.
    pub(super) place: usize,
    /// Numbers from one pixel to the next.
    pub(super) channels: usize,
    /// Rows and columns of pixels.
    pub(super) size: [usize; 2],
    pub(super) target: &'a mut Target<'y>,
}

impl Kernel for Pixels<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { sums, place, channels, size: [height, width], target } = self;
        for tile in 0..width.div_ceil(2) {
            let sums = &sums[tile * WIDTH..];
            let read = |number: usize| -> &Lanes {
                sums[number * place..].first_chunk().expect("32 sums of each tile")
            };
            let mut rows = [[[0.0; LANES]; 2]; 4];
            for (at, row) in rows.iter_mut().enumerate() {
                let at = 4 * at;
                *row = by_a([read(at), read(at + 1), read(at + 2), read(at + 3)]);
            }
            let [a, b, c, d] = &rows;
            for at in 0..2.min(width - 2 * tile) {
                let pixels = by_a([&a[at], &b[at], &c[at], &d[at]]);
                for (line, pixel) in pixels[..height].iter().enumerate() {
                    put(target.row((line * width + 2 * tile + at) * channels), pixel);
                }
            }
        }
    }
}

/// `A^T` times four numbers.
#[inline(always)]
fn by_a([a, b, c, d]: [&Lanes; 4]) -> [Lanes; 2] {
    let mut made = [[0.0; LANES]; 2];
    for lane in 0..LANES {
        made[0][lane] = a[lane] + b[lane] + c[lane];
        made[1][lane] = b[lane] - c[lane] - d[lane];
    }
    made
}

/// `G^T m G` of the 16 places of up to 32 kernels, where m is a sum of parts.
pub(super) struct Taps<'a> {
    /// From the first place's numbers on.
    pub(super) parts: &'a [&'a [f32]],
    /// Numbers from one place to the next.
    pub(super) step: usize,
    /// 9 numbers of each kernel.
    pub(super) made: &'a mut [f32],
}

impl Kernel for Taps<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { parts, step, made } = self;
        let mut places = [[0.0; WIDTH]; PLACES];
        for part in parts {
            for (place, sums) in places.iter_mut().enumerate() {
                let part = &part[place * step..][..WIDTH];
                sums.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
            }
        }
        let mut taps = [[0.0; WIDTH]; TAPS];
        for lane in 0..WIDTH {
            let mut rows = [[0.0; 4]; 3];
            for column in 0..4 {
                let at = |row: usize| places[4 * row + column][lane];
                rows[0][column] = at(0) + 0.5 * (at(1) + at(2));
                rows[1][column] = 0.5 * (at(1) - at(2));
                rows[2][column] = 0.5 * (at(1) + at(2)) + at(3);
            }
            for (row, [a, b, c, d]) in rows.iter().enumerate() {
                taps[3 * row][lane] = a + 0.5 * (b + c);
                taps[3 * row + 1][lane] = 0.5 * (b - c);
                taps[3 * row + 2][lane] = 0.5 * (b + c) + d;
            }
        }
        for (lane, made) in made.as_chunks_mut::<TAPS>().0.iter_mut().enumerate() {
            for (made, taps) in made.iter_mut().zip(&taps) {
                *made = taps[lane];
            }
        }
    }
}
