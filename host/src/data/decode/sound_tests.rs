//! Tests of the sound decoders, on files made in place.

use super::testing::{flac, spec, wav, wav_of};
use super::*;

fn decoded(bytes: &[u8], rate: u32) -> Vec<f32> {
    let mut wave = vec![7.0; 3];
    decode(bytes, rate, &mut wave).unwrap();
    wave
}

fn reason(bytes: &[u8]) -> String {
    decode(bytes, 8_000, &mut Vec::new()).unwrap_err().to_string()
}

#[test]
fn pcm_of_every_width_gives_the_same_sound() {
    for (bits, half) in [(8, 64), (16, 16_384), (24, 4_194_304), (32, 1_073_741_824)] {
        let bytes = wav_of(spec(1, 8_000, bits), |writer| {
            for value in [half, 0, -half] {
                writer.write_sample(value).unwrap();
            }
        });
        assert_eq!(decoded(&bytes, 8_000), [0.5, 0.0, -0.5], "{bits} bits");
    }
    assert_eq!(decoded(&wav(8_000, &[0.1, -0.3]), 8_000), [0.1, -0.3]);
}

#[test]
fn channels_become_their_mean_and_the_rate_is_the_one_asked_for() {
    let bytes = wav_of(spec(2, 8_000, 16), |writer| {
        for _ in 0..100 {
            writer.write_sample(8_192_i32).unwrap();
            writer.write_sample(-24_576_i32).unwrap();
        }
    });
    assert_eq!(decoded(&bytes, 8_000), [-0.25; 100]);
    assert_eq!(decoded(&bytes, 16_000).len(), 200);
    assert_eq!(decoded(&bytes, 4_000).len(), 50);
}

#[test]
fn a_flac_gives_its_values_and_a_cut_one_an_error_wherever_it_is_cut() {
    let values: Vec<i16> = (0..600).map(|i| (i * 37 % 2_000) as i16 - 1_000).collect();
    let bytes = flac(16_000, &values);
    let expected: Vec<f32> = values.iter().map(|value| f32::from(*value) / 32_768.0).collect();
    assert_eq!(decoded(&bytes, 16_000), expected);
    for length in 0..bytes.len() {
        assert!(decode(&bytes[..length], 16_000, &mut Vec::new()).is_err(), "cut to {length}");
    }
    let mut damaged = bytes.clone();
    let middle = bytes.len() / 2;
    damaged[middle] ^= 0x10;
    assert!(reason(&damaged).contains("the FLAC is truncated or broken"));
}

#[test]
fn a_wav_cut_anywhere_is_an_error() {
    let bytes = wav(8_000, &[0.5; 50]);
    for length in 0..bytes.len() {
        assert!(decode(&bytes[..length], 8_000, &mut Vec::new()).is_err(), "cut to {length}");
    }
}

#[test]
fn what_is_no_sound_is_refused_in_words() {
    assert_eq!(reason(b""), "the file is empty");
    assert_eq!(reason(b"hello"), "the file is neither a WAV nor a FLAC");
    assert_eq!(reason(&wav(8_000, &[])), "the sound has no length");
    assert_eq!(reason(&wav(8_000, &[f32::NAN])), "the sound holds a value that is not a number");
    assert_eq!(reason(&wav(3, &[0.0])), "the sound has a rate of 3 Hz");
}

#[test]
fn sounds_are_known_by_their_ending() {
    assert!(is_sound("a/b.WAV") && is_sound("x.flac"));
    assert!(!is_sound("x.mp3") && !is_sound("wav.txt"));
}
