//! A synthetic speaker: a voice source and noise through resonances that move from phone to phone (a formant
//! synthesiser after Klatt 1980).

use std::f32::consts::{PI, TAU};

use super::phones::{Segment, segments};
use crate::random::Stream;

/// What differs between speakers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Speaker {
    /// Formants as a multiple of a medium tract's: above 1 for a short one.
    tract: f32,
    /// Each formant's own deviation from that.
    formants: [f32; 3],
    /// Mean pitch in Hz.
    pitch: f32,
    /// Speaking time as a multiple of the medium.
    pace: f32,
    /// Share of breath in the voice.
    breath: f32,
    /// How dark the voice is: pole of its low-pass.
    dark: f32,
}

fn between(stream: &mut Stream, low: f32, high: f32) -> f32 {
    stream.range(f64::from(low), f64::from(high)) as f32
}

/// A factor around 1, of deviation `by`.
fn about_one(stream: &mut Stream, by: f32) -> f32 {
    (stream.normal() as f32 * by).exp()
}

impl Speaker {
    pub(super) fn draw(stream: &mut Stream) -> Self {
        let tract = between(stream, 0.85, 1.25);
        Self {
            tract,
            formants: [0; 3].map(|_| about_one(stream, 0.03)),
            // Short tracts go with high voices, loosely.
            pitch: 125.0 * tract.powf(2.0) * about_one(stream, 0.15),
            pace: between(stream, 0.8, 1.25),
            breath: between(stream, 0.01, 0.12),
            dark: between(stream, 0.2, 0.7),
        }
    }
}

/// One saying of a word: what is said when, before any sound is made.
#[derive(Clone, Debug)]
pub(super) struct Utterance {
    /// Each with its length of time in this saying.
    segments: Vec<Segment>,
    /// Silence before and after, in seconds.
    silence: [f32; 2],
    /// Pitch at the beginning and the end as multiples of the speaker's, and by how much the stressed
    /// syllable rises above the line between.
    melody: [f32; 3],
    /// Middle of the stressed syllable as a share of the word.
    stress: f32,
}

impl Utterance {
    pub(super) fn draw(word: &str, speaker: &Speaker, stream: &mut Stream) -> Self {
        let pace = speaker.pace * about_one(stream, 0.08);
        let second_stressed = stream.chance(0.5);
        let mut parts = Vec::new();
        for (part, second) in segments(word) {
            let long = if second == second_stressed { 1.15 } else { 0.9 };
            let own = about_one(stream, 0.1);
            parts.push(Segment { seconds: part.seconds * pace * long * own, ..part });
        }
        Self {
            segments: parts,
            silence: [between(stream, 0.02, 0.12), between(stream, 0.02, 0.12)],
            melody: [
                between(stream, 0.95, 1.15),
                between(stream, 0.75, 1.1),
                between(stream, 0.0, 0.25),
            ],
            stress: if second_stressed { 0.75 } else { 0.25 },
        }
    }

    /// Values of its sound at `rate`.
    pub(super) fn values(&self, rate: u32) -> usize {
        let spoken: f32 = self.segments.iter().map(|part| part.seconds).sum();
        ((spoken + self.silence[0] + self.silence[1]) * rate as f32) as usize
    }
}

/// Control values a second: the targets are read and the resonances set so often.
const CONTROL: f32 = 200.0;
/// Reach of the smoothing of formants to each side, in control values: the tract needs some 50 ms.
const SLOW: usize = 5;
/// Reach of that of loudness.
const QUICK: usize = 1;

/// Formants, voice, noise, centre and width of the noise: a line per control value.
type Controls = [f32; 7];

fn controls(utterance: &Utterance, speaker: &Speaker) -> Vec<Controls> {
    let mut lines: Vec<Controls> = Vec::new();
    let Some(first) = utterance.segments.first() else { return lines };
    let quiet = |part: &Segment| Segment { voice: 0.0, noise: 0.0, ..*part };
    let last = utterance.segments[utterance.segments.len() - 1];
    let [before, after] = utterance.silence;
    let ends =
        [Segment { seconds: before, ..quiet(first) }, Segment { seconds: after, ..quiet(&last) }];
    let mut end = 0.0;
    for part in std::iter::once(&ends[0]).chain(&utterance.segments).chain(&ends[1..]) {
        end += part.seconds;
        let [f1, f2, f3] =
            std::array::from_fn(|i| part.formants[i] * speaker.tract * speaker.formants[i]);
        let [centre, width] = part.noise_band.map(|hz| hz * speaker.tract.sqrt());
        while (lines.len() as f32) < end * CONTROL {
            lines.push([f1, f2, f3, part.voice, part.noise, centre, width]);
        }
    }
    for (column, reach) in [(0, SLOW), (1, SLOW), (2, SLOW), (3, 2 * QUICK), (4, QUICK)] {
        smooth(&mut lines, column, reach);
    }
    lines
}

