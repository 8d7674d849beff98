//! `weft agent`: what stands beside workloads.

mod dns;
mod ingress;
mod probes;

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use agent::DefinitionSource;
use anyhow::Context;
use catalog::{AuthMethodName, NodeName, Platform};
use clap::Args;
use wire::{
    decode::{DecodeError, Fields},
    join_token::JoinSecret,
    login::{CredentialFile, CredentialSource, ProjectedToken},
    surroundings::Surroundings,
};

use super::{
    config_file,
    daemon::{self, LogOptions},
    error::hinted,
    fingerprint::{self, Fingerprint},
    settings::{Told, read_all, settings},
    share::Share,
    supervisor,
};

/// Of how many traces there are spans where nobody says otherwise.
const TRACE_SAMPLE: f64 = 0.01;

/// Run an agent.
///
/// It joins the mesh with a token, once, and from then on with its own key. It registers the services that its files
/// define, keeps their certificates fresh, listens for their callers and for what they call. On SIGTERM it stops being
/// advertised, finishes what is in flight and ends. On SIGHUP it reads its service definitions again.
///
/// Files named by --config hold settings (the names of these flags with underscores), service definitions in Consul's
/// format, or both. The variable WEFT_CONFIG may hold the same as text, JSON or HCL, where there is no file:
///
///   node            = "vm-1"
///   servers         = ["10.0.0.1:8300", "10.0.0.2:8300"]
///   join_token_file = "/etc/weft/join-token"
///   data_dir        = "/var/lib/weft"
///
///   service {
///     name = "web"
///     port = 8080
///     connect { sidecar_service { proxy { upstreams = [{ destination_name = "api", local_bind_port = 9191 }] } } }
///   }
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Agent {
    /// A file of settings and service definitions, or a directory of them; may be given several times
    #[arg(long, value_name = "PATH")]
    config: Vec<PathBuf>,
    #[command(flatten)]
    settings: Settings,
    #[command(flatten)]
    log: LogOptions,
}

