//! What an author's code returns when something is wrong: a sentence and a hint.

use std::fmt;

use crate::abi::value::{Status, status};

/// A result of an author's code.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error in words: lower case, no final stop, the thing in backticks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    pub(crate) status: Status,
    pub(crate) message: String,
    pub(crate) hint: String,
}

impl Error {
    /// Something failed.
    pub fn failed(message: impl Into<String>) -> Self {
        Self { status: status::FAILED, message: message.into(), hint: String::new() }
    }

    /// The user's options don't fit each other.
    pub fn asked_wrongly(message: impl Into<String>) -> Self {
        Self { status: status::ASKED_WRONGLY, ..Self::failed(message) }
    }

    /// Adds what to type next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }

    /// The host has the text of this error already.
    pub(crate) fn of_host(status: Status) -> Self {
        // A panic of the host's is no panic of this plugin's.
        let status = if status == status::PANIC { status::FAILED } else { status };
        Self { status, message: String::new(), hint: String::new() }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}
