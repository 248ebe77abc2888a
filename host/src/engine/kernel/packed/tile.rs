//! The kernel of machines without AVX-512: 6 x 16 sums in f32, which AVX2 holds in 12 of its 16 registers.
//!
//! One kernel serves every product of this folder. It walks segments, in which both operands lie at an even
//! pace: a whole row and a whole panel, the runs of a gathered pixel, or the lines of a correlation.

use std::mem::MaybeUninit;

use super::super::dispatch::{Kernel, dispatch};
#[cfg(target_arch = "x86_64")]
use super::super::dispatch::{Level, level};
#[cfg(target_arch = "x86_64")]
use super::tile_avx2;
use super::{HEIGHT, Left, Panels, WIDTH};

/// Rows of a tile; [`HEIGHT`] is a multiple.
pub const ROWS: usize = 6;
/// Columns of a tile; [`WIDTH`] is a multiple.
pub const COLUMNS: usize = 16;
/// Words along the summed dimension before the kernel goes on to the next tile, so that what a tile reads of a panel stays
/// in L1: 8 KiB, of lines that lie 128 bytes apart and so meet in half of the cache's sets.
const DEPTH: usize = 128;

/// Where the numbers of a row begin in the left operand, and where those of its result.
pub type Place = [usize; 2];

/// Where the sums of a tile go.
pub struct Target<'a> {
    /// The results.
    pub c: &'a mut [MaybeUninit<f32>],
    /// Columns that exist, 16 at most.
    pub columns: usize,
    /// Whether to add to what is there.
    pub adds: bool,
}

/// Steps along the summed dimension at which both operands lie at an even pace.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    /// The number of its first step, from that of a row's place on.
    pub left: usize,
    /// The first step in the right operand.
    pub right: usize,
    /// How many steps.
    pub len: usize,
}

/// Operands of tiles; whatever the segments reach lies in the right one up to its last column.
#[derive(Clone, Copy, Debug)]
pub struct Operands<'a> {
    pub(super) left: &'a [f32],
    pub(super) left_step: usize,
    pub(super) right: &'a [f32],
    pub(super) right_step: usize,
    pub(super) segments: &'a [Segment],
    /// Numbers from the place of a row to the end of what it reads; likewise from a column.
    reach: [usize; 2],
}

impl<'a> Operands<'a> {
    /// From both operands and the numbers from one step to the next in each.
    pub fn new(
        (left, left_step): (&'a [f32], usize),
        (right, right_step): (&'a [f32], usize),
        segments: &'a [Segment],
    ) -> Self {
        let reach = |start: fn(&Segment) -> usize, step: usize| {
            let steps = segments.iter().filter(|segment| segment.len > 0);
            steps.map(|segment| start(segment) + (segment.len - 1) * step + 1).max().unwrap_or(0)
        };
        let reach = [reach(|segment| segment.left, left_step), reach(|s| s.right, right_step)];
        Self { left, left_step, right, right_step, segments, reach }
    }

    /// Makes the sums for up to six rows and 16 columns from `column` on.
    ///
    /// # Safety
    /// The columns of every place hold numbers where the target adds; afterwards they do.
    ///
    /// # Panics
    /// When a row, a column or a result ends outside of its slice.
    pub unsafe fn make(&self, places: &[Place], column: usize, target: &mut Target<'_>) {
        let ([left, right], columns) = (self.reach, target.columns);
        assert!(places.len() <= ROWS && columns <= COLUMNS, "a tile");
        for [from, to] in places {
            // Where there are no steps, nothing is read.
            assert!(left == 0 || from + left <= self.left.len(), "its rows");
            assert!(to + columns <= target.c.len(), "its results");
        }
        assert!(right == 0 || column + right - 1 + COLUMNS <= self.right.len(), "its columns");
        #[cfg(target_arch = "x86_64")]
        if level() >= Level::Avx2 {
            // SAFETY: the level was found, the assertions hold what is touched inside the slices, and there are numbers
            // where the caller promises some.
            return unsafe { tile_avx2::make(self, places, column, target) };
        }
        // SAFETY: the caller's promise.
        unsafe { self.make_plain(places, column, target) };
    }

    /// [`Operands::make`] in plain code.
    ///
    /// # Safety
    /// As there.
    pub(super) unsafe fn make_plain(
        &self,
        places: &[Place],
        column: usize,
        target: &mut Target<'_>,
    ) {
        let sums = dispatch(Plain { operands: self, places, column });
        for ([_, to], sums) in places.iter().zip(&sums) {
            // SAFETY: the caller's promise.
            unsafe { put(&mut target.c[*to..][..target.columns], sums, target.adds) };
        }
    }
}

struct Plain<'a> {
    operands: &'a Operands<'a>,
    places: &'a [Place],
    column: usize,
}

impl Kernel for Plain<'_> {
    type Output = [[f32; COLUMNS]; ROWS];

