//! Recovery from the permanent loss of a majority: one stopped server goes on alone, in a new epoch.
//!
//! It is done on the server's data directory while the server is stopped. The log is read to its end, and a snapshot is put in
//! its place whose list of servers has this one alone. The epoch stands in that list: servers of an older one are refused by
//! those of the new one, and by themselves, as soon as they meet.

use std::path::{Path, PathBuf};

use catalog::ServerId;

use super::identity::{Identity, IdentityError};
use super::start::LOG_DIRECTORY;
use crate::raft::{Fatal, FileDisk, FileDiskError, ReplayError, Replayed};

/// Is what a stopped server's data directory holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The cluster that it is of.
    pub cluster_id: String,
    /// The server that it is of.
    pub server: ServerId,
    /// The servers of the cluster, by the list on this disk.
    pub servers: Vec<ServerId>,
    /// The index of the last entry on this disk.
    pub last_index: u64,
}

/// Is what was made of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovered {
    /// The server that is alone now.
    pub server: ServerId,
    /// How often the cluster was recovered so far.
    pub epoch: u64,
}

/// Explains why a cluster cannot be rebuilt from a data directory. Unless the writing itself failed, nothing has changed.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    /// The directory is no server's, or not whole.
    #[error("cannot read whose data directory `{}` is", path.display())]
    Identity {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: IdentityError,
    },
    /// The log is in use or cannot be opened.
    #[error("cannot use the log in `{}`: stop the server first", path.display())]
    Disk {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: FileDiskError,
    },
    /// The log cannot be read to its end.
    #[error("cannot read the log in `{}` to its end", path.display())]
    Replay {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: ReplayError,
    },
    /// The server is no member of a cluster that could be rebuilt.
    #[error("server `{server}` is no member of an established cluster: there is nothing to rebuild from it")]
    NoMember {
        /// The server.
        server: ServerId,
    },
    /// The id that was confirmed is that of another cluster.
    #[error("the data directory is of cluster {found}, and {confirmed} was confirmed: confirm the id that it has")]
    OtherCluster {
        /// The cluster that it is of.
        found: String,
        /// What was confirmed.
        confirmed: String,
    },
    /// The new state could not be written.
    #[error("cannot write the new state in `{}`: run the command again", path.display())]
    Write {
        /// The directory.
        path: PathBuf,
        /// What happened.
        #[source]
        source: Fatal,
    },
}

/// Looks into the data directory of a stopped server.
///
/// # Errors
/// [`RecoveryError`]
pub fn inspect(data_dir: &Path) -> Result<Found, RecoveryError> {
    open(data_dir).map(|opened| opened.found)
}

/// Makes the server of a data directory the only one of its cluster, in a new epoch; `confirmed` must be the cluster's id.
///
/// # Errors
/// [`RecoveryError`]
pub fn recover(data_dir: &Path, confirmed: &str) -> Result<Recovered, RecoveryError> {
    let Opened { found, raft_id, log } = open(data_dir)?;
    if found.cluster_id != confirmed {
        return Err(RecoveryError::OtherCluster { found: found.cluster_id, confirmed: confirmed.to_owned() });
    }
    let written = log.rewrite(raft_id);
    let (catalog, _disk) = written.map_err(|source| RecoveryError::Write { path: data_dir.to_owned(), source })?;
    Ok(Recovered { server: found.server, epoch: catalog.membership().epoch })
}

struct Opened {
    found: Found,
    raft_id: u64,
    log: Replayed<FileDisk>,
}

fn open(data_dir: &Path) -> Result<Opened, RecoveryError> {
    let path = || data_dir.to_owned();
    let identity = Identity::load(data_dir).map_err(|source| RecoveryError::Identity { path: path(), source })?;
    let server = identity.node().clone();
    let no_member = || RecoveryError::NoMember { server: server.clone() };
    identity.commitment().membership().ok_or_else(no_member)?;
    let disk =
        FileDisk::open(&data_dir.join(LOG_DIRECTORY)).map_err(|source| RecoveryError::Disk { path: path(), source })?;
    let log = Replayed::read(disk).map_err(|source| RecoveryError::Replay { path: path(), source })?;
    let (catalog, membership) = (log.catalog(), log.catalog().membership());
    let own = membership.member_named(&server).filter(|member| member.disk_id == identity.disk_id());
    let (Some(own), Some(mesh)) = (own, catalog.mesh()) else { return Err(no_member()) };
    let found = Found {
        cluster_id: mesh.cluster_id.clone(),
        server: server.clone(),
        servers: membership.members.values().map(|member| member.id.clone()).collect(),
        last_index: log.last_index(),
    };
    Ok(Opened { found, raft_id: own.raft_id, log })
}
