//! What an injector is told once, for all pods.

use std::net::SocketAddr;
use std::str::FromStr;

use catalog::AuthMethodName;
pub use wire::defaults::MESH_PORT;

use crate::kubernetes::ClusterName;

/// The user that the agent runs as in a pod; no application may.
pub const AGENT_UID: u32 = 5995;
/// The port at which the kubelet asks the agent.
pub const HEALTH_PORT: u16 = 19001;

/// Says how the agent is started and ended beside the application.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sidecar {
    /// As an init container that goes on: it is ready before the application starts, and ends after it. Kubernetes 1.29.
    Native,
    /// As one more container, on clusters that know no other way.
    Plain,
}

/// Is what the agent's container asks of its machine, as Kubernetes writes amounts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resources {
    /// The share of a processor that is kept for it.
    pub cpu_request: String,
    /// The memory that is kept for it.
    pub memory_request: String,
    /// The memory that it may not pass.
    pub memory_limit: String,
}

impl Default for Resources {
    fn default() -> Self {
        Self { cpu_request: "20m".to_owned(), memory_request: "32Mi".to_owned(), memory_limit: "256Mi".to_owned() }
    }
}

/// Says of which requests agents write a line to their standard output.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub enum AccessLog {
    /// Of none.
    #[default]
    None,
    /// Of this share of all, from 0 to 1, and always of those that failed or were denied.
    Share(f64),
}

/// Explains why a text does not say of which requests there is a line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` does not say of which requests there is a line: write none, failed, all, or a share such as 0.01")]
pub struct AccessLogError {
    text: String,
}

impl FromStr for AccessLog {
    type Err = AccessLogError;

    fn from_str(text: &str) -> Result<Self, AccessLogError> {
        let share = match text {
            "none" => return Ok(Self::None),
            "failed" => Some(0.0),
            "all" => Some(1.0),
            _ => text.parse().ok().filter(|share| (0.0..=1.0).contains(share)),
        };
        share.map(Self::Share).ok_or_else(|| AccessLogError { text: text.to_owned() })
    }
}

/// Says what the injector puts into pods.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// The cluster's name, where there are several in the mesh.
    pub cluster_name: Option<ClusterName>,
    /// The agent's image.
    pub image: String,
    /// When the images are fetched; Kubernetes' own rule where it is empty.
    pub image_pull_policy: String,
    /// The image that holds weft and `nft`. Without it no pod's traffic is redirected.
    pub redirect_image: Option<String>,
    /// The cluster's own name servers. Where they are known, a redirected pod asks its agent for names, which asks them for
    /// those that are not the mesh's.
    pub cluster_dns: Vec<SocketAddr>,
    /// The servers' addresses for agents, as `host:port`.
    pub servers: Vec<String>,
    /// The auth method by which agents log in.
    pub auth_method: AuthMethodName,
    /// The SHA-256 of each root by which servers are recognised, in hexadecimal.
    pub root_fingerprints: Vec<String>,
    /// Whom the agents' tokens are for; the auth method asks for the same.
    pub audience: String,
    /// The user that agents run as.
    pub agent_uid: u32,
    /// The port that other agents call.
    pub mesh_port: u16,
    /// The port at which the kubelet asks the agent.
    pub health_port: u16,
    /// What the agent's container asks of its machine where its pod says nothing else.
    pub resources: Resources,
    /// How the agent is started and ended.
    pub sidecar: Sidecar,
    /// What agents log; their own default where it is empty.
    pub log: String,
    /// Of which requests agents write a line where their pod says nothing else.
    pub access_log: AccessLog,
}

/// Why an injector cannot work with its settings.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// Something is left out.
    #[error("the injector is told no {what}")]
    Missing {
        /// What is missing.
        what: &'static str,
    },
    /// Two things listen on one port.
    #[error("the mesh and the kubelet cannot both call the agent at port {port}")]
    OnePort {
        /// The port.
        port: u16,
    },
    /// A fingerprint is none.
    #[error("`{text}` is no SHA-256 of a certificate: write the 64 digits that `weft ca roots` shows")]
    Fingerprint {
        /// What was written.
        text: String,
    },
    /// The agent would be root.
    #[error("agents do not run as root: name another user than 0")]
    Root,
}

impl Settings {
    /// Looks for what every pod would suffer from.
    ///
    /// # Errors
    ///
    /// [`SettingsError`] names what to change.
    pub fn check(&self) -> Result<(), SettingsError> {
        let missing = |what| Err(SettingsError::Missing { what });
        if self.image.is_empty() {
            return missing("image");
        }
        if self.servers.is_empty() {
            return missing("server");
        }
        if self.root_fingerprints.is_empty() {
            return missing("fingerprint of a root, without which an agent would send its token to anybody");
        }
        if self.audience.is_empty() {
            return missing("audience of the agents' tokens, as the auth method asks for one");
        }
        if self.mesh_port == self.health_port {
            return Err(SettingsError::OnePort { port: self.mesh_port });
        }
        if self.agent_uid == 0 {
            return Err(SettingsError::Root);
        }
        match self.root_fingerprints.iter().find(|text| wire::pki::parse_fingerprint(text).is_none()) {
            Some(text) => Err(SettingsError::Fingerprint { text: text.clone() }),
            None => Ok(()),
        }
    }
}
