//! The kernel of machines without AVX-512: 6 x 16 sums in f32, which AVX2 holds in 12 of its 16 registers.
//!
//! One kernel serves every product of this folder. It walks segments, in which both operands lie at an even
//! pace: a whole row and a whole panel, the runs of a gathered pixel, or the lines of a correlation.

use std::mem::MaybeUninit;

use super::super::Float;
use super::super::dispatch::{Kernel, dispatch};
#[cfg(target_arch = "x86_64")]
use super::super::dispatch::{Level, level};
use super::super::threads;
#[cfg(target_arch = "x86_64")]
use super::tile_avx2;
use super::{Format, HEIGHT, Left, Panels, TASK, WIDTH};

/// Rows of a tile; those of a tiled left operand are a multiple.
pub const ROWS: usize = 6;
/// Columns of a tile; those of a panel are a multiple.
pub const COLUMNS: usize = 16;
/// Words along the summed dimension before the kernel goes on to the next tile, so that what a tile reads of a panel
/// (16 KiB) stays in L1. Where 32 columns lie together it is half as many: the lines of 16 meet in half of the cache's sets.
const DEPTH: usize = 256;

const _: () = assert!(HEIGHT.is_multiple_of(ROWS) && WIDTH.is_multiple_of(COLUMNS));

/// Where the numbers of a row begin in the left operand, and where those of its result.
pub type Place = [usize; 2];

/// The places of rows that are made one tile after the other.
#[derive(Clone, Copy, Debug)]
pub struct Places<'a> {
    rows: &'a [Place],
    /// The furthest of both.
    most: Place,
}

impl<'a> Places<'a> {
    /// Of any number of rows.
    pub fn new(rows: &'a [Place]) -> Self {
        let most = rows.iter().fold([0; 2], |[a, b], [from, to]| [a.max(*from), b.max(*to)]);
        Self { rows, most }
    }

    /// Calls `with` with what `place` gives for the first `rows` rows, those of a task at a time.
    pub fn of(rows: usize, place: impl Fn(usize) -> Place, mut with: impl FnMut(&Places<'_>)) {
        let mut room = [[0; 2]; TASK];
        for first in (0..rows).step_by(TASK) {
            let places = &mut room[..TASK.min(rows - first)];
            places.iter_mut().zip(first..).for_each(|(made, row)| *made = place(row));
            with(&Places::new(places));
        }
    }
}

/// Where the sums of a tile go.
pub struct Target<'a> {
    /// The results, which hold numbers where it adds.
    c: &'a mut [MaybeUninit<f32>],
    columns: usize,
    adds: bool,
}

impl<'a> Target<'a> {
    /// Up to 16 columns of numbers, which are added to where it `adds`.
    pub fn numbers(c: &'a mut [f32], columns: usize, adds: bool) -> Self {
        // SAFETY: tiles write nothing but numbers.
        let c = unsafe { threads::room(c) };
        Self { c, columns, adds }
    }

    /// As [`Target::numbers`], in room that need not hold numbers yet.
    ///
    /// # Safety
    /// Where it `adds`, whatever a tile is made for holds numbers.
    pub unsafe fn room(c: &'a mut [MaybeUninit<f32>], columns: usize, adds: bool) -> Self {
        Self { c, columns, adds }
    }

    /// Where the results begin, how many columns a row has, and whether to add to them.
    #[inline(always)]
    pub(super) fn parts(&mut self) -> (*mut f32, usize, bool) {
        (self.c.as_mut_ptr().cast(), self.columns, self.adds)
    }

