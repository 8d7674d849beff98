//! A file that holds space back, so that a full disk still takes the few bytes that matter.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate};

use super::Space;

const FILE: &str = "reserve";
/// Of a small disk this part is held back.
const PART: u64 = 20;
/// Of a large one, this much: room for many records of a vote each, and for a snapshot of a small catalog.
const BYTES_MAX: u64 = 16 << 20;

/// Space that is held back, or was given up.
#[derive(Debug)]
pub(super) struct Reserve {
    path: PathBuf,
    is_there: bool,
}

impl Reserve {
    /// Takes up what an earlier process left.
    pub(super) fn open(directory: &Path) -> Reserve {
        let path = directory.join(FILE);
        let is_there = path.exists();
        Reserve { path, is_there }
    }

    /// Holds space back where there is none and enough is free: three times as much.
    pub(super) fn keep(&mut self, space: Space) {
        let bytes = (space.total / PART).min(BYTES_MAX);
        if self.is_there || bytes == 0 || space.free < bytes * 3 {
            return;
        }
        // A file system that cannot do it has no reserve; nothing depends on one.
        match allocate(&self.path, bytes) {
            Ok(()) => self.is_there = true,
            Err(error) => {
                tracing::debug!(%error, "no space is held back on this disk");
                let _ = fs::remove_file(&self.path);
                self.is_there = true;
            }
        }
    }

    /// Gives the space up; tells whether there was any.
    pub(super) fn release(&mut self) -> bool {
        let was_there = std::mem::take(&mut self.is_there) && fs::remove_file(&self.path).is_ok();
        if was_there {
            tracing::warn!("the space that was held back for a full disk is used now");
        }
        was_there
    }
}

fn allocate(path: &Path, bytes: u64) -> io::Result<()> {
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    fallocate(&file, FallocateFlags::empty(), 0, bytes)?;
    Ok(())
}

/// Tells whether a write failed for want of space, and for nothing else.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
