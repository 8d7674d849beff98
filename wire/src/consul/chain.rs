//! The compiled route to a service, as `discovery-chain/:service` answers with it.

use std::collections::BTreeMap;
use std::time::Duration;

use ::catalog::{
    Balancing, ConfigContent, ConfigEntries, ConfigKey, IdentityScheme, Namespace, RoutingError, ServiceKey,
    ServiceName, SplitEdits, TargetKey,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::balance_entry::BalanceEntry;
use super::route_entry::{RouterEntry, Shown, show_edits};

/// How long an agent waits for a connection to an instance.
const CONNECT_TIMEOUT: &str = "5s";

/// Answers `discovery-chain/:service`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct DiscoveryChainAnswer {
    /// The chain.
    pub chain: DiscoveryChain,
}

/// Shows how calls of a service are routed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct DiscoveryChain {
    /// The service.
    #[schema(value_type = String)]
    pub service_name: ServiceName,
    /// Its namespace.
    #[schema(value_type = String)]
    pub namespace: Namespace,
    /// Its datacenter.
    pub datacenter: String,
    /// How what is called is read; of `tcp`, connections are routed as a whole.
    pub protocol: String,
    /// Whether nothing but the service's name says where its calls go.
    pub default: bool,
    /// The node at which routing starts.
    pub start_node: String,
    /// The nodes by name.
    pub nodes: BTreeMap<String, ChainNode>,
    /// The targets by id.
    pub targets: BTreeMap<String, ChainTarget>,
}

/// Shows one step of routing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct ChainNode {
    /// `router`, `splitter` or `resolver`.
    #[serde(rename = "Type")]
    pub kind: String,
    /// The service that is routed, or the target that is resolved.
    pub name: String,
    /// The rules of a router, in the order in which they are tried; the last is for all that no other is for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<ChainRoute>,
    /// The parts of a splitter.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub splits: Vec<ChainSplit>,
    /// What a resolver's target resolves to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolver: Option<ChainResolver>,
}

/// Shows one rule of a router.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct ChainRoute {
    /// The rule as it was written; none for what no rule is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Object)]
    pub definition: Option<serde_json::Value>,
    /// The node that it leads to.
    pub next_node: String,
}

/// Shows one part of a splitter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct ChainSplit {
    /// Its share in percent, of all that comes to the first splitter.
    pub weight: f64,
    /// The node that it leads to.
    pub next_node: String,
    /// What changes of the headers of requests that go this way and of their answers, splitter by splitter.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<Object>)]
    pub edits: Vec<serde_json::Value>,
}

/// Shows what a target resolves to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct ChainResolver {
    /// Whether no entry says otherwise.
    pub default: bool,
    /// How long a connection may take.
    pub connect_timeout: String,
    /// How long until an answer begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_timeout: Option<String>,
    /// How one of several instances is chosen.
    #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
    #[schema(value_type = Object)]
    pub balancing: serde_json::Map<String, serde_json::Value>,
    /// The target's id.
    pub target: String,
    /// What takes over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failover: Option<ChainFailover>,
}

/// Shows what takes over where nothing of a target is left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct ChainFailover {
    /// The ids of the targets, in the order in which they are tried.
    pub targets: Vec<String>,
}

/// Shows what is called in the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct ChainTarget {
    /// The target's id.
    #[serde(rename = "ID")]
    pub id: String,
    /// The service.
    #[schema(value_type = String)]
    pub service: ServiceName,
    /// The subset of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_subset: Option<String>,
    /// Its namespace.
    #[schema(value_type = String)]
    pub namespace: Namespace,
    /// Its datacenter.
    pub datacenter: String,
    /// How long a connection may take.
    pub connect_timeout: String,
    /// The server name by which a caller's TLS asks for it.
    #[serde(rename = "SNI")]
    pub sni: String,
    /// The same name.
    pub name: String,
}

