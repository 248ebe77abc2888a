//! A sound as a picture: the logarithm of the energy of each mel band in each frame.

use super::frames::Frames;
use super::mel::Bands;
use crate::data::dataset::Sound;

/// Bands of the pictures that crops are cut from: enough for speech and music at 16 kHz, as most networks for
/// sound have 64 to 128.
pub const BANDS: usize = 64;

/// Computes spectrograms of sounds of one rate. Keeps its buffers.
#[derive(Debug)]
pub struct Spectrogram {
    frames: Frames,
    bands: Bands,
    rate: u32,
    row: Vec<f32>,
}

impl Spectrogram {
    /// For sounds of `rate` values a second, with `bands` bands from 20 Hz to half the rate.
    pub fn new(rate: u32, bands: usize) -> Self {
        let frames = Frames::new(rate);
        let bands = Bands::new(bands, rate, frames.transform_len());
        let row = vec![0.0; bands.count()];
        Self { frames, bands, rate, row }
    }

    /// The rate that it was made for.
    pub fn rate(&self) -> u32 {
        self.rate
    }

    /// How many bands it gives.
    pub fn bands(&self) -> usize {
        self.bands.count()
    }

    /// Logarithms of energies of `wave` into `out`, `[bands, frames]`, the lowest band first; returns the
    /// number of frames, at least 1: a sound shorter than a frame goes on in silence.
    pub fn log_mel(&mut self, wave: &[f32], out: &mut Vec<f32>) -> usize {
        let frames = self.frames.count(wave.len()).max(1);
        out.resize(self.bands.count() * frames, 0.0);
        for index in 0..frames {
            self.bands.log_energies(self.frames.power(wave, index), &mut self.row);
            for (band, value) in self.row.iter().enumerate() {
                out[band * frames + index] = *value;
            }
        }
        frames
    }

    /// [`log_mel`](Self::log_mel) with mean 0 and deviation 1 over the whole sound: loudness and the channel's
    /// level say nothing about what is heard.
    pub fn normalised(&mut self, wave: &[f32], out: &mut Vec<f32>) -> usize {
        /// Below it a sound is the same all over, such as digital silence.
        const LEAST: f32 = 1e-3;
        let frames = self.log_mel(wave, out);
        let n = out.len() as f32;
        let mean = out.iter().sum::<f32>() / n;
        let deviation = (out.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / n).sqrt();
        let scale = 1.0 / deviation.max(LEAST);
        out.iter_mut().for_each(|value| *value = (*value - mean) * scale);
        frames
    }
}

/// Spectrograms of the sound at hand, each computed once however many views are cut from it.
#[derive(Debug, Default)]
pub struct Pictures(Vec<Kept>);

#[derive(Debug)]
struct Kept {
    spectrogram: Spectrogram,
    picture: Vec<f32>,
    frames: usize,
    /// Whether the picture is that of the sound at hand.
    present: bool,
}

impl Pictures {
    /// Another sound comes.
    pub fn forget(&mut self) {
        self.0.iter_mut().for_each(|kept| kept.present = false);
    }

    /// The [normalised](Spectrogram::normalised) picture `[bands, frames]` of `sound`, which is the same at every
    /// call until the last one is forgotten, and its number of frames.
    pub fn of(&mut self, sound: &Sound, bands: usize) -> (&[f32], usize) {
        let same = |kept: &Kept| {
            kept.spectrogram.rate() == sound.rate && kept.spectrogram.bands() == bands
        };
        let at = self.0.iter().position(same).unwrap_or_else(|| {
            let spectrogram = Spectrogram::new(sound.rate, bands);
            self.0.push(Kept { spectrogram, picture: Vec::new(), frames: 0, present: false });
            self.0.len() - 1
        });
        let kept = &mut self.0[at];
        if !kept.present {
            kept.frames = kept.spectrogram.normalised(&sound.wave, &mut kept.picture);
            kept.present = true;
        }
        (&kept.picture, kept.frames)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::f32::consts::TAU;

    fn tone(hz: f32) -> Vec<f32> {
        (0..8_000).map(|i| (TAU * hz * i as f32 / 16_000.0).sin()).collect()
    }

    #[test]
    fn a_higher_tone_lies_in_a_higher_band_all_along() {
        let mut spectrogram = Spectrogram::new(16_000, BANDS);
        let mut loudest = |hz: f32| {
            let mut picture = Vec::new();
            let frames = spectrogram.log_mel(&tone(hz), &mut picture);
            assert_eq!((frames, picture.len()), (48, BANDS * 48));
            let best = |frame: usize| {
                let at = |band: &usize| picture[band * frames + frame];
                (0..BANDS).max_by(|a, b| at(a).total_cmp(&at(b))).unwrap()
            };
            assert!((0..frames).all(|frame| best(frame) == best(0)), "{hz} Hz");
            best(0)
        };
        let bands: Vec<usize> = [200.0, 800.0, 2_000.0, 6_000.0].map(&mut loudest).to_vec();
        assert!(bands.is_sorted() && bands[0] < bands[1] && bands[2] < bands[3], "{bands:?}");
    }

    #[test]
    fn a_normalised_picture_does_not_know_how_loud_the_sound_was() {
        let mut spectrogram = Spectrogram::new(16_000, 32);
        // A hiss in every band keeps all of them above the floor of energies.
        let mut stream = crate::random::Stream::new(0, "hiss", 0, 0);
        let mut loud = tone(500.0);
        loud.iter_mut().for_each(|x| *x += 0.05 * stream.normal() as f32);
        let mut quiet = loud.clone();
        quiet.iter_mut().for_each(|x| *x *= 0.5);
        let (mut a, mut b) = (Vec::new(), Vec::new());
        spectrogram.normalised(&loud, &mut a);
        spectrogram.normalised(&quiet, &mut b);
        assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 1e-2));
        spectrogram.normalised(&[0.0; 50], &mut a);
        assert!(a.len() == 32 && a.iter().all(|x| x.abs() < 1e-3), "silence, shorter than a frame");
    }
}
