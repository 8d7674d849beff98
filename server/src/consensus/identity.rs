//! What a server remembers of itself across restarts: its name, the mark of its disk, and what it is bound to.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use catalog::ServerId;
use serde::{Deserialize, Serialize};
use wire::crypto;

use super::bootstrap::Commitment;
use crate::raft::REPLACE;

/// The version of the file that this release writes. It reads this one and every older one.
const VERSION: u16 = 1;
const FILE: &str = "server.json";
const FILE_BEFORE_RENAME: &str = "server.json.new";

/// Is the file's content.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Record {
    version: u16,
    node: ServerId,
    disk_id: String,
    commitment: Commitment,
    /// Whether the server was taken into a cluster that existed, rather than founding it.
    #[serde(default)]
    admitted: bool,
    /// How often the cluster was recovered by force, as far as this server was told when it joined.
    #[serde(default)]
    epoch: u64,
    /// Whether the Raft log was begun: from then on an empty one means that it was lost.
    log_begun: bool,
}

/// Is a server's memory of itself, on disk where it has one.
#[derive(Debug)]
pub(crate) struct Identity {
    record: Record,
    /// The data directory; none for a server in memory.
    directory: Option<PathBuf>,
}

/// Explains why a data directory cannot be this server's, or cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The file could not be read.
    #[error("cannot read `{}`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// The file could not be written.
    #[error("cannot write `{}`", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// The file is not what a server writes.
    #[error("`{}` is damaged; {REPLACE}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// A newer release wrote the file.
    #[error("`{}` has version {found}, and this release reads up to {VERSION}: run the newer release", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// The version found.
        found: u16,
    },
    /// The directory is another server's.
    #[error("data directory `{}` is that of server `{found}`, not `{wanted}`: correct --node or --data-dir", path.display())]
    OtherServer {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        found: ServerId,
        /// Who was started.
        wanted: ServerId,
    },
    /// There is a log and nothing that says whose.
    #[error("data directory `{}` has a Raft log but no {FILE}; {REPLACE}", path.display())]
    FileLost {
        /// The directory.
        path: PathBuf,
    },
    /// The log of a member is gone: what it has voted for is forgotten, so it must not vote again.
    #[error("data directory `{}` of server `{node}` has lost its Raft log; {REPLACE}", path.display())]
    LogLost {
        /// The directory.
        path: PathBuf,
        /// The server.
        node: ServerId,
    },
}

impl Identity {
    /// Returns the memory of a server that has no disk: as long as the process.
    pub(crate) fn in_memory(node: ServerId) -> Self {
        Self { record: Record::new(node), directory: None }
    }

    /// Reads what is remembered in `directory`, or begins to remember.
    ///
    /// # Errors
    /// [`IdentityError`] where the directory is not this server's, or not whole; nothing was written then.
    pub(crate) fn open(directory: &Path, node: &ServerId, is_log_empty: bool) -> Result<Self, IdentityError> {
        let path = directory.join(FILE);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound && is_log_empty => {
                let identity = Self { record: Record::new(node.clone()), directory: Some(directory.to_owned()) };
                identity.save()?;
                return Ok(identity);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(IdentityError::FileLost { path: directory.to_owned() });
            }
            Err(source) => return Err(IdentityError::Read { path, source }),
        };
        let record = Record::decode(&bytes, &path)?;
        if record.node != *node {
            let (path, wanted) = (directory.to_owned(), node.clone());
            return Err(IdentityError::OtherServer { path, found: record.node, wanted });
        }
        if record.log_begun && is_log_empty {
            return Err(IdentityError::LogLost { path: directory.to_owned(), node: node.clone() });
        }
        Ok(Self { record, directory: Some(directory.to_owned()) })
    }

    /// Reads what is remembered in the directory of a server that is stopped, whoever it is.
    ///
    /// # Errors
    /// [`IdentityError`]
    pub(super) fn load(directory: &Path) -> Result<Self, IdentityError> {
        let path = directory.join(FILE);
        let bytes = fs::read(&path).map_err(|source| IdentityError::Read { path: path.clone(), source })?;
        let record = Record::decode(&bytes, &path)?;
        Ok(Self { record, directory: Some(directory.to_owned()) })
    }

    /// Returns the server's name.
    pub(super) fn node(&self) -> &ServerId {
        &self.record.node
    }

    /// Returns the random mark of the data directory.
    pub(crate) fn disk_id(&self) -> &str {
        &self.record.disk_id
    }

    /// Returns what the server is bound to.
    pub(crate) fn commitment(&self) -> &Commitment {
        &self.record.commitment
    }

    /// Remembers what the server is bound to; durable on return.
    ///
    /// # Errors
    /// [`IdentityError::Write`]: what a restart will remember is not known then, and the server must end.
    pub(crate) fn bind(&mut self, commitment: Commitment) -> Result<(), IdentityError> {
        self.record.commitment = commitment;
        self.save()
    }

    /// Reports whether the server was taken into a cluster that existed.
    pub(crate) fn is_admitted(&self) -> bool {
        self.record.admitted
    }

    /// Returns how often the cluster was recovered by force, as far as this server was told when it joined.
    pub(crate) fn epoch(&self) -> u64 {
        self.record.epoch
    }

    /// Notes that the server is taken into a cluster that exists; durable once it is bound to it.
    pub(crate) fn admit(&mut self, epoch: u64) {
        (self.record.admitted, self.record.epoch) = (true, epoch);
    }

    /// Remembers that there is a log; durable on return.
    ///
    /// # Errors
    /// [`IdentityError::Write`]
    pub(crate) fn log_begun(&mut self) -> Result<(), IdentityError> {
        if self.record.log_begun {
            return Ok(());
        }
        self.record.log_begun = true;
        self.save()
    }

    fn save(&self) -> Result<(), IdentityError> {
        let Some(directory) = &self.directory else { return Ok(()) };
        let mut bytes = serde_json::to_vec_pretty(&self.record).expect("the record has only what JSON can hold");
        bytes.push(b'\n');
        replace(directory, &bytes).map_err(|source| IdentityError::Write { path: directory.join(FILE), source })
    }
}

