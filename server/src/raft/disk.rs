//! The disk under log and snapshots: the few operations they need, each with its durability said.

mod file;
mod memory;

use std::io;

pub use file::{FileDisk, FileDiskError};
pub use memory::MemoryDisk;

/// A flat directory of files.
///
/// Names are chosen by the log and the snapshots: letters, digits, `-` and `.`. A failure of any writing operation
/// leaves the file in an unknown state; the caller stops and never tries again.
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
}
