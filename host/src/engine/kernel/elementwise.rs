//! Arithmetic between slices, elementwise or with a row or a column repeated.

use super::dispatch::{Kernel, dispatch};
use super::threads::{self, ELEMENTS_PER_TASK};
use super::{Float, lanes};

/// What is done with two numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arithmetic {
    /// a + b.
    Add,
    /// a - b.
    Sub,
    /// a b.
    Mul,
    /// a / b.
    Div,
}

/// How the second operand is spread over the first, `[rows, D]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spread {
    /// It has the same shape.
    Same,
    /// It is one row `[D]`, repeated.
    Row,
    /// It is one number per row, `[rows]`; D is the length given here.
    Column(usize),
}

/// `a op b`.
///
/// # Panics
/// When the lengths don't fit together.
pub fn combine<T: Float>(op: Arithmetic, a: &[T], b: &[T], spread: Spread) -> Vec<T> {
    let chunk = chunk_len(a.len(), b.len(), spread);
    threads::made(
        (a.len(), chunk),
        || (),
        |(), i, out| {
            let start = i * chunk;
            out.copy_from_slice(&a[start..][..out.len()]);
            let b = part(b, start, out.len(), spread);
            dispatch(InPlace { op, b, spread, out });
        },
    )
}

/// `a = a op b`.
///
/// # Panics
/// When the lengths don't fit together.
pub fn combine_in_place<T: Float>(op: Arithmetic, a: &mut [T], b: &[T], spread: Spread) {
    let chunk = chunk_len(a.len(), b.len(), spread);
    threads::chunks(a, chunk, |i, out| {
        let b = part(b, i * chunk, out.len(), spread);
        dispatch(InPlace { op, b, spread, out });
    });
}

/// The elements of one piece of work: whole rows where rows matter.
fn chunk_len(a: usize, b: usize, spread: Spread) -> usize {
    let rows_of = |width: usize| threads::rows_per_task(width) * width.max(1);
    match spread {
        Spread::Same => {
            assert_eq!(a, b, "operands have the same length");
            ELEMENTS_PER_TASK
        }
        Spread::Row => {
            assert!(a == 0 || (b > 0 && a.is_multiple_of(b)), "{a} numbers aren't rows of {b}");
            rows_of(b)
        }
        Spread::Column(width) => {
            assert_eq!(a, b * width, "there is one number per row");
            rows_of(width)
        }
    }
}

/// The part of `b` that belongs to the `len` elements from `start`.
fn part<T>(b: &[T], start: usize, len: usize, spread: Spread) -> &[T] {
    match spread {
        Spread::Same => &b[start..][..len],
        Spread::Row => b,
        Spread::Column(width) => &b[start / width.max(1)..][..len / width.max(1)],
    }
}

struct InPlace<'a, T> {
    op: Arithmetic,
    b: &'a [T],
    spread: Spread,
    out: &'a mut [T],
}

impl<T: Float> Kernel for InPlace<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        match self.op {
            Arithmetic::Add => self.each(|a, b| a + b),
            Arithmetic::Sub => self.each(|a, b| a - b),
            Arithmetic::Mul => self.each(|a, b| a * b),
            Arithmetic::Div => self.each(|a, b| a / b),
        }
    }
}

impl<T: Float> InPlace<'_, T> {
    #[inline(always)]
    fn each(self, f: impl Fn(T, T) -> T) {
        match self.spread {
            Spread::Same => pairwise(self.out, self.b, f),
            Spread::Row => {
                for row in self.out.chunks_exact_mut(self.b.len().max(1)) {
                    pairwise(row, self.b, &f);
                }
            }
            Spread::Column(width) => {
                for (row, b) in self.out.chunks_exact_mut(width.max(1)).zip(self.b) {
                    for a in row {
                        *a = f(*a, *b);
                    }
                }
            }
        }
    }
}

#[inline(always)]
fn pairwise<T: Float>(a: &mut [T], b: &[T], f: impl Fn(T, T) -> T) {
    for (a, b) in a.iter_mut().zip(b) {
        *a = f(*a, *b);
    }
}

/// `x = alpha x + beta`, in place.
pub fn affine_in_place<T: Float>(x: &mut [T], alpha: T, beta: T) {
    threads::chunks(x, ELEMENTS_PER_TASK, |_, x| dispatch(Affine { x, alpha, beta }));
}

struct Affine<'a, T> {
    x: &'a mut [T],
    alpha: T,
    beta: T,
}

impl<T: Float> Kernel for Affine<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        for x in self.x {
            *x = self.alpha.fma::<FMA>(*x, self.beta);
        }
    }
}

