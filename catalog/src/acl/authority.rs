//! The rules of all that a token is linked to, merged, and what they say.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{Access, NamePattern, NameRule, Rules, ServiceRule};
use crate::{Namespace, NodeName, ServiceKey, ServicePattern, SourcePattern};

/// Is what somebody may do. The default one may do nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Authority {
    is_management: bool,
    /// Whether it is of a token that a login made.
    #[serde(default)]
    is_by_login: bool,
    acl: Option<Access>,
    operator: Option<Access>,
    mesh: Option<Access>,
    agents: Names,
    nodes: Names,
    exact: BTreeMap<String, Scope>,
    prefixes: BTreeMap<String, Scope>,
}

/// Is what is granted on names of one kind.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Names {
    exact: BTreeMap<String, Access>,
    prefixes: BTreeMap<String, Access>,
}

/// Is what is granted within one namespace, or within those that begin alike.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Scope {
    acl: Option<Access>,
    nodes: Names,
    services: Names,
    intentions: Names,
}

impl Authority {
    /// Returns the authority to do everything.
    #[must_use]
    pub fn management() -> Self {
        Self { is_management: true, ..Self::default() }
    }

    /// Reports whether everything is granted.
    #[must_use]
    pub fn is_management(&self) -> bool {
        self.is_management
    }

    /// Notes that it is of a token that a login made: what that brings about must not outlive the login.
    pub(crate) fn set_by_login(&mut self) {
        self.is_by_login = true;
    }

    /// Reports whether it is of a token that a login made.
    pub(crate) fn is_by_login(&self) -> bool {
        self.is_by_login
    }

    /// Adds what `rules` grant; what names no namespace is of `namespace`.
    ///
    /// Outside `default`, what is of the whole mesh grants nothing: a namespace's own people must not reach beyond it.
    pub fn add(&mut self, rules: &Rules, namespace: &Namespace) {
        let is_mesh_wide = *namespace == Namespace::default_namespace();
        if is_mesh_wide {
            merge(&mut self.acl, rules.acl);
            merge(&mut self.operator, rules.operator);
            merge(&mut self.mesh, rules.mesh);
            self.agents.add(&rules.agents);
            self.nodes.add(&rules.nodes);
            for block in &rules.namespaces {
                let scope = self.scope(&block.namespace);
                merge(&mut scope.acl, block.acl);
                scope.nodes.add(&block.nodes);
                scope.add_services(&block.services);
            }
        }
        let own = self.scope(&NamePattern::Exact(namespace.to_string()));
        own.add_services(&rules.services);
        if !is_mesh_wide {
            merge(&mut own.acl, rules.acl);
            own.nodes.add(&rules.nodes);
        }
    }

    /// Grants everything.
    pub fn add_management(&mut self) {
        self.is_management = true;
    }

    fn scope(&mut self, namespace: &NamePattern) -> &mut Scope {
        match namespace {
            NamePattern::Exact(name) => self.exact.entry(name.clone()).or_default(),
            NamePattern::Prefix(prefix) => self.prefixes.entry(prefix.clone()).or_default(),
        }
    }

    /// Returns the scopes that speak of a namespace, most specific first.
    fn scopes<'a>(&'a self, namespace: Probe<'a>) -> impl Iterator<Item = &'a Scope> + Clone {
        let exact = if namespace.is_exact { self.exact.get(namespace.text) } else { None };
        let prefixes = beginnings(namespace.text).filter_map(|beginning| self.prefixes.get(beginning));
        exact.into_iter().chain(prefixes)
    }

    fn on_service(&self, namespace: Probe<'_>, name: Probe<'_>, of: fn(&Scope) -> &Names) -> Option<Access> {
        self.scopes(namespace).find_map(|scope| of(scope).decide(name))
    }

    /// Reports whether a service, its instances and their checks may be seen.
    #[must_use]
    pub fn service_read(&self, service: &ServiceKey) -> bool {
        self.is_management || self.of_service(service, |scope| &scope.services).is_some_and(Access::reads)
    }

    /// Reports whether instances of a service may be registered and removed, and a certificate be asked for it.
    #[must_use]
    pub fn service_write(&self, service: &ServiceKey) -> bool {
        self.is_management || self.of_service(service, |scope| &scope.services).is_some_and(Access::writes)
    }

