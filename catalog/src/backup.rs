//! Backups, as commands: a whole catalog that goes through the log in pieces, and takes effect in one.

use std::fmt;
use std::sync::{Arc, OnceLock};

use imbl::OrdMap;
use serde::{Deserialize, Serialize};

use crate::{Actor, AuditHash, Catalog, CatalogIndex, Digest, Refusal, RequestId, Timestamp};

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
        /// The version of the form that the state is written in: the leader proposes it only where all servers read that.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        form: Option<u16>,
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
    /// Where the log stood when it began: nothing in the state may have changed later than that.
    #[serde(default)]
    pub(crate) begun: CatalogIndex,
    #[serde(skip)]
    pub(crate) reading: Reading,
}

/// Says why the whole of a state is none that can be put in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unreadable {
    /// It is not what was announced.
    Incomplete,
    /// It is no state.
    Malformed,
}

/// Is the state that an upload holds, read once and by whoever comes first. It follows from the upload, and is no part of
/// what catalogs are compared by.
#[derive(Clone, Default)]
pub(crate) struct Reading(Arc<OnceLock<Result<Arc<Catalog>, Unreadable>>>);

impl PartialEq for Reading {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl fmt::Debug for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reading {{ done: {} }}", self.0.get().is_some())
    }
}

impl Upload {
    /// Returns the state that is to be put in force, and reads it where nobody has yet.
    pub(crate) fn state(&self, digest: Digest) -> Result<Arc<Catalog>, Unreadable> {
        self.reading.0.get_or_init(|| self.read(digest)).clone()
    }

    fn read(&self, digest: Digest) -> Result<Arc<Catalog>, Unreadable> {
        let text: String = self.pieces.values().map(|piece| &**piece).collect();
        if self.held != self.bytes || digest(text.as_bytes()) != self.sha256.0 {
            return Err(Unreadable::Incomplete);
        }
        Catalog::restore_not_after(&text, self.begun).map(Arc::new).map_err(|_| Unreadable::Malformed)
    }
}

/// Is a backup of which all has arrived, and which nothing has put in force yet.
#[derive(Debug, Clone)]
pub struct ArrivedBackup(Arc<Upload>);

impl ArrivedBackup {
    /// Names the restore.
    #[must_use]
    pub fn id(&self) -> &RequestId {
        &self.0.id
    }

    /// Reads it, so that the command that puts it in force finds that done. That takes as long as it is large, and whoever
    /// applies commands should not wait for it; whoever comes second waits for the first.
    pub fn read(&self, digest: Digest) {
        // What is wrong with it is what the command is answered.
        let _ = self.0.state(digest);
    }
}

impl Catalog {
    /// Returns the backup that is being restored, once all of it is here.
    #[must_use]
    pub fn arrived_backup(&self) -> Option<ArrivedBackup> {
        self.upload.clone().filter(|upload| upload.held == upload.bytes).map(ArrivedBackup)
    }
}
