//! Reads audit lines one after the other and says whether they are the chain that the servers wrote.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::{AuditHash, Digest, Link};
use crate::{CatalogIndex, NameError};

/// Is the end of a chain: how many lines it has, and the hash of the last one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditHead {
    /// The number of the last line; 0 where there is none.
    pub sequence: u64,
    /// The hash of the last line; zeros where there is none.
    pub hash: AuditHash,
}

impl fmt::Display for AuditHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.sequence, self.hash)
    }
}

impl FromStr for AuditHead {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let wrong = || NameError::new("audit head", text, "use `<sequence>:<hash>`, as `weft audit export` prints it");
        let (sequence, hash) = text.split_once(':').ok_or_else(wrong)?;
        Ok(Self { sequence: sequence.parse().map_err(|_| wrong())?, hash: hash.parse().map_err(|_| wrong())? })
    }
}

/// Says why lines are not the chain that the servers wrote.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuditFault {
    /// The text is no line of a trail.
    #[error("it is no audit record: {problem}")]
    Unreadable {
        /// What is wrong with it.
        problem: String,
    },
    /// Lines are missing, or stand in another order.
    #[error("record {found} follows record {last}: records are missing, repeated or out of order")]
    Gap {
        /// The line before.
        last: u64,
        /// The line found.
        found: u64,
    },
    /// The line says another predecessor.
    #[error(
        "record {sequence} continues a chain with hash {expected}, but the record before it has hash {found}: one of them was changed"
    )]
    Broken {
        /// The line found.
        sequence: u64,
        /// The hash that it says its predecessor has.
        expected: AuditHash,
        /// The hash that its predecessor has.
        found: AuditHash,
    },
    /// The line's place in the servers' log does not follow that of its predecessor.
    #[error("record {sequence} is of log index {found}, which does not follow {last}")]
    Backwards {
        /// The line found.
        sequence: u64,
        /// The index before.
        last: CatalogIndex,
        /// The index found.
        found: CatalogIndex,
    },
    /// The chain does not hold the head that was asked for.
    #[error(
        "the records end with {found}, and the head {wanted} is not among them: the newest were cut off, or changed"
    )]
    Head {
        /// The head that was asked for.
        wanted: AuditHead,
        /// Where the lines end.
        found: AuditHead,
    },
}

/// Follows a chain line by line.
#[derive(Debug, Clone)]
pub struct AuditVerifier {
    digest: Digest,
    /// The first line's place; none before it is seen.
    first: Option<u64>,
    last: AuditHead,
    index: CatalogIndex,
    wanted: Option<AuditHead>,
    has_wanted: bool,
    forgotten: u64,
}

impl AuditVerifier {
    /// Starts before the first line. With `wanted`, the chain must hold that head.
    #[must_use]
    pub fn new(digest: Digest, wanted: Option<AuditHead>) -> Self {
        Self {
            digest,
            first: None,
            last: AuditHead::default(),
            index: CatalogIndex::default(),
            wanted,
            has_wanted: wanted.is_none_or(|head| head == AuditHead::default()),
            forgotten: 0,
        }
    }

    /// Returns where the chain ends so far.
    #[must_use]
    pub fn head(&self) -> AuditHead {
        self.last
    }

    /// Returns the number of the first line; none before it. A chain from another line than 1 has a beginning that only an
    /// older export can prove.
    #[must_use]
    pub fn first(&self) -> Option<u64> {
        self.first
    }

    /// Returns the log index of the last line.
    #[must_use]
    pub fn index(&self) -> CatalogIndex {
        self.index
    }

    /// Returns how many lines stand in the chain by their hash alone, for the servers had forgotten them. What stands before
    /// such a gap only an older export, or its head, can prove.
    #[must_use]
    pub fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// Takes the next line, without the end of the line.
    ///
    /// # Errors
    /// [`AuditFault`] says in which way the line does not continue the chain.
    pub fn line(&mut self, text: &str) -> Result<(), AuditFault> {
        let link: Link =
            serde_json::from_str(text).map_err(|error| AuditFault::Unreadable { problem: error.to_string() })?;
        let (from, Link { sequence, index, previous, forgotten, .. }) = (link.from(), link);
        let (is_first, next) = (self.first.is_none(), self.last.sequence + 1);
        // A gap may begin before lines that are at hand: they were forgotten since these were exported.
        let is_beyond = forgotten.is_some() && from < next && next <= sequence;
        if from == 0 || sequence < from || (!is_first && from != next && !is_beyond) {
            return Err(AuditFault::Gap { last: self.last.sequence, found: from });
        }
        // What stands before the first line at hand is not here to be hashed; before the very first is nothing.
        if (!is_first || from == 1) && !is_beyond && previous != self.last.hash {
            return Err(AuditFault::Broken { sequence, expected: previous, found: self.last.hash });
        }
        if index <= self.index {
            return Err(AuditFault::Backwards { sequence, last: self.index, found: index });
        }
        self.first.get_or_insert(from);
        self.index = index;
        let hash = match forgotten {
            Some(forgotten) => {
                self.forgotten += sequence - from.max(next) + 1;
                forgotten.hash
            }
            None => AuditHash((self.digest)(text.as_bytes())),
        };
        self.last = AuditHead { sequence, hash };
        self.has_wanted |= self.wanted == Some(self.last);
        Ok(())
    }

    /// Ends the chain.
    ///
    /// # Errors
    /// [`AuditFault::Head`] if the head that was asked for is not in it.
    pub fn finish(self) -> Result<AuditHead, AuditFault> {
        match self.wanted.filter(|_| !self.has_wanted) {
            Some(wanted) => Err(AuditFault::Head { wanted, found: self.last }),
            None => Ok(self.last),
        }
    }
}
