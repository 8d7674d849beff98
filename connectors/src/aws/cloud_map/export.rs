//! What Cloud Map should have by what stands in the catalog.

use std::collections::{BTreeMap, BTreeSet};

use catalog::{ConnectorProblem, ProblemKind, ServiceKey};

use super::mark::{self, CLOUD_MAP, ECS_MANAGED, HOPS_MAX, INSTANCE, ORIGIN, OWNER, Owner, SOURCE, VIA};
use super::view::{CloudService, CloudView, Health};
use crate::plan::Caution;

/// How many instances a service of Cloud Map holds (a fixed quota).
const INSTANCES_MAX: usize = 1000;

/// Says that a service of the mesh goes to a namespace of Cloud Map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportRule {
    /// The service.
    pub service: ServiceKey,
    /// The namespace's name in Cloud Map.
    pub namespace: String,
}

/// Is an instance of a service that is exported, as the catalog has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exported {
    /// The node and the instance's id, which name it in the mesh.
    pub name: String,
    /// The IP address that it is reached at.
    pub address: String,
    /// The port that it is reached at.
    pub port: u16,
    /// Whether it may be called.
    pub is_healthy: bool,
    /// The node's meta.
    pub node_meta: BTreeMap<String, String>,
    /// The instance's meta.
    pub meta: BTreeMap<String, String>,
}

/// Is one change of Cloud Map.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(tag = "Action", rename_all_fields = "PascalCase")]
pub enum CloudAction {
    /// Makes a service.
    CreateService {
        /// Its name.
        service: String,
        /// The namespace's name.
        namespace: String,
        /// The namespace's id.
        namespace_id: String,
    },
    /// Registers an instance, or writes it anew.
    Register {
        /// The service's id.
        service: String,
        /// The instance's id.
        id: String,
        /// All of its attributes.
        attributes: BTreeMap<String, String>,
    },
    /// Says how healthy an instance is.
    SetHealth {
        /// The service's id.
        service: String,
        /// The instance's id.
        id: String,
        /// Whether it may be called.
        healthy: bool,
    },
    /// Removes an instance.
    Deregister {
        /// The service's id.
        service: String,
        /// The instance's id.
        id: String,
    },
}

/// Is what to do with one service of Cloud Map, in order, and what is left for now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExportPlan {
    /// The service, for people.
    pub subject: String,
    /// What to do.
    pub actions: Vec<CloudAction>,
    /// What is left, and why.
    pub problems: Vec<ConnectorProblem>,
}

/// Returns what Cloud Map should have of one service. `instances` are all that the catalog has: where it could not be read,
/// this must not be asked.
#[must_use]
pub fn export(
    view: &CloudView,
    rule: &ExportRule,
    instances: &[Exported],
    owner: &Owner,
    caution: Caution,
) -> ExportPlan {
    let name = rule.service.name.to_string();
    let subject = subject(&rule.namespace, &name);
    let mut plan = ExportPlan { subject: subject.clone(), ..ExportPlan::default() };
    let mut problem = |kind: ProblemKind, reason: String| {
        plan.problems.push(ConnectorProblem { kind, subject: subject.clone(), reason });
    };
    let Some(namespace_id) = view.namespaces.get(&rule.namespace) else {
        if view.shared_names.contains(&rule.namespace) {
            problem(
                ProblemKind::Refused,
                "several namespaces are called so: export to one whose name is its own".to_owned(),
            );
        } else if view.is_complete {
            problem(ProblemKind::Refused, "there is no such namespace: make it, or export to another".to_owned());
        }
        return plan;
    };
    let there = view.services.iter().find(|service| service.namespace == rule.namespace && service.name == name);
    let Some(there) = there else {
        if !view.unseen.contains(&rule.namespace) {
            let (namespace, namespace_id) = (rule.namespace.clone(), namespace_id.clone());
            plan.actions.push(CloudAction::CreateService { service: name, namespace, namespace_id });
        }
        return plan;
    };
    if let Some((kind, reason)) = obstacle(there, owner) {
        problem(kind, reason);
        return plan;
    }
    let Some(listed) = &there.instances else { return plan };
    let wanted = wanted(instances, owner, &mut problem);
    let foreign = listed.iter().filter(|one| wanted.contains_key(&one.id) && !owner.keeps(&one.id, &one.attributes));
    let foreign: BTreeSet<&str> = foreign.map(|one| one.id.as_str()).collect();
    for id in &foreign {
        problem(ProblemKind::Conflict, format!("instance `{id}` has our id and somebody else's marks: remove it"));
    }
    let held: BTreeMap<&str, _> =
        listed.iter().filter(|one| owner.keeps(&one.id, &one.attributes)).map(|one| (one.id.as_str(), one)).collect();
    let (mut health, service) = (Vec::new(), there.id.clone());
    for (id, (attributes, is_healthy)) in wanted.iter().filter(|(id, _)| !foreign.contains(id.as_str())) {
        let there = held.get(id.as_str());
        if there.is_none_or(|there| !says_the_same(attributes, &there.attributes)) {
            let mut attributes = attributes.clone();
            let word = if *is_healthy { "HEALTHY" } else { "UNHEALTHY" };
            attributes.insert("AWS_INIT_HEALTH_STATUS".to_owned(), word.to_owned());
            plan.actions.push(CloudAction::Register { service: service.clone(), id: id.clone(), attributes });
        }
        if there.is_some_and(|there| (there.health == Health::Healthy) != *is_healthy) {
            health.push(CloudAction::SetHealth { service: service.clone(), id: id.clone(), healthy: *is_healthy });
        }
    }
    plan.actions.extend(health);
    let gone: Vec<&str> = held.keys().filter(|id| !wanted.contains_key(**id)).copied().collect();
    plan.remove(&service, &gone, held.len(), (owner, caution));
    plan
}