/// Each value becomes the mean of those within `reach`.
fn smooth(lines: &mut [Controls], column: usize, reach: usize) {
    let values: Vec<f32> = lines.iter().map(|line| line[column]).collect();
    for (i, line) in lines.iter_mut().enumerate() {
        let near = &values[i.saturating_sub(reach)..values.len().min(i + reach + 1)];
        line[column] = near.iter().sum::<f32>() / near.len() as f32;
    }
}

/// A resonance: a filter of second order.
#[derive(Clone, Copy, Debug, Default)]
struct Resonance {
    a: f32,
    b: f32,
    c: f32,
    past: [f32; 2],
}

impl Resonance {
    /// Tunes it; a frequency that the rate can't hold lets everything pass.
    fn tune(&mut self, hz: f32, width: f32, rate: f32) {
        if hz > 0.47 * rate {
            (self.a, self.b, self.c) = (1.0, 0.0, 0.0);
            return;
        }
        self.c = -(-TAU * width / rate).exp();
        self.b = 2.0 * (-PI * width / rate).exp() * (TAU * hz / rate).cos();
        self.a = 1.0 - self.b - self.c;
    }

    fn pass(&mut self, x: f32) -> f32 {
        let y = self.a * x + self.b * self.past[0] + self.c * self.past[1];
        self.past = [y, self.past[0]];
        y
    }
}

/// Slope of the flow through the glottis at `phase` of a period, 0 to 1: it opens slowly and shuts at once.
fn glottis(phase: f32) -> f32 {
    const OPEN: f32 = 0.6;
    let x = phase / OPEN;
    if x < 1.0 { 2.0 * x - 3.0 * x * x } else { 0.0 }
}

fn noise(stream: &mut Stream) -> f32 {
    // The sum of four bytes is near enough to a normal number for a hiss.
    let bytes = stream.u32().to_le_bytes();
    (bytes.iter().map(|byte| f32::from(*byte)).sum::<f32>() - 510.0) / 148.0
}

/// The fourth and fifth formant, which hardly move.
const FIXED: [(f32, f32); 2] = [(3500.0, 200.0), (4500.0, 300.0)];
/// Widths of the moving formants in Hz.
const WIDTHS: [f32; 3] = [70.0, 90.0, 130.0];

/// Writes the sound of `utterance` at `rate`, its loudest value at 1.
pub(super) fn speak(
    utterance: &Utterance,
    speaker: &Speaker,
    rate: u32,
    stream: &mut Stream,
    wave: &mut Vec<f32>,
) {
    let lines = controls(utterance, speaker);
    let (values, hz) = (utterance.values(rate), rate as f32);
    wave.clear();
    let Some(last) = lines.len().checked_sub(1) else { return };
    let mut tract = [Resonance::default(); 5];
    for (resonance, (frequency, width)) in tract[3..].iter_mut().zip(FIXED) {
        resonance.tune(frequency * speaker.tract, width, hz);
    }
    let mut passage = Resonance::default();
    let (mut phase, mut voice_past, mut wobble) = (0.0_f32, 0.0_f32, 0.0_f32);
    let mut at = usize::MAX;
    for i in 0..values {
        let now = ((i as f32 / hz * CONTROL) as usize).min(last);
        let line = lines[now];
        if now != at {
            at = now;
            for ((resonance, frequency), width) in tract.iter_mut().zip(line).zip(WIDTHS) {
                resonance.tune(frequency, width, hz);
            }
            passage.tune(line[5].min(0.45 * hz), line[6], hz);
            wobble = 0.9 * wobble + 0.004 * stream.normal() as f32;
        }
        let share = i as f32 / values as f32;
        let [start, end, rise] = utterance.melody;
        let hill = (-((share - utterance.stress) / 0.18).powi(2)).exp();
        let pitch = speaker.pitch * (start + (end - start) * share + rise * hill) * (1.0 + wobble);
        phase = (phase + pitch / hz).fract();
        let breath = speaker.breath * noise(stream);
        let source = line[3] * (glottis(phase) + breath);
        voice_past = (1.0 - speaker.dark) * source + speaker.dark * voice_past;
        let voiced = tract.iter_mut().fold(voice_past, |x, resonance| resonance.pass(x));
        let hiss = passage.pass(noise(stream)) * line[4];
        wave.push(voiced + hiss);
    }
    let loudest = wave.iter().fold(1e-6_f32, |most, x| most.max(x.abs()));
    wave.iter_mut().for_each(|x| *x /= loudest);
}
