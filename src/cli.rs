//! The command line: what there is to type, and how an end is told.

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, CommandFactory, Parser, Subcommand};
use wire::client::DEFAULT_ADDRESS;

mod acl;
mod agent;
mod api;
mod audit;
mod auth_method;
mod binding_rule;
mod bootstrap;
mod ca;
mod catalog;
mod completions;
mod config;
mod config_file;
mod connector;
mod daemon;
mod demo;
mod dev;
mod doctor;
mod error;
mod exec;
mod fingerprint;
mod force_leave;
mod inject;
mod injector;
mod intention;
mod join;
mod join_token;
mod keygen;
mod leave;
mod log_line;
mod log_monitor;
mod log_writer;
mod login;
mod mesh;
mod monitor;
mod operator;
mod output;
mod proxy;
mod ready;
mod redirect;
mod revoke;
mod server;
mod services;
mod settings;
mod share;
mod snapshot;
mod status;
mod supervisor;
mod tap;
mod validate;

const EXAMPLES: &str = "\
Examples:
  weft demo                              watch a mesh at work on this machine
  weft dev --service web --service api   a mesh in one process, for trying things
  weft intention create --allow web api  let web call api
  weft intention explain web api         say why a call is allowed or refused

Environment:
  WEFT_HTTP_ADDR        the API's address, as host:port or a URL
  WEFT_HTTP_TOKEN       the token to call it with
  WEFT_HTTP_TOKEN_FILE  a file that holds the token
  WEFT_CACERT           the authority to trust where the address is https
  WEFT_NAMESPACE        the namespace of names that carry none
  WEFT_LOG              what the long-running commands log, such as `info` or `warn,server=debug`

Exit status: 0 done, 1 the answer is no, 2 it failed.";

/// One service mesh for ECS tasks, Kubernetes pods and virtual machines.
///
/// Servers hold a catalog of services, the intentions (who may call whom) and the certificate authority. An agent beside
/// each workload gives it an identity, carries its traffic over mutual TLS and enforces the intentions.
#[derive(Debug, Parser)]
#[command(name = "weft", version, after_long_help = EXAMPLES, max_term_width = 120)]
struct Cli {
    #[command(flatten)]
    api: ApiOptions,
    #[command(subcommand)]
    verb: Verb,
}

/// Says where the API is and as whom to call it.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "API options")]
struct ApiOptions {
    /// The API's address, as host:port or a URL
    #[arg(long, global = true, env = "WEFT_HTTP_ADDR", default_value = DEFAULT_ADDRESS, value_name = "ADDRESS")]
    http_addr: String,
    /// A file that holds the token to call the API with; WEFT_HTTP_TOKEN may hold the token itself
    #[arg(long, global = true, env = "WEFT_HTTP_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// The authority to trust where the address is https
    #[arg(long, global = true, env = "WEFT_CACERT", value_name = "FILE")]
    cacert: Option<PathBuf>,
    /// The namespace of names that carry none
    #[arg(long, global = true, env = "WEFT_NAMESPACE", default_value = "default", value_name = "NAMESPACE")]
    namespace: ::catalog::Namespace,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Watch a mesh refuse a call, allow it, survive its leader and cut it again
    Demo(demo::Demo),
    /// Run one server and one agent in one process, in memory, on loopback
    Dev(dev::Dev),
    /// Run a server
    Server(Box<server::Server>),
    /// Run an agent
    Agent(Box<agent::Agent>),
    /// Make new servers ready for the Kubernetes cluster that they run in
    Bootstrap(bootstrap::Bootstrap),
    /// Start an application once its agent is ready, with its upstreams in the environment
    Exec(exec::Exec),
    /// Print a new cluster key
    Keygen(keygen::Keygen),
    /// Say who may use the API, and for what
    #[command(subcommand)]
    Acl(acl::Acl),
    /// Get a token by the word of a platform
    Login(login::Login),
    /// End the token that a login made
    Logout(login::Logout),
    /// Make this machine a member of the mesh
    Join(join::Join),
    /// Make and end the tokens with which agents join
    #[command(subcommand)]
    JoinToken(join_token::JoinToken),
    /// Take back what lets agents and services in
    #[command(subcommand)]
    Revoke(revoke::Revoke),
    /// Put agents into the pods of YAML files
    Inject(Box<inject::Inject>),
    /// Run the injector of a Kubernetes cluster
    Injector(Box<injector::Injector>),
    /// Say who may call whom
    #[command(subcommand)]
    Intention(intention::Intention),
    /// Write, read, list and delete config entries
    #[command(subcommand)]
    Config(config::Config),
    /// See and relax how strictly the mesh takes its own rules
    #[command(subcommand)]
    Mesh(mesh::Mesh),
    /// Read, export and verify the audit trail
    #[command(subcommand)]
    Audit(audit::Audit),
    /// Register and list the services of the local agent
    #[command(subcommand)]
    Services(services::Services),
    /// See what the asked agent's proxy really does
    #[command(subcommand)]
    Proxy(proxy::Proxy),
    /// Watch the requests to a service while they happen
    Tap(tap::Tap),
    /// Look into the catalog
    #[command(subcommand)]
    Catalog(catalog::Catalog),
    /// Keep the catalog in step with a platform
    #[command(subcommand)]
    Connector(Box<connector::Connector>),
    /// Save the servers' state to a file, and restore it
    #[command(subcommand)]
    Snapshot(snapshot::Snapshot),
    /// Show the servers and who leads
    Status(status::Status),
    /// Find what is wrong with this machine and with the mesh, and say what to do
    Doctor(doctor::Doctor),
    /// Look after the servers
    #[command(subcommand)]
    Operator(operator::Operator),
    /// Let the asked server or agent leave
    Leave(leave::Leave),
    /// Lead applications' connections to their agent, by the kernel's rules
    #[command(subcommand)]
    Redirect(redirect::Redirect),
    /// Give up the session of a node's agent at once
    ForceLeave(force_leave::ForceLeave),
    /// Show the log of the asked server or agent as it is written
    Monitor(monitor::Monitor),
    /// Look at the certificate authority, and rotate it
    #[command(subcommand)]
    Ca(ca::Ca),
    /// Check files without running anything
    Validate(validate::Validate),
    /// Print a script that completes commands in a shell
    Completions(completions::Completions),
}

