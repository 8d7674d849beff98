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
    config_file::{self, ConfigFile},
    daemon::{self, LogOptions},
    error::hinted,
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
    #[arg(long = "root-fingerprint", value_name = "HEX", value_parser = fingerprint)]
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

impl Settings {
    fn read(fields: &mut Fields) -> Result<Self, DecodeError> {
        Ok(Self {
            node: fields.parsed("node")?,
            platform: fields.parsed("platform")?,
            task_containers: fields.texts("task_containers")?,
            zone: fields.parsed("zone")?,
            network: fields.parsed("network")?,
            bind: fields.parsed("bind")?,
            advertise: fields.parsed("advertise")?,
            servers: fields.texts("servers")?,
            join_token_file: fields.parsed("join_token_file")?,
            auth_method: fields.parsed("auth_method")?,
            credential: fields.parsed("credential")?,
            bearer_token_file: fields.parsed("bearer_token_file")?,
            root_fingerprints: fields.parsed_list("root_fingerprints")?,
            data_dir: fields.parsed("data_dir")?,
            http_port: fields.number("http_port")?,
            admin_port: fields.number("admin_port")?,
            health_port: fields.number("health_port")?,
            application_probes: probes::read(fields)?,
            mesh_port: fields.number("mesh_port")?,
            dns: dns::Dns::read(fields)?,
            gateway: fields.flag("gateway")?.unwrap_or(false),
            gateway_port: fields.number("gateway_port")?,
            forward_port: fields.number("forward_port")?,
            ingress: ingress::read(fields)?,
            access_log: fields.parsed("access_log")?,
            access_log_fields: fields.parsed("access_log_fields")?,
            access_log_sample: fields.share("access_log_sample")?.map(Share),
            otlp_endpoint: fields.parsed("otlp_endpoint")?,
            otlp_ca_file: fields.parsed("otlp_ca_file")?,
            trace_sample: fields.share("trace_sample")?.map(Share),
            report_interval: fields.duration("report_interval")?,
            drain_deadline: fields.duration("drain_deadline")?,
        })
    }

    /// Returns what can be looked at from outside: the data directory, the admin port, and the files of secrets.
    pub(super) fn kept(self) -> (Option<PathBuf>, u16, Vec<PathBuf>) {
        let secrets = self.join_token_file.into_iter().chain(self.bearer_token_file).collect();
        (self.data_dir, self.admin_port.unwrap_or(agent::ADMIN_PORT), secrets)
    }

