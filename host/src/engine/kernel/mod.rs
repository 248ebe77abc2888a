//! The CPU kernels: pure functions, slices in and slices out; no tensor, no tape.
//!
//! Every kernel takes f32 and f64 (f64 is what gradient checks run in). Work is cut into pieces whose
//! size depends on the shape alone and sums are taken in a fixed order, so no result depends on the
//! number of threads. Shapes are the caller's promise: kernels check them with assertions.
#![expect(
    clippy::inline_always,
    reason = "a kernel's inner functions must be inlined into the caller that enables AVX, or they are compiled without it"
)]

pub mod activation;
pub mod attention;
pub mod batch_norm;
pub mod block;
pub mod conv;
pub mod conv1d;
pub mod dispatch;
pub mod dropout;
pub mod elementwise;
pub mod float;
pub mod group_norm;
pub mod l2_normalize;
pub mod matmul;
pub mod norm;
pub mod optimizer;
pub mod packed;
pub mod patch;
pub mod pool;
pub mod resample;
pub mod softmax;
pub mod threads;

#[cfg(target_arch = "x86_64")]
mod block_avx2;
#[cfg(target_arch = "x86_64")]
mod block_avx512;
mod erf;
mod gelu;
mod lanes;
#[cfg(test)]
mod testing;

pub use float::Float;
