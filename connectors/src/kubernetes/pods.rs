//! From pods, services and their endpoints to nodes of the catalog.
//!
//! A pod is a node. One that an agent stands in is the agent's: what the cluster knows of it becomes checks there. Any other
//! one that backs a service is the connector's, with an instance for each service that it backs.

use std::collections::{BTreeMap, BTreeSet};

use catalog::{
    CatalogIndex, Check, CheckKey, CheckStatus, ConnectorName, ConnectorNode, ConnectorProblem, Instance, InstanceKey,
    Namespace, Node, NodeName, Platform, ProblemKind, ServiceName, Weights,
};
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use kube::ResourceExt;
use kube::runtime::watcher::Event;

use super::annotations::{Spelling, tags};
use super::cluster::{ClusterName, NODE_NAME_BYTES_MAX, node_name};
use super::inject::AGENT_CONTAINER;
use super::mirror::{Mirror, ObjectName};
use crate::plan::{Sight, Wanted};

/// The label by which a slice names its service.
const SERVICE_LABEL: &str = "kubernetes.io/service-name";
/// What a Service says of how it is to be in the mesh.
const SYNC: Spelling = Spelling("service-sync", Some("service-sync"));
const NAME: Spelling = Spelling("service-name", Some("service-name"));
const PORT: Spelling = Spelling("service-port", Some("service-port"));
const TAGS: Spelling = Spelling("service-tags", Some("service-tags"));
/// Begins the names of annotations that are facts about the service.
const META: Spelling = Spelling("service-meta-", Some("service-meta-"));
/// How many ends of pods are remembered at most.
const ENDED_MAX: usize = 16_384;

/// Says which services are taken into the mesh.
#[derive(Debug, Clone)]
pub struct SyncRules {
    /// The connector that does it.
    pub connector: ConnectorName,
    /// The cluster's name, where there are several in the mesh.
    pub cluster: Option<ClusterName>,
    /// The only namespaces that count; all where there are none.
    pub namespaces: BTreeSet<String>,
    /// The namespaces that do not count, whatever else is said.
    pub except: BTreeSet<String>,
    /// Whether a service counts that says nothing of it.
    pub by_default: bool,
}

impl SyncRules {
    fn takes(&self, namespace: &str) -> bool {
        !self.except.contains(namespace) && (self.namespaces.is_empty() || self.namespaces.contains(namespace))
    }
}

/// Is what a cluster was seen to hold.
#[derive(Debug, Default)]
pub(super) struct Observed {
    /// Its services.
    pub(super) services: Mirror<Service>,
    /// The endpoints of its services.
    pub(super) slices: Mirror<EndpointSlice>,
    /// Its pods.
    pub(super) pods: Mirror<Pod>,
    /// The pods whose end was told of, and not only found, by when that was.
    ended: BTreeMap<ObjectName, u64>,
    told: u64,
}

impl Observed {
    /// Takes what is said of a pod, and reports whether there is anything new.
    pub(super) fn take_pod(&mut self, event: Event<Pod>) -> bool {
        let told = match &event {
            Event::Apply(pod) | Event::Delete(pod) => ObjectName::of(pod),
            _ => return self.pods.take(event),
        };
        let was_there = self.pods.get(&told).is_some();
        let is_news = self.pods.take(event);
        match self.pods.get(&told) {
            Some(_) => drop(self.ended.remove(&told)),
            None if was_there => self.note_end(told),
            None => {}
        }
        is_news
    }

    /// Returns the nodes of pods of which the cluster said itself that they end. However many they are, that is no mistake.
    pub(super) fn ended(&self, cluster: Option<&ClusterName>) -> BTreeSet<NodeName> {
        let ending = self.pods.iter().filter(|(_, pod)| is_over(pod) || pod.metadata.deletion_timestamp.is_some());
        let ended = ending.map(|(name, _)| name).chain(self.ended.keys());
        ended.filter_map(|name| node_of_pod(name, cluster).ok()).collect()
    }

