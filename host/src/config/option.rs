//! One option: its name, type, default, range and advice; how a value is checked against it.

use std::fmt;

use toml::Value;

use super::print::value_text;
use super::values::number;
use crate::error::did_you_mean;
use crate::{Error, Result};

/// The type of an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `true` or `false`.
    Bool,
    /// A whole number.
    Int,
    /// A number; a whole one is taken as well.
    Float,
    /// Any text.
    Text,
    /// One of a few words.
    Choice,
    /// A list of numbers.
    Numbers,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bool => "bool",
            Self::Int => "int",
            Self::Float => "float",
            Self::Text => "text",
            Self::Choice => "choice",
            Self::Numbers => "numbers",
        })
    }
}

/// One option of a method, a backbone or the host.
#[derive(Clone, Debug, PartialEq)]
pub struct OptionSpec {
    /// Its name, without a section.
    pub name: String,
    /// Its type.
    pub kind: Kind,
    /// Its value where no layer gives one; none for an option that is derived from others or must be
    /// given.
    pub default: Option<Value>,
    /// Smallest value allowed, for each number of a list as well.
    pub min: Option<f64>,
    /// Largest value allowed, for each number of a list as well.
    pub max: Option<f64>,
    /// The words allowed, for [`Kind::Choice`].
    pub choices: Vec<String>,
    /// One line: what it does and what to take.
    pub advice: String,
}

impl OptionSpec {
    /// `value` in this option's type (a whole number given for a float becomes a float).
    ///
    /// # Errors
    /// When the type is another or the value is out of range; `path` is what the error calls the option.
    pub fn check(&self, path: &str, value: &Value) -> Result<Value> {
        let typed = match (self.kind, value) {
            (Kind::Bool, Value::Boolean(_))
            | (Kind::Int, Value::Integer(_))
            | (Kind::Text | Kind::Choice, Value::String(_)) => Some(value.clone()),
            (Kind::Float, _) => number(value).map(Value::Float),
            (Kind::Numbers, Value::Array(items)) => items
                .iter()
                .map(|item| number(item).map(Value::Float))
                .collect::<Option<_>>()
                .map(Value::Array),
            _ => None,
        };
        let typed = typed.ok_or_else(|| self.wrong_type(path, &value_text(value)))?;
        self.check_range(path, &typed)?;
        Ok(typed)
    }

    /// The value of a word on the command line, such as `0.1`, `true`, `0.9,0.95` or a bare text.
    ///
    /// # Errors
    /// As [`check`](Self::check).
    pub fn check_word(&self, path: &str, word: &str) -> Result<Value> {
        let parsed = match self.kind {
            Kind::Text | Kind::Choice => {
                parse(word).filter(Value::is_str).or_else(|| Some(Value::String(word.to_owned())))
            }
            Kind::Numbers => {
                parse(word).filter(Value::is_array).or_else(|| parse(&format!("[{word}]")))
            }
            Kind::Bool | Kind::Int | Kind::Float => parse(word),
        };
        let value = parsed.ok_or_else(|| self.wrong_type(path, word))?;
        self.check(path, &value)
    }

    /// The range or the choices in words; empty where anything goes.
    pub fn range(&self) -> String {
        if self.kind == Kind::Choice {
            return self.choices.join(" | ");
        }
        match (self.min, self.max) {
            (Some(min), Some(max)) => format!("{min} to {max}"),
            (Some(min), None) => format!("at least {min}"),
            (None, Some(max)) => format!("at most {max}"),
            (None, None) => String::new(),
        }
    }

    /// The default as TOML text; empty where there is none.
    pub fn default_text(&self) -> String {
        self.default.as_ref().map(value_text).unwrap_or_default()
    }

    fn wrong_type(&self, path: &str, given: &str) -> Error {
        let takes = match self.kind {
            Kind::Bool => "`true` or `false`",
            Kind::Int => "a whole number",
            Kind::Float => "a number",
            Kind::Text => "a text",
            Kind::Choice => "a word",
            Kind::Numbers => "a list of numbers, such as `0.9,0.999`",
        };
        Error::asked_wrongly(format!("`{path}` takes {takes}, not `{given}`"))
            .hint(self.advice_for(path))
    }

