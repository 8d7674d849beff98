//! What the catalog should have by what stands in Cloud Map.

use std::collections::BTreeMap;

use catalog::{
    CatalogIndex, Check, CheckKey, CheckStatus, ConnectorNode, ConnectorProblem, Instance, InstanceKey, Namespace,
    Node, NodeName, Platform, ProblemKind, ServiceName, Weights,
};

use super::mark::{self, CLOUD_MAP, Owner, SOURCE};
use super::view::{CloudInstance, CloudService, CloudView, Health, TaskWord};
use crate::plan::{SCOPE, Sight, Wanted};

/// How many attributes of an instance are kept, beside those of Cloud Map's own.
const META_MAX: usize = 48;
const META_TEXT_MAX: usize = 512;

/// Says which namespaces of Cloud Map come into which of the mesh.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImportRule {
    /// The namespaces by their names in Cloud Map; all of them where this is empty.
    pub namespaces: BTreeMap<String, Namespace>,
    /// Where everything goes as long as no namespace is named.
    pub other: Namespace,
}

impl ImportRule {
    /// Returns where the services of a namespace go; none where they stay out.
    #[must_use]
    pub fn target(&self, namespace: &str) -> Option<&Namespace> {
        if self.namespaces.is_empty() { Some(&self.other) } else { self.namespaces.get(namespace) }
    }
}

/// Returns what the catalog should have. What began in this mesh, or came through it, stays out.
#[must_use]
pub fn import(view: &CloudView, rule: &ImportRule, owner: &Owner) -> Sight {
    let mut sight = Sight { is_complete: view.is_complete, problems: view.problems.clone(), ..Sight::default() };
    // A namespace that could not be listed hides services whose ids are not known.
    sight.is_complete &= view.unseen.iter().all(|namespace| rule.target(namespace).is_none());
    for service in &view.services {
        let Some(target) = rule.target(&service.namespace) else { continue };
        let Some(instances) = &service.instances else {
            sight.unseen.insert(service.id.clone());
            continue;
        };
        let Ok(name) = service.name.to_ascii_lowercase().parse::<ServiceName>() else {
            sight.problems.push(refused(service, "its name is none of the mesh: use 1 to 63 of a-z, 0-9 and `-`"));
            continue;
        };
        for instance in instances {
            if mark::been_in(&instance.attributes).contains(&owner.mesh.as_str()) {
                continue;
            }
            // What stands in the catalog of it may be right: it is not written anew by half of what there is to know.
            if view.tasks.get(&instance.id) == Some(&TaskWord::Unknown) {
                sight.unseen.insert(service.id.clone());
                continue;
            }
            let (namespace, service_name) = (target.clone(), name.clone());
            match node(view, service, instance, namespace, service_name, owner) {
                Ok(node) => {
                    sight.nodes.insert(node.node.name.clone(), Wanted::Node(Box::new(node)));
                }
                Err(why) => sight.problems.push(refused(service, &format!("instance `{}`: {why}", instance.id))),
            }
        }
    }
    sight
}

fn refused(service: &CloudService, reason: &str) -> ConnectorProblem {
    let subject = format!("Cloud Map service {}/{}", service.namespace, service.name);
    ConnectorProblem { kind: ProblemKind::Refused, subject, reason: reason.to_owned() }
}

