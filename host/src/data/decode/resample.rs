//! A waveform at another rate: band-limited, by FFT (rubato).

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use rubato::audioadapter_buffers::direct::SequentialSlice;
use rubato::{Fft, FixedSync, Resampler, WindowFunction};

use crate::{Error, Result};

/// Values that one transform takes at least: at this length the filter passes 97 % of the narrower band.
const BLOCK: usize = 1024;

thread_local! {
    /// A resampler per pair of rates and thread: planning one costs more than a short sound.
    static KNOWN: RefCell<BTreeMap<(u32, u32), Fft<f32>>> = const { RefCell::new(BTreeMap::new()) };
}

/// Values that a transform takes: a multiple of the fewest that give a whole number of values at the other rate, and
/// even, since half of it is the filter's delay, which can only be taken back in whole values.
fn block((from, to): (u32, u32)) -> usize {
    let (mut a, mut b) = (from, to);
    while b != 0 {
        (a, b) = (b, a % b);
    }
    let fewest = (from / a.max(1)) as usize;
    2 * fewest * (BLOCK / 2).div_ceil(fewest)
}

/// Writes `wave`, which has `from` values a second, into `out` with `to` of them: as long, rounded up to a
/// whole value, without delay.
///
/// # Errors
/// When no resampler can be made for the two rates.
pub(super) fn apply(wave: &[f32], (from, to): (u32, u32), out: &mut Vec<f32>) -> Result<()> {
    out.clear();
    if from == to {
        out.extend_from_slice(wave);
        return Ok(());
    }
    let refuse = |e: &dyn std::fmt::Display| {
        Error::failed(format!("can't resample from {from} Hz to {to} Hz")).because(e)
    };
    KNOWN.with_borrow_mut(|known| {
        let resampler = match known.entry((from, to)) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => {
                let window = WindowFunction::BlackmanHarris2;
                let (from_rate, to_rate, sync) = (from as usize, to as usize, FixedSync::Both);
                let block = block((from, to));
                let made = Fft::new_custom(from_rate, to_rate, block, 1, 1, window, sync);
                place.insert(made.map_err(|e| refuse(&e))?)
            }
        };
        resampler.reset();
        let room = resampler.process_all_needed_output_len(wave.len());
        out.resize(room, 0.0);
        let source = SequentialSlice::new(wave, 1, wave.len()).map_err(|e| refuse(&e))?;
        let mut target =
            SequentialSlice::new_mut(out.as_mut_slice(), 1, room).map_err(|e| refuse(&e))?;
        let made = resampler.process_all_into_buffer(&source, &mut target, wave.len(), None);
        out.truncate(made.map_err(|e| refuse(&e))?.1);
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::f32::consts::TAU;

    fn tone(hz: f32, rate: u32, len: usize) -> Vec<f32> {
        (0..len).map(|i| (TAU * hz * i as f32 / rate as f32).sin()).collect()
    }

    #[test]
    fn a_tone_stays_the_tone_at_every_rate_and_keeps_its_place_in_time() {
        for (from, to) in [(8_000, 16_000), (44_100, 16_000), (48_000, 16_000), (22_050, 8_000)] {
            let mut out = Vec::new();
            apply(&tone(440.0, from, from as usize / 2), (from, to), &mut out).unwrap();
            assert_eq!(out.len(), to as usize / 2, "{from} to {to}");
            // At the ends the sound begins and stops at once, which no limited band can follow.
            let inside = to as usize / 20..out.len() - to as usize / 20;
            for (got, want) in out[inside.clone()].iter().zip(&tone(440.0, to, out.len())[inside]) {
                assert!((got - want).abs() < 2e-3, "{from} to {to}: {got}, not {want}");
            }
        }
    }

    #[test]
    fn what_the_lower_rate_cannot_hold_is_removed() {
        let mut out = Vec::new();
        apply(&tone(6_000.0, 16_000, 8_000), (16_000, 8_000), &mut out).unwrap();
        assert!(out[400..3_600].iter().all(|value| value.abs() < 1e-3));
    }

    #[test]
    fn a_sound_of_a_few_values_and_a_second_one_after_it_come_out_right() {
        let mut out = vec![9.0; 7];
        apply(&[0.5; 3], (8_000, 16_000), &mut out).unwrap();
        assert_eq!(out.len(), 6);
        let mut again = Vec::new();
        apply(&[0.5; 3], (8_000, 16_000), &mut again).unwrap();
        assert_eq!(out, again);
    }
}
