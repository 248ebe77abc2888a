//! Workloads of the benchmarks.

pub mod measure;
pub mod product;
pub mod tensors;

/// The product's own allocator: a step takes and frees gigabytes, and another one would be timed with it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
