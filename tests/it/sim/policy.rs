//! Policy is never wider than what was committed: whatever an agent lets through, some state of the catalog between the oldest
//! that it holds and the newest lets through, too.

use std::collections::BTreeMap;
use std::sync::Arc;

use agent::sync::{TopicState, View};
use catalog::{
    Action, AuditCause, Caller, Catalog, CatalogIndex, Command, Decision, Guardrail, Intention, Item, MeshEntry,
    Namespace, Policy, PolicyChange, RelaxedScope, RevocationChange, ServiceKey, ServicePattern, SourcePattern,
    Timestamp, Topic, authorize,
};

use super::agents::services_of;
use super::checks::{Checked, check};
use super::mesh::Mesh;
use super::network::Place;
use super::operator::{SERVICES, service};
use super::plan::Planted;

/// The policy toward each service, at every index that some server applied.
#[derive(Debug, Default)]
pub(crate) struct Committed(BTreeMap<ServiceKey, BTreeMap<CatalogIndex, Arc<Policy>>>);

impl Committed {
    pub(super) fn applied(&mut self, catalog: &Catalog) {
        for name in SERVICES {
            let (service, index) = (service(name), catalog.index());
            let known = self.0.entry(service.clone()).or_default();
            // Servers apply in steps of their own: what another one saw in between comes later.
            if !known.contains_key(&index) {
                let policy = catalog.policy_for(&service);
                let before = known.range(..=index).next_back().map(|(_, before)| before);
                let same = before.filter(|before| ***before == policy).map(Arc::clone);
                known.insert(index, same.unwrap_or_else(|| Arc::new(policy)));
            }
        }
    }

    /// Returns what was in force at an index.
    fn at(&self, service: &ServiceKey, index: CatalogIndex) -> Option<&Policy> {
        self.0.get(service)?.get(&index).map(|policy| &**policy)
    }

    /// Returns what was in force at an index, and everything since.
    fn since(&self, service: &ServiceKey, index: CatalogIndex) -> impl Iterator<Item = &Policy> {
        let known = self.0.get(service);
        let first = known.and_then(|known| known.range(..=index).next_back());
        let later = known.into_iter().flat_map(move |known| known.range(CatalogIndex(index.0 + 1)..));
        first.into_iter().chain(later).map(|(_, policy)| &**policy)
    }
}

/// Returns the policy that a view makes, put together as a proxy does it, and the oldest index in it.
fn policy_of(view: &View, service: &ServiceKey) -> Option<(Policy, CatalogIndex)> {
    let (mesh, rules) = (view.get(&Topic::Mesh)?, view.get(&Topic::Intentions(service.clone()))?);
    let Some(Item::Mesh(entry)) = mesh.items.values().next() else { return None };
    let intentions = |rules: &Arc<TopicState>| -> Vec<Intention> {
        let intention = |item: &Item| match item {
            Item::Intention(intention) => Some(Intention::clone(intention)),
            _ => None,
        };
        rules.items.values().filter_map(intention).collect()
    };
    // What speaks of other services changes nothing here, and servers leave it out.
    let guardrails = entry.guardrails.iter().filter(|rule| rule.destination.matches(service)).cloned().collect();
    let relaxations = entry.relaxations.iter().filter(|one| one.scope.covers(service)).cloned().collect();
    let policy =
        Policy::new(entry.default_action, guardrails, intentions(rules)).with_audit(entry.audit.clone(), relaxations);
    Some((policy, mesh.index.min(rules.index)))
}

/// Whether a call passes, be it only because denials are not carried out.
fn passes(policy: &Policy, caller: &Caller, destination: &ServiceKey, now: Timestamp) -> Option<Option<AuditCause>> {
    let verdict = authorize(policy, caller, destination, now);
    (verdict.decision != Decision::Deny || verdict.audit.is_some()).then_some(verdict.audit)
}

