//! Integration tests.

#[cfg(test)]
mod ops;
#[cfg(test)]
mod optim;
