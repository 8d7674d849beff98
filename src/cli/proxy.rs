//! `weft proxy`: what the asked agent's proxy really does.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use wire::api_types::{ProxyConfigView, ProxyEndpoint, ProxyEndpoints, ProxyRoutes};

use super::{
    ApiOptions,
    api::Api,
    error::hinted,
    output::{Output, instant, pairs, table},
};

/// See what the asked agent's proxy really does.
///
/// The API's address is the agent's here. It answers also while no server can be reached.
#[derive(Debug, Subcommand)]
pub(super) enum Proxy {
    /// Show where calls of a service go
    Routes(Of),
    /// Show the instances that calls of a service may end at, and how they fare
    Endpoints(Of),
    /// Show instances, certificate, rules and upstreams of a service
    Config(Of),
}

#[derive(Debug, Args)]
pub(super) struct Of {
    /// The service, as `name` or `namespace/name`
    service: String,
    #[command(flatten)]
    output: Output,
}

pub(super) async fn run(verb: Proxy, options: &ApiOptions) -> anyhow::Result<ExitCode> {
    let api = Api::new(options)?;
    match verb {
        Proxy::Routes(of) => of.output.print(&ask::<ProxyRoutes>(&api, "routes", &of, options).await?, routes)?,
        Proxy::Endpoints(of) => {
            of.output.print(&ask::<ProxyEndpoints>(&api, "endpoints", &of, options).await?, endpoints)?;
        }
        Proxy::Config(of) => of.output.print(&ask::<ProxyConfigView>(&api, "config", &of, options).await?, config)?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn ask<T: DeserializeOwned>(api: &Api, what: &str, of: &Of, options: &ApiOptions) -> anyhow::Result<T> {
    let (namespace, name) = of.service.split_once('/').unwrap_or((options.namespace.as_str(), &of.service));
    let found = api.find_in(&format!("/v1/agent/proxy/{what}"), name, &[("ns", namespace)]).await?;
    found.ok_or_else(|| {
        hinted(
            format!("`{namespace}/{name}` is no service of this agent"),
            "ask the agent that stands before it or calls it, with --http-addr",
        )
    })
}

fn routes(shown: &ProxyRoutes) -> String {
    let listeners = shown.listeners.iter().map(|listener| {
        vec![listener.owner.to_string(), listener.address.clone(), listener.error.clone().unwrap_or_default()]
    });
    let nodes = shown.chain.iter().flat_map(|chain| chain.nodes.values()).flat_map(|node| {
        let rules = node.routes.iter().map(|rule| {
            let all = "everything else".to_owned();
            let part = |name: &str| rule.definition.as_ref().and_then(|rule| rule.get(name));
            let (when, does) = (part("Match"), part("Destination").map(does).unwrap_or_default());
            vec![node.name.clone(), when.map_or(all, ToString::to_string), rule.next_node.clone(), does]
        });
        let splits = node.splits.iter().map(|split| {
            let does: Vec<String> = split.edits.iter().map(does).collect();
            vec![node.name.clone(), format!("{} %", split.weight), split.next_node.clone(), does.join(" ")]
        });
        let resolved = node.resolver.iter().map(|resolver| {
            let others = resolver.failover.iter().flat_map(|failover| failover.targets.iter());
            let targets: Vec<&str> = std::iter::once(&resolver.target).chain(others).map(String::as_str).collect();
            let does = [
                Some(format!("ConnectTimeout={}", resolver.connect_timeout)),
                resolver.request_timeout.as_ref().map(|timeout| format!("RequestTimeout={timeout}")),
                Some(does(&resolver.balancing.clone().into())),
            ];
            let does: Vec<String> = does.into_iter().flatten().collect();
            vec![node.name.clone(), "resolves to".to_owned(), targets.join(", then "), does.join(" ")]
        });
        rules.chain(splits).chain(resolved).collect::<Vec<_>>()
    });
    let behind = "\n\nNewer entries are known, and not in force yet: what they lead to is not known.";
    format!(
        "{}\n\nListeners\n{}\n\nRoutes in force\n{}{}",
        pairs(&[
            ("Service:", shown.service.to_string()),
            ("Protocol:", shown.protocol.to_string()),
            ("Targets in force:", shown.targets.join(", ")),
        ]),
        table(&["Caller", "Address", "Error"], listeners.collect(), "none"),
        table(&["At", "What", "To", "Does"], nodes.collect(), "none: nobody here calls it, or nothing is known yet"),
        if shown.is_behind { behind } else { "" },
    )
}

/// Writes in one line what a part of an entry says, but for where it leads.
fn does(says: &Value) -> String {
    let fields = says.as_object().into_iter().flatten();
    let fields = fields.filter(|(name, _)| !["Service", "Namespace", "ServiceSubset"].contains(&name.as_str()));
    let fields = fields.map(|(name, value)| match value {
        Value::String(text) => format!("{name}={text}"),
        value => format!("{name}={value}"),
    });
    fields.collect::<Vec<String>>().join(" ")
}

fn endpoints(shown: &ProxyEndpoints) -> String {
    let rows = shown.endpoints.iter().map(|endpoint| {
        let aside = endpoint.aside_ms.map_or_else(String::new, |aside| format!("{:.1}s", aside as f64 / 1000.0));
        vec![
            endpoint.target.clone(),
            endpoint.instance.to_string(),
            dialled(endpoint),
            endpoint.status.to_string(),
            endpoint.zone.clone().unwrap_or_default(),
            endpoint.weight.to_string(),
            endpoint.open.to_string(),
            endpoint.latency_us.map_or_else(String::new, |latency| format!("{:.1}ms", latency as f64 / 1000.0)),
            aside,
        ]
    });
    let header = ["Target", "Instance", "Dialled", "Status", "Zone", "Weight", "Open", "Latency", "Aside"];
    let rows = table(&header, rows.collect(), "no instance is known");
    if shown.is_panicking {
        return format!("{rows}\n\nMore than half are critical: checks are not believed, and all are called.");
    }
    rows
}

/// Says where an instance is dialled, and how if that is not at its own agent.
fn dialled(endpoint: &ProxyEndpoint) -> String {
    match (endpoint.dialled.join(", "), endpoint.reach.as_str()) {
        (nowhere, how) if nowhere.is_empty() => how.to_owned(),
        (dialled, "direct") => dialled,
        (dialled, how) => format!("{dialled} ({how})"),
    }
}

fn config(shown: &ProxyConfigView) -> String {
    let certificate = shown.certificate.as_ref().map_or_else(
        || "none".to_owned(),
        |shown| format!("{} until {}, serial {}", shown.identity, instant(shown.not_after), shown.serial),
    );
    let instances = shown.instances.iter().map(|instance| {
        let ports: Vec<String> = instance.ports.iter().map(|(name, port)| format!("{name}={port}")).collect();
        vec![instance.instance.to_string(), instance.address.clone(), ports.join(" ")]
    });
    let rules = shown.rules.iter().flat_map(|rules| &rules.rules).flat_map(|rule| {
        let (allowed, denied) = (rule.allowed.to_string(), rule.denied.to_string());
        let asks = rule.jwt.as_ref().map(|jwt| format!(" JWT={}", json!(jwt))).unwrap_or_default();
        let whole = vec![rule.rule.clone(), format!("{}{asks}", rule.effect), allowed, denied];
        let permissions = rule.permissions.iter().enumerate().map(|(number, permission)| {
            vec![format!("  {}", number + 1), does(&json!(permission)), String::new(), String::new()]
        });
        std::iter::once(whole).chain(permissions)
    });
    let providers = shown.token_providers.iter().map(|it| vec![it.name.clone(), it.issuer.clone()]);
    let upstreams = shown.upstreams.iter().map(|upstream| {
        let error = upstream.error.clone().unwrap_or_default();
        let address = if upstream.address.is_empty() { "by name" } else { &upstream.address };
        vec![upstream.destination.to_string(), address.to_owned(), does(&upstream.settings), error]
    });
    let rates = if shown.rate_limits.is_null() { "none".to_owned() } else { does(&shown.rate_limits) };
    format!(
        "{}\n\nInstances\n{}\n\nRules\n{}\n\nToken providers\n{}\n\nUpstreams\n{}",
        pairs(&[
            ("Service:", shown.service.to_string()),
            ("Protocol:", shown.protocol.to_string()),
            ("Certificate:", certificate),
            ("Mesh listener:", shown.mesh_listener.clone()),
            ("Least key exchange:", shown.min_key_exchange.to_string()),
            ("mTLS mode:", shown.mtls_mode.clone()),
            ("Rate limits:", rates),
            ("Generation:", shown.generation.to_string()),
        ]),
        table(&["Instance", "Application", "Ports"], instances.collect(), "none here"),
        table(&["Rule", "Effect", "Allowed", "Denied"], rules.collect(), "none known: everybody is refused"),
        table(&["Name", "Issuer"], providers.collect(), "none"),
        table(&["Destination", "Address", "Settings", "Error"], upstreams.collect(), "none"),
    )
}