    /// The columns of the row that begins at `to`, and whether to add to them.
    #[inline(always)]
    pub(super) fn row(&mut self, to: usize) -> (&mut [MaybeUninit<f32>], bool) {
        (&mut self.c[to..][..self.columns], self.adds)
    }
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
    ///
    /// # Panics
    /// When a segment ends beyond all memory.
    pub fn new(
        (left, left_step): (&'a [f32], usize),
        (right, right_step): (&'a [f32], usize),
        segments: &'a [Segment],
    ) -> Self {
        let reach = |start: fn(&Segment) -> usize, step: usize| {
            let ends = segments.iter().filter(|segment| segment.len > 0).map(|segment| {
                let way = (segment.len - 1).checked_mul(step)?;
                start(segment).checked_add(way)?.checked_add(1)
            });
            ends.map(|end| end.expect("a segment in memory")).max().unwrap_or(0)
        };
        let reach = [reach(|segment| segment.left, left_step), reach(|s| s.right, right_step)];
        Self { left, left_step, right, right_step, segments, reach }
    }

    /// Makes the sums of all rows for up to 16 columns from `column` on.
    ///
    /// # Panics
    /// When a row, a column or a result ends outside of its slice.
    pub fn make(&self, places: &Places<'_>, column: usize, target: &mut Target<'_>) {
        if places.rows.is_empty() {
            return;
        }
        let ([left, right], [from, to]) = (self.reach, places.most);
        let fits = |start: usize, len: usize, all: usize| start <= all && len <= all - start;
        assert!(target.columns <= COLUMNS, "a tile");
        // Where there are no steps, nothing is read.
        assert!(left == 0 || fits(from, left, self.left.len()), "its rows");
        assert!(fits(to, target.columns, target.c.len()), "its results");
        let columns = (right + COLUMNS).saturating_sub(1);
        assert!(right == 0 || fits(column, columns, self.right.len()), "its columns");
        #[cfg(target_arch = "x86_64")]
        if level() >= Level::Avx2 {
            // SAFETY: the level was found, and the assertions hold what is touched inside the slices.
            return unsafe { tile_avx2::make(self, places.rows, column, target) };
        }
        self.make_plain(places.rows, column, target);
    }

    /// [`Operands::make`] in plain code.
    pub(super) fn make_plain(&self, places: &[Place], column: usize, target: &mut Target<'_>) {
        for places in places.chunks(ROWS) {
            let sums = dispatch(Plain { operands: self, places, column });
            for ([_, to], sums) in places.iter().zip(&sums) {
                put(target.row(*to), sums);
            }
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
                    let pairs = sums.iter_mut().zip(right);
                    pairs.for_each(|(sum, right)| *sum = factor.fma::<FMA>(*right, *sum));
                }
            }
        }
        all
    }
}

/// Stores (or adds) as many of the sums as there is room for, as [`Target::row`] has it.
#[inline(always)]
pub(super) fn put((c, adds): (&mut [MaybeUninit<f32>], bool), sums: &[f32; COLUMNS]) {
    for (c, sum) in c.iter_mut().zip(sums) {
        let mut sum = *sum;
        if adds {
            // SAFETY: a target that adds holds numbers.
            sum += unsafe { c.assume_init() };
        }
        c.write(sum);
    }
}

/// Makes the rows of `c` from `first` on, of operands whose words are f32.
///
/// # Safety
/// `c` holds numbers where it accumulates.
pub(super) unsafe fn block(
    a: &Left<'_>,
    first: usize,
    b: &Panels<'_>,
    c: &mut [MaybeUninit<f32>],
    accumulate: bool,
) {
    let (height, n) = (a.k, b.n);
    assert_ne!(a.format, Format::Bf16, "words of one number");
    let rows = c.len() / n;
    if height == 0 && !accumulate {
        c.fill(MaybeUninit::new(0.0));
    }
    let left = &a.words[first * if a.tiled { height } else { a.stride }..];
    let (left, left_step) = (bytemuck::cast_slice(left), if a.tiled { HEIGHT } else { 1 });
    let place = |row: usize| {
        let from =
            if a.tiled { row / HEIGHT * height * HEIGHT + row % HEIGHT } else { row * a.stride };
        [from, row * n]
    };
    // Pieces of one size: a short last one would cost as many additions to `c` as a whole one.
    let most = DEPTH * COLUMNS / b.lanes;
    let depth = height.div_ceil(height.div_ceil(most).max(1));
    Places::of(rows, place, |places| {
        for start in (0..height).step_by(depth.max(1)) {
            let len = depth.min(height - start);
            let segment = [Segment { left: start * left_step, right: 0, len }];
            for to in (0..n).step_by(COLUMNS) {
                let right = &b.words[(to / b.lanes * height + start) * b.lanes..][..len * b.lanes];
                let right = (bytemuck::cast_slice(right), b.lanes);
                let operands = Operands::new((left, left_step), right, &segment);
                let (columns, adds) = (COLUMNS.min(n - to), accumulate || start > 0);
                // SAFETY: the caller promises numbers where it accumulates, and later passes add to what earlier ones wrote.
                let mut target = unsafe { Target::room(&mut c[to..], columns, adds) };
                operands.make(places, to % b.lanes, &mut target);
            }
        }
    });
}
