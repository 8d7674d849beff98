//! What `weft doctor` finds: one thing looked at, how it is, and what to do.

use serde::{Deserialize, Serialize};

/// How one thing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Nothing is wrong with it.
    Fine,
    /// It could not be looked at.
    Unknown,
    /// It works, and may not for long.
    Warning,
    /// It does not work.
    Problem,
}

impl Verdict {
    /// Returns the word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fine => "fine",
            Self::Unknown => "unknown",
            Self::Warning => "warning",
            Self::Problem => "problem",
        }
    }
}

/// Says how one thing is that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Finding {
    /// How it is.
    pub verdict: Verdict,
    /// What was looked at, such as `clock` or `files`; the same word in every release.
    pub check: String,
    /// What was found.
    pub finding: String,
    /// What to do about it; empty where nothing is.
    pub advice: String,
}

impl Finding {
    /// Says that something is as it should be.
    pub fn fine(check: &str, finding: impl Into<String>) -> Self {
        Self::new(Verdict::Fine, check, finding, "")
    }

    /// Says that something could not be looked at.
    pub fn unknown(check: &str, finding: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::new(Verdict::Unknown, check, finding, advice)
    }

    /// Says that something may not work for long.
    pub fn warning(check: &str, finding: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::new(Verdict::Warning, check, finding, advice)
    }

    /// Says that something does not work.
    pub fn problem(check: &str, finding: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::new(Verdict::Problem, check, finding, advice)
    }

    fn new(verdict: Verdict, check: &str, finding: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { verdict, check: check.to_owned(), finding: finding.into(), advice: advice.into() }
    }
}
