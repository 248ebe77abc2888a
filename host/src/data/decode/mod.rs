//! Decoding: file bytes to pixels.

pub mod image;
