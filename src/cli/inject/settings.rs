//! What is put into pods, as files and flags say it, for the command and for the injector of a cluster.

use std::{net::SocketAddr, path::PathBuf};

use catalog::AuthMethodName;
use clap::{Args, ValueEnum};
use connectors::kubernetes::inject::{AGENT_UID, HEALTH_PORT, MESH_PORT, Resources, Settings, Sidecar};
use wire::decode::{DecodeError, Fields};

use crate::cli::{
    config_file::{self, ConfigFile},
    error::hinted,
};

/// Is how the agent is started beside the application.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum SidecarForm {
    /// Ready before the application starts, and ended after it; Kubernetes 1.29 or later.
    Native,
    /// One more container.
    Plain,
}

impl std::str::FromStr for SidecarForm {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        ValueEnum::from_str(text, false).map_err(|_| format!("`{text}` is neither native nor plain"))
    }
}

/// Says what is put into pods.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "What is put into pods")]
pub(in crate::cli) struct InjectorSettings {
    /// The agent's image
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,
    /// When images are fetched: Always, IfNotPresent or Never [default: Kubernetes' own rule]
    #[arg(long, value_name = "POLICY")]
    image_pull_policy: Option<String>,
    /// The image that holds weft and nft; without it no traffic is redirected, and pods name their upstreams
    #[arg(long, value_name = "IMAGE")]
    redirect_image: Option<String>,
    /// A name server of the cluster, as address:port, so that redirected pods resolve the mesh's names; may be given several times
    #[arg(long = "cluster-dns", value_name = "ADDRESS:PORT")]
    cluster_dns: Vec<SocketAddr>,
    /// A server's address for agents, as host:port; may be given several times
    #[arg(long = "server", value_name = "ADDRESS:PORT")]
    servers: Vec<String>,
    /// The auth method by which agents log in [default: kubernetes]
    #[arg(long, value_name = "NAME")]
    auth_method: Option<AuthMethodName>,
    /// The SHA-256 of a root that servers are recognised by, as `weft ca roots` shows it; may be given several times
    #[arg(long = "root-fingerprint", value_name = "HEX")]
    root_fingerprints: Vec<String>,
    /// Whom the agents' tokens are for, as the auth method asks [default: weft]
    #[arg(long, value_name = "NAME")]
    audience: Option<String>,
    /// The user that agents run as, which no application may [default: 5995]
    #[arg(long, value_name = "UID")]
    agent_uid: Option<u32>,
    /// The port that other agents call [default: 20000]
    #[arg(long, value_name = "PORT")]
    mesh_port: Option<u16>,
    /// The port at which the kubelet asks the agent [default: 19001]
    #[arg(long, value_name = "PORT")]
    health_port: Option<u16>,
    /// The share of a processor that is kept for an agent [default: 20m]
    #[arg(long, value_name = "AMOUNT")]
    agent_cpu_request: Option<String>,
    /// The memory that is kept for an agent [default: 32Mi]
    #[arg(long, value_name = "AMOUNT")]
    agent_memory_request: Option<String>,
    /// The memory that an agent may not pass [default: 256Mi]
    #[arg(long, value_name = "AMOUNT")]
    agent_memory_limit: Option<String>,
    /// How the agent is started beside the application [default: native]
    #[arg(long, value_enum, value_name = "FORM")]
    sidecar: Option<SidecarForm>,
    /// What agents log: a level, or levels by part
    #[arg(long, value_name = "FILTER")]
    agent_log: Option<String>,
}

