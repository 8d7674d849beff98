//! The services that this agent stands beside: from files, and from its API.

mod definition;
mod error;
mod files;
mod ports;

use std::collections::BTreeMap;
use std::path::PathBuf;

use catalog::{AgentRecord, CheckId, CheckKey, InstanceId, InstanceKey, Namespace, NodeName, ServiceKey};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use wire::surroundings::Observed;

pub(crate) use definition::{CheckDefinition, Definition, LocalUpstream};
pub use error::LocalError;
pub(crate) use files::{Content, read_acceptable as read_files};
pub use files::{DEFINITION_FIELDS, DefinitionSource, check as check_definitions};
use ports::Given;
pub(crate) use ports::{Reserved, application_ports};

/// More services than this do not stand beside one agent.
const SERVICES_MAX: usize = 1024;
/// More checks than this are not made by one agent.
const CHECKS_MAX: usize = 4096;

/// Where a definition came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A configuration file.
    File(PathBuf),
    /// The local API.
    Api,
}

impl std::fmt::Display for Origin {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => write!(formatter, "`{}`", path.display()),
            Self::Api => formatter.write_str("the local API"),
        }
    }
}

#[derive(Clone, Debug)]
struct Entry<T> {
    definition: T,
    origin: Origin,
    /// What the API was sent, to be read again by the same decoder after a restart.
    written: Option<Value>,
}

/// What is kept of registrations over the API.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Registered {
    services: Vec<Value>,
    checks: Vec<Value>,
    maintenance: Vec<(Namespace, InstanceId, String)>,
    /// Why the node is in maintenance, while it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    node_maintenance: Option<String>,
}

/// Names an instance or check of this node.
type OnNode<Id> = (Namespace, Id);

/// The services and checks of one agent. Whatever is in it may be served: what may not was refused on the way in.
#[derive(Clone, Debug)]
pub(crate) struct Local {
    node: NodeName,
    /// The services that may be served; nothing while that is not known, and any may.
    entitled: Option<Vec<ServiceKey>>,
    reserved: Reserved,
    outbound: Given,
    services: BTreeMap<OnNode<InstanceId>, Entry<Definition>>,
    checks: BTreeMap<OnNode<CheckId>, Entry<CheckDefinition>>,
    maintenance: BTreeMap<OnNode<InstanceId>, CheckDefinition>,
    /// The check that keeps the whole node from being called, while it is in maintenance.
    node_maintenance: Option<CheckDefinition>,
    /// How what the platform runs beside the agent is.
    neighbours: Vec<CheckDefinition>,
    /// The check that says that the platform ends this node; it is never taken away again.
    ending: Option<CheckDefinition>,
    /// Definitions that were refused when the agent started, for whoever asks why they are not served.
    refused: Vec<String>,
}

impl Local {
    /// Begins without services; `outbound` are the ports for redirected connections that they were given in an earlier run.
    pub(crate) fn new(record: AgentRecord, reserved: Reserved, outbound: BTreeMap<ServiceKey, u16>) -> Self {
        let outbound = Given(outbound);
        Self { reserved, outbound, entitled: Some(record.services), ..Self::of_any_service(record.node) }
    }

    /// Gives each service that is redirected a port for its connections, if it names none; reports whether that changed
    /// anything.
    pub(crate) fn give_outbound_ports(&mut self) -> bool {
        let definitions = self.services.values().map(|entry| &entry.definition);
        self.outbound.give(definitions, &self.reserved)
    }

    /// Returns the ports that services were given, for the next run.
    pub(crate) fn given_outbound_ports(&self) -> &BTreeMap<ServiceKey, u16> {
        &self.outbound.0
    }

    /// Returns the ports of the listeners for redirected connections, and the service that calls by each.
    pub(crate) fn outbound_ports(&self) -> BTreeMap<u16, ServiceKey> {
        let port = |service: &Definition| Some((self.outbound.port_of(service)?, service.instance.service_key()));
        self.services().filter_map(port).collect()
    }

    /// Takes the services that the agent may stand before from now on. What was registered before stays: without a
    /// certificate it is not served.
    pub(crate) fn entitle(&mut self, services: Vec<ServiceKey>) {
        self.entitled = Some(services);
    }

