//! Dropout: numbers dropped at random, each by a draw of its own.

use super::dispatch::{Kernel, dispatch};
use super::{Float, threads};
use crate::random::Blocks;

/// Blocks that are drawn side by side, one word of each per register.
const LANES: usize = 16;
/// Numbers that they decide about.
const GROUP: usize = 4 * LANES;

/// How many blocks of a stream `n` numbers take.
pub fn blocks(n: usize) -> u64 {
    (n.div_ceil(GROUP) * LANES) as u64
}

/// x with each number 0 with probability `p`, else times 1 / (1 - p); and which were kept (1) or not (0).
///
/// `p` is below 1, and `draws` are [`blocks`] of x's length.
pub fn dropout<T: Float>(x: &[T], p: f64, draws: &Blocks) -> (Vec<T>, Vec<u8>) {
    let mut kept = vec![0; x.len()];
    let mut y = vec![T::ZERO; x.len()];
    // 2^32 p: what lies below it is dropped.
    let threshold = (p * f64::from(u32::MAX)).round() as u32;
    let piece = threads::ELEMENTS_PER_TASK;
    threads::chunks2((&mut kept, piece), (&mut y, piece), |i, kept, y| {
        dispatch(Draw { draws, first: (i * piece / 4) as u64, threshold, kept });
        dispatch(Scale { x: &x[i * piece..][..y.len()], kept, factor: factor(p), y });
    });
    (y, kept)
}

fn factor<T: Float>(p: f64) -> T {
    T::from_f64(1.0 / (1.0 - p))
}

/// The gradient of [`dropout`] to x.
pub fn backward<T: Float>(dy: &[T], kept: &[u8], p: f64) -> Vec<T> {
    let piece = threads::ELEMENTS_PER_TASK;
    threads::made(
        (dy.len(), piece),
        || (),
        |(), i, dx: &mut [T]| {
            let part = i * piece..i * piece + dx.len();
            dispatch(Scale { x: &dy[part.clone()], kept: &kept[part], factor: factor(p), y: dx });
        },
    )
}

struct Draw<'a> {
    draws: &'a Blocks,
    /// The first block.
    first: u64,
    threshold: u32,
    kept: &'a mut [u8],
}

impl Kernel for Draw<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        for (group, kept) in self.kept.chunks_mut(GROUP).enumerate() {
            let words = self.draws.side_by_side::<LANES>(self.first + (group * LANES) as u64);
            let mut made = [0; GROUP];
            for (made, words) in made.chunks_exact_mut(LANES).zip(words) {
                for (made, word) in made.iter_mut().zip(words) {
                    *made = u8::from(word >= self.threshold);
                }
            }
            kept.copy_from_slice(&made[..kept.len()]);
        }
    }
}

/// `y = factor x` where kept, else 0.
struct Scale<'a, T> {
    x: &'a [T],
    kept: &'a [u8],
    factor: T,
    y: &'a mut [T],
}

impl<T: Float> Kernel for Scale<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        for ((y, x), kept) in self.y.iter_mut().zip(self.x).zip(self.kept) {
            *y = if *kept == 0 { T::ZERO } else { *x * self.factor };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Stream;

    #[test]
    fn each_number_has_a_draw_of_its_own_whatever_the_threads() {
        let x = vec![1.0_f32; 100_003];
        let run = |threads| {
            let draws = Stream::new(0, "dropout", 0, 0).set_aside(blocks(x.len()));
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| dropout(&x, 0.25, &draws))
        };
        let (y, kept) = run(1);
        assert_eq!((&y, &kept), (&run(3).0, &run(3).1));
        let share = kept.iter().map(|kept| 1.0 - f64::from(*kept)).sum::<f64>() / 100_003.0;
        assert!((share - 0.25).abs() < 0.006, "{share}");
        for (y, kept) in y.iter().zip(&kept) {
            assert_eq!(*y, f32::from(*kept) / 0.75);
        }
        assert_eq!(backward(&x, &kept, 0.25), y);
    }

    #[test]
    fn neighbouring_draws_are_not_alike() {
        let draws = Stream::new(0, "pairs", 0, 0).set_aside(blocks(1 << 16));
        let (_, kept) = dropout(&vec![1.0_f32; 1 << 16], 0.5, &draws);
        for far in [1, 4, 16, 64, 16_384] {
            let same = kept.iter().zip(&kept[far..]).filter(|(a, b)| a == b).count();
            let share = same as f64 / (kept.len() - far) as f64;
            assert!((share - 0.5).abs() < 0.02, "{far}: {share}");
        }
    }
}
