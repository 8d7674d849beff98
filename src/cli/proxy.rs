//! `weft proxy`: what the asked agent's proxy really does.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde::de::DeserializeOwned;
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
            let when = rule.definition.as_ref().and_then(|rule| rule.get("Match"));
            vec![node.name.clone(), when.map_or(all, ToString::to_string), rule.next_node.clone()]
        });
        let splits = node
            .splits
            .iter()
            .map(|split| vec![node.name.clone(), format!("{} %", split.weight), split.next_node.clone()]);
        let resolved = node.resolver.iter().map(|resolver| {
            let others = resolver.failover.iter().flat_map(|failover| failover.targets.iter());
            let targets: Vec<&str> = std::iter::once(&resolver.target).chain(others).map(String::as_str).collect();
            vec![node.name.clone(), "resolves to".to_owned(), targets.join(", then ")]
        });
        rules.chain(splits).chain(resolved).collect::<Vec<_>>()
    });
    format!(
        "{}\n\nListeners\n{}\n\nRoutes\n{}",
        pairs(&[
            ("Service:", shown.service.to_string()),
            ("Protocol:", shown.protocol.to_string()),
            ("Targets in force:", shown.targets.join(", ")),
        ]),
        table(&["Caller", "Address", "Error"], listeners.collect(), "none"),
        table(&["At", "What", "To"], nodes.collect(), "not known yet"),
    )
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
    let rules =
        shown.rules.iter().flat_map(|rules| &rules.rules).map(|rule| {
            vec![rule.rule.clone(), rule.effect.clone(), rule.allowed.to_string(), rule.denied.to_string()]
        });
    let upstreams = shown.upstreams.iter().map(|upstream| {
        vec![upstream.destination.to_string(), upstream.address.clone(), upstream.error.clone().unwrap_or_default()]
    });
    format!(
        "{}\n\nInstances\n{}\n\nRules\n{}\n\nUpstreams\n{}",
        pairs(&[
            ("Service:", shown.service.to_string()),
            ("Protocol:", shown.protocol.to_string()),
            ("Certificate:", certificate),
            ("Mesh listener:", shown.mesh_listener.clone()),
            ("Least key exchange:", shown.min_key_exchange.to_string()),
            ("Generation:", shown.generation.to_string()),
        ]),
        table(&["Instance", "Application", "Ports"], instances.collect(), "none here"),
        table(&["Rule", "Effect", "Allowed", "Denied"], rules.collect(), "none known: everybody is refused"),
        table(&["Destination", "Address", "Error"], upstreams.collect(), "none"),
    )
}