/// Makes the data directory, readable by its owner only.
///
/// # Errors
/// As the operating system says.
pub(crate) fn create_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Replaces the file, so that a crash leaves the old one or the new one.
fn replace(directory: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = directory.join(FILE_BEFORE_RENAME);
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, directory.join(FILE))?;
    File::open(directory)?.sync_all()
}

impl Record {
    fn new(node: ServerId) -> Self {
        let disk_id = crypto::uuid_v4();
        Self {
            version: VERSION,
            node,
            disk_id,
            commitment: Commitment::None,
            admitted: false,
            epoch: 0,
            log_begun: false,
        }
    }

    fn decode(bytes: &[u8], path: &Path) -> Result<Self, IdentityError> {
        #[derive(Deserialize)]
        struct Version {
            version: u16,
        }
        let damaged = |source| IdentityError::Damaged { path: path.to_owned(), source };
        let Version { version } = serde_json::from_slice(bytes).map_err(damaged)?;
        if version > VERSION {
            return Err(IdentityError::Newer { path: path.to_owned(), found: version });
        }
        serde_json::from_slice(bytes).map_err(damaged)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn node(name: &str) -> ServerId {
        name.parse().unwrap()
    }

    #[test]
    fn a_server_remembers_its_disk() {
        let directory = tempfile::tempdir().unwrap();
        let mut first = Identity::open(directory.path(), &node("a"), true).unwrap();
        first.log_begun().unwrap();
        let again = Identity::open(directory.path(), &node("a"), false).unwrap();
        assert_eq!(again.disk_id(), first.disk_id());
        let mode = fs::metadata(directory.path().join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_ne!(Identity::in_memory(node("a")).disk_id(), first.disk_id());
    }

    #[test]
    fn f3_a_directory_of_another_server_is_refused_naming_both() {
        let directory = tempfile::tempdir().unwrap();
        Identity::open(directory.path(), &node("a"), true).unwrap();
        let error = Identity::open(directory.path(), &node("b"), true).unwrap_err().to_string();
        assert!(error.contains("is that of server `a`, not `b`"), "{error}");
    }

    #[test]
    fn z4_a_newer_or_damaged_file_is_refused_and_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE);
        for (content, want) in
            [("{\"version\":2,\"new\":1}", "has version 2"), ("{\"version\":1", "is damaged"), ("", "is damaged")]
        {
            fs::write(&path, content).unwrap();
            let error = Identity::open(directory.path(), &node("a"), true).unwrap_err().to_string();
            assert!(error.contains(want), "{error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
        }
    }

    #[test]
    fn fault_19_half_a_data_directory_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let error = Identity::open(directory.path(), &node("a"), false).unwrap_err();
        assert!(matches!(error, IdentityError::FileLost { .. }), "{error}");
        Identity::open(directory.path(), &node("a"), true).unwrap().log_begun().unwrap();
        let error = Identity::open(directory.path(), &node("a"), true).unwrap_err();
        assert!(matches!(error, IdentityError::LogLost { .. }), "{error}");
        assert!(error.to_string().contains("of server `a` has lost its Raft log; put the server's own"), "{error}");
    }
}