    /// Remembers an end; of too many, the latest.
    fn note_end(&mut self, pod: ObjectName) {
        self.told += 1;
        self.ended.insert(pod, self.told);
        if self.ended.len() > ENDED_MAX {
            let least = self.told - ENDED_MAX as u64 / 2;
            self.ended.retain(|_, told| *told > least);
        }
    }
}

/// Returns the name of a pod's node: `<pod>.<namespace>` and the cluster's name, shortened where no node's name is so long. An
/// agent in the pod has it, too: the injector lets nobody in whose name would have to be shortened.
///
/// # Errors
/// [`catalog::NameError`] for names that no pod has.
pub(super) fn node_of_pod(pod: &ObjectName, cluster: Option<&ClusterName>) -> Result<NodeName, catalog::NameError> {
    let name = node_name(&pod.name, &pod.namespace, cluster);
    if name.len() <= NODE_NAME_BYTES_MAX {
        return name.parse();
    }
    let hash = wire::crypto::sha256_hex(name.as_bytes());
    let kept: String = name.chars().take(NODE_NAME_BYTES_MAX - 17).collect();
    format!("{kept}-{}", &hash[..16]).parse()
}

/// Returns what the catalog is to hold of a cluster.
pub(super) fn sight(observed: &Observed, rules: &SyncRules) -> Sight {
    let is_complete = observed.services.is_complete() && observed.slices.is_complete() && observed.pods.is_complete();
    let ended = observed.ended(rules.cluster.as_ref());
    let mut sight = Sight { is_complete, ended, ..Sight::default() };
    for (name, pod) in observed.pods.iter().filter(|(name, _)| rules.takes(&name.namespace)) {
        if has_agent(pod) && !is_over(pod) {
            judge(&mut sight, name, pod, rules);
        }
    }
    let mut nodes: BTreeMap<NodeName, ConnectorNode> = BTreeMap::new();
    for (name, slice) in observed.slices.iter().filter(|(name, _)| rules.takes(&name.namespace)) {
        let Some(service) = slice.labels().get(SERVICE_LABEL) else { continue };
        let service_name = ObjectName::new(&name.namespace, service);
        let Some(service) = observed.services.get(&service_name).filter(|service| is_meant(service, rules)) else {
            continue;
        };
        let taken = match Taken::read(&service_name, service) {
            Ok(taken) => taken,
            Err(reason) => {
                refuse(&mut sight, format!("service {service_name}"), reason);
                continue;
            }
        };
        let ports = match taken.ports(slice) {
            Ok(ports) => ports,
            Err(reason) => {
                refuse(&mut sight, format!("service {service_name}"), reason);
                continue;
            }
        };
        for endpoint in &slice.endpoints {
            let Some((pod_name, pod)) = pod_of(endpoint, &name.namespace, &observed.pods) else { continue };
            match taken.on(&ports, endpoint, &pod_name, pod, rules) {
                Ok(Some(one)) => merge(&mut nodes, one),
                Ok(None) => {}
                Err(error) => refuse(&mut sight, format!("pod {pod_name}"), error.to_string()),
            }
        }
    }
    sight.nodes.extend(nodes.into_iter().map(|(name, node)| (name, Wanted::Node(Box::new(node)))));
    sight
}

/// Adds what is on a node to what is there. A pod with addresses of both families stands in two slices of its service.
fn merge(nodes: &mut BTreeMap<NodeName, ConnectorNode>, one: ConnectorNode) {
    let held = match nodes.get_mut(&one.node.name) {
        None => return drop(nodes.insert(one.node.name.clone(), one)),
        Some(held) => held,
    };
    if !one.instances.iter().any(|new| held.instances.iter().any(|held| held.key == new.key)) {
        held.instances.extend(one.instances);
        held.checks.extend(one.checks);
    }
}

fn refuse(sight: &mut Sight, subject: String, reason: String) {
    let problem = ConnectorProblem { kind: ProblemKind::Refused, subject, reason };
    if !sight.problems.contains(&problem) {
        sight.problems.push(problem);
    }
}

