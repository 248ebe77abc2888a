//! Probes: what did the backbone learn? Small models on frozen features, with labels.

pub mod knn;

pub use knn::{Knn, Labelled, Neighbour};
