//! Tensors of normal numbers, the same in every run.

use candle_core::Tensor;
use pretext::Result;
use pretext::random::Stream;
use pretext::state::Init;

/// f32 numbers of `shape` with standard deviation `std`, drawn under `name`.
///
/// # Errors
/// When candle can't make a tensor of that shape.
pub fn normal(name: &str, shape: &[usize], std: f64) -> Result<Tensor> {
    Init::Normal { std }.tensor(shape, &mut Stream::new(0, name, 0, 0))
}
