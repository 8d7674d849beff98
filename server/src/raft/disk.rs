//! The disk under log and snapshots: the few operations they need, each with its durability said.

mod aside;
mod file;
mod memory;
mod reserve;

use std::io;
use std::sync::Arc;
use std::time::Duration;

pub use aside::Aside;
pub use file::{FileDisk, FileDiskError};
pub use memory::MemoryDisk;
pub(crate) use reserve::is_full;

/// How much a disk holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Bytes of the whole file system.
    pub total: u64,
    /// Bytes that this process may still write.
    pub free: u64,
}

/// A flat directory of files.
///
/// Names are chosen by the log and the snapshots: letters, digits, `-` and `.`. A failure of any writing operation
/// leaves the file in an unknown state; the caller stops and never tries again. Want of space alone may be got over within
/// [`Disk::append`]: then nothing has failed.
pub trait Disk {
    /// Appends to a file, which is created if it is not there. Not durable before [`Disk::sync`].
    ///
    /// # Errors
    /// As the operating system says. Some of the bytes may have been written.
    fn append(&mut self, file: &str, bytes: &[u8]) -> io::Result<()>;

    /// Makes everything appended to a file, and the file's name, durable.
    ///
    /// # Errors
    /// As the operating system says. What was appended may be lost even if a second call succeeds.
    fn sync(&mut self, file: &str) -> io::Result<()>;

    /// Returns a whole file.
    ///
    /// # Errors
    /// As the operating system says, [`io::ErrorKind::NotFound`] included.
    fn read(&self, file: &str) -> io::Result<Vec<u8>>;

    /// Returns the names of all files, sorted.
    ///
    /// # Errors
    /// As the operating system says.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Renames a file over whatever has the new name. Durable on return, and atomic.
    ///
    /// # Errors
    /// As the operating system says.
    fn rename(&mut self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file. Durable on return.
    ///
    /// # Errors
    /// As the operating system says, [`io::ErrorKind::NotFound`] included.
    fn remove(&mut self, file: &str) -> io::Result<()>;

    /// Cuts a file to its first `length` bytes. Durable on return.
    ///
    /// # Errors
    /// As the operating system says.
    fn truncate(&mut self, file: &str, length: u64) -> io::Result<()>;

    /// Returns how much space there is; none where that means nothing.
    ///
    /// # Errors
    /// As the operating system says.
    fn space(&mut self) -> io::Result<Option<Space>> {
        Ok(None)
    }

    /// Gives up space that was held back for a full disk.
    fn release_reserve(&mut self) {}

    /// Returns how long each sync took since this was asked last; none where nobody measures.
    fn take_sync_times(&mut self) -> Vec<Duration> {
        Vec::new()
    }

    /// Returns what reaches the same directory from another thread; none where there is no need to.
    fn aside(&self) -> Option<Arc<dyn Aside>> {
        None
    }
}
