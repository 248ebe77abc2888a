//! WAV and FLAC bytes to one channel of f32 at the rate that was asked for.

use std::cell::RefCell;
use std::io::Cursor;

use claxon::FlacReader;
use hound::{SampleFormat, WavReader, WavSpec};

use super::resample;
use crate::{Error, Result};

/// File name endings of sounds that can be decoded, without the dot.
pub const EXTENSIONS: [&str; 2] = ["flac", "wav"];

/// Whether a file of this name is a sound, by its ending.
pub fn is_sound(name: &str) -> bool {
    let ending = name.rsplit('.').next().unwrap_or_default();
    EXTENSIONS.iter().any(|known| ending.eq_ignore_ascii_case(known))
}

/// Rates of files that are taken for real, in values a second.
const RATES: std::ops::RangeInclusive<u32> = 1_000..=768_000;

thread_local! {
    /// A sound at its file's rate: one buffer per thread, grown to the longest.
    static AS_STORED: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
    /// A block of a FLAC file.
    static BLOCK: RefCell<Vec<i32>> = const { RefCell::new(Vec::new()) };
}

/// Decodes a WAV file (PCM of 8, 16, 24 or 32 bits, or 32-bit float) or a FLAC file into `wave`, -1 to 1,
/// at `rate` values a second. Several channels become their mean.
///
/// # Errors
/// When the bytes are neither, are truncated, broken or empty, or hold a value that is not finite.
pub fn decode(bytes: &[u8], rate: u32, wave: &mut Vec<f32>) -> Result<()> {
    AS_STORED.with_borrow_mut(|stored| {
        stored.clear();
        let from = if bytes.starts_with(b"RIFF") {
            wav(bytes, stored)?
        } else if bytes.starts_with(b"fLaC") {
            flac(bytes, stored)?
        } else {
            let what = if bytes.is_empty() { "is empty" } else { "is neither a WAV nor a FLAC" };
            return Err(Error::failed(format!("the file {what}")));
        };
        if stored.is_empty() {
            return Err(Error::failed("the sound has no length"));
        }
        if !RATES.contains(&from) {
            return Err(Error::failed(format!("the sound has a rate of {from} Hz")));
        }
        if !stored.iter().all(|value| value.is_finite()) {
            return Err(Error::failed("the sound holds a value that is not a number"));
        }
        resample::apply(stored, (from, rate), wave)
    })
}

fn wav(bytes: &[u8], wave: &mut Vec<f32>) -> Result<u32> {
    let broken = |e| Error::failed("the WAV is truncated or broken").because(wav_reason(&e));
    let mut reader = WavReader::new(Cursor::new(bytes)).map_err(broken)?;
    let WavSpec { channels, sample_rate, bits_per_sample, sample_format } = reader.spec();
    let mut mean = Mean::new(channels.into(), wave);
    match sample_format {
        SampleFormat::Float => {
            for value in reader.samples::<f32>() {
                mean.push(value.map_err(broken)?);
            }
        }
        SampleFormat::Int => {
            let scale = full_scale(u32::from(bits_per_sample))?;
            for value in reader.samples::<i32>() {
                mean.push(value.map_err(broken)? as f32 * scale);
            }
        }
    }
    Ok(sample_rate)
}

/// hound's own words for what can be wrong with a file name things of its interface.
fn wav_reason(error: &hound::Error) -> String {
    match error {
        hound::Error::Unsupported | hound::Error::InvalidSampleFormat => {
            "it is not PCM of 8 to 32 bits, nor 32-bit float".to_owned()
        }
        other => other.to_string(),
    }
}

/// What the largest value of `bits` bits is divided by to be 1, as a factor.
fn full_scale(bits: u32) -> Result<f32> {
    if !(1..=32).contains(&bits) {
        return Err(Error::failed(format!("the sound has values of {bits} bits")));
    }
    Ok((-f64::from(bits - 1)).exp2() as f32)
}

fn flac(bytes: &[u8], wave: &mut Vec<f32>) -> Result<u32> {
    let broken = |e: claxon::Error| Error::failed("the FLAC is truncated or broken").because(e);
    let mut reader = FlacReader::new(Cursor::new(bytes)).map_err(broken)?;
    let info = reader.streaminfo();
    let scale = full_scale(info.bits_per_sample)?;
    let mut blocks = reader.blocks();
    BLOCK.with_borrow_mut(|buffer| {
        while let Some(block) = blocks.read_next_or_eof(std::mem::take(buffer)).map_err(broken)? {
            let channels = block.channels();
            let share = scale / channels.max(1) as f32;
            let start = wave.len();
            wave.resize(start + block.duration() as usize, 0.0);
            for channel in 0..channels {
                for (sum, value) in wave[start..].iter_mut().zip(block.channel(channel)) {
                    *sum += *value as f32 * share;
                }
            }
            *buffer = block.into_buffer();
        }
        Ok::<(), Error>(())
    })?;
    // A file that ends between two blocks is no error to the decoder.
    match info.samples {
        Some(promised) if promised != wave.len() as u64 => Err(Error::failed(format!(
            "the FLAC is truncated: {} of {promised} values are there",
            wave.len()
        ))),
        _ => Ok(info.sample_rate),
    }
}

/// Interleaved channels to their mean.
struct Mean<'a> {
    channels: usize,
    present: usize,
    sum: f32,
    wave: &'a mut Vec<f32>,
}

impl<'a> Mean<'a> {
    fn new(channels: usize, wave: &'a mut Vec<f32>) -> Self {
        Self { channels: channels.max(1), present: 0, sum: 0.0, wave }
    }

    fn push(&mut self, value: f32) {
        self.sum += value;
        self.present += 1;
        if self.present == self.channels {
            self.wave.push(self.sum / self.channels as f32);
            (self.present, self.sum) = (0, 0.0);
        }
    }
}

#[cfg(test)]
#[path = "testing.rs"]
pub(crate) mod testing;
#[cfg(test)]
#[path = "sound_tests.rs"]
mod tests;
