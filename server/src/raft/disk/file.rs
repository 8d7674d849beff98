//! A directory of real files.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::Disk;

/// A directory of real files, locked against a second process.
///
/// The directory has mode 0700 and its files 0600: the log holds sealed keys and hashes of tokens.
#[derive(Debug)]
pub struct FileDisk {
    path: PathBuf,
    /// Kept open to sync it, and because the lock lives as long as it.
    directory: File,
    /// The file appended to last. The log syncs it through the descriptor that wrote it, for a write-back error is
    /// reported to descriptors that were open when it happened.
    active: Option<Active>,
}

#[derive(Debug)]
struct Active {
    name: String,
    file: File,
    /// Whether the file's name may not be durable yet.
    is_new: bool,
}

/// Why a directory cannot be used as a disk.
#[derive(Debug, thiserror::Error)]
pub enum FileDiskError {
    /// It could not be created, opened or examined.
    #[error("cannot use data directory `{}`; give the server's user read and write access to it", path.display())]
    Open {
        /// The directory.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// It belongs to another user.
    #[error(
        "data directory `{}` belongs to user id {owner}, the server runs as {user}; run it as the owner or change the owner",
        path.display()
    )]
    Owner {
        /// The directory.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// The user of this process.
        user: u32,
    },
    /// Another process uses it.
    #[error("data directory `{}` is in use by another process; stop that server first", path.display())]
    Locked {
        /// The directory.
        path: PathBuf,
    },
}

impl FileDisk {
    /// Opens a directory, which is created if it is not there, and locks it.
    ///
    /// # Errors
    /// [`FileDiskError`], and nothing was written but the directory itself.
    pub fn open(path: &Path) -> Result<FileDisk, FileDiskError> {
        let failed = |source| FileDiskError::Open { path: path.to_owned(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
        let directory = File::open(path).map_err(failed)?;
        let metadata = directory.metadata().map_err(failed)?;
        let user = rustix::process::geteuid().as_raw();
        if metadata.uid() != user {
            return Err(FileDiskError::Owner { path: path.to_owned(), owner: metadata.uid(), user });
        }
        flock(&directory, FlockOperation::NonBlockingLockExclusive).map_err(|error| match error {
            rustix::io::Errno::WOULDBLOCK => FileDiskError::Locked { path: path.to_owned() },
            error => failed(error.into()),
        })?;
        if metadata.mode() & 0o077 != 0 {
            fs::set_permissions(path, Permissions::from_mode(0o700)).map_err(failed)?;
        }
        // The directory's own name has to survive a power cut as well.
        if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            File::open(parent).and_then(|parent| parent.sync_all()).map_err(failed)?;
        }
        Ok(FileDisk { path: path.to_owned(), directory, active: None })
    }

    fn path_of(&self, file: &str) -> PathBuf {
        self.path.join(file)
    }

    fn forget(&mut self, file: &str) {
        self.active.take_if(|active| active.name == file);
    }

    fn activate(&mut self, file: &str) -> io::Result<&mut Active> {
        let active = match self.active.take() {
            Some(active) if active.name == file => active,
            _ => {
                let path = self.path_of(file);
                let mut options = OpenOptions::new();
                options.append(true).mode(0o600);
                match options.open(&path) {
                    Ok(opened) => Active { name: file.to_owned(), file: opened, is_new: false },
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {
                        let created = options.create_new(true).open(&path)?;
                        Active { name: file.to_owned(), file: created, is_new: true }
                    }
                    Err(error) => return Err(error),
                }
            }
        };
        Ok(self.active.insert(active))
    }
}

impl Disk for FileDisk {
    fn append(&mut self, file: &str, bytes: &[u8]) -> io::Result<()> {
        self.activate(file)?.file.write_all(bytes)
    }

    fn sync(&mut self, file: &str) -> io::Result<()> {
        let active = self.activate(file)?;
        active.file.sync_data()?;
        if std::mem::take(&mut active.is_new) {
            self.directory.sync_all()?;
        }
        Ok(())
    }

    fn read(&self, file: &str) -> io::Result<Vec<u8>> {
        fs::read(self.path_of(file))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                // A name that is not UTF-8 is not one of ours.
                names.extend(entry.file_name().into_string());
            }
        }
        names.sort();
        Ok(names)
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        self.forget(from);
        self.forget(to);
        fs::rename(self.path_of(from), self.path_of(to))?;
        self.directory.sync_all()
    }

    fn remove(&mut self, file: &str) -> io::Result<()> {
        self.forget(file);
        fs::remove_file(self.path_of(file))?;
        self.directory.sync_all()
    }

    fn truncate(&mut self, file: &str, length: u64) -> io::Result<()> {
        self.forget(file);
        let opened = OpenOptions::new().write(true).open(self.path_of(file))?;
        opened.set_len(length)?;
        opened.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back_with_private_modes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("raft");
        let mut disk = FileDisk::open(&path).unwrap();
        disk.append("a", b"one").unwrap();
        disk.sync("a").unwrap();
        disk.append("b", b"other").unwrap();
        disk.append("a", b" two").unwrap();
        disk.sync("a").unwrap();
        disk.rename("b", "c").unwrap();
        assert_eq!(disk.read("a").unwrap(), b"one two");
        assert_eq!(disk.list().unwrap(), ["a", "c"]);
        disk.truncate("a", 3).unwrap();
        disk.append("a", b"!").unwrap();
        assert_eq!(disk.read("a").unwrap(), b"one!");
        disk.remove("c").unwrap();
        assert_eq!(disk.read("c").unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        assert_eq!(fs::metadata(path.join("a")).unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn z4_a_second_user_of_the_directory_is_refused_until_the_first_is_gone() {
        let directory = tempfile::tempdir().unwrap();
        let first = FileDisk::open(directory.path()).unwrap();
        assert!(matches!(FileDisk::open(directory.path()), Err(FileDiskError::Locked { .. })));
        drop(first);
        FileDisk::open(directory.path()).unwrap();
    }

    #[test]
    fn z4_a_directory_open_to_others_is_closed_to_them() {
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
        let _disk = FileDisk::open(directory.path()).unwrap();
        assert_eq!(fs::metadata(directory.path()).unwrap().mode() & 0o777, 0o700);
    }

    #[test]
    fn z4_a_path_that_is_a_file_is_refused_by_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        fs::write(&path, b"x").unwrap();
        let error = FileDisk::open(&path).unwrap_err();
        assert!(error.to_string().contains("file"), "{error}");
    }
}