    /// Returns what judges definitions of any service, before it is known what an agent may serve and where it listens.
    fn of_any_service(node: NodeName) -> Self {
        Self {
            node,
            entitled: None,
            reserved: Reserved::default(),
            outbound: Given::default(),
            services: BTreeMap::new(),
            checks: BTreeMap::new(),
            maintenance: BTreeMap::new(),
            node_maintenance: None,
            neighbours: Vec::new(),
            ending: None,
            refused: Vec::new(),
        }
    }

    pub(crate) fn node(&self) -> &NodeName {
        &self.node
    }

    pub(crate) fn refused(&self) -> &[String] {
        &self.refused
    }

    pub(crate) fn services(&self) -> impl Iterator<Item = &Definition> {
        self.services.values().map(|entry| &entry.definition)
    }

    /// Returns every check, those that belong to a service's definition and those registered alone.
    pub(crate) fn checks(&self) -> BTreeMap<CheckKey, CheckDefinition> {
        let of_services = self.services().flat_map(|service| service.checks.iter().cloned());
        let alone = self.checks.values().map(|entry| entry.definition.clone());
        let in_maintenance = self.maintenance.values().chain(&self.node_maintenance).cloned();
        let of_platform = self.neighbours.iter().chain(&self.ending).cloned();
        of_services
            .chain(alone)
            .chain(in_maintenance)
            .chain(of_platform)
            .map(|check| (check.check.key.clone(), check))
            .collect()
    }

    /// Takes what the files say; what is refused is remembered, and the rest is served.
    pub(crate) fn take_files(&mut self, definitions: Vec<(PathBuf, files::Content)>) {
        for (path, content) in definitions {
            let origin = Origin::File(path);
            let result = self.take(content, &origin);
            self.note(&origin, result);
        }
    }

    fn take(&mut self, content: files::Content, origin: &Origin) -> Result<(), LocalError> {
        match content {
            files::Content::Service(service) => {
                self.add_service(Definition::new(self.node(), *service)?, origin.clone(), None)
            }
            files::Content::Check(check) => {
                self.add_check(CheckDefinition::alone(self.node(), *check)?, origin.clone(), None)
            }
        }
    }

    /// Takes what was registered over the API before a restart; what is refused by now is remembered as refused.
    pub(crate) fn take_registered(&mut self, registered: Registered) {
        for value in registered.services {
            let result = self.register_service(value).map(drop);
            self.note(&Origin::Api, result);
        }
        for value in registered.checks {
            let result = self.register_check(value);
            self.note(&Origin::Api, result);
        }
        for (namespace, id, reason) in registered.maintenance {
            match self.set_maintenance(&namespace, &id, Some(reason)) {
                // A service that is gone needs no maintenance.
                Err(LocalError::UnknownService { .. }) => {}
                result => self.note(&Origin::Api, result),
            }
        }
        if let Some(reason) = registered.node_maintenance {
            let result = self.set_node_maintenance(Some(reason));
            self.note(&Origin::Api, result);
        }
    }

    /// Takes what the files say now in the place of what they said before. What was registered over the API stays; its
    /// checks and maintenance of a service that no file defines any more go with the service.
    ///
    /// # Errors
    ///
    /// The first definition that is refused, naming its file; everything stays as it was then.
    pub(crate) fn reload_files(&mut self, definitions: Vec<(PathBuf, files::Content)>) -> Result<(), LocalError> {
        let mut next = self.clone();
        next.services.retain(|_, entry| entry.origin == Origin::Api);
        next.checks.retain(|_, entry| entry.origin == Origin::Api);
        next.refused.clear();
        for (path, content) in definitions {
            let taken = next.take(content, &Origin::File(path.clone()));
            taken.map_err(|source| LocalError::Defined { path, source: Box::new(source) })?;
        }
        let services = &next.services;
        next.maintenance.retain(|key, _| services.contains_key(key));
        next.checks.retain(|(namespace, _), entry| {
            let instance = entry.definition.check.instance.clone();
            instance.is_none_or(|id| services.contains_key(&(namespace.clone(), id)))
        });
        *self = next;
        Ok(())
    }