    fn of_service(&self, service: &ServiceKey, of: fn(&Scope) -> &Names) -> Option<Access> {
        self.on_service(Probe::exact(service.namespace.as_str()), Probe::exact(service.name.as_str()), of)
    }

    /// Reports whether a node may be seen.
    #[must_use]
    pub fn node_read(&self, node: &NodeName) -> bool {
        self.is_management || self.nodes.decide(Probe::exact(node.as_str())).is_some_and(Access::reads)
    }

    /// Reports whether a node may be registered, changed and removed, and checks of its own.
    #[must_use]
    pub fn node_write(&self, node: &NodeName) -> bool {
        self.is_management || self.nodes.decide(Probe::exact(node.as_str())).is_some_and(Access::writes)
    }

    /// Reports whether every node may be registered, changed and removed, whatever it is called.
    #[must_use]
    pub fn every_node_write(&self) -> bool {
        let probes = self.nodes.probes();
        self.is_management || probes.into_iter().all(|probe| self.nodes.decide(probe).is_some_and(Access::writes))
    }

    /// Reports whether instances of a service on a node may be seen: both have to be visible, the node by the rules of the
    /// service's namespace or by those of the mesh.
    #[must_use]
    pub fn instance_read(&self, node: &NodeName, service: &ServiceKey) -> bool {
        let probe = Probe::exact(node.as_str());
        let within = || {
            let mut scopes = self.scopes(Probe::exact(service.namespace.as_str()));
            scopes.find_map(|scope| scope.nodes.decide(probe)).or_else(|| self.nodes.decide(probe))
        };
        self.is_management || (self.service_read(service) && within().is_some_and(Access::reads))
    }

    /// Reports whether an intention may be seen: by the right on either side.
    #[must_use]
    pub fn intention_read(&self, source: &SourcePattern, destination: &ServicePattern) -> bool {
        let source = match source {
            SourcePattern::Service(pattern) => self.any_intention_read(pattern),
            SourcePattern::Spiffe(_) => false,
        };
        self.is_management || source || self.any_intention_read(destination)
    }

    fn any_intention_read(&self, pattern: &ServicePattern) -> bool {
        self.probe_intentions(pattern, &mut |access| access.is_some_and(Access::reads))
    }

    /// Reports whether an intention may be written, by the right on its destination: on every service that it names.
    #[must_use]
    pub fn intention_write(&self, destination: &ServicePattern) -> bool {
        self.is_management || !self.probe_intentions(destination, &mut |access| !access.is_some_and(Access::writes))
    }

    /// Reports whether intentions toward one service may be seen.
    #[must_use]
    pub fn intentions_of_read(&self, service: &ServiceKey) -> bool {
        self.is_management || self.of_service(service, |scope| &scope.intentions).is_some_and(Access::reads)
    }

    /// Reports whether the servers' own state may be seen.
    #[must_use]
    pub fn operator_read(&self) -> bool {
        self.is_management || self.operator.is_some_and(Access::reads)
    }

    /// Reports whether the servers may be operated.
    #[must_use]
    pub fn operator_write(&self) -> bool {
        self.is_management || self.operator.is_some_and(Access::writes)
    }

    /// Reports whether settings of the whole mesh may be seen.
    #[must_use]
    pub fn mesh_read(&self) -> bool {
        self.is_management || self.mesh.or(self.operator).is_some_and(Access::reads)
    }

    /// Reports whether settings of the whole mesh may be changed.
    #[must_use]
    pub fn mesh_write(&self) -> bool {
        self.is_management || self.mesh.or(self.operator).is_some_and(Access::writes)
    }

    /// Reports whether what an agent tells of itself may be seen.
    #[must_use]
    pub fn agent_read(&self, node: &NodeName) -> bool {
        self.is_management || self.agents.decide(Probe::exact(node.as_str())).is_some_and(Access::reads)
    }

    /// Reports whether an agent may be told to leave, to reload, or to go into maintenance.
    #[must_use]
    pub fn agent_write(&self, node: &NodeName) -> bool {
        self.is_management || self.agents.decide(Probe::exact(node.as_str())).is_some_and(Access::writes)
    }

    /// Reports whether tokens, policies and roles of a namespace may be seen; those of `default` are the whole mesh's.
    #[must_use]
    pub fn acl_read(&self, namespace: &Namespace) -> bool {
        self.is_management || self.on_acl(namespace).is_some_and(Access::reads)
    }

