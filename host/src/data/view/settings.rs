//! Reads a view's parameters: each has its type, its range and its default, and says so where it is wrong.

use super::request::{Value, ViewRequest};
use crate::error::did_you_mean;
use crate::{Error, Result};

/// The parameters of one asked view.
#[derive(Debug)]
pub struct Settings<'a>(&'a ViewRequest);

impl<'a> Settings<'a> {
    pub(super) fn new(request: &'a ViewRequest) -> Self {
        Self(request)
    }

    /// What the method calls the view.
    pub fn name(&self) -> &'a str {
        &self.0.name
    }

    /// How many copies it asks for.
    pub fn copies(&self) -> usize {
        self.0.count
    }

    /// Refuses parameters that aren't among `keys`.
    pub(super) fn known(&self, keys: &[&'static str]) -> Result<()> {
        let ViewRequest { name, kind, revision, params, .. } = self.0;
        let Some(key) = params.keys().find(|key| !keys.contains(&key.as_str())) else {
            return Ok(());
        };
        let message = format!("the view `{name}` (`{kind}@{revision}`) has no parameter `{key}`");
        let error = Error::asked_wrongly(message);
        Err(match did_you_mean(key, keys.iter().copied()) {
            Some(near) => error.hint(format!("did you mean `{near}`?")),
            None if keys.is_empty() => error.hint("it has none"),
            None => error.hint(format!("it has: {}", keys.join(", "))),
        })
    }

    /// The error for a parameter that is `got` where `expected` is needed.
    pub fn wrong(&self, key: &str, got: &str, expected: &str) -> Error {
        Error::asked_wrongly(format!("`{key}` of the view `{}` is {got}", self.0.name))
            .hint(format!("give {expected}"))
    }

    /// A number from `low` to `high`.
    ///
    /// # Errors
    /// When it is no number or out of range.
    pub fn number(&self, key: &str, default: f64, (low, high): (f64, f64)) -> Result<f64> {
        let value = match self.0.params.get(key) {
            None => default,
            Some(Value::Number(value)) => *value,
            Some(Value::List(_)) => return Err(self.wrong(key, "a list", "one number")),
            Some(Value::Text(text)) => return Err(self.wrong(key, text, "a number")),
        };
        if (low..=high).contains(&value) {
            return Ok(value);
        }
        Err(self.wrong(key, &format!("{value}"), &format!("a number from {low} to {high}")))
    }

    /// A whole number from `low` to `high`.
    ///
    /// # Errors
    /// When it is no whole number or out of range.
    pub fn whole(&self, key: &str, default: f64, range: (f64, f64)) -> Result<usize> {
        let value = self.number(key, default, range)?;
        if value.fract() == 0.0 {
            return Ok(value as usize);
        }
        Err(self.wrong(key, &format!("{value}"), "a whole number"))
    }

    /// A flag, 0 or 1.
    ///
    /// # Errors
    /// When it is anything else.
    pub fn flag(&self, key: &str, default: bool) -> Result<bool> {
        Ok(self.whole(key, f64::from(u8::from(default)), (0.0, 1.0))? == 1)
    }

    /// A probability.
    ///
    /// # Errors
    /// When it is not from 0 to 1.
    pub fn chance(&self, key: &str, default: f64) -> Result<f64> {
        self.number(key, default, (0.0, 1.0))
    }

    /// A lower and an upper end within `range`.
    ///
    /// # Errors
    /// When one is out of range or the lower is above the upper.
    pub fn pair(
        &self,
        [low_key, high_key]: [&str; 2],
        default: (f64, f64),
        range: (f64, f64),
    ) -> Result<(f64, f64)> {
        let low = self.number(low_key, default.0, range)?;
        let high = self.number(high_key, default.1, range)?;
        if low > high {
            let expected = format!("a number up to `{high_key}`, which is {high}");
            return Err(self.wrong(low_key, &format!("{low}"), &expected));
        }
        Ok((low, high))
    }

    /// One number per channel, or one for all.
    ///
    /// # Errors
    /// When there are others than one or three, or one is out of range.
    pub fn channels(
        &self,
        key: &str,
        default: [f32; 3],
        (low, high): (f64, f64),
    ) -> Result<[f32; 3]> {
        let values = match self.0.params.get(key) {
            None => return Ok(default),
            Some(Value::Number(value)) => [*value; 3],
            Some(Value::List(values)) => <[f64; 3]>::try_from(values.as_slice()).map_err(|_| {
                self.wrong(key, &format!("a list of {}", values.len()), "one or three numbers")
            })?,
            Some(Value::Text(text)) => return Err(self.wrong(key, text, "one or three numbers")),
        };
        match values.iter().find(|value| !(low..=high).contains(*value)) {
            None => Ok(values.map(|value| value as f32)),
            Some(bad) => {
                Err(self.wrong(key, &format!("{bad}"), &format!("numbers from {low} to {high}")))
            }
        }
    }

    /// A word; empty where none is given.
    ///
    /// # Errors
    /// When a number is given.
    pub fn text(&self, key: &str) -> Result<&'a str> {
        match self.0.params.get(key) {
            None => Ok(""),
            Some(Value::Text(text)) => Ok(text),
            Some(Value::Number(value)) => Err(self.wrong(key, &format!("{value}"), "a word")),
            Some(Value::List(_)) => Err(self.wrong(key, "a list", "a word")),
        }
    }

    /// One of `words`, the first where none is given.
    ///
    /// # Errors
    /// When it is another word.
    pub fn choice(&self, key: &str, words: &[&'static str]) -> Result<&'static str> {
        let given = self.text(key)?;
        let chosen = words.iter().find(|word| given.is_empty() || **word == given);
        chosen.copied().ok_or_else(|| {
            self.wrong(key, &format!("`{given}`"), &format!("one of `{}`", words.join("`, `")))
        })
    }
}