/// Is what an agent can be told, by a file or by flags.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct Settings {
    /// The node's name, unique in the datacenter [default: the host name]
    #[arg(long, value_name = "NAME")]
    node: Option<NodeName>,
    /// What the node runs on: vm, ecs or kubernetes [default: what the environment shows]
    #[arg(long)]
    platform: Option<Platform>,
    /// A container of the task that must run; may be given several times. Those with a health check are watched anyway
    #[arg(long = "task-container", value_name = "NAME")]
    task_containers: Vec<String>,
    /// The failure zone of the node
    #[arg(long, value_name = "NAME")]
    zone: Option<String>,
    /// The flat address space that the node is in
    #[arg(long, value_name = "NAME")]
    network: Option<String>,
    /// The address that the mesh listener binds [default: 0.0.0.0]
    #[arg(long, value_name = "ADDRESS")]
    bind: Option<IpAddr>,
    /// The address that other agents reach this one at, if it is not the one it listens on
    #[arg(long, value_name = "ADDRESS")]
    advertise: Option<IpAddr>,
    /// A server's address for agents, as host:port; may be given several times [default: those that the join token names]
    #[arg(long = "server", value_name = "ADDRESS:PORT")]
    servers: Vec<String>,
    /// The file that holds the join token, of mode 0600; needed until the agent has joined [default: the credential
    /// `join-token`, where systemd hands one over]
    #[arg(long, value_name = "FILE")]
    join_token_file: Option<PathBuf>,
    /// The auth method to log in by, in place of a join token
    #[arg(long, value_name = "NAME")]
    auth_method: Option<AuthMethodName>,
    /// What to log in with: file (--bearer-token-file), or aws, the role of the task or machine [default: by platform]
    #[arg(long, value_name = "SOURCE")]
    credential: Option<CredentialKind>,
    /// The file that holds what the platform gave to log in with, of mode 0600, or a pod's projected token as the kubelet writes
    /// it; read anew for each login
    #[arg(long, value_name = "FILE")]
    bearer_token_file: Option<PathBuf>,
    /// The SHA-256 of a root that servers are recognised by, as `weft ca roots` shows it; may be given several times
    #[arg(long = "root-fingerprint", value_name = "HEX", value_parser = fingerprint::parse)]
    root_fingerprints: Vec<Fingerprint>,
    /// Where to keep the identity and the last good state
    #[arg(long, value_name = "DIRECTORY")]
    data_dir: Option<PathBuf>,
    /// The port of the local HTTP API, on loopback [default: 8500]
    #[arg(long, value_name = "PORT")]
    http_port: Option<u16>,
    /// The port of the admin listener, on loopback [default: 19000]
    #[arg(long, value_name = "PORT")]
    admin_port: Option<u16>,
    /// The port, on the mesh listener's address, at which a kubelet asks for the agent's health and the applications'
    #[arg(long, value_name = "PORT")]
    health_port: Option<u16>,
    /// What is asked of applications there; in files only.
    #[arg(skip)]
    application_probes: Vec<agent::ApplicationProbe>,
    /// The port that other agents call [default: 20000]
    #[arg(long, value_name = "PORT")]
    mesh_port: Option<u16>,
    #[command(flatten)]
    dns: dns::Dns,
    /// Be a gateway: pass tunnels of other networks on into the agent's own, unopened
    #[arg(long)]
    gateway: bool,
    /// The port that agents of other networks call a gateway at [default: 20443]
    #[arg(long, value_name = "PORT")]
    gateway_port: Option<u16>,
    /// The port of a forward proxy on loopback, for applications that know HTTP_PROXY [default: none]
    #[arg(long, value_name = "PORT")]
    forward_port: Option<u16>,
    /// The listeners for load balancers; in files only.
    #[arg(skip)]
    ingress: Vec<agent::IngressListener>,
    /// Where to write a line of JSON for each request of an HTTP service; `-` is standard output
    #[arg(long, value_name = "PATH")]
    access_log: Option<PathBuf>,
    /// What a line tells, separated by commas [default: all but authority, user_agent and span_id]
    #[arg(long, value_name = "NAMES")]
    access_log_fields: Option<agent::Fields>,
    /// Of how many requests there is a line, 0 to 1; of what failed or was denied there always is one [default: 1]
    #[arg(long, value_name = "SHARE")]
    access_log_sample: Option<Share>,
    /// A collector's address for spans by OTLP over gRPC, as https://host:port, or http://host:port
    #[arg(long, value_name = "URL")]
    otlp_endpoint: Option<String>,
    /// The certificates of the authorities that vouch for the collector, in PEM [default: the system's]
    #[arg(long, value_name = "FILE")]
    otlp_ca_file: Option<PathBuf>,
    /// Of how many traces that begin at this agent there are spans, 0 to 1 [default: 0.01]
    #[arg(long, value_name = "SHARE")]
    trace_sample: Option<Share>,
    /// How often to tell servers which rules decided and who called, 1s or more [default: 5m]
    #[arg(long, value_name = "DURATION", value_parser = wire::decode::parse_duration)]
    report_interval: Option<Duration>,
    /// How long a stopping agent waits for what is in flight [default: 25s]
    #[arg(long, value_name = "DURATION", value_parser = wire::decode::parse_duration)]
    drain_deadline: Option<Duration>,
}

settings! { Settings:
    flags { gateway }
    within { dns: dns::Dns }
    also {
        ingress ["ingress"] = ingress::read,
        application_probes ["application_probes"] = probes::read,
        access_log_sample ["access_log_sample"] = |fields: &mut Fields| share(fields, "access_log_sample"),
        trace_sample ["trace_sample"] = |fields: &mut Fields| share(fields, "trace_sample"),
    }
    parsed {
        node, platform, zone, network, bind, advertise, join_token_file, auth_method, credential, bearer_token_file, data_dir,
        access_log, access_log_fields, otlp_endpoint, otlp_ca_file,
    }
    texts { task_containers, servers }
    parsed_list { root_fingerprints }
    number { http_port, admin_port, health_port, mesh_port, gateway_port, forward_port }
    duration { report_interval, drain_deadline }
}

/// Reads a share, which JSON may write as a number.
fn share(fields: &mut Fields, name: &str) -> Result<Option<Share>, DecodeError> {
    Ok(fields.share(name)?.map(Share))
}

impl Settings {
    /// Returns what can be looked at from outside.
    pub(super) fn kept(self) -> agent::doctor::Machine {
        let secrets = self.join_token_file.into_iter().chain(self.bearer_token_file);
        agent::doctor::Machine {
            data_dir: self.data_dir,
            secrets: secrets.map(agent::doctor::SecretFile::needed).collect(),
            admin: Some(([127, 0, 0, 1], self.admin_port.unwrap_or(agent::ADMIN_PORT)).into()),
            dns: self.dns.place(),
            ..agent::doctor::Machine::default()
        }
    }

    /// Asks the platform what this place is, where it says so.
    async fn task(&self) -> anyhow::Result<Option<connectors::EcsTask>> {
        let Ok(endpoint) = std::env::var(connectors::ECS_METADATA) else { return Ok(None) };
        if endpoint.is_empty() || self.platform.is_some_and(|platform| platform != Platform::Ecs) {
            return Ok(None);
        }
        let task = connectors::EcsTask::find(&endpoint, &self.task_containers).await;
        task.map(Some).context("asking ECS which task this is")
    }