    /// Keeps what `over` says, and fills up with what this says.
    fn under(self, over: Self) -> Self {
        Self {
            node: over.node.or(self.node),
            platform: over.platform.or(self.platform),
            task_containers: if over.task_containers.is_empty() { self.task_containers } else { over.task_containers },
            zone: over.zone.or(self.zone),
            network: over.network.or(self.network),
            bind: over.bind.or(self.bind),
            advertise: over.advertise.or(self.advertise),
            servers: if over.servers.is_empty() { self.servers } else { over.servers },
            join_token_file: over.join_token_file.or(self.join_token_file),
            auth_method: over.auth_method.or(self.auth_method),
            credential: over.credential.or(self.credential),
            bearer_token_file: over.bearer_token_file.or(self.bearer_token_file),
            root_fingerprints: if over.root_fingerprints.is_empty() {
                self.root_fingerprints
            } else {
                over.root_fingerprints
            },
            data_dir: over.data_dir.or(self.data_dir),
            http_port: over.http_port.or(self.http_port),
            admin_port: over.admin_port.or(self.admin_port),
            health_port: over.health_port.or(self.health_port),
            application_probes: if over.application_probes.is_empty() {
                self.application_probes
            } else {
                over.application_probes
            },
            mesh_port: over.mesh_port.or(self.mesh_port),
            dns: self.dns.under(over.dns),
            gateway: over.gateway || self.gateway,
            gateway_port: over.gateway_port.or(self.gateway_port),
            forward_port: over.forward_port.or(self.forward_port),
            ingress: if over.ingress.is_empty() { self.ingress } else { over.ingress },
            access_log: over.access_log.or(self.access_log),
            access_log_fields: over.access_log_fields.or(self.access_log_fields),
            access_log_sample: over.access_log_sample.or(self.access_log_sample),
            otlp_endpoint: over.otlp_endpoint.or(self.otlp_endpoint),
            otlp_ca_file: over.otlp_ca_file.or(self.otlp_ca_file),
            trace_sample: over.trace_sample.or(self.trace_sample),
            report_interval: over.report_interval.or(self.report_interval),
            drain_deadline: over.drain_deadline.or(self.drain_deadline),
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

    fn config(
        self,
        services: Vec<DefinitionSource>,
        task: Option<connectors::EcsTask>,
    ) -> anyhow::Result<agent::Config> {
        let surroundings = connectors::detect(|name| std::env::var(name).ok());
        let facts = task.as_ref().map(|task| task.facts().clone());
        let node = self
            .node
            .or(facts.as_ref().map(|facts| facts.node.clone()))
            .or(surroundings.node)
            .or_else(host_name)
            .ok_or_else(|| hinted("the agent's node has no name", "name it with --node, or `node` in its file"))?;
        let platform = self.platform.unwrap_or(surroundings.platform);
        let is_told = self.credential.is_some() || self.bearer_token_file.is_some();
        let source = credential_source(self.credential, self.bearer_token_file, platform)?;
        // A task has credentials whether it logs in with them or not.
        let is_asked = is_told || self.auth_method.is_some() || !self.root_fingerprints.is_empty();
        let source = source.filter(|_| is_asked);
        let login = login(self.auth_method, source, &self.root_fingerprints)?;
        if login.is_some() && self.join_token_file.is_some() {
            return Err(hinted(
                "there are both a join token and an auth method",
                "use one: --join-token-file, or --auth-method",
            ));
        }
        // What a supervisor hands over counts where nothing else is named.
        let handed_over = || supervisor::credential("join-token").filter(|_| login.is_none());
        let join_token = self.join_token_file.or_else(handed_over);
        let join_token = join_token.as_deref().map(load).transpose()?.flatten();
        let known = join_token.as_ref().map(JoinSecret::servers).unwrap_or_default();
        let servers = if self.servers.is_empty() { known.to_vec() } else { self.servers };
        if servers.is_empty() {
            return Err(hinted("the agent knows no server", "name one with --server, or `servers` in its file"));
        }
        let sample = |share: Option<Share>, unset: f64| share.map_or(unset, |share| share.0);
        let access_log = self.access_log.map(|path| agent::AccessLogSettings {
            path,
            fields: self.access_log_fields.unwrap_or_default(),
            sample: sample(self.access_log_sample, 1.0),
        });
        let read =
            |path: PathBuf| std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()));
        let authorities = self.otlp_ca_file.map(read).transpose()?;
        let tracing = self.otlp_endpoint.map(|endpoint| agent::TracingSettings {
            endpoint,
            authorities,
            sample: sample(self.trace_sample, TRACE_SAMPLE),
            node: node.clone(),
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

/// Is a share of all, from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Share(f64);

impl std::str::FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let share = text.parse::<f64>().ok().filter(|share| (0.0..=1.0).contains(share));
        share.map(Self).ok_or_else(|| format!("`{text}` is no share: write a number from 0 to 1, such as 0.1"))
    }
}

/// Is the SHA-256 of a root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Fingerprint([u8; 32]);

impl std::str::FromStr for Fingerprint {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        wire::pki::parse_fingerprint(text).map(Self).ok_or_else(|| {
            anyhow::anyhow!("`{text}` is no SHA-256 of a certificate: write the 64 digits that `weft ca roots` shows")
        })
    }
}

fn fingerprint(text: &str) -> Result<Fingerprint, String> {
    text.parse().map_err(|error: anyhow::Error| error.to_string())
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
    let settings = config_file::expand(sources)?.iter().try_fold(Settings::default(), |settings, source| {
        let file = ConfigFile::of(source)?.without(&agent::DEFINITION_FIELDS);
        Ok::<_, anyhow::Error>(settings.under(file.fields(Settings::read)?))
    })?;
    agent::check_definitions(sources)?;
    Ok(settings)
}

pub(super) async fn run(arguments: Agent) -> anyhow::Result<ExitCode> {
    daemon::prepare(&arguments.log)?;
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
    daemon::until_stopped_or(agent.asked_to_leave(), reload, status).await?;
    supervisor::stopping("draining");
    agent.drain().await;
    Ok(ExitCode::SUCCESS)
}
