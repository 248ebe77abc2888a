//! Packing operands: to bf16 pairs, interleaved or transposed, by the machine's widest instructions.

use super::super::dispatch::{Level, level};
#[cfg(target_arch = "x86_64")]
use super::pack_avx512;
use super::{Format, WIDTH};

/// Rounds to bf16, to nearest, ties to even; NaN stays NaN.
#[inline(always)]
pub(super) fn round(x: f32) -> u32 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7FFF + ((bits >> 16) & 1)) >> 16;
    if x.is_nan() { (bits >> 16) | 0x40 } else { rounded }
}

#[inline(always)]
fn pair(low: f32, high: f32) -> u32 {
    round(low) | (round(high) << 16)
}

/// Rounds one row into words of two; an odd last element is paired with 0.
pub(super) fn round_row(words: &mut [u32], x: &[f32]) {
    #[cfg(target_arch = "x86_64")]
    if level() == Level::Avx512Bf16 {
        // SAFETY: the level was found.
        unsafe { pack_avx512::round_row(words, x) };
        return;
    }
    let (whole, rest) = x.as_chunks::<2>();
    for (word, [low, high]) in words.iter_mut().zip(whole) {
        *word = pair(*low, *high);
    }
    if let ([last], Some(word)) = (rest, words.get_mut(whole.len())) {
        *word = pair(*last, 0.0);
    }
}

/// Fills `words`, groups of `N`, with `columns` (at most `N`) columns of `x` (rows of `stride`
/// numbers), from column `first` on.
pub(super) fn interleave<const N: usize>(
    format: Format,
    words: &mut [u32],
    (x, stride): (&[f32], usize),
    (first, columns): (usize, usize),
) {
    #[cfg(target_arch = "x86_64")]
    if (format, level()) == (Format::Bf16, Level::Avx512Bf16) {
        // SAFETY: the level was found.
        unsafe { pack_avx512::interleave::<N>(words, (x, stride), (first, columns)) };
        return;
    }
    let row = |at: usize| {
        let start = at * stride + first;
        x.get(start..start + columns).unwrap_or_default()
    };
    for (at, words) in words.chunks_exact_mut(N).enumerate() {
        let words = &mut words[..columns];
        match format {
            Format::F32 => words.copy_from_slice(bytemuck::cast_slice(row(at))),
            Format::Bf16 => {
                let high = row(2 * at + 1);
                for (i, (word, low)) in words.iter_mut().zip(row(2 * at)).enumerate() {
                    *word = pair(*low, high.get(i).copied().unwrap_or(0.0));
                }
            }
        }
    }
}

/// Fills a panel's words with the rows of `x` (`k` numbers each, at most 32 rows) as columns.
pub(super) fn columns(format: Format, words: &mut [u32], x: &[f32], k: usize) {
    #[cfg(target_arch = "x86_64")]
    match (format, level()) {
        (Format::Bf16, Level::Avx512Bf16) => {
            // SAFETY: the level was found.
            unsafe { pack_avx512::columns_bf16(words, x, k) };
            return;
        }
        (Format::F32, Level::Avx512 | Level::Avx512Bf16) => {
            // SAFETY: the level was found.
            unsafe { pack_avx512::columns_f32(words, x, k) };
            return;
        }
        _ => {}
    }
    for (j, x) in x.chunks(k).take(WIDTH).enumerate() {
        for (at, x) in x.chunks(format.group()).enumerate() {
            words[at * WIDTH + j] = match format {
                Format::F32 => x[0].to_bits(),
                Format::Bf16 => pair(x[0], x.get(1).copied().unwrap_or(0.0)),
            };
        }
    }
}
