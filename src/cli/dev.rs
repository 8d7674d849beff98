//! `weft dev`: a whole mesh in one process, for trying things.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Context;
use catalog::{NodeName, ServerId, ServicePattern};
use clap::Args;
use wire::{
    api_types::{JoinTokenRequest, JoinTokenView},
    cluster_key::{ClusterKey, ClusterKeys},
    join_token::JoinSecret,
};

use super::{
    acl,
    api::Api,
    config_file::{self, ConfigFile},
    daemon::{self, LogOptions},
    error::hinted,
    output,
};

/// How long the one server may take to lead itself.
const LEADER_DEADLINE: Duration = Duration::from_secs(15);

/// Run one server and one agent in one process, in memory, on loopback.
///
/// For trying things: nothing is kept, and nobody else can reach it. It prints the address of the API and a management
/// token, so that every other command works in another terminal. The agent may stand before the services that are named
/// here; register them with `weft services register`, or by files with --config.
#[derive(Debug, Args)]
pub(super) struct Dev {
    /// A service that the agent may stand before; may be given several times [default: web and api]
    #[arg(long, value_name = "NAME")]
    service: Vec<String>,
    /// A file of service definitions, or a directory of them; may be given several times
    #[arg(long, value_name = "PATH")]
    config: Vec<PathBuf>,
    /// The port of the HTTP API, on loopback
    #[arg(long, value_name = "PORT", default_value_t = agent::HTTP_PORT)]
    http_port: u16,
    /// The port of the agent's admin listener, on loopback
    #[arg(long, value_name = "PORT", default_value_t = agent::ADMIN_PORT)]
    admin_port: u16,
    /// The port of the agent's mesh listener, on loopback
    #[arg(long, value_name = "PORT", default_value_t = agent::MESH_PORT)]
    mesh_port: u16,
    #[command(flatten)]
    log: LogOptions,
}

pub(super) async fn run(arguments: Dev) -> anyhow::Result<ExitCode> {
    let services =
        if arguments.service.is_empty() { vec!["web".to_owned(), "api".to_owned()] } else { arguments.service };
    let services = services
        .iter()
        .map(|name| match name.parse::<ServicePattern>()? {
            ServicePattern::Exact(service) => Ok(service),
            _ => Err(hinted(format!("`{name}` is not one service"), "name each service with --service")),
        })
        .collect::<anyhow::Result<Vec<_>>>()?;
    let files: Vec<_> = arguments.config.iter().cloned().map(agent::DefinitionSource::Path).collect();
    let files = config_file::expand(&files)?;
    for file in &files {
        // Settings of an agent would have no effect here.
        ConfigFile::of(file)?.without(&agent::DEFINITION_FIELDS).fields(|_| Ok(()))?;
    }
    agent::check_definitions(&files)?;
    daemon::prepare(&arguments.log)?;
    let hangups = daemon::Hangups::heard()?;

    let key = ClusterKey::generate();
    let id: ServerId = "dev".parse()?;
    let config = server::Config {
        login_makers: connectors::login_makers(
            connectors::kubernetes::ReviewerTokens::default(),
            wire::web::Reach::Loopback,
        ),
        ..server::Config::new(id, ClusterKeys::single(key.clone()))
    };
    let server = server::start(config).await.context("cannot start the server")?;
    let api = Api::at(&server.http_address().to_string(), None)?;
    let token = bootstrap(&api, &key).await?;
    let api = Api::at(&server.http_address().to_string(), Some(token.clone()))?;
    let request = JoinTokenRequest { services, ..JoinTokenRequest::default() };
    let join_token: JoinTokenView = api.put("/v1/join-token", &[], &request).await.context("making a join token")?;
    let join_token = join_token.token.context("the server made a join token without a text")?;

    let node: NodeName = "dev".parse()?;
    let config = agent::Config {
        join_token: Some(join_token.expose().parse::<JoinSecret>()?),
        http_port: arguments.http_port,
        admin_port: arguments.admin_port,
        mesh_port: arguments.mesh_port,
        services: files,
        ..agent::Config::in_memory(node, vec![server.agent_address().to_string()])
    };
    let agent = agent::start(config).await.context("cannot start the agent")?;
    output::line(&format!(
        "A mesh in memory is up until Ctrl-C. In another terminal:\n\n  \
         export WEFT_HTTP_ADDR={}\n  \
         export WEFT_HTTP_TOKEN={}\n  \
         weft status\n",
        agent.http_address(),
        token.expose(),
    ))?;
    let ended = tokio::select! {
        ended = daemon::until_stopped(hangups, server.failed(), || server.standing()) => ended,
        () = agent.asked_to_leave() => Ok(ExitCode::SUCCESS),
    };
    agent.drain().await;
    server.stop().await;
    ended
}

/// Makes the first management token as soon as the server leads itself.
async fn bootstrap(api: &Api, key: &ClusterKey) -> anyhow::Result<wire::crypto::Secret> {
    let deadline = tokio::time::Instant::now() + LEADER_DEADLINE;
    loop {
        match acl::prove(api, key).await {
            Ok(token) => return token.secret.context("the server made a token without a secret"),
            Err(error) if tokio::time::Instant::now() > deadline => return Err(error.context("making the first token")),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}
