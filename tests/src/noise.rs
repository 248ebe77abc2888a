//! Tensors of random numbers that are the same in every run: a test that draws new ones can fail by chance.

use candle_core::{Device, Shape, Tensor};
use pretext::random::Stream;

/// Normal numbers of mean 0 and deviation 1, those of the stream called `name`.
///
/// # Panics
/// Never: a tensor of as many numbers as its shape has can be made.
pub fn noise(name: &str, shape: impl Into<Shape>) -> Tensor {
    let (mut stream, shape) = (Stream::new(0, name, 0, 0), shape.into());
    let numbers: Vec<f32> = (0..shape.elem_count()).map(|_| stream.normal() as f32).collect();
    Tensor::from_vec(numbers, shape, &Device::Cpu).expect("as many numbers as the shape has")
}
