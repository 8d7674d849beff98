//! The audit trail: what was asked of the servers, by whom and with which outcome, as a chain of lines.
//!
//! A line is derived from a committed command alone, so that every server holds the same chain. Each line carries the hash
//! of the one before it; what is exported is the lines as they were hashed, so that a reader needs nothing but the hash
//! function to see that none was changed, moved or left out.

mod acl;
pub(crate) mod describe;
mod trail;
mod verify;

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

pub(crate) use describe::{Content, Description};
use trail::Forgotten;
pub(crate) use trail::{AuditTrail, StoredTrail};
pub use verify::{AuditFault, AuditHead, AuditVerifier};

use crate::{CatalogIndex, NameError, name::written_as_text};

/// Computes the hash that chains audit lines. The catalog does no cryptography of its own: whoever applies commands says
/// which function it is, and every server must say the same.
pub type Digest = fn(&[u8]) -> [u8; 32];

/// How many lines are kept; older ones live in exports only.
pub(crate) const LINES_MAX: usize = 16_384;
/// How many bytes of lines are kept.
pub(crate) const LINES_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Is the hash of an audit line, or zeros where there is no line.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct AuditHash(pub [u8; 32]);

written_as_text!(AuditHash);

impl fmt::Display for AuditHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let digits = self.0.iter().flat_map(|byte| [byte >> 4, byte & 15]);
        f.write_str(&digits.map(|digit| char::from(DIGITS[usize::from(digit)])).collect::<String>())
    }
}

impl fmt::Debug for AuditHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for AuditHash {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let digit = |byte: u8| match byte {
            b'0'..=b'9' => Some(byte - b'0'),
            b'a'..=b'f' => Some(byte - b'a' + 10),
            _ => None,
        };
        let bytes: Option<Vec<u8>> = text
            .as_bytes()
            .chunks(2)
            .map(|pair| match pair {
                [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
                _ => None,
            })
            .collect();
        bytes
            .and_then(|bytes| <[u8; 32]>::try_from(bytes).ok())
            .map(Self)
            .ok_or_else(|| NameError::new("audit hash", text, "use 64 lower-case hexadecimal digits"))
    }
}

impl TryFrom<String> for AuditHash {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<AuditHash> for String {
    fn from(hash: AuditHash) -> Self {
        hash.to_string()
    }
}

/// Is one line of the audit trail, exactly as it was hashed: a JSON object without the end of the line.
///
/// Lines that were forgotten before older ones leave one in their place that says which, with the hash of the last of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditLine {
    /// The log index of the command.
    pub index: CatalogIndex,
    /// Counts lines from 1.
    pub sequence: u64,
    /// The line.
    pub text: Arc<str>,
    /// Its hash.
    pub hash: AuditHash,
}

/// Is how a line is written. The order of fields is part of the form.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct LineForm<'a> {
    pub(crate) sequence: u64,
    pub(crate) index: CatalogIndex,
    pub(crate) time: String,
    pub(crate) actor: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) source: Option<&'a str>,
    #[serde(rename = "RequestID")]
    pub(crate) request_id: &'a str,
    pub(crate) kind: &'a str,
    pub(crate) summary: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) content: Option<&'a Content<'a>>,
    pub(crate) outcome: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) refusal: Option<String>,
    pub(crate) previous: AuditHash,
}

/// Reads of a line what places it in the chain.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Link {
    pub(crate) sequence: u64,
    pub(crate) index: CatalogIndex,
    pub(crate) previous: AuditHash,
    /// Who did it.
    #[serde(default)]
    pub(crate) actor: String,
    /// What stood there, where it is forgotten.
    #[serde(default)]
    pub(crate) forgotten: Option<Forgotten>,
}

impl Link {
    /// Returns the number of the first line that it stands for.
    pub(crate) fn from(&self) -> u64 {
        self.forgotten.map_or(self.sequence, |forgotten| forgotten.from)
    }
}

#[cfg(test)]
mod tests;
