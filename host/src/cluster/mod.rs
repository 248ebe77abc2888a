//! Clusters of features: mini-batch k-means, and what says whether its clusters are healthy.
//!
//! Nothing here depends on the number of threads: rows are cut into blocks of a fixed size, and sums are
//! taken in the order of the rows.

pub mod codebook;
pub mod health;
pub mod kmeans;
mod start;

pub use codebook::Codebook;
pub use health::{Census, Health};
pub use kmeans::{KMeans, Points};
