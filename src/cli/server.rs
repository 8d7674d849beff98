//! `weft server`: a server of the group.

use std::{net::IpAddr, path::PathBuf, process::ExitCode, time::Duration};

use agent::doctor::{Machine, SecretFile};
use anyhow::Context;
use catalog::{PathTemplate, ServerId, TrustDomain};
use clap::Args;
use wire::{
    api_name::ApiName,
    cluster_key::{ClusterKey, ClusterKeys},
    web::Reach,
};

use super::{
    config_file,
    daemon::{self, LogOptions},
    error::hinted,
    settings::{Told, read_all, settings},
    supervisor,
};

/// The variable that holds the cluster key where a platform gives secrets in no other way; a file is better, for a variable
/// is seen by whoever may look into the process.
const CLUSTER_KEY: &str = "WEFT_CLUSTER_KEY";

/// Run a server.
///
/// Servers find each other by --retry-join, and once as many as --bootstrap-expect says have met, they form a group; that
/// happens once in its life. A server that finds a group which exists already joins it: it is told the log first, and votes
/// once it has kept up for a while. Settings come from files (--config, HCL or JSON, by the names of these flags with
/// underscores), and flags override them. Without --data-dir everything is kept in memory and lost with the process.
///
/// A file for a server of three:
///
///   node             = "s1"
///   data_dir         = "/var/lib/weft"
///   bind             = "10.0.0.1"
///   bootstrap_expect = 3
///   retry_join       = ["10.0.0.2:8301", "10.0.0.3:8301"]
///   cluster_key_file = "/etc/weft/cluster.key"
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Server {
    /// A file of settings, or a directory of them; may be given several times, and later ones override earlier ones
    #[arg(long, value_name = "PATH")]
    config: Vec<PathBuf>,
    #[command(flatten)]
    settings: Settings,
    #[command(flatten)]
    log: LogOptions,
}

/// Is what a server can be told, by a file or by flags.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct Settings {
    /// The server's name, unique in the group
    #[arg(long, value_name = "NAME")]
    node: Option<ServerId>,
    /// Where to keep the log and snapshots
    #[arg(long, value_name = "DIRECTORY")]
    data_dir: Option<PathBuf>,
    /// The address that the ports for agents and for servers listen on [default: 127.0.0.1]
    #[arg(long, value_name = "ADDRESS")]
    bind: Option<IpAddr>,
    /// The address that others reach this server at, if it is not the one it listens on
    #[arg(long, value_name = "ADDRESS")]
    advertise: Option<IpAddr>,
    /// The port of the HTTP API, on loopback [default: 8500]
    #[arg(long, value_name = "PORT")]
    http_port: Option<u16>,
    /// The port of the HTTP API over TLS, on the address that --bind names [default: 8501 where one of the next three is
    /// given, else off]
    #[arg(long, value_name = "PORT")]
    https_port: Option<u16>,
    /// A host name or address that the API is asked under; may be given several times
    #[arg(long = "api-name", value_name = "NAME")]
    api_names: Vec<ApiName>,
    /// The API's own certificate with its chain, PEM; without it the mesh's authority signs one for the names
    #[arg(long, value_name = "FILE")]
    https_cert_file: Option<PathBuf>,
    /// The private key of that certificate, PEM, in a file of mode 0600
    #[arg(long, value_name = "FILE")]
    https_key_file: Option<PathBuf>,
    /// The port for agents [default: 8300]
    #[arg(long, value_name = "PORT")]
    agent_port: Option<u16>,
    /// The port for other servers [default: 8301]
    #[arg(long, value_name = "PORT")]
    raft_port: Option<u16>,
    /// How many servers make the group when it is formed; 0 joins one that exists [default: 0 with --retry-join, else 1]
    #[arg(long, value_name = "COUNT")]
    bootstrap_expect: Option<usize>,
    /// Another server's address for servers, as host:port; may be given several times
    #[arg(long, value_name = "ADDRESS:PORT")]
    retry_join: Vec<String>,
    /// The file that holds the cluster key, of mode 0600 [default: the credential `cluster-key`, where systemd hands one over]
    #[arg(long, value_name = "FILE")]
    cluster_key_file: Option<PathBuf>,
    /// The file that holds the cluster key before a change of it
    #[arg(long, value_name = "FILE")]
    previous_cluster_key_file: Option<PathBuf>,
    /// The datacenter's name, fixed when the group is formed [default: dc1]
    #[arg(long, value_name = "NAME")]
    datacenter: Option<String>,
    /// The authority of every identity, fixed when the group is formed [default: <cluster id>.weft]
    #[arg(long, value_name = "DOMAIN")]
    trust_domain: Option<TrustDomain>,
    /// The shape of workload identities, fixed when the group is formed [default: /ns/{namespace}/sa/{service}]
    #[arg(long, value_name = "TEMPLATE")]
    path_template: Option<PathTemplate>,
    /// How long leaf certificates live [default: 24h]
    #[arg(long, value_name = "DURATION", value_parser = wire::decode::parse_duration)]
    leaf_ttl: Option<Duration>,
    /// How long an agent may be without a session before its node turns critical [default: 10s]
    #[arg(long, value_name = "DURATION", value_parser = wire::decode::parse_duration)]
    session_grace: Option<Duration>,
    /// How long after that its node leaves the catalog [default: 1h]
    #[arg(long, value_name = "DURATION", value_parser = wire::decode::parse_duration)]
    session_reap: Option<Duration>,
    /// The file with the token to ask another cluster's API server with whose its pods are; may be given several times
    #[arg(long = "kubernetes-token-file", value_name = "HOST=FILE")]
    kubernetes_token_files: Vec<String>,
    /// The file with the authority of that API server's certificate, PEM; may be given several times [default: the system's]
    #[arg(long = "kubernetes-ca-file", value_name = "HOST=FILE")]
    kubernetes_ca_files: Vec<String>,
    /// Ask a Security Token Service on this machine where an auth method names one: a stand-in for AWS, in tests
    #[arg(long)]
    sts_on_loopback: bool,
    /// How many log entries are applied between two snapshots, for tests of small groups [default: 8192]
    #[arg(long, value_name = "COUNT", hide = true)]
    snapshot_entries: Option<u64>,
}

