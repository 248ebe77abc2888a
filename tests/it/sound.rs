//! Sound: features against torchaudio's (`tests/reference/sound`).

use pretext::data::sound::mfcc::{WIDTH, mfcc};
use pretext::data::sound::spectrogram::Spectrogram;
use pretext_tests::reference::{Reference, difference, elements};

/// What f32 leaves of a sum of squares under a logarithm, relative to the size of all values.
const TOLERANCE: f64 = 1e-4;

fn tensor(values: &[f32], shape: &[usize]) -> candle_core::Tensor {
    candle_core::Tensor::from_slice(values, shape, &candle_core::Device::Cpu).expect("a tensor")
}

#[test]
fn mfcc_and_spectrograms_are_torchaudios() {
    let reference = Reference::open("sound/features.safetensors");
    let cases = reference.json("cases");
    for (i, case) in cases.as_array().expect("a list of cases").iter().enumerate() {
        let number = |key: &str| case[key].as_u64().expect("a number");
        let wave: Vec<f32> = elements(reference.tensor(&format!("c{i}.wave")))
            .into_iter()
            .map(|value| value as f32)
            .collect();
        let (rate, bands) = (number("rate") as u32, number("bands") as usize);
        let rows = mfcc(&wave, rate);
        let far = difference(
            &tensor(&rows, &[rows.len() / WIDTH, WIDTH]),
            reference.tensor(&format!("c{i}.mfcc")),
            1e-3,
        );
        assert!(far < TOLERANCE, "mfcc of case {i}: {far:e}");
        let mut picture = Vec::new();
        let frames = Spectrogram::new(rate, bands).log_mel(&wave, &mut picture);
        let far = difference(
            &tensor(&picture, &[bands, frames]),
            reference.tensor(&format!("c{i}.log_mel")),
            1e-3,
        );
        assert!(far < TOLERANCE, "log mel of case {i}: {far:e}");
    }
}