    /// Returns how the agent is let in: by logging in, or by a join token.
    fn admission(&self, platform: Platform) -> anyhow::Result<(Option<agent::LoginSource>, Option<JoinSecret>)> {
        let is_told = self.credential.is_some() || self.bearer_token_file.is_some();
        let source = credential_source(self.credential, self.bearer_token_file.clone(), platform)?;
        // A task has credentials whether it logs in with them or not.
        let is_asked = is_told || self.auth_method.is_some() || !self.root_fingerprints.is_empty();
        let source = source.filter(|_| is_asked);
        let login = login(self.auth_method.clone(), source, &self.root_fingerprints)?;
        if login.is_some() && self.join_token_file.is_some() {
            return Err(hinted(
                "there are both a join token and an auth method",
                "use one: --join-token-file, or --auth-method",
            ));
        }
        // What a supervisor hands over counts where nothing else is named.
        let handed_over = || supervisor::credential("join-token").filter(|_| login.is_none());
        let join_token = self.join_token_file.clone().or_else(handed_over);
        let join_token = join_token.as_deref().map(load).transpose()?.flatten();
        Ok((login, join_token))
    }

    /// Returns where spans go, if anywhere.
    fn tracing(&self, node: &NodeName) -> anyhow::Result<Option<agent::TracingSettings>> {
        let read =
            |path: &PathBuf| std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()));
        let authorities = self.otlp_ca_file.as_ref().map(read).transpose()?;
        Ok(self.otlp_endpoint.clone().map(|endpoint| agent::TracingSettings {
            endpoint,
            authorities,
            sample: self.trace_sample.map_or(TRACE_SAMPLE, |share| share.0),
            node: node.clone(),
        }))
    }

    fn config(
        self,
        services: Vec<DefinitionSource>,
        task: Option<connectors::EcsTask>,
    ) -> anyhow::Result<agent::Config> {
        let surroundings = connectors::detect(|name| std::env::var(name).ok());
        let facts = task.as_ref().map(|task| task.facts().clone());
        let node = self
            .node
            .clone()
            .or(facts.as_ref().map(|facts| facts.node.clone()))
            .or(surroundings.node)
            .or_else(host_name)
            .ok_or_else(|| hinted("the agent's node has no name", "name it with --node, or `node` in its file"))?;
        let platform = self.platform.unwrap_or(surroundings.platform);
        let (login, join_token) = self.admission(platform)?;
        let tracing = self.tracing(&node)?;
        let known = join_token.as_ref().map(JoinSecret::servers).unwrap_or_default();
        let servers = if self.servers.is_empty() { known.to_vec() } else { self.servers };
        if servers.is_empty() {
            return Err(hinted("the agent knows no server", "name one with --server, or `servers` in its file"));
        }
        let access_log = self.access_log.map(|path| agent::AccessLogSettings {
            path,
            fields: self.access_log_fields.unwrap_or_default(),
            sample: self.access_log_sample.map_or(1.0, |share| share.0),
        });
        let dns = self.dns.settings()?;
        let defaults = agent::Config::in_memory(node, servers);
        Ok(agent::Config {
            platform,
            zone: self.zone.or(facts.as_ref().and_then(|facts| facts.zone.clone())).or(surroundings.zone),
            network: self.network.unwrap_or_default(),
            bind: self.bind.unwrap_or(IpAddr::from([0, 0, 0, 0])),
            advertise: self.advertise.or(facts.as_ref().and_then(|facts| facts.address)),
            node_meta: facts.map(|facts| facts.meta).unwrap_or_default(),
            surroundings: task.map(|task| Arc::new(task) as Arc<dyn Surroundings>),
            join_token,
            login,
            data_dir: self.data_dir,
            http_port: self.http_port.unwrap_or(agent::HTTP_PORT),
            admin_port: self.admin_port.unwrap_or(agent::ADMIN_PORT),
            health_port: self.health_port,
            application_probes: self.application_probes,
            mesh_port: self.mesh_port.unwrap_or(agent::MESH_PORT),
            gateway_port: self.gateway.then(|| self.gateway_port.unwrap_or(agent::GATEWAY_PORT)),
            services,
            forward_port: self.forward_port,
            ingress: self.ingress,
            dns,
            access_log,
            tracing,
            report_interval: self.report_interval.unwrap_or(defaults.report_interval),
            drain_deadline: self.drain_deadline.unwrap_or(defaults.drain_deadline),
            ..defaults
        })
    }
}