    /// Returns what is to be kept of registrations over the API.
    pub(crate) fn registered(&self) -> Registered {
        Registered {
            services: self.services.values().filter_map(|entry| entry.written.clone()).collect(),
            checks: self.checks.values().filter_map(|entry| entry.written.clone()).collect(),
            maintenance: self
                .maintenance
                .iter()
                .map(|((namespace, id), check)| (namespace.clone(), id.clone(), check.check.notes.clone()))
                .collect(),
            node_maintenance: self.node_maintenance.as_ref().map(|check| check.check.notes.clone()),
        }
    }

    /// Takes the body of a service registration.
    pub(crate) fn register_service(&mut self, body: Value) -> Result<(), LocalError> {
        let definition = Definition::decode(self.node(), body.clone())?;
        self.add_service(definition, Origin::Api, Some(body))
    }

    /// Takes the body of a check registration.
    pub(crate) fn register_check(&mut self, body: Value) -> Result<(), LocalError> {
        let definition = CheckDefinition::decode(self.node(), body.clone())?;
        self.add_check(definition, Origin::Api, Some(body))
    }

    pub(crate) fn deregister_service(&mut self, namespace: &Namespace, id: &InstanceId) -> Result<(), LocalError> {
        let key = (namespace.clone(), id.clone());
        let entry = self.services.get(&key).ok_or_else(|| LocalError::UnknownService { id: id.clone() })?;
        if let Origin::File(path) = &entry.origin {
            return Err(LocalError::InFile { what: "service", id: id.to_string(), path: path.clone() });
        }
        self.services.remove(&key);
        self.maintenance.remove(&key);
        self.checks.retain(|(of, _), entry| of != namespace || entry.definition.check.instance.as_ref() != Some(id));
        Ok(())
    }

    pub(crate) fn deregister_check(&mut self, namespace: &Namespace, id: &CheckId) -> Result<(), LocalError> {
        let key = (namespace.clone(), id.clone());
        let Some(entry) = self.checks.get(&key) else {
            return Err(match self.owner_of(namespace, id) {
                Some(service) => LocalError::CheckOfService { id: id.clone(), service },
                None => LocalError::UnknownCheck { id: id.clone() },
            });
        };
        if let Origin::File(path) = &entry.origin {
            return Err(LocalError::InFile { what: "check", id: id.to_string(), path: path.clone() });
        }
        self.checks.remove(&key);
        Ok(())
    }

    /// Puts a service into maintenance, with the reason, or takes it out.
    pub(crate) fn set_maintenance(
        &mut self,
        namespace: &Namespace,
        id: &InstanceId,
        reason: Option<String>,
    ) -> Result<(), LocalError> {
        let key = (namespace.clone(), id.clone());
        if !self.services.contains_key(&key) {
            return Err(LocalError::UnknownService { id: id.clone() });
        }
        match reason {
            Some(reason) => {
                let instance = InstanceKey { node: self.node.clone(), namespace: namespace.clone(), id: id.clone() };
                self.maintenance.insert(key, CheckDefinition::maintenance(&instance, &reason)?)
            }
            None => self.maintenance.remove(&key),
        };
        Ok(())
    }

    /// Puts the whole node into maintenance, with the reason, or takes it out.
    pub(crate) fn set_node_maintenance(&mut self, reason: Option<String>) -> Result<(), LocalError> {
        let node = self.node.clone();
        self.node_maintenance = reason.map(|reason| CheckDefinition::node_maintenance(&node, &reason)).transpose()?;
        Ok(())
    }

    /// Takes what the platform says into checks of the node; reports whether that changed anything.
    pub(crate) fn observe(&mut self, observed: &Observed) -> bool {
        let neighbours = observed.neighbours.iter().map(|it| CheckDefinition::neighbour(&self.node, it)).collect();
        let is_first_end = observed.is_ending && self.ending.is_none();
        if is_first_end {
            self.ending = Some(CheckDefinition::ending(&self.node));
        }
        let are_others = self.neighbours != neighbours;
        self.neighbours = neighbours;
        is_first_end || are_others
    }

