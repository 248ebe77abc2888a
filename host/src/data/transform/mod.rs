//! Transforms: what happens to pixels between decoding and the batch.
//!
//! After the crop a view is three planes of f32 from 0 to 1, `[3, H, W]`, and stays so: unlike a chain over
//! 8-bit pictures nothing is rounded between two transforms. Each file holds one transform: a plain
//! function over planes and, where it draws, a function from a stream to its parameters.
//! `preprocess` is made of them: the part of a view in which nothing is drawn.

pub mod blur;
pub mod crop;
pub mod flip;
pub mod grayscale;
pub mod jitter;
pub mod normalize;
pub mod preprocess;
pub mod resize;
pub mod solarize;

/// Weights of red, green and blue in a pixel's light (ITU-R 601-2), as PIL's mode `L`.
pub const LUMA: [f32; 3] = [0.299, 0.587, 0.114];

/// Three equally long planes `[3, H, W]` as red, green, blue.
pub(crate) fn channels(planes: &mut [f32]) -> [&mut [f32]; 3] {
    let pixels = planes.len() / 3;
    let (red, rest) = planes.split_at_mut(pixels);
    let (green, blue) = rest.split_at_mut(pixels);
    [red, green, &mut blue[..pixels]]
}