impl Mesh {
    /// What an agent goes by is what was committed at the index that it says, or else, what it lets through, some state lets
    /// through that was committed since the oldest of what it goes by. What restrains it takes nothing away from that.
    pub(super) fn agent_is_not_wider(&mut self, id: u64) -> Checked {
        if !self.plan.has_policy {
            return Ok(());
        }
        let now = self.clock(Place::Agent(id));
        let agent = &self.streams.agents[&id];
        let callers: Vec<ServiceKey> =
            (0..4).map(|number| service(&format!("caller-{number}"))).chain(SERVICES.map(service)).collect();
        let (mut decided, mut restrained) = (0, 0);
        for destination in services_of(id) {
            let Some((mut policy, oldest)) = policy_of(&agent.published, &destination) else { continue };
            if self.plan.planted == Planted::ForgetsGuardrails {
                policy.guardrails.clear();
            }
            if let Some(at) = agent.settled_at {
                let committed = self.streams.committed.at(&destination, at);
                check!(
                    committed == Some(&policy),
                    "agent {id} lets through what {policy:?} lets, as of {at}, where {committed:?} was committed"
                );
            }
            if let Some((restraint, _)) = policy_of(&agent.restraint, &destination) {
                policy = policy.restrained_by(restraint);
                restrained += 1;
            }
            for caller in &callers {
                let caller = Caller::Service(caller.clone());
                decided += 1;
                if passes(&policy, &caller, &destination, now).is_none() {
                    continue;
                }
                let mut since = self.streams.committed.since(&destination, oldest);
                check!(
                    since.any(|policy| passes(policy, &caller, &destination, now).is_some()),
                    "agent {id} lets {caller} call {destination} by {policy:?}, and nothing that was committed since \
                     {oldest} does"
                );
            }
        }
        self.summary.streams.decided += decided;
        self.summary.streams.restrained += restrained;
        Ok(())
    }

    /// Returns what comes to the operator's mind of policy beside intentions.
    pub(super) fn operator_thinks_of_policy(&mut self) -> Option<Command> {
        let change = match self.random.within(0..8) {
            0..3 => {
                let entry = self.entry_with_guardrails();
                return Some(Command::WriteMesh { entry, compare: None });
            }
            3 | 4 => {
                let lasts_ms = self.random.within(60_000..120_000);
                PolicyChange::Relax { scope: self.scope(), reason: "a rehearsal".to_owned(), lasts_ms }
            }
            5 | 6 => PolicyChange::EndRelaxation { scope: self.scope() },
            _ => {
                let service = service(self.random.choose(&SERVICES));
                // Whoever serves it goes on under a new record.
                let agents: Vec<u64> = self.streams.agents.keys().copied().collect();
                let change = RevocationChange::Service { service: service.clone() };
                self.streams.operator.push(Command::Revoke { change });
                for id in agents.into_iter().filter(|id| services_of(*id).contains(&service)) {
                    if self.streams.agents[&id].record.is_some() {
                        self.agent(id).is_replaced = true;
                        self.streams.operator.enrol(id);
                    }
                }
                return None;
            }
        };
        Some(Command::Policy { change })
    }

    fn scope(&mut self) -> RelaxedScope {
        if self.random.happens(50) { RelaxedScope::Mesh } else { RelaxedScope::Namespace(Namespace::default()) }
    }

    fn entry_with_guardrails(&mut self) -> MeshEntry {
        let count = self.random.within(0..3);
        let guardrails = (0..count).map(|number| {
            let source = service(&format!("caller-{}", self.random.within(0..4)));
            let destination = self.random.choose(&["api", "db", "web", "*"]);
            Guardrail {
                name: format!("guardrail-{number}"),
                source: SourcePattern::Service(ServicePattern::Exact(source)),
                destination: ServicePattern::parse(destination, &Namespace::default()).expect("it is a destination"),
            }
        });
        let guardrails = guardrails.collect();
        let default_action = if self.random.happens(50) { Action::Allow } else { Action::Deny };
        MeshEntry { default_action, guardrails, ..MeshEntry::default() }
    }
}
