//! Integration tests.

#[cfg(test)]
mod architecture;
#[cfg(test)]
mod bad_input;
#[cfg(test)]
mod cli;
#[cfg(test)]
mod contract;
#[cfg(test)]
mod dino;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod hubert;
#[cfg(test)]
mod jepa;
#[cfg(test)]
mod kmeans;
#[cfg(test)]
mod ops;
#[cfg(test)]
mod optim;
#[cfg(test)]
mod outside;
#[cfg(test)]
mod parity;
#[cfg(test)]
mod probe;
#[cfg(test)]
mod refused;
#[cfg(test)]
mod resnet;
#[cfg(test)]
mod resume;
#[cfg(test)]
mod sound;
#[cfg(test)]
mod stages;
#[cfg(test)]
mod step;
#[cfg(test)]
mod step_page;
#[cfg(test)]
mod swav;
#[cfg(test)]
mod tidy;
#[cfg(test)]
mod transforms;
#[cfg(test)]
mod vit;
#[cfg(test)]
mod wave;
#[cfg(test)]
mod weights;
