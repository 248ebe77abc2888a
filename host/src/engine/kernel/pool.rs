//! Max pooling of pictures whose channels lie last.

use super::Float;
use super::dispatch::{Kernel, dispatch};
use super::packed::gathered::Pictures;
use super::threads;

/// The sizes of a pooling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool {
    /// What is read, `[B, H, W, C]`.
    pub source: Pictures,
    /// What is made, `[B, H', W', C]`.
    pub result: Pictures,
    /// Side of the window.
    pub kernel: usize,
    /// Pixels of the source from one window to the next.
    pub stride: usize,
    /// Rows and columns outside that a window may cover; they never win.
    pub padding: usize,
}

impl Pool {
    /// The pixels of the source that window (`y`, `x`) covers, row by row.
    fn window(&self, [y, x]: [usize; 2]) -> impl Iterator<Item = usize> {
        let Self { source, kernel, stride, padding, .. } = *self;
        let cover = |at: usize, side: usize| {
            let start = at * stride;
            start.saturating_sub(padding)..(start + kernel).saturating_sub(padding).min(side)
        };
        let (rows, columns) = (cover(y, source.height), cover(x, source.width));
        rows.flat_map(move |row| columns.clone().map(move |column| row * source.width + column))
    }
}

/// The largest of each window and where it stands in its picture, the first of equals; NaN counts as the
/// largest.
///
/// # Panics
/// When `x` is of another size.
pub fn max<T: Float>(x: &[T], pool: &Pool) -> (Vec<T>, Vec<u32>) {
    let Pool { source, result, .. } = pool;
    assert_eq!(x.len(), source.len(), "pictures of the wrong size");
    let (mut y, mut places) = (threads::zeros(result.len()), vec![0_u32; result.len()]);
    let piece = result.len() / result.batch.max(1);
    threads::chunks2((&mut y, piece.max(1)), (&mut places, piece.max(1)), |first, y, places| {
        // Without threads the one piece is the whole batch.
        let pieces = y.chunks_exact_mut(piece).zip(places.chunks_exact_mut(piece));
        for (b, (y, places)) in (first..).zip(pieces) {
            let x = &x[b * source.height * source.width * source.channels..];
            for at in 0..result.height * result.width {
                let window = pool.window([at / result.width, at % result.width]);
                let range = at * result.channels..(at + 1) * result.channels;
                let (y, places) = (&mut y[range.clone()], &mut places[range]);
                for (i, pixel) in window.enumerate() {
                    let x = &x[pixel * source.channels..][..source.channels];
                    dispatch(Take { x, first: i == 0, pixel: pixel as u32, y, places });
                }
            }
        }
    });
    (y, places)
}

struct Take<'a, T> {
    x: &'a [T],
    first: bool,
    pixel: u32,
    y: &'a mut [T],
    places: &'a mut [u32],
}

impl<T: Float> Kernel for Take<'_, T> {
    type Output = ();

    #[inline(always)]
    #[expect(clippy::eq_op, reason = "only NaN differs from itself")]
    fn run<const FMA: bool>(self) {
        let Self { x, first, pixel, y, places } = self;
        for ((y, place), x) in y.iter_mut().zip(places).zip(x) {
            if first || *x > *y || (*x != *x && *y == *y) {
                (*y, *place) = (*x, pixel);
            }
        }
    }
}

/// The gradient of [`max`] to its input, from `dy` and the places.
///
/// # Panics
/// When a slice is of another size.
pub fn max_backward<T: Float>(dy: &[T], places: &[u32], pool: &Pool) -> Vec<T> {
    let Pool { source, result, .. } = pool;
    let piece = source.height * source.width * source.channels;
    let of = result.height * result.width * result.channels;
    threads::made(
        (source.len(), piece),
        || (),
        |(), b, dx: &mut [T]| {
            let (dy, places) = (&dy[b * of..][..of], &places[b * of..][..of]);
            for (dy, places) in
                dy.chunks_exact(source.channels).zip(places.chunks_exact(source.channels))
            {
                for (c, (dy, place)) in dy.iter().zip(places).enumerate() {
                    dx[*place as usize * source.channels + c] += *dy;
                }
            }
        },
    )
}