/// Returns what to remove of services that no rule sends to Cloud Map any more: their records would be kept by nobody.
#[must_use]
pub fn withdraw(view: &CloudView, rules: &[ExportRule], owner: &Owner, caution: Caution) -> Vec<ExportPlan> {
    let is_sent = |service: &CloudService| {
        rules.iter().any(|rule| rule.namespace == service.namespace && *rule.service.name.as_str() == service.name)
    };
    let left = view.services.iter().filter(|service| !is_sent(service));
    let plans = left.filter_map(|service| {
        let kept = service.instances.iter().flatten().filter(|one| owner.keeps(&one.id, &one.attributes));
        let kept: Vec<&str> = kept.map(|one| one.id.as_str()).collect();
        let subject = subject(&service.namespace, &service.name);
        let mut plan = ExportPlan { subject, ..ExportPlan::default() };
        plan.remove(&service.id, &kept, kept.len(), (owner, caution));
        (!kept.is_empty()).then_some(plan)
    });
    plans.collect()
}

fn subject(namespace: &str, name: &str) -> String {
    format!("Cloud Map service {namespace}/{name}")
}

impl ExportPlan {
    /// Removes instances of a service that has `held` of the connector's, unless they are too many at once.
    fn remove(&mut self, service: &str, gone: &[&str], held: usize, (owner, caution): (&Owner, Caution)) {
        if crate::plan::is_rash(gone.len(), held, caution) {
            let (count, connector) = (gone.len(), &owner.connector);
            let reason = format!(
                "{count} of {held} instances would go at once, which may be a mistake: `weft connector confirm {connector} \
                 --removals {count}` lets them go"
            );
            let subject = self.subject.clone();
            self.problems.push(ConnectorProblem { kind: ProblemKind::Held, subject, reason });
            return;
        }
        let deregister = |id: &&str| CloudAction::Deregister { service: service.to_owned(), id: (*id).to_owned() };
        self.actions.extend(gone.iter().map(deregister));
    }
}

/// Returns why a service is not touched; none where it is this connector's.
fn obstacle(service: &CloudService, owner: &Owner) -> Option<(ProblemKind, String)> {
    let Some(tags) = &service.tags else {
        return Some((ProblemKind::Degraded, "whose it is could not be seen".to_owned()));
    };
    if tags.get(ECS_MANAGED).is_some_and(|value| value == "true") {
        return Some((ProblemKind::Conflict, "ECS keeps it for Service Connect: export under another name".to_owned()));
    }
    match tags.get(OWNER) {
        Some(held) if *held == owner.text() => (!service.has_custom_health).then(|| {
            (ProblemKind::Conflict, "it takes no health from outside: delete it, and it is made anew".to_owned())
        }),
        Some(held) => Some((ProblemKind::Conflict, format!("it belongs to `{held}`"))),
        None => Some((ProblemKind::Conflict, "somebody made it who is no connector of ours".to_owned())),
    }
}

type Wanted = BTreeMap<String, (BTreeMap<String, String>, bool)>;

fn wanted(instances: &[Exported], owner: &Owner, problem: &mut impl FnMut(ProblemKind, String)) -> Wanted {
    let mut wanted = Wanted::new();
    for instance in instances.iter().filter(|one| one.node_meta.get(SOURCE).is_none_or(|from| from != CLOUD_MAP)) {
        let mut via: Vec<&str> = mark::been_in(&instance.meta);
        via.dedup();
        if via.contains(&owner.mesh.as_str()) {
            continue;
        }
        if instance.port == 0 || via.len() >= HOPS_MAX {
            problem(ProblemKind::Refused, format!("{} has no port, or came through too many meshes", instance.name));
            continue;
        }
        let (origin, via) = (via.first().copied().unwrap_or(&owner.mesh), [&via[..], &[owner.mesh.as_str()]].concat());
        let address = match instance.address.parse::<std::net::IpAddr>() {
            Ok(std::net::IpAddr::V4(_)) => "AWS_INSTANCE_IPV4",
            Ok(std::net::IpAddr::V6(_)) => "AWS_INSTANCE_IPV6",
            Err(_) => {
                problem(ProblemKind::Refused, format!("{} has a host name for an address", instance.name));
                continue;
            }
        };
        let attributes = [
            (address, instance.address.clone()),
            ("AWS_INSTANCE_PORT", instance.port.to_string()),
            (ORIGIN, origin.to_owned()),
            (VIA, via.join(",")),
            (OWNER, owner.text()),
            (INSTANCE, instance.name.clone()),
        ];
        let attributes = attributes.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        wanted.insert(owner.instance_id(&instance.name), (attributes, instance.is_healthy));
    }
    if wanted.len() > INSTANCES_MAX {
        let beyond = wanted.len() - INSTANCES_MAX;
        problem(ProblemKind::Refused, format!("a service holds {INSTANCES_MAX} instances: {beyond} stay out"));
        wanted = wanted.into_iter().take(INSTANCES_MAX).collect();
    }
    wanted
}

/// Compares what is ours to say; what others added to a record stays.
fn says_the_same(wanted: &BTreeMap<String, String>, found: &BTreeMap<String, String>) -> bool {
    wanted.iter().all(|(key, value)| found.get(key) == Some(value))
}