/// Parses, runs and tells the end.
pub(crate) fn main() -> ExitCode {
    let cli = Cli::parse();
    let ended = run(cli);
    // What the log says last comes before what is said of the end.
    daemon::flush();
    match ended {
        Ok(status) => status,
        Err(error) => error::tell(&error),
    }
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(dispatch(cli))
}

async fn dispatch(cli: Cli) -> anyhow::Result<ExitCode> {
    let api = &cli.api;
    match cli.verb {
        Verb::Demo(demo) => Box::pin(demo::run(demo)).await,
        Verb::Dev(dev) => Box::pin(dev::run(dev)).await,
        Verb::Server(server) => Box::pin(server::run(*server)).await,
        Verb::Agent(agent) => Box::pin(agent::run(*agent)).await,
        Verb::Bootstrap(bootstrap) => Box::pin(bootstrap::run(bootstrap, api)).await,
        Verb::Keygen(_) => keygen::run(),
        Verb::Acl(acl) => acl::run(acl, api).await,
        Verb::Exec(exec) => exec::run(exec).await,
        Verb::Login(login) => login::log_in(login, api).await,
        Verb::Logout(_) => login::log_out(api).await,
        Verb::Join(join) => join::run(join).await,
        Verb::JoinToken(join_token) => join_token::run(join_token, api).await,
        Verb::Revoke(revoke) => revoke::run(revoke, api).await,
        Verb::Inject(inject) => inject::run(*inject),
        Verb::Injector(injector) => Box::pin(injector::run(*injector)).await,
        Verb::Intention(intention) => intention::run(intention, api).await,
        Verb::Config(config) => config::run(config, api).await,
        Verb::Mesh(mesh) => mesh::run(mesh, api).await,
        Verb::Audit(audit) => Box::pin(audit::run(audit, api)).await,
        Verb::Services(services) => services::run(services, api).await,
        Verb::Proxy(proxy) => proxy::run(proxy, api).await,
        Verb::Tap(tap) => tap::run(tap, api).await,
        Verb::Catalog(catalog) => catalog::run(catalog, api).await,
        Verb::Connector(connector) => Box::pin(connector::run(*connector, api)).await,
        Verb::Snapshot(snapshot) => snapshot::run(snapshot, api).await,
        Verb::Status(status) => status::run(status, api).await,
        Verb::Doctor(doctor) => Box::pin(doctor::run(doctor, api)).await,
        Verb::Operator(operator) => operator::run(operator, api).await,
        Verb::Leave(leave) => leave::run(leave, api).await,
        Verb::Redirect(redirect) => redirect::run(redirect),
        Verb::ForceLeave(leave) => force_leave::run(leave, api).await,
        Verb::Monitor(monitor) => monitor::run(monitor, api).await,
        Verb::Ca(ca) => ca::run(ca, api).await,
        Verb::Validate(validate) => validate::run(&validate),
        Verb::Completions(completions) => completions::run(&completions, &mut Cli::command()),
    }
}
