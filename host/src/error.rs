//! The host's one error: what went wrong and where, what to type next, and whose fault it was.

use std::fmt;

/// A result of the host.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Whose fault an error is; decides the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The arguments, the recipe or a path are wrong: exit code 2.
    AskedWrongly,
    /// The run, the plugin or a file failed: exit code 1.
    Failed,
    /// Numbers are no longer finite, and whoever goes on from where they stand meets them again: exit code 1.
    Diverged,
    /// The user stopped the run and a checkpoint was written: exit code 130.
    Interrupted,
}

/// An error in words: lower case, no final stop, the thing in backticks, and a hint that can be typed.
#[derive(Clone, PartialEq, Eq)]
pub struct Error {
    class: Class,
    message: String,
    causes: Vec<String>,
    hint: Option<String>,
}

impl Error {
    /// The caller asked for something that can't be: exit code 2.
    pub fn asked_wrongly(message: impl Into<String>) -> Self {
        Self::new(Class::AskedWrongly, message)
    }

    /// Something failed while doing what was asked: exit code 1.
    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(Class::Failed, message)
    }

    /// Training left the finite numbers: exit code 1. What helps is known, and is the hint.
    pub fn diverged(message: impl Into<String>) -> Self {
        Self::new(Class::Diverged, message)
            .hint("add a lower `lr` or a longer warm-up to the command, such as `lr=1e-4`")
    }

    /// The user interrupted; everything worth keeping was written: exit code 130.
    pub fn interrupted(message: impl Into<String>) -> Self {
        Self::new(Class::Interrupted, message)
    }

    fn new(class: Class, message: impl Into<String>) -> Self {
        Self { class, message: message.into(), causes: Vec::new(), hint: None }
    }

    /// Adds what to type next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds the error that led to this one.
    #[must_use]
    pub fn because(mut self, cause: impl fmt::Display) -> Self {
        self.causes.push(cause.to_string());
        self
    }

    /// Puts `message` in front; the present message becomes the first cause.
    #[must_use]
    pub fn context(mut self, message: impl Into<String>) -> Self {
        let inner = std::mem::replace(&mut self.message, message.into());
        self.causes.insert(0, inner);
        self
    }

    /// Whose fault it is.
    pub fn class(&self) -> Class {
        self.class
    }

    /// What went wrong, without causes or hint.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What to type next, if known.
    pub fn hint_text(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// The exit code of the process: 2, 1 or 130.
    pub fn exit_code(&self) -> u8 {
        match self.class {
            Class::AskedWrongly => 2,
            Class::Failed | Class::Diverged => 1,
            Class::Interrupted => 130,
        }
    }
}

impl fmt::Display for Error {
    /// The message and its causes, joined by `: `.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.message)?;
        for cause in &self.causes {
            write!(f, ": {cause}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")?;
        if let Some(hint) = &self.hint {
            write!(f, " (hint: {hint})")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

impl From<candle_core::Error> for Error {
    fn from(error: candle_core::Error) -> Self {
        Self::failed("the tensor engine refused an operation").because(error)
    }
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        Self::failed(error.to_string())
    }
}

/// The name among `known` that `given` most likely meant, if any is close.
pub fn did_you_mean<'a>(given: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(given, name), name))
        .filter(|(distance, name)| *distance <= 1 + name.len() / 4)
        .min()
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_name_finds_its_neighbour_and_a_foreign_one_none() {
        assert_eq!(did_you_mean("dimo", ["swav", "dino"]), Some("dino"));
        assert_eq!(did_you_mean("prototipes", ["prototypes", "epochs"]), Some("prototypes"));
        assert_eq!(did_you_mean("xyz", ["swav", "dino"]), None);
    }

    #[test]
    fn the_class_decides_the_exit_code() {
        assert_eq!(Error::asked_wrongly("x").exit_code(), 2);
        assert_eq!(Error::failed("x").exit_code(), 1);
        assert_eq!(Error::diverged("x").exit_code(), 1);
        assert_eq!(Error::interrupted("x").exit_code(), 130);
    }

    #[test]
    fn context_goes_in_front_of_its_causes() {
        let error = Error::failed("disk full").context("can't write `a`");
        assert_eq!(error.to_string(), "can't write `a`: disk full");
    }
}
