//! The agent's data directory: small checked files, replaced whole or not at all.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// No file that an agent wrote itself is longer.
const FILE_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// Length of the checksum line: 64 hexadecimal digits and a newline.
const CHECKSUM_LINE: usize = 65;

/// A failure in the data directory.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// The directory could not be made, opened or secured.
    #[error("cannot use data directory `{}`; give it to the agent's user, with mode 0700", path.display())]
    Open {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Another process uses the directory.
    #[error("data directory `{}` is in use by another agent; give each agent a directory of its own", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// Another user owns the directory.
    #[error("data directory `{}` belongs to user {owner}; give it to the agent's user", path.display())]
    Owner {
        /// The directory.
        path: PathBuf,
        /// Its owner.
        owner: u32,
    },
    /// A file could not be read.
    #[error("cannot read `{}`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A file's content does not match its checksum, or is not what the file is for.
    #[error("`{}` is damaged: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A file could not be removed.
    #[error("cannot remove `{}`", path.display())]
    Remove {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A file could not be replaced; the old one is still there.
    #[error("cannot write `{}`", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// A directory that one agent at a time holds, readable by its user only.
#[derive(Debug)]
pub(crate) struct DataDir {
    path: PathBuf,
    /// Holds the lock for as long as the agent lives; the system releases it even after SIGKILL.
    _lock: File,
}

impl DataDir {
    /// Makes the directory if need be, locks it, and takes everybody else's rights to it away.
    pub(crate) fn open(path: &Path) -> Result<Self, DataDirError> {
        let failed = |source| DataDirError::Open { path: path.to_owned(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
        let owner = fs::metadata(path).map_err(failed)?.uid();
        let user = rustix::process::geteuid().as_raw();
        if owner != user && user != 0 {
            return Err(DataDirError::Owner { path: path.to_owned(), owner });
        }
        fs::set_permissions(path, Permissions::from_mode(0o700)).map_err(failed)?;
        let lock = private_file().open(path.join("lock")).map_err(failed)?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { path: path.to_owned(), _lock: lock }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(DataDirError::InUse { path: path.to_owned() }),
            Err(errno) => Err(failed(errno.into())),
        }
    }

    /// Reads the file `name`; a file that does not exist is `None`.
    pub(crate) fn read<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, DataDirError> {
        let path = self.path.join(name);
        let mut bytes = Vec::new();
        match File::open(&path).and_then(|file| file.take(FILE_BYTES_MAX).read_to_end(&mut bytes)) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(DataDirError::Read { path, source }),
        }
        let bytes = zeroize::Zeroizing::new(bytes);
        let damaged = |reason: String| DataDirError::Damaged { path: path.clone(), reason };
        let (checksum, body) = bytes
            .split_at_checked(CHECKSUM_LINE)
            .ok_or_else(|| damaged("it is shorter than its checksum".to_owned()))?;
        // A flipped bit could still be valid JSON that says something else, a wider policy for example.
        if checksum.trim_ascii_end() != wire::crypto::sha256_hex(body).as_bytes() {
            return Err(damaged("its checksum does not match".to_owned()));
        }
        serde_json::from_slice(body).map(Some).map_err(|error| damaged(error.to_string()))
    }

    /// Replaces the file `name` so that a crash at any moment leaves the old content or the new.
    pub(crate) fn write<T: Serialize>(&self, name: &str, value: &T) -> Result<(), DataDirError> {
        let path = self.path.join(name);
        self.replace(&path, value).map_err(|source| DataDirError::Write { path, source })
    }

    /// Removes the file `name`; one that does not exist is as good as removed.
    pub(crate) fn remove(&self, name: &str) -> Result<(), DataDirError> {
        let path = self.path.join(name);
        let removed = match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => File::open(&self.path).and_then(|dir| dir.sync_all()),
        };
        removed.map_err(|source| DataDirError::Remove { path, source })
    }

    /// Returns the error for a file whose content is not what the file is for.
    pub(crate) fn damaged(&self, name: &str, reason: String) -> DataDirError {
        DataDirError::Damaged { path: self.path.join(name), reason }
    }

    fn replace<T: Serialize>(&self, path: &Path, value: &T) -> io::Result<()> {
        let body = zeroize::Zeroizing::new(serde_json::to_vec(value)?);
        let fresh = path.with_extension("new");
        let mut file = private_file().truncate(true).open(&fresh)?;
        file.write_all(wire::crypto::sha256_hex(&body).as_bytes())?;
        file.write_all(b"\n")?;
        file.write_all(&body)?;
        file.sync_all()?;
        fs::rename(&fresh, path)?;
        // The rename itself is durable only once the directory is.
        File::open(&self.path)?.sync_all()
    }
}

fn private_file() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.create(true).write(true).truncate(false).mode(0o600);
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn what_was_written_is_read_and_only_the_owner_may_read_it() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("data");
        let dir = DataDir::open(&path).unwrap();
        dir.write("state.json", &vec![1, 2, 3]).unwrap();
        assert_eq!(dir.read::<Vec<u32>>("state.json").unwrap(), Some(vec![1, 2, 3]));
        assert_eq!(dir.read::<Vec<u32>>("other.json").unwrap(), None);
        assert_eq!((mode(&path), mode(&path.join("state.json"))), (0o700, 0o600));
    }

    #[test]
    fn a_directory_open_to_others_is_closed_to_them() {
        let parent = tempfile::tempdir().unwrap();
        fs::set_permissions(parent.path(), Permissions::from_mode(0o755)).unwrap();
        DataDir::open(parent.path()).unwrap();
        assert_eq!(mode(parent.path()), 0o700);
    }

    #[test]
    fn a_second_agent_is_refused_until_the_first_has_gone() {
        let parent = tempfile::tempdir().unwrap();
        let first = DataDir::open(parent.path()).unwrap();
        assert!(matches!(DataDir::open(parent.path()), Err(DataDirError::InUse { .. })));
        drop(first);
        assert!(DataDir::open(parent.path()).is_ok());
    }

    #[test]
    fn every_changed_or_missing_byte_is_noticed() {
        let parent = tempfile::tempdir().unwrap();
        let dir = DataDir::open(parent.path()).unwrap();
        let path = parent.path().join("state.json");
        dir.write("state.json", &"allow").unwrap();
        let good = fs::read(&path).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            // The newline after the checksum carries nothing, so a changed one harms nothing.
            fs::write(&path, &bad).unwrap();
            if at != CHECKSUM_LINE - 1 {
                assert!(matches!(dir.read::<String>("state.json"), Err(DataDirError::Damaged { .. })), "byte {at}");
            }
            fs::write(&path, &good[..at]).unwrap();
            assert!(matches!(dir.read::<String>("state.json"), Err(DataDirError::Damaged { .. })), "length {at}");
        }
    }
}
