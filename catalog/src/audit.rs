//! The audit trail: what was asked of the servers, by whom and with which outcome, as a chain of lines.
//!
//! A line is derived from a committed command alone, so that every server holds the same chain. Each line carries the hash
//! of the one before it; what is exported is the lines as they were hashed, so that a reader needs nothing but the hash
//! function to see that none was changed, moved or left out.

mod acl;
pub(crate) mod describe;
mod verify;

use std::{fmt, str::FromStr, sync::Arc};

use imbl::OrdMap;
use serde::{Deserialize, Serialize};

pub(crate) use describe::{Content, Description};
pub use verify::{AuditFault, AuditHead, AuditVerifier};

use crate::{CatalogIndex, NameError};

/// Computes the hash that chains audit lines. The catalog does no cryptography of its own: whoever applies commands says
/// which function it is, and every server must say the same.
pub type Digest = fn(&[u8]) -> [u8; 32];

/// How many lines are kept; older ones live in exports only.
pub(crate) const LINES_MAX: usize = 16_384;
/// How many bytes of lines are kept.
pub(crate) const LINES_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Is the hash of an audit line, or zeros where there is no line.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AuditHash(pub [u8; 32]);

impl fmt::Display for AuditHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
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

/// Is the chain as the servers keep it: its newest lines, and the hash of the one before the oldest of them.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct AuditTrail {
    pub(crate) base: AuditHead,
    pub(crate) head: AuditHead,
    pub(crate) lines: OrdMap<CatalogIndex, AuditLine>,
    pub(crate) bytes: usize,
}

impl AuditTrail {
    /// Adds a line at the head, and forgets the oldest that are too many.
    pub(crate) fn push(&mut self, line: AuditLine) {
        self.head = AuditHead { sequence: line.sequence, hash: line.hash };
        self.bytes += line.text.len();
        self.lines.insert(line.index, line);
        while self.lines.len() > LINES_MAX || self.bytes > LINES_BYTES_MAX {
            let Some((index, oldest)) = self.lines.get_min().cloned() else { break };
            self.bytes -= oldest.text.len();
            self.base = AuditHead { sequence: oldest.sequence, hash: oldest.hash };
            self.lines.remove(&index);
        }
    }
}

/// Is the chain as a snapshot holds it. The lines say their own place and their predecessor's hash.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct StoredTrail {
    base: AuditHead,
    head: AuditHead,
    lines: Vec<Arc<str>>,
}

/// Reads of a line what places it in the chain.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Link {
    pub(crate) sequence: u64,
    pub(crate) index: CatalogIndex,
    pub(crate) previous: AuditHash,
}

impl From<&AuditTrail> for StoredTrail {
    fn from(trail: &AuditTrail) -> Self {
        Self { base: trail.base, head: trail.head, lines: trail.lines.values().map(|line| line.text.clone()).collect() }
    }
}

impl StoredTrail {
    /// Reads the chain back. Its hashes are taken from the lines; that they fit is not judged here, for a snapshot has a
    /// checksum of its own.
    pub(crate) fn open(self) -> Result<AuditTrail, String> {
        let links: Vec<Link> = self
            .lines
            .iter()
            .map(|text| serde_json::from_str(text))
            .collect::<Result<_, _>>()
            .map_err(|error| format!("an audit line cannot be read: {error}"))?;
        let hashes = links.iter().skip(1).map(|link| link.previous).chain([self.head.hash]);
        let mut trail = AuditTrail { base: self.base, head: self.base, ..AuditTrail::default() };
        for ((text, link), hash) in self.lines.iter().zip(&links).zip(hashes) {
            if link.sequence != trail.head.sequence + 1
                || trail.lines.get_max().is_some_and(|(last, _)| *last >= link.index)
            {
                return Err(format!("audit line {} is out of order", link.sequence));
            }
            trail.push(AuditLine { index: link.index, sequence: link.sequence, text: text.clone(), hash });
        }
        if trail.head != self.head {
            return Err("the head of the audit trail is not its last line".to_owned());
        }
        Ok(trail)
    }
}

#[cfg(test)]
mod tests;