/// Says of an agent's pod what the cluster knows: whether it is ready, and that it ends.
fn judge(sight: &mut Sight, name: &ObjectName, pod: &Pod, rules: &SyncRules) {
    let node = match node_of_pod(name, rules.cluster.as_ref()) {
        Ok(node) => node,
        Err(error) => return refuse(sight, format!("pod {name}"), error.to_string()),
    };
    let (status, output) = if pod.metadata.deletion_timestamp.is_some() {
        (CheckStatus::Critical, "the pod is being ended")
    } else if is_ready(pod) {
        (CheckStatus::Passing, "the pod is ready")
    } else {
        (CheckStatus::Critical, "the pod is not ready")
    };
    let id = format!("{}ready", rules.connector.check_prefix());
    let key = CheckKey { node: node.clone(), namespace: Namespace::default(), id: id.parse().expect("it is short") };
    sight.nodes.insert(node, Wanted::Checks(vec![check(key, None, status, output)]));
}

/// Finds the pod behind an endpoint: the very one, and not another that has its name by now.
fn pod_of<'a>(endpoint: &Endpoint, namespace: &str, pods: &'a Mirror<Pod>) -> Option<(ObjectName, &'a Pod)> {
    let target = endpoint.target_ref.as_ref().filter(|target| target.kind.as_deref() == Some("Pod"))?;
    let name = ObjectName::new(namespace, target.name.as_deref()?);
    let pod = pods.get(&name)?;
    let is_same = target.uid.is_none() || target.uid == pod.metadata.uid;
    (is_same && !is_over(pod) && pod.metadata.deletion_timestamp.is_none()).then_some((name, &**pod))
}

/// Reports whether a pod has ended for good.
fn is_over(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

fn has_agent(pod: &Pod) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let init = spec.init_containers.iter().flatten();
    init.chain(&spec.containers).any(|container| container.name == AGENT_CONTAINER)
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|one| one.type_ == "Ready" && one.status == "True")
}

/// Returns what an annotation says.
fn annotation<'a>(object: &'a impl ResourceExt, spelling: &Spelling) -> Option<&'a str> {
    spelling.find(|name| object.annotations().get(name).map(String::as_str)).map(|(_, value)| value)
}

fn is_meant(service: &Service, rules: &SyncRules) -> bool {
    let is_external = service.spec.as_ref().and_then(|spec| spec.type_.as_deref()) == Some("ExternalName");
    !is_external && annotation(service, &SYNC).map_or(rules.by_default, |said| said == "true")
}

/// The port that callers of a service mean, and all that have names.
type Ports = (u16, BTreeMap<String, u16>);

/// Is what a service says of how it is to be in the mesh.
struct Taken {
    namespace: Namespace,
    service: ServiceName,
    port: Option<String>,
    tags: Vec<String>,
    meta: BTreeMap<String, String>,
}

impl Taken {
    fn read(name: &ObjectName, service: &Service) -> Result<Self, String> {
        let text = annotation(service, &NAME).unwrap_or(&name.name);
        let service_name = text.parse().map_err(|error: catalog::NameError| error.to_string())?;
        let namespace = name.namespace.parse().map_err(|error: catalog::NameError| error.to_string())?;
        let tags = tags(annotation(service, &TAGS).unwrap_or_default());
        let meta = META.begun(service.annotations().iter().map(|(name, value)| (name.as_str(), value.as_str())));
        let port = annotation(service, &PORT).map(str::to_owned);
        Ok(Self { namespace, service: service_name, port, tags, meta })
    }

