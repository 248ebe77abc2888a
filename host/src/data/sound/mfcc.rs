//! Mel-frequency cepstral coefficients (Davis and Mermelstein 1980), with their first and second slopes in
//! time: 39 numbers a frame, 100 frames a second. The features that HuBERT's first units are made from.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::f64::consts::PI;

use super::deltas;
use super::frames::Frames;
use super::mel::Bands;

/// Coefficients, the first of which stands for loudness.
pub const COEFFICIENTS: usize = 13;
/// Numbers of a frame: coefficients, slopes, slopes of the slopes.
pub const WIDTH: usize = 3 * COEFFICIENTS;

const BANDS: usize = 23;
/// Kaldi's lifter, which brings higher coefficients to the size of the lower.
const LIFTER: f64 = 22.0;

thread_local! {
    /// Plans by rate: making one costs more than a short sound.
    static KNOWN: RefCell<BTreeMap<u32, Mfcc>> = const { RefCell::new(BTreeMap::new()) };
}

/// MFCC with slopes of `wave`, which has `rate` values a second: `[frames, 39]`, row by row. Only frames that
/// lie wholly within the sound count, so one below 25 ms has none.
pub fn mfcc(wave: &[f32], rate: u32) -> Vec<f32> {
    KNOWN.with_borrow_mut(|known| known.entry(rate).or_insert_with(|| Mfcc::new(rate)).of(wave))
}

/// Mean and deviation over time of coefficients and first slopes, `[52]`: what a sound is like as a whole. One
/// that is shorter than a frame is taken to go on in silence.
pub fn summary(wave: &[f32], rate: u32) -> Vec<f32> {
    const USED: usize = 2 * COEFFICIENTS;
    let frame = (rate as usize * 25).div_ceil(1000);
    let mut rows = mfcc(wave, rate);
    if rows.is_empty() {
        let mut longer = wave.to_vec();
        longer.resize(frame, 0.0);
        rows = mfcc(&longer, rate);
    }
    let n = (rows.len() / WIDTH).max(1) as f64;
    let column = |j: usize| rows.iter().skip(j).step_by(WIDTH).map(|x| f64::from(*x));
    let means: Vec<f64> = (0..USED).map(|j| column(j).sum::<f64>() / n).collect();
    let deviation = |(j, mean): (usize, &f64)| {
        (column(j).map(|x| (x - mean).powi(2)).sum::<f64>() / n).sqrt() as f32
    };
    let deviations: Vec<f32> = means.iter().enumerate().map(deviation).collect();
    means.iter().map(|mean| *mean as f32).chain(deviations).collect()
}

#[derive(Debug)]
struct Mfcc {
    frames: Frames,
    bands: Bands,
    /// `[13, 23]`: the cosine transform of bands, lifted.
    transform: Vec<f32>,
}

impl Mfcc {
    fn new(rate: u32) -> Self {
        let frames = Frames::new(rate);
        let bands = Bands::new(BANDS, rate, frames.transform_len());
        let cosine = |i: usize, j: usize| {
            let scale = if i == 0 { 1.0 } else { 2.0 } / BANDS as f64;
            let lifter = 1.0 + LIFTER / 2.0 * (PI * i as f64 / LIFTER).sin();
            let angle = PI * i as f64 * (j as f64 + 0.5) / BANDS as f64;
            (scale.sqrt() * angle.cos() * lifter) as f32
        };
        let transform =
            (0..COEFFICIENTS).flat_map(|i| (0..BANDS).map(move |j| cosine(i, j))).collect();
        Self { frames, bands, transform }
    }

    fn of(&mut self, wave: &[f32]) -> Vec<f32> {
        let mut rows = vec![0.0; self.frames.count(wave.len()) * WIDTH];
        let mut energies = [0.0; BANDS];
        for (index, row) in rows.chunks_exact_mut(WIDTH).enumerate() {
            self.bands.log_energies(self.frames.power(wave, index), &mut energies);
            for (out, cosines) in row.iter_mut().zip(self.transform.chunks_exact(BANDS)) {
                *out = cosines.iter().zip(&energies).map(|(c, e)| c * e).sum();
            }
        }
        deltas::append(&mut rows, WIDTH, 0, COEFFICIENTS);
        deltas::append(&mut rows, WIDTH, COEFFICIENTS, COEFFICIENTS);
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_counted_as_they_fit_and_every_rate_gives_39_numbers() {
        for (values, frames) in [(399, 0), (400, 1), (559, 1), (560, 2), (16_000, 98)] {
            assert_eq!(mfcc(&vec![0.1; values], 16_000).len(), frames * WIDTH, "{values} values");
        }
        assert_eq!(mfcc(&vec![0.1; 8_000], 8_000).len(), 98 * WIDTH);
    }

    #[test]
    fn the_summary_of_any_sound_is_finite_and_does_not_grow_with_it() {
        for values in [1, 300, 5_000] {
            let wave: Vec<f32> = (0..values).map(|i| (i as f32 * 0.3).sin()).collect();
            let summary = summary(&wave, 16_000);
            assert_eq!(summary.len(), 52);
            assert!(summary.iter().all(|x| x.is_finite()));
        }
    }
}