    #[inline(always)]
    fn run<const FMA: bool>(self) -> Self::Output {
        let Operands { left, left_step, right, right_step, segments, .. } = *self.operands;
        let mut all = [[0.0; COLUMNS]; ROWS];
        for Segment { left: from, right: to, len } in segments {
            for p in 0..*len {
                let right = &right[to + p * right_step + self.column..][..COLUMNS];
                for (sums, [place, _]) in all.iter_mut().zip(self.places) {
                    let factor = left[place + from + p * left_step];
                    for (sum, right) in sums.iter_mut().zip(right) {
                        *sum =
                            if FMA { factor.mul_add(*right, *sum) } else { *sum + factor * right };
                    }
                }
            }
        }
        all
    }
}

/// Stores (or adds) as many of the sums as `c` has room for.
///
/// # Safety
/// `c` holds numbers where `adds`.
pub(super) unsafe fn put(c: &mut [MaybeUninit<f32>], sums: &[f32; COLUMNS], adds: bool) {
    for (c, sum) in c.iter_mut().zip(sums) {
        // SAFETY: the caller promises a number.
        let before = if adds { unsafe { c.assume_init() } } else { 0.0 };
        c.write(before + sum);
    }
}

/// Numbers as room for such; only numbers may be written to it.
pub fn room(c: &mut [f32]) -> &mut [MaybeUninit<f32>] {
    // SAFETY: both have one layout, and this folder writes nothing but numbers to it.
    unsafe { &mut *(std::ptr::from_mut(c) as *mut [MaybeUninit<f32>]) }
}

/// Makes the rows of `c` from `first` on, of operands whose words are f32.
pub(super) fn block(a: &Left<'_>, first: usize, b: &Panels<'_>, c: &mut [f32], accumulate: bool) {
    let (height, n) = (a.format.words(a.k), b.n);
    assert_eq!(height, a.k, "words of one number");
    let rows = c.len() / n;
    if height == 0 && !accumulate {
        c.fill(0.0);
    }
    let left = &a.words[first * if a.tiled { height } else { a.stride }..];
    let (left, left_step) = (bytemuck::cast_slice(left), if a.tiled { HEIGHT } else { 1 });
    let place = |row: usize, start: usize| {
        if a.tiled {
            (row / HEIGHT * height + start) * HEIGHT + row % HEIGHT
        } else {
            row * a.stride + start
        }
    };
    // Pieces of one size: a short last one would cost as many additions to `c` as a whole one.
    let depth = height.div_ceil(height.div_ceil(DEPTH).max(1));
    for start in (0..height).step_by(depth.max(1)) {
        let segment = [Segment { left: 0, right: 0, len: depth.min(height - start) }];
        for panel in 0..n.div_ceil(WIDTH) {
            let right = &b.words[(panel * height + start) * WIDTH..];
            let right = (bytemuck::cast_slice(&right[..segment[0].len * WIDTH]), WIDTH);
            let operands = Operands::new((left, left_step), right, &segment);
            for column in (0..WIDTH.min(n - panel * WIDTH)).step_by(COLUMNS) {
                let to = panel * WIDTH + column;
                let (columns, adds) = (COLUMNS.min(n - to), accumulate || start > 0);
                let mut target = Target { c: room(&mut c[to..]), columns, adds };
                for row in (0..rows).step_by(ROWS) {
                    let places: [Place; ROWS] =
                        std::array::from_fn(|r| [place(row + r, start), (row + r) * n]);
                    let places = &places[..ROWS.min(rows - row)];
                    // SAFETY: `c` holds numbers.
                    unsafe { operands.make(places, column, &mut target) };
                }
            }
        }
    }
}
