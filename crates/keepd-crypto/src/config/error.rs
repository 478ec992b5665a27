//! Errors of a configuration file, each with its path and a remedy.

use std::fmt;

use thiserror::Error;

/// One fault of a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// Path, as in `resources[0].providers[1].aescbc.keys[0].secret`; empty if the message says.
    pub path: String,
    /// Fault, in Kubernetes' words.
    pub message: String,
    /// Remedy.
    pub remedy: String,
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        write!(f, "{}\n    remedy: {}", self.message, self.remedy)
    }
}

/// Reason why a configuration is refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ConfigError {
    /// There is nothing in it.
    #[error("encryption provider configuration file {file:?} is empty")]
    Empty {
        /// The file.
        file: String,
    },
    /// It is no UTF-8 text.
    #[error(
        "error decoding encryption provider configuration file {file:?}: it is not UTF-8 text; \
         save it as UTF-8"
    )]
    NotText {
        /// The file.
        file: String,
    },
    /// It is neither YAML nor JSON.
    #[error(
        "error decoding encryption provider configuration file {file:?}: {reason}{}",
        Hints(hints)
    )]
    Syntax {
        /// The file.
        file: String,
        /// The parser's message with the place; never a part of the text.
        reason: String,
        /// Usual causes.
        hints: Vec<String>,
    },
    /// It reads, but is not a right configuration.
    #[error(
        "error loading encryption provider configuration file {file:?}: {} found{}{}",
        Count(errors.len()),
        Lines(errors),
        Hints(hints)
    )]
    Invalid {
        /// The file.
        file: String,
        /// Everything that is wrong.
        errors: Vec<FieldError>,
        /// Usual causes.
        hints: Vec<String>,
    },
}

struct Count(usize);

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let noun = if self.0 == 1 { "error" } else { "errors" };
        write!(f, "{} {noun}", self.0)
    }
}

struct Lines<'a>(&'a [FieldError]);

impl fmt::Display for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|error| write!(f, "\n  {error}"))
    }
}

struct Hints<'a>(&'a [String]);

impl fmt::Display for Hints<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|hint| write!(f, "\n  hint: {hint}"))
    }
}