/// Reads the join token. Once the agent has joined its file may be gone, so a missing one is only told of.
fn load(path: &Path) -> anyhow::Result<Option<JoinSecret>> {
    if path.try_exists().is_ok_and(|exists| !exists) {
        tracing::warn!(path = %path.display(), "the join token is not there; without an identity the agent cannot join");
        return Ok(None);
    }
    Ok(Some(JoinSecret::load(path)?))
}

/// Is what an agent logs in with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CredentialKind {
    /// A file that the platform writes.
    File,
    /// What AWS gives a task or machine.
    Aws,
}

impl std::str::FromStr for CredentialKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "file" => Ok(Self::File),
            "aws" => Ok(Self::Aws),
            _ => Err(format!("`{text}` is no source of credentials: write file or aws")),
        }
    }
}

/// Returns what has the credential: as it is said, or as the platform gives one; none where it gives none.
fn credential_source(
    kind: Option<CredentialKind>,
    file: Option<PathBuf>,
    platform: Platform,
) -> anyhow::Result<Option<Arc<dyn CredentialSource>>> {
    match (kind, file, platform) {
        (None | Some(CredentialKind::File), Some(path), Platform::Kubernetes) => {
            Ok(Some(Arc::new(ProjectedToken(path))))
        }
        (None | Some(CredentialKind::File), Some(path), _) => Ok(Some(Arc::new(CredentialFile(path)))),
        (Some(CredentialKind::Aws), None, _) | (None, None, Platform::Ecs) => {
            Ok(Some(Arc::new(connectors::AwsCredentials::new(|name| std::env::var(name).ok()))))
        }
        (Some(CredentialKind::File), None, _) => {
            Err(hinted("the agent is to log in with a file and knows none", "name it with --bearer-token-file"))
        }
        (Some(CredentialKind::Aws), Some(_), _) => {
            Err(hinted("the agent is told of two credentials", "leave out --bearer-token-file, or --credential aws"))
        }
        (None, None, _) => Ok(None),
    }
}

/// Joins what says how to log in; all of it is needed, or none.
fn login(
    method: Option<AuthMethodName>,
    source: Option<Arc<dyn CredentialSource>>,
    roots: &[Fingerprint],
) -> anyhow::Result<Option<agent::LoginSource>> {
    match (method, source, roots) {
        (None, None, []) => Ok(None),
        (Some(method), Some(source), [_, ..]) => Ok(Some(agent::LoginSource {
            method,
            source,
            root_fingerprints: roots.iter().map(|root| root.0).collect(),
        })),
        _ => Err(hinted(
            "the agent is told only a part of how to log in",
            "give --auth-method and at least one --root-fingerprint, for without the last a credential could go to \
             anybody, and outside of ECS --bearer-token-file or --credential aws",
        )),
    }
}

pub(super) fn host_name() -> Option<NodeName> {
    rustix::system::uname().nodename().to_str().ok()?.parse().ok()
}

/// Reads settings, later ones over earlier ones, and looks whether what else stands there defines services.
pub(super) fn read(sources: &[DefinitionSource]) -> anyhow::Result<Settings> {
    let settings = read_all(sources, &agent::DEFINITION_FIELDS)?;
    agent::check_definitions(sources)?;
    Ok(settings)
}

pub(super) async fn run(arguments: Agent) -> anyhow::Result<ExitCode> {
    daemon::prepare(&arguments.log)?;
    let hangups = daemon::Hangups::heard()?;
    // As they were named, so that a file that is put into a directory later is found on reload.
    let sources = config_file::sources(&arguments.config);
    let settings = read(&sources)?.under(arguments.settings);
    let task = settings.task().await?;
    let config = settings.config(sources, task)?;
    supervisor::status("joining the mesh");
    let started = agent::start(config).await;
    if let Err(agent::StartError::Enrol(error @ agent::EnrolError::Refused { .. })) = &started {
        supervisor::pause(&error.to_string()).await;
    }
    let agent = started.context("cannot start the agent")?;
    let reload = async || match agent.reload().await {
        Ok(()) => tracing::info!("reloaded"),
        Err(error) => tracing::error!(error = wire::one_line(&error), "not reloaded; nothing has changed"),
    };
    let status = || match agent.missing().as_slice() {
        [] => "serving".to_owned(),
        missing => format!("not ready: {}", missing.join("; ")),
    };
    daemon::until_stopped_or(hangups, agent.asked_to_leave(), reload, status).await?;
    supervisor::stopping("draining");
    agent.drain().await;
    Ok(ExitCode::SUCCESS)
}
