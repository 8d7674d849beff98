//! `weft doctor`: what is wrong, and what to do.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    process::ExitCode,
};

use ::agent::doctor::{LocalService, Machine, examine, of_clock, of_default_policy, of_mesh};
use catalog::Action;
use clap::{Args, ValueEnum};
use serde::Deserialize;
use serde_json::Value;
use wire::{
    client::ApiError,
    crypto::now,
    diagnosis::{Finding, Verdict},
    mesh_status::MeshStatus,
};

use super::{
    ApiOptions, agent,
    api::Api,
    config_file,
    output::{Output, printable},
    server,
    settings::read_all,
};

/// Where the units keep what must not be lost.
const DATA_DIR: &str = "/var/lib/weft";

/// Says what runs on this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Role {
    /// An agent.
    Agent,
    /// A server.
    Server,
    /// Neither: only the mesh is looked at.
    Neither,
}

/// Find what is wrong with this machine and with the mesh, and say what to do.
///
/// Looks at the settings, the data directory and the files of secrets, the disk, the ports of local services, the agent's own
/// word, its certificates, and asks the servers how the mesh stands: their clock, quorum, certificates, agents and releases.
/// It works where the agent does not. Run it as root, or as the user that weft runs as, with a token that may read
/// (`operator = "read"`).
///
/// Ends with status 1 if there is a problem; warnings alone leave it 0.
#[derive(Debug, Args)]
pub(super) struct Doctor {
    /// What runs here [default: a server where there is a /etc/weft/server.hcl, else an agent]
    #[arg(long = "as", value_enum, value_name = "ROLE")]
    role: Option<Role>,
    /// A file of settings, or a directory of them; may be given several times [default: as the units have it]
    #[arg(long, value_name = "PATH")]
    config: Vec<PathBuf>,
    /// Where server or agent keep what they must not lose [default: as the settings say, or /var/lib/weft]
    #[arg(long, value_name = "DIRECTORY")]
    data_dir: Option<PathBuf>,
    /// The port of the agent's admin listener [default: as the settings say]
    #[arg(long, value_name = "PORT")]
    admin_port: Option<u16>,
    /// The port at which the agent answers names [default: as the settings say]
    #[arg(long, value_name = "PORT")]
    dns_port: Option<u16>,
    /// The agent answers no names, although the settings do not say so
    #[arg(long, conflicts_with = "dns_port")]
    no_dns: bool,
    /// Show only what is not fine
    #[arg(long)]
    quiet: bool,
    #[command(flatten)]
    output: Output,
}

pub(super) async fn run(doctor: Doctor, options: &ApiOptions) -> anyhow::Result<ExitCode> {
    let mut findings = Vec::new();
    let mut machine = machine(&doctor, &mut findings);
    let api = Api::new(options)?;
    if machine.admin.is_some() {
        match services(&api).await {
            Ok(services) => machine.services = services,
            Err(error) => {
                let advice = "set WEFT_HTTP_TOKEN_FILE to the file of a token that may read services";
                let finding = format!("the services of this machine are not known: {}", wire::one_line(error.as_ref()));
                findings.push(Finding::unknown("ports", finding, advice));
            }
        }
    }
    findings.extend(examine(&machine, now()).await);
    findings.extend(mesh(&api).await);
    if doctor.quiet {
        findings.retain(|finding| finding.verdict != Verdict::Fine);
    }
    doctor.output.print(&findings, |findings| text(findings))?;
    let is_wrong = findings.iter().any(|finding| finding.verdict == Verdict::Problem);
    Ok(if is_wrong { ExitCode::from(1) } else { ExitCode::SUCCESS })
}

