//! The selector language: a question about one document that is answered by yes or no, in the syntax of Consul's filters.
//!
//! ```text
//! value.team == "payments" and ("deploy" in list.groups or value["kubernetes.io/role"] matches `^ops-\d+$`)
//! ```
//!
//! Binding rules select logins with it, and `?filter` selects among the entries of an answer. It is compiled once, bounded in
//! size and depth, and its regular expressions run in linear time, so that a text from outside cannot be made expensive.

mod evaluate;
mod parse;
mod token;

use std::{fmt, str::FromStr};

use serde_json::Value;

use parse::Expression;

/// Explains why a text is no selector.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    /// The text is longer than any selector may be.
    #[error("a selector of {bytes} bytes is too long: use at most {max}", max = Selector::BYTES_MAX)]
    TooLong {
        /// How long the text is.
        bytes: usize,
    },
    /// The text has more comparisons than any selector may have.
    #[error("the selector has more than {max} comparisons: split it", max = Selector::COMPARISONS_MAX)]
    TooMany,
    /// Parentheses and negations are nested deeper than any selector may nest them.
    #[error("the selector nests deeper than {max} levels: write it flatter", max = Selector::DEPTH_MAX)]
    TooDeep,
    /// The text breaks the grammar.
    #[error("the selector cannot be read at byte {at}: {what}")]
    Syntax {
        /// The byte at which reading stopped.
        at: usize,
        /// What was expected there, and what to write.
        what: String,
    },
    /// A regular expression does not compile, or compiles to something too large.
    #[error("the selector's regular expression `{pattern}` cannot be used: {reason}")]
    Pattern {
        /// The expression as it was written.
        pattern: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// Explains why a selector has no answer for a document: a comparison does not fit the kind of what it found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{path}` is {found}, which `{operator}` cannot be asked of: compare it otherwise")]
pub struct SelectorMismatch {
    /// The path, as it was written.
    pub path: String,
    /// The operator that does not apply.
    pub operator: &'static str,
    /// What stands at the path.
    pub found: &'static str,
}

/// Answers one question about documents.
///
/// What a path does not lead to equals nothing, contains nothing, matches nothing and is empty, as in Consul: `!=` and
/// `not in` hold for it.
#[derive(Debug, Clone)]
pub struct Selector {
    text: String,
    expression: Expression,
}

impl Selector {
    /// The longest text that is read.
    pub const BYTES_MAX: usize = 4096;
    /// The most comparisons that one selector may make.
    pub const COMPARISONS_MAX: usize = 64;
    /// The deepest nesting of parentheses and negations.
    pub const DEPTH_MAX: usize = 32;

    /// Reads a selector and compiles its regular expressions.
    ///
    /// # Errors
    /// [`SelectorError`] names the place and what was expected there.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        if text.len() > Self::BYTES_MAX {
            return Err(SelectorError::TooLong { bytes: text.len() });
        }
        Ok(Self { text: text.to_owned(), expression: parse::parse(text)? })
    }

    /// Reports whether `document` is selected.
    ///
    /// # Errors
    /// [`SelectorMismatch`] if a comparison that decides does not fit what it found. Where a right hangs on the answer, this
    /// is a no.
    pub fn selects(&self, document: &Value) -> Result<bool, SelectorMismatch> {
        evaluate::evaluate(&self.expression, document)
    }

    /// Returns every path that the selector asks for, in the order of the text, so that one which can never lead anywhere is
    /// refused when the selector is written.
    #[must_use]
    pub fn paths(&self) -> Vec<&[String]> {
        let mut paths = Vec::new();
        self.expression.collect_paths(&mut paths);
        paths
    }

    /// Returns the text that the selector was read from.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

/// Two selectors are equal if their texts are.
impl PartialEq for Selector {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Selector {}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Selector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, SelectorError> {
        Self::parse(text)
    }
}

#[cfg(test)]
mod tests;
