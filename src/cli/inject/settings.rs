//! What is put into pods, as files and flags say it, for the command and for the injector of a cluster.

use std::net::SocketAddr;

use catalog::AuthMethodName;
use clap::{Args, ValueEnum};
use connectors::kubernetes::{
    ClusterName,
    inject::{AGENT_UID, AccessLog, HEALTH_PORT, MESH_PORT, Resources, Settings, Sidecar},
};

use crate::cli::{
    error::hinted,
    fingerprint::{self, Fingerprint},
    settings::settings,
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
    /// The cluster's name, where pods of several are in the mesh: it ends the names of their nodes
    #[arg(long, value_name = "NAME")]
    cluster_name: Option<ClusterName>,
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
    #[arg(long = "root-fingerprint", value_name = "HEX", value_parser = fingerprint::parse)]
    root_fingerprints: Vec<Fingerprint>,
    /// Whom the agents' tokens are for, as the auth method asks: `weft acl auth-method read` shows it
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
    /// Of which requests agents write a line to their standard output: none, failed, all, or a share such as 0.01 and what
    /// failed [default: none]
    #[arg(long, value_name = "WHICH")]
    agent_access_log: Option<AccessLog>,
}

settings! { InjectorSettings:
    flags {}
    also {}
    parsed {
        cluster_name, image, image_pull_policy, redirect_image, auth_method, audience, agent_cpu_request, agent_memory_request,
        agent_memory_limit, sidecar, agent_log, agent_access_log,
    }
    parsed_list { cluster_dns, root_fingerprints }
    texts { servers }
    number { agent_uid, mesh_port, health_port }
}

impl InjectorSettings {
    /// Returns the settings by which pods are injected.
    pub(in crate::cli) fn injection(self) -> anyhow::Result<Settings> {
        let resources = Resources::default();
        let auth_method = match self.auth_method {
            Some(method) => method,
            None => "kubernetes".parse()?,
        };
        let settings = Settings {
            cluster_name: self.cluster_name,
            image: self.image.unwrap_or_default(),
            image_pull_policy: self.image_pull_policy.unwrap_or_default(),
            redirect_image: self.redirect_image.filter(|image| !image.is_empty()),
            cluster_dns: self.cluster_dns,
            servers: self.servers,
            auth_method,
            root_fingerprints: self.root_fingerprints.iter().map(ToString::to_string).collect(),
            audience: self.audience.unwrap_or_default(),
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
            access_log: self.agent_access_log.unwrap_or_default(),
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