    fn check_range(&self, path: &str, value: &Value) -> Result<()> {
        match value {
            Value::String(word) if self.kind == Kind::Choice => self.check_choice(path, word),
            Value::Array(items) => items.iter().try_for_each(|item| self.check_number(path, item)),
            Value::Integer(_) | Value::Float(_) => self.check_number(path, value),
            _ => Ok(()),
        }
    }

    fn check_choice(&self, path: &str, word: &str) -> Result<()> {
        if self.choices.iter().any(|choice| choice == word) {
            return Ok(());
        }
        let known = self.choices.join("`, `");
        let hint = match did_you_mean(word, self.choices.iter().map(String::as_str)) {
            Some(near) => format!("did you mean `{path}={near}`?"),
            None => self.advice_for(path),
        };
        Err(Error::asked_wrongly(format!("`{path}` must be one of `{known}`, not `{word}`"))
            .hint(hint))
    }

    fn check_number(&self, path: &str, value: &Value) -> Result<()> {
        let x = number(value).unwrap_or(f64::NAN);
        let inside = x.is_finite()
            && self.min.is_none_or(|min| x >= min)
            && self.max.is_none_or(|max| x <= max);
        if inside {
            return Ok(());
        }
        let given = value_text(value);
        let must = match (self.min, self.max) {
            (Some(min), Some(max)) => format!("must lie between {min} and {max}"),
            (Some(min), None) => format!("must be at least {min}"),
            (None, Some(max)) => format!("must be at most {max}"),
            (None, None) => "must be finite".to_owned(),
        };
        Err(Error::asked_wrongly(format!("`{path}` {must}, not `{given}`"))
            .hint(self.advice_for(path)))
    }

    fn advice_for(&self, path: &str) -> String {
        let default = self.default_text();
        let default = if default.is_empty() { default } else { format!(" (default `{default}`)") };
        format!("`{path}`{default}: {}", self.advice)
    }
}

/// `word` as a TOML value, if it is one.
fn parse(word: &str) -> Option<Value> {
    word.parse::<Value>().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(kind: Kind) -> OptionSpec {
        OptionSpec {
            name: "x".into(),
            kind,
            default: None,
            min: Some(0.0),
            max: Some(1.0),
            choices: vec!["adamw".into(), "sgd".into()],
            advice: "what it is".into(),
        }
    }

    #[test]
    fn words_take_the_type_of_their_option() {
        assert_eq!(spec(Kind::Float).check_word("x", "1").unwrap(), Value::Float(1.0));
        assert_eq!(spec(Kind::Float).check_word("x", "1e-3").unwrap(), Value::Float(1e-3));
        assert_eq!(spec(Kind::Bool).check_word("x", "true").unwrap(), Value::Boolean(true));
        assert_eq!(spec(Kind::Text).check_word("x", "1").unwrap(), Value::String("1".into()));
        let pair = spec(Kind::Numbers).check_word("x", "0.5,1").unwrap();
        assert_eq!(pair, spec(Kind::Numbers).check_word("x", "[0.5, 1]").unwrap());
    }

    #[test]
    fn a_wrong_type_names_what_is_taken_and_what_was_given() {
        let error = spec(Kind::Int).check_word("train.batch", "ten").unwrap_err();
        assert_eq!(error.to_string(), "`train.batch` takes a whole number, not `ten`");
        assert_eq!(error.exit_code(), 2);
    }

    #[test]
    fn a_number_out_of_range_or_not_finite_is_refused_with_the_range() {
        let error = spec(Kind::Float).check_word("x", "1.5").unwrap_err();
        assert_eq!(error.to_string(), "`x` must lie between 0 and 1, not `1.5`");
        assert!(spec(Kind::Float).check_word("x", "nan").is_err());
        assert!(spec(Kind::Numbers).check_word("x", "0.5,2").is_err());
    }

    #[test]
    fn a_misspelt_choice_gets_its_neighbour() {
        let error = spec(Kind::Choice).check_word("train.optimizer", "adam").unwrap_err();
        assert_eq!(error.hint_text(), Some("did you mean `train.optimizer=adamw`?"));
    }
}
