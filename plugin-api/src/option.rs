//! The options of a run, resolved: read by name, already checked against their ranges.

use crate::abi::call::{self, Held};
use crate::error::{Error, Result};

/// The method's options, as the recipe and the descriptor's defaults resolve them.
#[derive(Clone, Copy, Debug)]
pub struct Options(pub(crate) ());

impl Options {
    /// The flag `name`.
    ///
    /// # Errors
    /// When the descriptor has no such flag.
    pub fn flag(self, name: &str) -> Result<bool> {
        match call::option(name)? {
            Held::Int(value) => Ok(value != 0),
            other => Err(wrong(name, "a flag", &other)),
        }
    }

    /// The whole number `name`.
    ///
    /// # Errors
    /// When the descriptor has no such whole number.
    pub fn int(self, name: &str) -> Result<i64> {
        match call::option(name)? {
            Held::Int(value) => Ok(value),
            other => Err(wrong(name, "a whole number", &other)),
        }
    }

    /// The size `name`: a whole number of at least 0.
    ///
    /// # Errors
    /// When the descriptor has no such whole number, or it is negative.
    pub fn size(self, name: &str) -> Result<usize> {
        let value = self.int(name)?;
        usize::try_from(value)
            .map_err(|_| Error::asked_wrongly(format!("`{name}` is {value}, below 0")))
    }

    /// The real number `name`.
    ///
    /// # Errors
    /// When the descriptor has no such number.
    pub fn float(self, name: &str) -> Result<f64> {
        match call::option(name)? {
            Held::Float(value) => Ok(value),
            Held::Int(value) => Ok(value as f64),
            other => Err(wrong(name, "a number", &other)),
        }
    }

    /// The word `name`.
    ///
    /// # Errors
    /// When the descriptor has no such choice.
    pub fn choice(self, name: &str) -> Result<String> {
        match call::option(name)? {
            Held::Text(value) => Ok(value),
            other => Err(wrong(name, "a word", &other)),
        }
    }
}

fn wrong(name: &str, expected: &str, got: &Held) -> Error {
    Error::failed(format!("option `{name}` is {got:?}, not {expected}"))
        .hint("declare it in the descriptor's `options` with that type")
}