settings! { Settings:
    flags { sts_on_loopback }
    also {}
    parsed {
        node, data_dir, bind, advertise, https_cert_file, https_key_file, cluster_key_file, previous_cluster_key_file, datacenter,
        trust_domain, path_template,
    }
    parsed_list { api_names }
    texts { retry_join, kubernetes_token_files, kubernetes_ca_files }
    number { http_port, https_port, agent_port, raft_port, bootstrap_expect, snapshot_entries }
    duration { leaf_ttl, session_grace, session_reap }
}

impl Settings {
    /// Returns what can be looked at from outside: the data directory, and the files of secrets.
    pub(super) fn kept(self) -> Machine {
        let secrets = [self.cluster_key_file, self.previous_cluster_key_file, self.https_key_file];
        let secrets = secrets.into_iter().flatten().map(SecretFile::needed).collect();
        Machine { data_dir: self.data_dir, secrets, ..Machine::default() }
    }

    /// Returns how the API is served over TLS; none where nothing asks for it.
    fn https(&self) -> anyhow::Result<Option<server::Https>> {
        let files = match (&self.https_cert_file, &self.https_key_file) {
            (Some(certificate), Some(key)) => {
                Some(server::CertificateFiles { certificate: certificate.clone(), key: key.clone() })
            }
            (None, None) => None,
            _ => {
                let hint = "name both --https-cert-file and --https-key-file, or neither";
                return Err(hinted("the API's certificate is given by halves", hint));
            }
        };
        let is_asked = self.https_port.is_some() || !self.api_names.is_empty() || files.is_some();
        let (port, names) = (self.https_port.unwrap_or(8501), self.api_names.clone());
        Ok(is_asked.then_some(server::Https { port, names, files }))
    }

    fn config(self) -> anyhow::Result<server::Config> {
        let https = self.https()?;
        let tokens =
            connectors::kubernetes::ReviewerTokens::read(&self.kubernetes_token_files, &self.kubernetes_ca_files)?;
        let sts = if self.sts_on_loopback { Reach::Loopback } else { Reach::Others };
        let node =
            self.node.ok_or_else(|| hinted("the server has no name", "name it with --node, or `node` in its file"))?;
        let key_file = self.cluster_key_file.or_else(|| supervisor::credential("cluster-key"));
        let primary = match (key_file, std::env::var(CLUSTER_KEY)) {
            (Some(path), _) => ClusterKey::load(&path)?,
            (None, Ok(text)) => text.trim().parse().with_context(|| format!("reading the key in {CLUSTER_KEY}"))?,
            (None, Err(_)) => {
                return Err(hinted(
                    "the server has no cluster key",
                    "make one with `weft keygen`, and name its file with --cluster-key-file",
                ));
            }
        };
        let previous = self.previous_cluster_key_file.or_else(|| supervisor::credential("previous-cluster-key"));
        let previous = previous.as_deref().map(ClusterKey::load).transpose()?;
        let defaults = server::Config::new(node, ClusterKeys { primary, previous });
        Ok(server::Config {
            data_dir: self.data_dir,
            bind: self.bind.unwrap_or(defaults.bind),
            advertise: self.advertise.or_else(|| server::routed_address(self.bind.unwrap_or(defaults.bind))),
            http_port: self.http_port.unwrap_or(8500),
            https,
            agent_port: self.agent_port.unwrap_or(8300),
            raft_port: self.raft_port.unwrap_or(8301),
            // Whoever is told of others and of no number joins them, and makes no cluster of its own.
            bootstrap_expect: self.bootstrap_expect.unwrap_or(if self.retry_join.is_empty() { 1 } else { 0 }),
            retry_join: self.retry_join,
            datacenter: self.datacenter.unwrap_or(defaults.datacenter),
            trust_domain: self.trust_domain,
            path_template: self.path_template.unwrap_or(defaults.path_template),
            leaf_ttl: self.leaf_ttl.unwrap_or(defaults.leaf_ttl),
            session_grace: self.session_grace.unwrap_or(defaults.session_grace),
            session_reap: self.session_reap.unwrap_or(defaults.session_reap),
            snapshot_entries: self.snapshot_entries.unwrap_or(defaults.snapshot_entries),
            login_makers: connectors::login_makers(tokens, sts),
            ..defaults
        })
    }
}

pub(super) async fn run(arguments: Server) -> anyhow::Result<ExitCode> {
    // First of all, for from here on there are keys in memory.
    daemon::prepare(&arguments.log)?;
    let hangups = daemon::Hangups::heard()?;
    let settings: Settings = read_all(&config_file::sources(&arguments.config), &[])?;
    let config = settings.under(arguments.settings).config()?;
    supervisor::status("reading the log back");
    let server = server::start(config).await.context("cannot start the server")?;
    let ended = daemon::until_stopped(hangups, server.failed(), || server.standing()).await;
    supervisor::stopping("handing over");
    server.stop().await;
    match ended {
        Err(error) if matches!(error.downcast_ref(), Some(server::FatalError::Left)) => Ok(ExitCode::SUCCESS),
        ended => ended,
    }
}