    /// Reports whether tokens, policies and roles of a namespace may be written; those of `default` are the whole mesh's.
    #[must_use]
    pub fn acl_write(&self, namespace: &Namespace) -> bool {
        self.is_management || self.on_acl(namespace).is_some_and(Access::writes)
    }

    fn on_acl(&self, namespace: &Namespace) -> Option<Access> {
        if *namespace == Namespace::default_namespace() {
            return self.acl;
        }
        self.scopes(Probe::exact(namespace.as_str())).find_map(|scope| scope.acl).or(self.acl)
    }

    /// Tries every different answer that the rules give on intentions toward what `pattern` names, until one is `wanted`.
    ///
    /// Rules are few and names are many: it is enough to ask about each name that a rule has, and about a name that begins
    /// like a rule's prefix and is in no other rule.
    fn probe_intentions(&self, pattern: &ServicePattern, wanted: &mut dyn FnMut(Option<Access>) -> bool) -> bool {
        let of: fn(&Scope) -> &Names = |scope| &scope.intentions;
        match pattern {
            ServicePattern::Exact(service) => wanted(self.of_service(service, of)),
            ServicePattern::Namespace(namespace) => self.probe_names(Probe::exact(namespace.as_str()), of, wanted),
            ServicePattern::Any => {
                let exact = self.exact.keys().map(|name| Probe::exact(name));
                let prefixes = self.prefixes.keys().map(|prefix| Probe::beginning(prefix));
                let all: BTreeSet<Probe<'_>> = exact.chain(prefixes).chain([Probe::beginning("")]).collect();
                all.into_iter().any(|namespace| self.probe_names(namespace, of, wanted))
            }
        }
    }

    fn probe_names(
        &self,
        namespace: Probe<'_>,
        of: fn(&Scope) -> &Names,
        wanted: &mut dyn FnMut(Option<Access>) -> bool,
    ) -> bool {
        let none = Probe::beginning("");
        let all: BTreeSet<Probe<'_>> =
            self.scopes(namespace).flat_map(|scope| of(scope).probes()).chain([none]).collect();
        all.into_iter().any(|name| wanted(self.on_service(namespace, name, of)))
    }
}

impl Scope {
    fn add_services(&mut self, rules: &[ServiceRule]) {
        for rule in rules {
            self.services.insert(&rule.name, rule.access);
            self.intentions.insert(&rule.name, rule.on_intentions());
        }
    }
}

impl Names {
    fn add(&mut self, rules: &[NameRule]) {
        for rule in rules {
            self.insert(&rule.name, rule.access);
        }
    }

    fn insert(&mut self, name: &NamePattern, access: Access) {
        let (names, text) = match name {
            NamePattern::Exact(name) => (&mut self.exact, name),
            NamePattern::Prefix(prefix) => (&mut self.prefixes, prefix),
        };
        let held = names.entry(text.clone()).or_insert(access);
        *held = (*held).max(access);
    }

    /// Returns the names that between them get every different answer.
    fn probes(&self) -> BTreeSet<Probe<'_>> {
        let exact = self.exact.keys().map(|name| Probe::exact(name));
        let prefixes = self.prefixes.keys().map(|prefix| Probe::beginning(prefix));
        exact.chain(prefixes).chain([Probe::beginning("")]).collect()
    }

    /// Returns what the most specific rule grants; none where no rule speaks of the name.
    fn decide(&self, name: Probe<'_>) -> Option<Access> {
        let exact = if name.is_exact { self.exact.get(name.text) } else { None };
        exact.or_else(|| beginnings(name.text).find_map(|beginning| self.prefixes.get(beginning))).copied()
    }
}

/// Is a name to be judged: one name, or one that begins like this and that no rule has to the letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Probe<'a> {
    text: &'a str,
    is_exact: bool,
}

impl<'a> Probe<'a> {
    fn exact(text: &'a str) -> Self {
        Self { text, is_exact: true }
    }

    fn beginning(text: &'a str) -> Self {
        Self { text, is_exact: false }
    }
}

/// Returns the text and everything that it begins with, longest first.
fn beginnings(text: &str) -> impl Iterator<Item = &str> + Clone {
    (0..=text.len()).rev().filter_map(|end| text.get(..end))
}

fn merge(held: &mut Option<Access>, added: Option<Access>) {
    *held = (*held).max(added);
}