/// `y = keep y + alpha x`, in place: a weighted sum for any weights.
///
/// # Panics
/// When the lengths differ.
pub fn weighted_add<T: Float>(keep: T, y: &mut [T], alpha: T, x: &[T]) {
    assert_eq!(x.len(), y.len(), "operands have the same length");
    threads::chunks(y, ELEMENTS_PER_TASK, |i, y| {
        let x = &x[i * ELEMENTS_PER_TASK..][..y.len()];
        dispatch(WeightedAdd { keep, y, alpha, x });
    });
}

struct WeightedAdd<'a, T> {
    keep: T,
    y: &'a mut [T],
    alpha: T,
    x: &'a [T],
}

impl<T: Float> Kernel for WeightedAdd<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        for (y, x) in self.y.iter_mut().zip(self.x) {
            *y = self.alpha.fma::<FMA>(*x, self.keep * *y);
        }
    }
}

/// `sums[r] = sum_j x[r, j]` of x `[rows, D]`, `[rows]`.
///
/// # Panics
/// When x doesn't consist of as many rows as there are sums.
pub fn row_sums<T: Float>(x: &[T], sums: &mut [T]) {
    if sums.is_empty() {
        return;
    }
    assert!(x.len().is_multiple_of(sums.len()), "every sum has a row of its own");
    let width = x.len() / sums.len();
    let rows = threads::rows_per_task(width);
    threads::chunks(sums, rows, |i, sums| {
        let x = &x[i * rows * width..][..sums.len() * width];
        dispatch(RowSums { x, sums });
    });
}

struct RowSums<'a, T> {
    x: &'a [T],
    sums: &'a mut [T],
}

impl<T: Float> Kernel for RowSums<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let width = self.x.len() / self.sums.len().max(1);
        for (i, sum) in self.sums.iter_mut().enumerate() {
            *sum = lanes::sum(&self.x[i * width..][..width]);
        }
    }
}

/// The sum of all elements, from partial sums of fixed size, added in f64.
pub fn sum<T: Float>(x: &[T]) -> f64 {
    let mut partials = vec![T::ZERO; x.len().div_ceil(ELEMENTS_PER_TASK)];
    threads::chunks(&mut partials, 1, |i, partial| {
        let start = i * ELEMENTS_PER_TASK;
        let x = &x[start.min(x.len())..x.len().min(start + ELEMENTS_PER_TASK)];
        dispatch(RowSums { x, sums: partial });
    });
    partials.iter().map(|partial| partial.to_f64()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::kernel::testing::{assert_close, numbers, to};

    const OPS: [Arithmetic; 4] =
        [Arithmetic::Add, Arithmetic::Sub, Arithmetic::Mul, Arithmetic::Div];

    fn exact(op: Arithmetic, a: f64, b: f64) -> f64 {
        match op {
            Arithmetic::Add => a + b,
            Arithmetic::Sub => a - b,
            Arithmetic::Mul => a * b,
            Arithmetic::Div => a / b,
        }
    }

    fn check<T: Float>(rows: usize, width: usize, tolerance: f64) {
        let a = numbers(1, rows * width);
        for (spread, len) in
            [(Spread::Same, rows * width), (Spread::Row, width), (Spread::Column(width), rows)]
        {
            let b: Vec<f64> = numbers(2, len).iter().map(|x| x.abs() + 0.5).collect();
            for op in OPS {
                let at = |i: usize| match spread {
                    Spread::Same => b[i],
                    Spread::Row => b[i % width],
                    Spread::Column(_) => b[i / width],
                };
                let want: Vec<f64> = (0..a.len()).map(|i| exact(op, a[i], at(i))).collect();
                let out = combine(op, &to::<T>(&a), &to::<T>(&b), spread);
                assert_close(&out, &want, tolerance);
                let mut out = to::<T>(&a);
                combine_in_place(op, &mut out, &to::<T>(&b), spread);
                assert_close(&out, &want, tolerance);
            }
        }
    }

    #[test]
    fn arithmetic_agrees_with_its_formula_however_the_operand_is_spread() {
        for (rows, width) in [(1, 1), (3, 1), (1, 7), (5, 33), (700, 65)] {
            check::<f32>(rows, width, 1e-6);
            check::<f64>(rows, width, 1e-14);
        }
    }

    #[test]
    fn sums_weighted_and_plain_agree_with_a_loop() {
        for n in [0, 1, 33, 40_000] {
            let (x, mut y) = (numbers(3, n), numbers(4, n));
            let want: Vec<f64> = x.iter().zip(&y).map(|(x, y)| 0.25 * y - 3.0 * x + 1.0).collect();
            weighted_add(0.25, &mut y, -3.0, &x);
            affine_in_place(&mut y, 2.0, 2.0);
            affine_in_place(&mut y, 0.5, 0.0);
            assert_close(&y, &want, 1e-12);
            assert!((sum(&y) - want.iter().sum::<f64>()).abs() < 1e-8);
        }
        let mut sums = [0.0; 3];
        row_sums(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], &mut sums);
        assert_eq!(sums, [3.0, 7.0, 11.0]);
    }
}
