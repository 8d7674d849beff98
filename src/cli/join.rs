//! `weft join`: a machine becomes a member of the mesh.

use std::{
    io::{self, Read},
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use ::agent::joining::{Joining, UNIT, start_unit};
use anyhow::Context;
use catalog::NodeName;
use clap::Args;
use wire::{
    crypto::{Secret, read_secret_file},
    join_token::JoinSecret,
};

use super::{agent, api::Api, error::hinted, output, ready::until_ready};

/// No join token is longer.
const TOKEN_BYTES_MAX: u64 = 8192;

/// Make this machine a member of the mesh.
///
/// Reads a join token from standard input, writes it and what it says of the servers to the configuration directory, starts
/// the agent's unit and waits until the agent has joined. A machine that is a member already, and comes with a new token,
/// is entitled to what that one says. `weft leave` is the way out.
///
///   ssh s1 WEFT_HTTP_TOKEN_FILE=/root/token weft join-token create --service web | ssh vm-1 weft join
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Join {
    /// The file that holds the join token, of mode 0600 [default: standard input]
    #[arg(long, value_name = "FILE")]
    join_token_file: Option<PathBuf>,
    /// The node's name, unique in the datacenter [default: the host name]
    #[arg(long, value_name = "NAME")]
    node: Option<NodeName>,
    /// A server's address for agents, as host:port; may be given several times [default: those that the join token names]
    #[arg(long = "server", value_name = "ADDRESS:PORT")]
    servers: Vec<String>,
    /// Where the agent's settings and service definitions are
    #[arg(long, value_name = "DIRECTORY", default_value = "/etc/weft")]
    config_dir: PathBuf,
    /// The user that the agent runs as, who gets the token's file
    #[arg(long, value_name = "NAME", default_value = "weft")]
    user: String,
    /// Write the files, and start nothing
    #[arg(long)]
    no_start: bool,
    /// How long to wait until the agent has joined
    #[arg(long, value_name = "DURATION", value_parser = wire::decode::parse_duration, default_value = "60s")]
    timeout: Duration,
    /// The port of the agent's admin listener
    #[arg(long, value_name = "PORT", default_value_t = ::agent::ADMIN_PORT)]
    admin_port: u16,
}

pub(super) async fn run(join: Join) -> anyhow::Result<ExitCode> {
    let text = token(join.join_token_file.as_deref())?;
    let token: JoinSecret = text.expose().parse()?;
    let servers = if join.servers.is_empty() { token.servers().to_vec() } else { join.servers };
    if servers.is_empty() {
        return Err(hinted("the join token names no server", "name one with --server, such as 10.0.0.1:8300"));
    }
    let node = join.node.or_else(agent::host_name);
    let node = node.ok_or_else(|| hinted("this machine's name is no name for a node", "name it with --node"))?;
    let joining = Joining { node: node.clone(), servers, token: text, directory: join.config_dir, user: join.user };
    let written = joining.write()?;
    output::line(&format!("Written: {} and {}", written.settings.display(), written.token.display()))?;
    if join.no_start {
        let run = format!("weft agent --config {} --data-dir /var/lib/weft", joining.directory.display());
        output::line(&format!("Start it with `systemctl enable --now {UNIT}`, or run `{run}` as {}", joining.user))?;
        return Ok(ExitCode::SUCCESS);
    }
    start_unit()?;
    let agent = Api::at(&SocketAddr::from((Ipv4Addr::LOCALHOST, join.admin_port)).to_string(), None)?;
    let advice = format!("`journalctl --unit {UNIT}` and `weft doctor` tell why; the agent goes on trying");
    until_ready(&agent, join.timeout, &advice).await.context("the agent has not joined")?;
    output::line(&format!("Joined: {node} is a member of the mesh"))?;
    Ok(ExitCode::SUCCESS)
}

/// Reads the join token from where it is.
fn token(file: Option<&Path>) -> anyhow::Result<Secret> {
    let Some(path) = file else {
        let mut text = String::new();
        io::stdin().lock().take(TOKEN_BYTES_MAX).read_to_string(&mut text).context("reading the join token")?;
        if text.trim().is_empty() {
            let hint =
                "write `weft join-token create --service NAME | weft join`, or name its file with --join-token-file";
            return Err(hinted("there is no join token on standard input", hint));
        }
        return Ok(Secret::new(text.trim()));
    };
    Ok(Secret::new(read_secret_file(path, TOKEN_BYTES_MAX)?.expose().trim()))
}
