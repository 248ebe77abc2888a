//! Integration tests.

#[cfg(test)]
mod architecture;
#[cfg(test)]
mod cli;
#[cfg(test)]
mod dino;
#[cfg(test)]
mod ops;
#[cfg(test)]
mod optim;
#[cfg(test)]
mod tidy;
#[cfg(test)]
mod transforms;
#[cfg(test)]
mod vit;