    /// Returns the port that callers mean, and all that have names; or why there is no such port.
    fn ports(&self, slice: &EndpointSlice) -> Result<Ports, String> {
        let all = slice.ports.iter().flatten().filter_map(|port| {
            let number = u16::try_from(port.port?).ok().filter(|number| *number != 0)?;
            let is_tcp = port.protocol.as_deref().unwrap_or("TCP") == "TCP";
            is_tcp.then(|| (port.name.clone().unwrap_or_default(), number))
        });
        let all: Vec<(String, u16)> = all.collect();
        let chosen = self.port.as_ref().and_then(|wanted| {
            let mut named = all.iter().filter(|(name, number)| name == wanted || number.to_string() == *wanted);
            named.next().map(|(_, number)| *number)
        });
        // A slice without endpoints has no ports yet.
        if let (Some(wanted), None, false) = (&self.port, chosen, all.is_empty()) {
            let there: Vec<String> =
                all.iter().map(|(name, number)| format!("{name} {number}").trim().to_owned()).collect();
            return Err(format!("`weft.dev/service-port` says `{wanted}`, but its ports are: {}", there.join(", ")));
        }
        // The API server lists the ports of a service in the order of their names at times: the least number is stable.
        let port = chosen.or_else(|| all.iter().map(|(_, number)| *number).min()).unwrap_or(0);
        Ok((port, all.into_iter().filter(|(name, _)| !name.is_empty()).collect()))
    }

    /// Returns the node of a pod with the service's instance on it; none where an agent registers it itself, or nobody can
    /// reach it yet.
    fn on(
        &self,
        (port, ports): &Ports,
        endpoint: &Endpoint,
        name: &ObjectName,
        pod: &Pod,
        rules: &SyncRules,
    ) -> Result<Option<ConnectorNode>, catalog::NameError> {
        let ip = pod.status.as_ref().and_then(|status| status.pod_ip.clone()).filter(|ip| !ip.is_empty());
        let (Some(ip), false) = (ip, has_agent(pod)) else { return Ok(None) };
        let node = node_of_pod(name, rules.cluster.as_ref())?;
        let id = self.service.as_str().parse()?;
        let key = InstanceKey { node: node.clone(), namespace: self.namespace.clone(), id };
        let check_id = format!("ready:{}", self.service).parse()?;
        let check_key = CheckKey { node: node.clone(), namespace: self.namespace.clone(), id: check_id };
        // What an endpoint does not say counts as ready.
        let is_ready = endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true);
        let (status, output) = if is_ready {
            (CheckStatus::Passing, "the endpoint is ready")
        } else {
            (CheckStatus::Critical, "the endpoint is not ready")
        };
        let instance = Instance {
            key,
            service: self.service.clone(),
            address: None,
            port: *port,
            ports: ports.clone(),
            mesh_port: None,
            tags: self.tags.clone(),
            meta: self.meta.clone(),
            tagged_addresses: BTreeMap::new(),
            weights: Weights::default(),
            enable_tag_override: false,
            upstreams: Vec::new(),
            bypassable: None,
            created: CatalogIndex::default(),
            modified: CatalogIndex::default(),
        };
        Ok(Some(ConnectorNode {
            node: node_entry(node, name, pod, ip, endpoint.zone.clone(), rules),
            checks: vec![check(check_key, Some(&instance), status, output)],
            instances: vec![instance],
        }))
    }
}

fn check(key: CheckKey, instance: Option<&Instance>, status: CheckStatus, output: &str) -> Check {
    Check {
        key,
        name: "Kubernetes readiness".to_owned(),
        status,
        notes: String::new(),
        output: output.to_owned(),
        instance: instance.map(|instance| instance.key.id.clone()),
        kind: String::new(),
        created: CatalogIndex::default(),
        modified: CatalogIndex::default(),
    }
}

fn node_entry(
    node: NodeName,
    name: &ObjectName,
    pod: &Pod,
    address: String,
    zone: Option<String>,
    rules: &SyncRules,
) -> Node {
    let on = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
    let facts =
        [("pod", Some(name.name.clone())), ("namespace", Some(name.namespace.clone())), ("kubernetes-node", on)];
    let facts = facts.into_iter().filter_map(|(fact, value)| Some((fact.to_owned(), value?)));
    Node {
        name: node,
        id: pod.metadata.uid.clone(),
        address,
        platform: Platform::Kubernetes,
        zone,
        network: String::new(),
        gateway_port: None,
        owner: rules.connector.owner(),
        incarnation: None,
        meta: facts.collect(),
        tagged_addresses: BTreeMap::new(),
        created: CatalogIndex::default(),
        modified: CatalogIndex::default(),
    }
}

#[cfg(test)]
mod tests;
