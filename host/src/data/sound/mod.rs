//! What is computed from a sound: the energies of its mel bands, as a picture for networks of pictures, and MFCC.
//!
//! Frames, window, filters and transform are those of Kaldi with its defaults, as torchaudio's
//! `compliance.kaldi` computes them; `tests/reference/sound` holds its values.

mod deltas;
mod frames;
mod mel;
pub mod mfcc;
pub mod spectrogram;

/// Frames a second: one every 10 ms.
pub const FRAMES_PER_SECOND: usize = 100;

/// The smallest energy of which a logarithm is taken.
const FLOOR: f32 = f32::EPSILON;