impl DiscoveryChain {
    /// Shows where calls of a service go. Splitters that lead to splitters are shown as one.
    ///
    /// # Errors
    ///
    /// [`RoutingError`] where the entries make no routes.
    pub fn compiled(
        service: &ServiceKey,
        entries: &ConfigEntries,
        datacenter: &str,
        scheme: &IdentityScheme,
    ) -> Result<Self, RoutingError> {
        let routes = entries.routes_of(service)?;
        let ServiceKey { namespace, name } = service.clone();
        let mut nodes = BTreeMap::new();
        let mut targets = BTreeMap::new();
        for leg in routes.legs() {
            let ids: Vec<String> = leg.targets.iter().map(|target| id_of(&target.key, datacenter)).collect();
            let Some((first, others)) = ids.split_first() else { continue };
            let resolver = ChainResolver {
                default: !entries
                    .iter()
                    .any(|entry| entry.key() == ConfigKey::ServiceResolver(leg.targets[0].key.service.clone())),
                connect_timeout: shown_timeout(leg.connect_timeout),
                request_timeout: leg.request_timeout.map(|timeout| format!("{}ms", timeout.as_millis())),
                balancing: shown_balancing(&leg.balancing),
                target: first.clone(),
                failover: (!others.is_empty()).then(|| ChainFailover { targets: others.to_vec() }),
            };
            nodes.insert(format!("resolver:{first}"), node("resolver", first, |node| node.resolver = Some(resolver)));
            for (target, id) in leg.targets.iter().zip(&ids) {
                let timeout = shown_timeout(leg.connect_timeout);
                targets.insert(id.clone(), shown_target(&target.key, id, datacenter, (scheme, timeout)));
            }
        }
        let resolver_of = |leg: usize| match routes.legs().get(leg).and_then(|leg| leg.targets.first()) {
            Some(target) => format!("resolver:{}", id_of(&target.key, datacenter)),
            None => String::new(),
        };
        let mut divided = |rule: Option<usize>| match routes.shares(rule).as_slice() {
            // What it changes would be lost.
            [(_, leg, [])] => resolver_of(*leg),
            shares => {
                let id = match rule {
                    None => format!("splitter:{name}.{namespace}"),
                    Some(rule) => format!("splitter:{name}.{namespace}.route-{}", rule + 1),
                };
                let split = |(weight, leg, edits): &(f64, usize, &[SplitEdits])| ChainSplit {
                    weight: *weight,
                    next_node: resolver_of(*leg),
                    edits: edits.iter().map(shown_edits).collect(),
                };
                let splits = shares.iter().map(split).collect();
                let name = id.trim_start_matches("splitter:").to_owned();
                nodes.insert(id.clone(), node("splitter", &name, |node| node.splits = splits));
                id
            }
        };
        let written = entries.get(&ConfigKey::ServiceRouter(service.clone())).map(|entry| &entry.content);
        let start_node = match written {
            Some(ConfigContent::ServiceRouter(router)) => {
                let shown = RouterEntry::of(router).show();
                let definitions = shown.get("Routes").and_then(|routes| routes.as_array()).cloned().unwrap_or_default();
                let mut rules: Vec<ChainRoute> = definitions
                    .into_iter()
                    .enumerate()
                    .map(|(number, rule)| ChainRoute { definition: Some(rule), next_node: divided(Some(number)) })
                    .collect();
                rules.push(ChainRoute { definition: None, next_node: divided(None) });
                let id = format!("router:{name}.{namespace}");
                nodes.insert(id.clone(), node("router", &format!("{name}.{namespace}"), |node| node.routes = rules));
                id
            }
            _ => divided(None),
        };
        Ok(Self {
            datacenter: datacenter.to_owned(),
            protocol: routes.protocol().to_string(),
            default: entries.bearing_on(service).next().is_none(),
            service_name: name,
            namespace,
            start_node,
            nodes,
            targets,
        })
    }
}

fn node(kind: &str, name: &str, fill: impl FnOnce(&mut ChainNode)) -> ChainNode {
    let (routes, splits) = (Vec::new(), Vec::new());
    let mut node = ChainNode { kind: kind.to_owned(), name: name.to_owned(), routes, splits, resolver: None };
    fill(&mut node);
    node
}

/// Returns a target's id, as Consul writes it.
fn id_of(target: &TargetKey, datacenter: &str) -> String {
    let ServiceKey { namespace, name } = &target.service;
    let of_service = format!("{name}.{namespace}.default.{datacenter}");
    target.subset.as_ref().map_or(of_service.clone(), |subset| format!("{subset}.{of_service}"))
}

/// Shows how long it may take until an instance is reached.
fn shown_timeout(timeout: Option<Duration>) -> String {
    timeout.map_or_else(|| CONNECT_TIMEOUT.to_owned(), |timeout| format!("{}ms", timeout.as_millis()))
}

/// Shows how one of several instances is chosen, in the words of a resolver.
fn shown_balancing(balancing: &Balancing) -> serde_json::Map<String, serde_json::Value> {
    let mut shown = Shown::default();
    let Balancing { policy, hashing, choices, by_locality } = balancing.clone();
    BalanceEntry { balance: Some(policy), hashing, choices, by_locality: Some(by_locality) }.show(&mut shown);
    shown.into_map()
}

/// Shows what a splitter changes, in its own words.
fn shown_edits(edits: &SplitEdits) -> serde_json::Value {
    let mut shown = Shown::default();
    shown.put("RequestHeaders", show_edits(&edits.request_headers));
    shown.put("ResponseHeaders", show_edits(&edits.response_headers));
    shown.done()
}

