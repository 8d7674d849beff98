//! `weft redirect`: the kernel's rules that lead connections to the agent.

use std::{process::ExitCode, str::FromStr};

use agent::{
    AddressRange, MESH_PORT,
    redirect::{self, Except, Inbound, OUTBOUND_PORT, Outbound, Redirection, User},
};
use catalog::ServiceName;
use clap::{Args, Subcommand};

use super::{
    error::hinted,
    output::{self, Output},
};

/// Lead applications' connections to their agent, by the kernel's rules.
///
/// An application that knows nothing of the mesh calls http://api.virtual.mesh/; the rules lead the connection to its agent.
/// They stand in one table of nftables, `inet weft`, of which each change is made whole or not at all.
#[derive(Debug, Subcommand)]
pub(super) enum Redirect {
    /// Redirect what is asked for, in place of whatever was redirected before
    ///
    /// On a machine, what the users of services call in the mesh; the n-th service's goes to port 15101 + n - 1 unless it is said:
    ///
    ///   weft redirect apply --service web=www-data --service worker=batch:15110 --dns-port 8600
    ///
    /// In a pod or a task, whatever anybody but the agent calls, and all that arrives:
    ///
    ///   weft redirect apply --all --agent-uid 5995 --exclude-inbound-port 9090 --exclude-outbound-cidr 169.254.0.0/16
    #[command(verbatim_doc_comment)]
    Apply(Apply),
    /// Show the rules that are in force; status 1 where nothing is redirected
    Show(Show),
    /// End all redirection; harmless where there is none
    Remove,
}

#[derive(Debug, Args)]
pub(super) struct Apply {
    /// A service and the user that it runs as, whose calls to the mesh are redirected; may be given several times
    #[arg(long = "service", value_name = "NAME=USER[:PORT]", required_unless_present = "all", conflicts_with = "all")]
    services: Vec<ServiceUser>,
    /// A port of a service that is called through the mesh only; may be given several times
    #[arg(long = "inbound-port", value_name = "PORT", conflicts_with = "all")]
    inbound_ports: Vec<u16>,
    /// Redirect everybody's connections but the agent's, and all that arrive
    #[arg(long, requires = "agent_uid")]
    all: bool,
    /// Whom the agent runs as
    #[arg(long, value_name = "USER", requires = "all")]
    agent_uid: Option<User>,
    /// The port on which the agent takes what is redirected
    #[arg(long, value_name = "PORT", default_value_t = OUTBOUND_PORT, requires = "all")]
    outbound_port: u16,
    /// A port on which connections that arrive are left alone; may be given several times
    #[arg(long = "exclude-inbound-port", value_name = "PORT", requires = "all")]
    exclude_inbound_ports: Vec<u16>,
    /// A port to which connections are left alone; may be given several times
    #[arg(long = "exclude-outbound-port", value_name = "PORT", requires = "all")]
    exclude_outbound_ports: Vec<u16>,
    /// Addresses to which connections are left alone; may be given several times
    #[arg(long = "exclude-outbound-cidr", value_name = "RANGE", requires = "all")]
    exclude_outbound_cidrs: Vec<AddressRange>,
    /// A user whose connections are left alone; may be given several times
    #[arg(long = "exclude-uid", value_name = "USER", requires = "all")]
    exclude_uids: Vec<User>,
    /// The mesh listener's port
    #[arg(long, value_name = "PORT", default_value_t = MESH_PORT)]
    mesh_port: u16,
    /// The agent's DNS port, to which questions for names go [default: they are left alone]
    #[arg(long, value_name = "PORT")]
    dns_port: Option<u16>,
}

#[derive(Debug, Args)]
pub(super) struct Show {
    #[command(flatten)]
    output: Output,
}

/// Is a service with the user that it runs as, and maybe a port.
#[derive(Debug, Clone)]
struct ServiceUser {
    service: ServiceName,
    user: User,
    port: Option<u16>,
}

impl FromStr for ServiceUser {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let Some((service, user)) = text.split_once('=') else {
            anyhow::bail!("write it as NAME=USER or NAME=USER:PORT")
        };
        let (user, port) = match user.split_once(':') {
            Some((user, port)) => (user, Some(port.parse().map_err(|_| anyhow::anyhow!("`{port}` is no port"))?)),
            None => (user, None),
        };
        Ok(Self { service: service.parse()?, user: user.parse()?, port })
    }
}

pub(super) fn run(redirect: Redirect) -> anyhow::Result<ExitCode> {
    match redirect {
        Redirect::Apply(apply) => {
            redirect::apply(&apply.redirection()?)?;
            output::line("Redirected.")?;
        }
        Redirect::Show(show) => return show.run(),
        Redirect::Remove => {
            redirect::remove()?;
            output::line("Nothing is redirected.")?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

impl Apply {
    fn redirection(self) -> anyhow::Result<Redirection> {
        let (mesh, dns_port) = (self.mesh_port, self.dns_port);
        let Some(agent) = self.agent_uid else {
            let services = self.services.into_iter().map(|it| (it.service, it.user, it.port));
            let users = redirect::users_of(services).map_err(|error| {
                let hint = "have each service run as a user of its own, and say its port as NAME=USER:PORT";
                hinted(error.to_string(), hint)
            })?;
            let outbound = Outbound::Users(users);
            return Ok(Redirection { outbound, inbound: Inbound::Ports { ports: self.inbound_ports, mesh }, dns_port });
        };
        let except = Except {
            ports: self.exclude_outbound_ports,
            addresses: self.exclude_outbound_cidrs,
            users: self.exclude_uids,
        };
        let outbound = Outbound::Everybody { agent, port: self.outbound_port, except };
        Ok(Redirection { outbound, inbound: Inbound::AllBut { ports: self.exclude_inbound_ports, mesh }, dns_port })
    }
}

impl Show {
    fn run(self) -> anyhow::Result<ExitCode> {
        let rules = if self.output.is_json() { redirect::show_json()? } else { redirect::show()? };
        match rules {
            Some(rules) => output::text(&rules)?,
            None => {
                output::note("nothing is redirected")?;
                return Ok(ExitCode::from(1));
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}