fn node(
    view: &CloudView,
    service: &CloudService,
    instance: &CloudInstance,
    namespace: Namespace,
    name: ServiceName,
    owner: &Owner,
) -> Result<ConnectorNode, String> {
    let of = |key: &str| instance.attributes.get(key).filter(|value| !value.is_empty());
    let address = of("AWS_INSTANCE_IPV4").or_else(|| of("AWS_INSTANCE_IPV6")).or_else(|| of("AWS_INSTANCE_CNAME"));
    let address = address.ok_or("it has no address: an alias of a load balancer is not carried")?.clone();
    let port = match of("AWS_INSTANCE_PORT") {
        Some(port) => port.parse::<u16>().map_err(|_| format!("its port `{}` is none", port.escape_debug()))?,
        None => 0,
    };
    let node_name = node_name(&service.id, &instance.id);
    let is_task = of("ECS_CLUSTER_NAME").is_some();
    let key = InstanceKey {
        node: node_name.clone(),
        namespace,
        id: format!("{name}-{}", &wire::crypto::sha256_hex(instance.id.as_bytes())[..12])
            .parse()
            .map_err(|error: catalog::NameError| error.to_string())?,
    };
    let checks = checks(view, instance, &key);
    Ok(ConnectorNode {
        node: Node {
            name: node_name,
            id: Some(instance.id.clone()),
            address,
            platform: if is_task { Platform::Ecs } else { Platform::Vm },
            zone: of("AVAILABILITY_ZONE").cloned(),
            network: String::new(),
            gateway_port: None,
            owner: owner.connector.owner(),
            incarnation: None,
            meta: whence(service, instance),
            tagged_addresses: BTreeMap::new(),
            created: CatalogIndex::default(),
            modified: CatalogIndex::default(),
        },
        instances: vec![Instance {
            key,
            service: name,
            address: None,
            port,
            ports: BTreeMap::new(),
            mesh_port: None,
            tags: Vec::new(),
            meta: kept(instance),
            tagged_addresses: BTreeMap::new(),
            weights: Weights::default(),
            enable_tag_override: false,
            upstreams: Vec::new(),
            bypassable: None,
            created: CatalogIndex::default(),
            modified: CatalogIndex::default(),
        }],
        checks,
    })
}

/// Says where a node is from.
fn whence(service: &CloudService, instance: &CloudInstance) -> BTreeMap<String, String> {
    let meta = [
        (SCOPE, service.id.as_str()),
        (SOURCE, CLOUD_MAP),
        ("cloud-map-namespace", service.namespace.as_str()),
        ("cloud-map-service", service.name.as_str()),
        ("cloud-map-instance", instance.id.as_str()),
    ];
    meta.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// Returns the attributes that somebody gave the instance for others to read.
fn kept(instance: &CloudInstance) -> BTreeMap<String, String> {
    let is_own = |key: &str| key.starts_with("AWS_") || key == mark::OWNER || key == mark::INSTANCE;
    let kept = instance.attributes.iter().filter(|(key, value)| {
        !is_own(key) && !key.is_empty() && key.len() <= META_TEXT_MAX && value.len() <= META_TEXT_MAX
    });
    kept.take(META_MAX).map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// Names a node so that it can be told where it is from: the service's id and the instance's, hashed where that is no name.
fn node_name(service: &str, instance: &str) -> NodeName {
    let plain = format!("{service}.{instance}");
    plain.parse().unwrap_or_else(|_| {
        let hashed = format!("cloud-map-{}", &wire::crypto::sha256_hex(plain.as_bytes())[..40]);
        hashed.parse().expect("letters, digits and hyphens make a node's name")
    })
}

fn checks(view: &CloudView, instance: &CloudInstance, key: &InstanceKey) -> Vec<Check> {
    let check = |id: &str, name: &str, status: CheckStatus, output: String| Check {
        key: CheckKey {
            node: key.node.clone(),
            namespace: key.namespace.clone(),
            id: id.parse().expect("it is a check's id"),
        },
        name: name.to_owned(),
        status,
        notes: String::new(),
        output,
        instance: Some(key.id.clone()),
        kind: String::new(),
        created: CatalogIndex::default(),
        modified: CatalogIndex::default(),
    };
    let health = match instance.health {
        Health::Healthy => Some((CheckStatus::Passing, "HEALTHY")),
        Health::Unhealthy => Some((CheckStatus::Critical, "UNHEALTHY")),
        Health::Unknown => None,
    };
    let health = health.map(|(status, word)| check("cloud-map", "health in Cloud Map", status, word.to_owned()));
    let task = match view.tasks.get(&instance.id) {
        Some(TaskWord::Ended(why)) => Some(check("ecs-task", "task in ECS", CheckStatus::Critical, why.clone())),
        Some(TaskWord::Serves | TaskWord::Unknown) | None => None,
    };
    health.into_iter().chain(task).collect()
}