    fn add_service(
        &mut self,
        definition: Definition,
        origin: Origin,
        written: Option<Value>,
    ) -> Result<(), LocalError> {
        let key = (definition.instance.key.namespace.clone(), definition.instance.key.id.clone());
        self.entitled(&definition.instance.service_key())?;
        if let Some(entry) = self.services.get(&key) {
            replaceable("service", definition.instance.key.id.as_str(), &entry.origin, &origin)?;
        } else if self.services.len() >= SERVICES_MAX {
            return Err(LocalError::TooMany { what: "services", most: SERVICES_MAX });
        }
        let others = self.services.iter().filter(|(known, _)| **known != key).map(|(_, entry)| &entry.definition);
        // The new one last, so that a clash of two listeners names it and not the one that was there before.
        let all = others.chain(std::iter::once(&definition));
        ports::check(all.clone(), &self.reserved, &self.outbound)?;
        if self.checks.len() + all.map(|definition| definition.checks.len()).sum::<usize>() > CHECKS_MAX {
            return Err(LocalError::TooMany { what: "checks", most: CHECKS_MAX });
        }
        for check in &definition.checks {
            self.free_check_id(&check.check.key, Some(&key.1))?;
        }
        self.services.insert(key, Entry { definition, origin, written });
        Ok(())
    }

    fn add_check(
        &mut self,
        definition: CheckDefinition,
        origin: Origin,
        written: Option<Value>,
    ) -> Result<(), LocalError> {
        let key = (definition.check.key.namespace.clone(), definition.check.key.id.clone());
        if let Some(instance) = &definition.check.instance
            && !self.services.contains_key(&(key.0.clone(), instance.clone()))
        {
            return Err(LocalError::UnknownService { id: instance.clone() });
        }
        match self.checks.get(&key) {
            Some(entry) => replaceable("check", key.1.as_str(), &entry.origin, &origin)?,
            None if self.checks().len() >= CHECKS_MAX => {
                return Err(LocalError::TooMany { what: "checks", most: CHECKS_MAX });
            }
            None => self.free_check_id(&definition.check.key, None)?,
        }
        self.checks.insert(key, Entry { definition, origin, written });
        Ok(())
    }

    fn entitled(&self, service: &ServiceKey) -> Result<(), LocalError> {
        let Some(entitled) = self.entitled.as_ref().filter(|entitled| !entitled.contains(service)) else {
            return Ok(());
        };
        Err(LocalError::NotEntitled {
            service: service.clone(),
            node: self.node.clone(),
            entitled: entitled.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        })
    }

    /// Refuses an id that a check of another service, or one registered alone, has already.
    fn free_check_id(&self, key: &CheckKey, owner: Option<&InstanceId>) -> Result<(), LocalError> {
        let taken = match self.owner_of(&key.namespace, &key.id) {
            Some(service) => Some(&service) != owner,
            None => owner.is_some() && self.checks.contains_key(&(key.namespace.clone(), key.id.clone())),
        };
        if taken { Err(LocalError::CheckTaken { id: key.id.clone() }) } else { Ok(()) }
    }

    /// Returns the service whose own definition has the check.
    fn owner_of(&self, namespace: &Namespace, id: &CheckId) -> Option<InstanceId> {
        let has = |definition: &&Definition| {
            definition.instance.key.namespace == *namespace
                && definition.checks.iter().any(|check| check.check.key.id == *id)
        };
        self.services().find(has).map(|definition| definition.instance.key.id.clone())
    }

    fn note(&mut self, origin: &Origin, result: Result<(), LocalError>) {
        if let Err(error) = result {
            let error = wire::one_line(&error);
            tracing::warn!(origin = %origin, error, "service definition refused; it is not served");
            self.refused.push(format!("{origin}: {error}"));
        }
    }
}

/// A definition from the API may be replaced over the API; what a file says only the file changes.
fn replaceable(what: &'static str, id: &str, known: &Origin, new: &Origin) -> Result<(), LocalError> {
    match (known, new) {
        (Origin::Api, Origin::Api) => Ok(()),
        (Origin::File(path), Origin::Api) => Err(LocalError::InFile { what, id: id.to_owned(), path: path.clone() }),
        (known, Origin::File(_)) => Err(LocalError::Twice { what, id: id.to_owned(), known: known.to_string() }),
    }
}

#[cfg(test)]
mod tests;