fn shown_target(
    target: &TargetKey,
    id: &str,
    datacenter: &str,
    (scheme, connect_timeout): (&IdentityScheme, String),
) -> ChainTarget {
    let sni = scheme.sni(&target.service);
    ChainTarget {
        id: id.to_owned(),
        service: target.service.name.clone(),
        service_subset: target.subset.clone(),
        namespace: target.service.namespace.clone(),
        datacenter: datacenter.to_owned(),
        connect_timeout,
        name: sni.clone(),
        sni,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::super::ConfigEntry;
    use super::*;
    use crate::decode::from_json;

    fn entries(all: &[&str]) -> ConfigEntries {
        let kept = all.iter().map(|text| match from_json(text.as_bytes()).unwrap() {
            ConfigEntry::Traffic(entry) => Arc::new(entry.into_entry(&Namespace::default_namespace()).unwrap()),
            other => panic!("{other:?}"),
        });
        kept.collect()
    }

    fn shown(all: &[&str]) -> serde_json::Value {
        let scheme = IdentityScheme {
            trust_domain: "mesh.example".parse().unwrap(),
            template: ::catalog::PathTemplate::default(),
            datacenter: "dc1".to_owned(),
        };
        let chain = DiscoveryChain::compiled(&"api".parse().unwrap(), &entries(all), "dc1", &scheme).unwrap();
        serde_json::to_value(chain).unwrap()
    }

    #[test]
    fn a_service_that_no_entry_routes_resolves_to_itself() {
        let chain = shown(&[]);
        assert_eq!((&chain["Default"], &chain["Protocol"]), (&json!(true), &json!("tcp")));
        assert_eq!(chain["StartNode"], "resolver:api.default.default.dc1");
        let node = &chain["Nodes"]["resolver:api.default.default.dc1"];
        assert_eq!((&node["Type"], &node["Resolver"]["Default"]), (&json!("resolver"), &json!(true)));
        assert_eq!(chain["Targets"]["api.default.default.dc1"]["SNI"], "api.default.dc1.internal.mesh.example");
    }

    #[test]
    fn routers_lead_to_splitters_and_these_to_resolvers() {
        let chain = shown(&[
            r#"{"Kind": "proxy-defaults", "Config": {"protocol": "http"}}"#,
            r#"{"Kind": "service-router", "Name": "api", "Routes": [
                {"Match": {"HTTP": {"PathPrefix": "/v2"}}, "Destination": {"Service": "next", "ServiceSubset": "v2"}}]}"#,
            r#"{"Kind": "service-splitter", "Name": "api", "Splits": [{"Weight": 99.5},
                {"Weight": 0.5, "Service": "next", "RequestHeaders": {"Set": {"x-next": "1"}}}]}"#,
            r#"{"Kind": "service-resolver", "Name": "next", "RequestTimeout": "2s", "LoadBalancer": {"Policy": "random"},
                "Subsets": {"v2": {"Filter": "Service.Meta.version == v2"}}, "Failover": {"*": {"Service": "old"}}}"#,
        ]);
        assert_eq!((&chain["Default"], &chain["StartNode"]), (&json!(false), &json!("router:api.default")));
        let routes = &chain["Nodes"]["router:api.default"]["Routes"];
        assert_eq!(routes[0]["Definition"]["Match"]["HTTP"]["PathPrefix"], "/v2");
        assert_eq!(routes[0]["NextNode"], "resolver:v2.next.default.default.dc1");
        assert_eq!(routes[1], json!({"NextNode": "splitter:api.default"}));
        let splits = &chain["Nodes"]["splitter:api.default"]["Splits"];
        let edits = json!([{"RequestHeaders": {"Set": {"x-next": "1"}}}]);
        assert_eq!(splits[1], json!({"Weight": 0.5, "NextNode": "resolver:next.default.default.dc1", "Edits": edits}));
        assert_eq!(splits[0]["Edits"], json!(null));
        let resolver = &chain["Nodes"]["resolver:v2.next.default.default.dc1"]["Resolver"];
        assert_eq!(resolver["Failover"]["Targets"], json!(["old.default.default.dc1"]));
        assert_eq!((&resolver["RequestTimeout"], &resolver["Default"]), (&json!("2000ms"), &json!(false)));
        assert_eq!(
            resolver["Balancing"],
            json!({"LoadBalancer": {"Policy": "random"}, "PrioritizeByLocality": {"Mode": "none"}})
        );
        assert_eq!(chain["Targets"]["v2.next.default.default.dc1"]["ServiceSubset"], "v2");
    }
}
