//! What is wrong on this machine: files, disk and ports, and what the agent itself says; and what the servers' word says of
//! the mesh.
//!
//! It is asked from outside the agent, by `weft doctor`, so it works where the agent does not.

mod admin;
mod dns;
mod files;
mod mesh;
mod ports;
mod redirection;

use std::net::SocketAddr;
use std::path::PathBuf;

use catalog::Timestamp;
use wire::diagnosis::Finding;

use crate::sockets::listening;
use crate::state::IDENTITY_FILE;

pub use mesh::{of_clock, of_default_policy, of_mesh};

/// A file that holds a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretFile {
    /// Where it is.
    pub path: PathBuf,
    /// Whether nothing works without it.
    pub is_needed: bool,
}

impl SecretFile {
    /// Names a file without which nothing works.
    pub fn needed(path: PathBuf) -> Self {
        Self { path, is_needed: true }
    }
}

/// A local service, and where its application is meant to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalService {
    /// The instance's id.
    pub id: String,
    /// The application's port.
    pub port: u16,
    /// Whether it can be dialled past the agent, as the agent has tried it; none where it has not.
    pub bypassable: Option<bool>,
}

/// What is to be looked at.
#[derive(Clone, Debug, Default)]
pub struct Machine {
    /// Where a server or an agent keeps what it must not lose.
    pub data_dir: Option<PathBuf>,
    /// The files that hold secrets.
    pub secrets: Vec<SecretFile>,
    /// The agent's admin listener; none where there is no agent.
    pub admin: Option<SocketAddr>,
    /// Where the agent answers names, and the domain of the mesh; none where it answers none.
    pub dns: Option<(SocketAddr, String)>,
    /// The services that the agent stands beside.
    pub services: Vec<LocalService>,
}

impl Machine {
    /// Notes what an agent that has joined needs no more: whatever it is let in with. It keeps in the data directory that it has.
    pub fn without_what_has_served(mut self) -> Self {
        let has_joined = self.data_dir.as_ref().is_some_and(|data_dir| data_dir.join(IDENTITY_FILE).exists());
        for secret in &mut self.secrets {
            secret.is_needed &= !has_joined;
        }
        self
    }
}

/// Looks at a machine.
pub async fn examine(machine: &Machine, now: Timestamp) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(data_dir) = &machine.data_dir {
        findings.extend(files::data_dir(data_dir));
    }
    findings.extend(machine.secrets.iter().map(files::secret));
    if let Some(admin) = machine.admin {
        findings.extend(admin::ask(admin, now).await);
    }
    if let Some((server, domain)) = &machine.dns {
        findings.push(dns::ask(*server, domain).await);
    }
    match listening() {
        Some(listening) => {
            findings.extend(ports::of_services(&machine.services, &listening));
            if machine.admin.is_some() {
                findings.extend(redirection::of_machine(&listening));
            }
        }
        None => findings.push(Finding::unknown(
            "ports",
            "cannot read /proc/self/net/tcp",
            "run this where /proc is mounted",
        )),
    }
    findings
}
