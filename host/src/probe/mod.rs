//! Probes: what did the backbone learn? Small models on frozen features, with labels.

pub mod knn;
mod lbfgs;
pub mod linear;

pub use knn::{Knn, Labelled, Neighbour};
