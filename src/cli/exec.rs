//! `weft exec`: an application that starts once its agent is ready, and finds its upstreams in its environment.

use std::{
    collections::BTreeMap,
    os::unix::process::CommandExt,
    process::{Command, ExitCode},
    time::Duration,
};

use anyhow::Context;
use catalog::ServiceKey;
use clap::Args;
use wire::{api_types::UpstreamView, decode::parse_duration};

use super::{
    api::Api,
    error::tell,
    output::Output,
    ready::{until_ready, until_started},
};

/// Where a container finds what only its platform may tell it; none of it goes through a proxy.
const NO_PROXY: &str = "localhost,127.0.0.1,169.254.169.254,169.254.170.2";

/// Start an application once its agent is ready.
///
/// It waits for the agent beside it, puts where each upstream is called into the environment, and becomes the application:
/// signals go to it, and its exit status is the one that is seen. For an upstream `billing-api` there are
///
///   WEFT_UPSTREAM_BILLING_API_ADDR=127.64.0.7:80
///   WEFT_UPSTREAM_BILLING_API_URL=http://127.64.0.7      (where it speaks HTTP)
///
///   weft exec -- /usr/bin/web --listen 127.0.0.1:8080
#[derive(Debug, Args)]
#[command(verbatim_doc_comment, mut_arg("output", |output| output.requires("print")))]
pub(super) struct Exec {
    /// The port of the agent's admin listener, on loopback
    #[arg(long, value_name = "PORT", default_value_t = agent::ADMIN_PORT)]
    admin_port: u16,
    /// Tell only of the upstreams of this service, where several are beside the agent
    #[arg(long, value_name = "SERVICE")]
    service: Option<ServiceKey>,
    /// How long to wait for the agent
    #[arg(long, default_value = "5m", value_name = "DURATION", value_parser = parse_duration)]
    wait: Duration,
    /// Set HTTP_PROXY, too: to the agent's forward proxy at this port of loopback
    #[arg(long, value_name = "PORT")]
    http_proxy: Option<u16>,
    /// Print the variables, and start nothing
    #[arg(long)]
    print: bool,
    /// Only ask whether the agent has been ready once, as a startup probe does: 0 says yes, 1 no
    ///
    /// Yes is not taken back while the agent runs and answers, whatever it lacks later. So this is what a container's health check
    /// asks that may end the agent: `weft exec --started --wait 2s`. What is missing now says /ready of the admin listener.
    #[arg(long, conflicts_with_all = ["print", "command", "service", "http_proxy"])]
    started: bool,
    #[command(flatten)]
    output: Output,
    /// The application and its arguments
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        required_unless_present_any = ["print", "started"],
        value_name = "COMMAND"
    )]
    command: Vec<String>,
}

pub(super) async fn run(exec: Exec) -> anyhow::Result<ExitCode> {
    let api = Api::at(&format!("http://127.0.0.1:{}", exec.admin_port), None)?;
    let advice = "see the agent's log; its admin listener answers /ready with what is missing, at --admin-port";
    if exec.started {
        let Err(error) = until_started(&api, exec.wait, advice).await else { return Ok(ExitCode::SUCCESS) };
        tell(&error);
        // Of a health check 2 is reserved, and an agent that does not answer is one that does not run.
        return Ok(ExitCode::from(1));
    }
    until_ready(&api, exec.wait, advice).await?;
    let upstreams: Vec<UpstreamView> =
        api.get("/upstreams", &[]).await.context("asking the agent for its upstreams")?;
    let own: Vec<UpstreamView> = upstreams
        .into_iter()
        .filter(|view| exec.service.as_ref().is_none_or(|service| view.owner == *service))
        .collect();
    let mut variables = UpstreamView::variables_of(&own)?;
    if let Some(port) = exec.http_proxy {
        let proxy = format!("http://127.0.0.1:{port}");
        let names = [("HTTP_PROXY", &*proxy), ("http_proxy", &*proxy), ("NO_PROXY", NO_PROXY), ("no_proxy", NO_PROXY)];
        variables.extend(names.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }
    if exec.print {
        let variables: BTreeMap<String, String> = variables.into_iter().collect();
        exec.output.print(&variables, |variables| {
            let lines: Vec<String> = variables.iter().map(|(name, value)| format!("{name}={value}")).collect();
            lines.join("\n")
        })?;
        return Ok(ExitCode::SUCCESS);
    }
    let (program, arguments) = exec.command.split_first().context("no application is named")?;
    let failed = Command::new(program).args(arguments).envs(variables).exec();
    Err(failed).with_context(|| format!("starting `{program}`"))
}
