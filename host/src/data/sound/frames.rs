//! A sound in frames of 25 ms, and the power of each at every frequency.

use std::f32::consts::PI;
use std::fmt;
use std::sync::Arc;

use realfft::num_complex::Complex;
use realfft::{RealFftPlanner, RealToComplex};

/// How much of the value before is taken from each value: high frequencies of speech are weak.
const PRE_EMPHASIS: f32 = 0.97;

/// Cuts sounds of one rate into frames and transforms them. Keeps its buffers.
pub(super) struct Frames {
    /// Values from one frame to the next.
    hop: usize,
    /// Povey's window, as long as a frame: a Hann window to the power of 0.85.
    window: Vec<f32>,
    transform: Arc<dyn RealToComplex<f32>>,
    input: Vec<f32>,
    spectrum: Vec<Complex<f32>>,
    scratch: Vec<Complex<f32>>,
    power: Vec<f32>,
}

impl fmt::Debug for Frames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Frames").field("len", &self.window.len()).finish_non_exhaustive()
    }
}

impl Frames {
    pub(super) fn new(rate: u32) -> Self {
        let len = (rate as usize * 25 / 1000).max(2);
        let hann = |i: usize| 0.5 - 0.5 * (2.0 * PI * i as f32 / (len - 1) as f32).cos();
        let transform = RealFftPlanner::new().plan_fft_forward(len.next_power_of_two());
        Self {
            hop: (rate as usize / super::FRAMES_PER_SECOND).max(1),
            window: (0..len).map(|i| hann(i).powf(0.85)).collect(),
            input: transform.make_input_vec(),
            spectrum: transform.make_output_vec(),
            scratch: transform.make_scratch_vec(),
            power: vec![0.0; transform.complex_len()],
            transform,
        }
    }

    /// Length of the transform.
    pub(super) fn transform_len(&self) -> usize {
        self.transform.len()
    }

    /// How many frames lie wholly within `values` values.
    pub(super) fn count(&self, values: usize) -> usize {
        if values < self.window.len() { 0 } else { 1 + (values - self.window.len()) / self.hop }
    }

    /// Power at every frequency, `[transform_len / 2 + 1]`, of frame `index`. What the sound lacks at its
    /// end is silence.
    pub(super) fn power(&mut self, wave: &[f32], index: usize) -> &[f32] {
        let len = self.window.len();
        let rest = wave.get(index * self.hop..).unwrap_or(&[]);
        let there = &rest[..rest.len().min(len)];
        self.input[..there.len()].copy_from_slice(there);
        self.input[there.len()..].fill(0.0);
        let frame = &mut self.input[..len];
        let mean = frame.iter().sum::<f32>() / len as f32;
        // The value before the first is taken to be the first.
        let mut before = frame[0] - mean;
        for (value, weight) in frame.iter_mut().zip(&self.window) {
            let present = *value - mean;
            *value = (present - PRE_EMPHASIS * before) * weight;
            before = present;
        }
        let made = self.transform.process_with_scratch(
            &mut self.input,
            &mut self.spectrum,
            &mut self.scratch,
        );
        debug_assert!(made.is_ok(), "the buffers are the transform's own");
        for (power, value) in self.power.iter_mut().zip(&self.spectrum) {
            *power = value.norm_sqr();
        }
        &self.power
    }
}