/// Reads from the settings what there is to look at.
fn machine(doctor: &Doctor, findings: &mut Vec<Finding>) -> Machine {
    let of_server = PathBuf::from("/etc/weft/server.hcl");
    let role = doctor.role.unwrap_or(if of_server.exists() { Role::Server } else { Role::Agent });
    let mut config = doctor.config.clone();
    if config.is_empty() {
        config.extend(
            [if role == Role::Server { of_server } else { PathBuf::from("/etc/weft") }]
                .into_iter()
                .filter(|path| path.exists()),
        );
    }
    let config = config_file::sources(&config);
    let read = match role {
        Role::Neither => return Machine::default(),
        Role::Server => read_all(&config, &[]).map(server::Settings::kept),
        Role::Agent => agent::read(&config).map(agent::Settings::kept),
    };
    let mut machine = read.unwrap_or_else(|error| {
        let causes: Vec<String> = error.chain().map(ToString::to_string).collect();
        let advice = "mend the file; `weft validate` says whether it can be used";
        findings.push(Finding::problem("settings", causes.join(": "), advice));
        let admin = (role == Role::Agent).then(|| SocketAddr::from((Ipv4Addr::LOCALHOST, ::agent::ADMIN_PORT)));
        Machine { admin, ..Machine::default() }
    });
    if findings.is_empty() && !config.is_empty() {
        findings.push(Finding::fine("settings", "the settings can be read"));
    }
    let standard = || Some(PathBuf::from(DATA_DIR)).filter(|path| path.exists());
    machine.data_dir = doctor.data_dir.clone().or(machine.data_dir).or_else(standard);
    if let Some(port) = doctor.admin_port {
        machine.admin = Some(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    }
    machine.dns = machine.dns.filter(|_| !doctor.no_dns);
    if let (Some(port), Some(dns)) = (doctor.dns_port, &mut machine.dns) {
        dns.0.set_port(port);
    }
    machine.without_what_has_served()
}

/// Lists the services that the asked agent stands beside.
async fn services(api: &Api) -> anyhow::Result<Vec<LocalService>> {
    let services: BTreeMap<String, Value> = api.get("/v1/agent/services", &[]).await?;
    let services = services
        .into_iter()
        .filter_map(|(id, service)| {
            let port = service["Port"].as_u64().and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0)?;
            Some(LocalService { id, port, bypassable: service["Bypassable"].as_bool() })
        })
        .collect();
    Ok(services)
}

/// Asks the servers how the mesh stands.
async fn mesh(api: &Api) -> Vec<Finding> {
    let asked = now();
    let status: MeshStatus = match api.get("/v1/status/mesh", &[]).await {
        Ok(status) => status,
        Err(error) => return vec![unanswered(&error)],
    };
    let clock = status.now.map(|server| of_clock(asked, server, now()));
    let mut findings: Vec<Finding> = clock.into_iter().chain(of_mesh(&status)).collect();
    // Without an entry the mesh is as it is from the first day; whoever may not read it is not told.
    if let Ok(entry) = api.find::<MeshEntry>("/v1/config/mesh/mesh", &[]).await {
        findings.push(of_default_policy(entry.unwrap_or_default().default_intention_policy));
    }
    findings
}

/// Is what the `mesh` entry says of calls that no intention speaks of.
#[derive(Debug, Deserialize)]
struct MeshEntry {
    #[serde(rename = "DefaultIntentionPolicy", default = "deny")]
    default_intention_policy: Action,
}

impl Default for MeshEntry {
    fn default() -> Self {
        Self { default_intention_policy: deny() }
    }
}

fn deny() -> Action {
    Action::Deny
}

fn unanswered(error: &anyhow::Error) -> Finding {
    let finding = wire::one_line(error.as_ref());
    match error.downcast_ref::<ApiError>() {
        Some(ApiError::Status { status, .. }) if *status == http::StatusCode::FORBIDDEN => {
            let advice = "set WEFT_HTTP_TOKEN_FILE to the file of a token that has `operator = \"read\"`";
            Finding::unknown("servers", finding, advice)
        }
        Some(ApiError::Unreachable { .. }) => {
            let advice = "nothing answers for the API: start the agent or the server, or set WEFT_HTTP_ADDR";
            Finding::problem("servers", finding, advice)
        }
        _ => Finding::problem(
            "servers",
            finding,
            "is a majority of the servers up, and reachable from here on port 8300?",
        ),
    }
}

fn text(findings: &[Finding]) -> String {
    if findings.is_empty() {
        return "nothing is wrong".to_owned();
    }
    let lines = findings.iter().map(|Finding { verdict, check, finding, advice }| {
        let said = format!("{:8} {:13} {}", verdict.as_str(), check, printable(finding));
        if advice.is_empty() { said } else { format!("{said}\n{:23}do: {}", "", printable(advice)) }
    });
    lines.collect::<Vec<_>>().join("\n")
}
