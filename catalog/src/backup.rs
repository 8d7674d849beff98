//! Backups, as commands: a whole catalog that goes through the log in pieces, and takes effect in one.

use std::sync::Arc;

use imbl::OrdMap;
use serde::{Deserialize, Serialize};

use crate::{Actor, AuditHash, CatalogIndex, Refusal, RequestId, Timestamp};

/// How large the state in a backup is at most.
pub const BACKUP_BYTES_MAX: u64 = 1 << 30;

/// How large one piece of it is at most: as JSON in JSON it stays well within what a log entry may be.
pub const BACKUP_PIECE_BYTES_MAX: usize = 1 << 20;

/// How long an upload waits for its next piece before it is forgotten, by the time inside commands.
pub(crate) const UPLOAD_IDLE_MAX: std::time::Duration = std::time::Duration::from_secs(600);

/// Is one step of a backup's way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "kebab-case", deny_unknown_fields)]
pub enum BackupStep {
    /// Notes that a backup was taken: it changes nothing, and stands in the audit trail.
    Saved {
        /// The index that it holds.
        index: CatalogIndex,
    },
    /// Begins a restore; one at a time.
    Begin {
        /// Names the restore.
        upload: RequestId,
        /// How many bytes the state has.
        bytes: u64,
        /// The SHA-256 of the state.
        sha256: AuditHash,
    },
    /// Carries a piece of the state.
    Piece {
        /// The restore.
        upload: RequestId,
        /// Where in the state it begins: where the one before ended.
        offset: u64,
        /// The piece; a state is text.
        text: String,
    },
    /// Puts the state in force, all of it or nothing.
    Commit {
        /// The restore.
        upload: RequestId,
        /// Whether a backup of another cluster is meant.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        other_cluster: bool,
    },
    /// Forgets a restore that will not be finished.
    Abandon {
        /// The restore.
        upload: RequestId,
    },
}

impl BackupStep {
    /// Checks the form.
    pub(crate) fn validate(&self) -> Result<(), Refusal> {
        match self {
            Self::Begin { bytes, .. } if *bytes == 0 || *bytes > BACKUP_BYTES_MAX => Err(Refusal::invalid(
                "backup",
                format!("its state has {bytes} bytes: it must have 1 to {BACKUP_BYTES_MAX}"),
            )),
            Self::Piece { text, .. } if text.is_empty() || text.len() > BACKUP_PIECE_BYTES_MAX => {
                Err(Refusal::invalid(
                    "backup",
                    format!("a piece has {} bytes: it must have 1 to {BACKUP_PIECE_BYTES_MAX}", text.len()),
                ))
            }
            Self::Saved { .. }
            | Self::Begin { .. }
            | Self::Piece { .. }
            | Self::Commit { .. }
            | Self::Abandon { .. } => Ok(()),
        }
    }
}

/// Is what has arrived of a state that is being restored. Nothing reads it before all of it is there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Upload {
    pub(crate) id: RequestId,
    /// Who began it: nobody else goes on with it.
    pub(crate) actor: Actor,
    pub(crate) bytes: u64,
    pub(crate) sha256: AuditHash,
    pub(crate) held: u64,
    /// By the offset at which each begins.
    pub(crate) pieces: OrdMap<u64, Arc<str>>,
    /// The catalog's clock at the last piece.
    pub(crate) fed_at: Timestamp,
}

impl Upload {
    /// Returns the whole state.
    pub(crate) fn text(&self) -> String {
        self.pieces.values().map(|piece| &**piece).collect()
    }
}
