//! The same directory, reached from another thread: whole files, beside what the Raft thread writes.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

/// Writes and reads whole files where waiting for the disk keeps nobody from answering.
///
/// Only names that the [`Disk`](super::Disk) of the same directory does not write meanwhile.
pub trait Aside: Send + Sync {
    /// Writes a file and makes its bytes durable; one of that name is replaced. On failure nothing of it is left. The name is
    /// durable once the disk renames it.
    ///
    /// # Errors
    /// As the operating system says.
    fn write(&self, file: &str, bytes: &[u8]) -> io::Result<()>;

    /// Returns a whole file.
    ///
    /// # Errors
    /// As the operating system says, [`io::ErrorKind::NotFound`] included.
    fn read(&self, file: &str) -> io::Result<Vec<u8>>;
}

/// A directory of real files.
#[derive(Debug)]
pub(super) struct FileAside {
    pub(super) directory: PathBuf,
}

impl Aside for FileAside {
    fn write(&self, file: &str, bytes: &[u8]) -> io::Result<()> {
        let path = self.directory.join(file);
        let write = || {
            let mut opened: File =
                OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
            opened.write_all(bytes)?;
            opened.sync_all()
        };
        write().inspect_err(|_| {
            // Half a file is of no use to anybody.
            let _ = fs::remove_file(&path);
        })
    }

    fn read(&self, file: &str) -> io::Result<Vec<u8>> {
        fs::read(self.directory.join(file))
    }
}