impl InjectorSettings {
    pub(in crate::cli) fn read(fields: &mut Fields) -> Result<Self, DecodeError> {
        Ok(Self {
            image: fields.parsed("image")?,
            image_pull_policy: fields.parsed("image_pull_policy")?,
            redirect_image: fields.parsed("redirect_image")?,
            cluster_dns: fields.parsed_list("cluster_dns")?,
            servers: fields.texts("servers")?,
            auth_method: fields.parsed("auth_method")?,
            root_fingerprints: fields.texts("root_fingerprints")?,
            audience: fields.parsed("audience")?,
            agent_uid: fields.number("agent_uid")?,
            mesh_port: fields.number("mesh_port")?,
            health_port: fields.number("health_port")?,
            agent_cpu_request: fields.parsed("agent_cpu_request")?,
            agent_memory_request: fields.parsed("agent_memory_request")?,
            agent_memory_limit: fields.parsed("agent_memory_limit")?,
            sidecar: fields.parsed("sidecar")?,
            agent_log: fields.parsed("agent_log")?,
        })
    }

    /// Keeps what `over` says, and fills up with what this says.
    pub(in crate::cli) fn under(self, over: Self) -> Self {
        let either = |over: Vec<String>, own: Vec<String>| if over.is_empty() { own } else { over };
        Self {
            image: over.image.or(self.image),
            image_pull_policy: over.image_pull_policy.or(self.image_pull_policy),
            redirect_image: over.redirect_image.or(self.redirect_image),
            cluster_dns: if over.cluster_dns.is_empty() { self.cluster_dns } else { over.cluster_dns },
            servers: either(over.servers, self.servers),
            auth_method: over.auth_method.or(self.auth_method),
            root_fingerprints: either(over.root_fingerprints, self.root_fingerprints),
            audience: over.audience.or(self.audience),
            agent_uid: over.agent_uid.or(self.agent_uid),
            mesh_port: over.mesh_port.or(self.mesh_port),
            health_port: over.health_port.or(self.health_port),
            agent_cpu_request: over.agent_cpu_request.or(self.agent_cpu_request),
            agent_memory_request: over.agent_memory_request.or(self.agent_memory_request),
            agent_memory_limit: over.agent_memory_limit.or(self.agent_memory_limit),
            sidecar: over.sidecar.or(self.sidecar),
            agent_log: over.agent_log.or(self.agent_log),
        }
    }

    /// Returns the settings by which pods are injected.
    pub(in crate::cli) fn injection(self) -> anyhow::Result<Settings> {
        let resources = Resources::default();
        let auth_method = match self.auth_method {
            Some(method) => method,
            None => "kubernetes".parse()?,
        };
        let settings = Settings {
            image: self.image.unwrap_or_default(),
            image_pull_policy: self.image_pull_policy.unwrap_or_default(),
            redirect_image: self.redirect_image.filter(|image| !image.is_empty()),
            cluster_dns: self.cluster_dns,
            servers: self.servers,
            auth_method,
            root_fingerprints: self.root_fingerprints,
            audience: self.audience.unwrap_or_else(|| "weft".to_owned()),
            agent_uid: self.agent_uid.unwrap_or(AGENT_UID),
            mesh_port: self.mesh_port.unwrap_or(MESH_PORT),
            health_port: self.health_port.unwrap_or(HEALTH_PORT),
            resources: Resources {
                cpu_request: self.agent_cpu_request.unwrap_or(resources.cpu_request),
                memory_request: self.agent_memory_request.unwrap_or(resources.memory_request),
                memory_limit: self.agent_memory_limit.unwrap_or(resources.memory_limit),
            },
            sidecar: match self.sidecar {
                None | Some(SidecarForm::Native) => Sidecar::Native,
                Some(SidecarForm::Plain) => Sidecar::Plain,
            },
            log: self.agent_log.unwrap_or_default(),
        };
        settings.check().map_err(|error| {
            hinted(
                error.to_string(),
                "give it as a flag, or in a file that --config names; `weft inject --help` lists both",
            )
        })?;
        Ok(settings)
    }
}

/// Reads settings from files, later ones over earlier ones.
pub(in crate::cli) fn read(paths: &[PathBuf]) -> anyhow::Result<InjectorSettings> {
    config_file::find(paths)?.iter().try_fold(InjectorSettings::default(), |settings, path| {
        Ok(settings.under(ConfigFile::read(path)?.fields(InjectorSettings::read)?))
    })
}
