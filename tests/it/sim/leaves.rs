//! The leaves of simulated agents: asked for as the agent's machine says, signed by whoever is entitled, and shown to each
//! other in handshakes that must not fail.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use agent::renewal::{Leaves, Renewable};
use agent::sync;
use catalog::{AgentId, Catalog, Item, ServiceKey, SpiffeId, Timestamp, Topic};
use server::entitled;
use server::raft::Input;
use wire::agent_protocol::Subject;

use super::agents::services_of;
use super::checks::{Checked, check};
use super::connections::{Heard, Said};
use super::mesh::Mesh;
use super::network::Place;
use super::plan::Planted;
use super::servers::{Asker, Subject as Asked};
use super::streams::StreamEvent;

/// How often an agent looks whether a leaf is due.
const LOOK: Duration = Duration::from_millis(400);
/// How long an agent waits for a leaf.
const PATIENCE: Duration = Duration::from_secs(14);
/// A leaf that lives shorter than this is no part of a handshake: clocks differ by less.
const MARGIN: Duration = Duration::from_secs(3);

/// A leaf: what a certificate says, without the certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SimLeaf {
    record: AgentId,
    id: SpiffeId,
    root: String,
    /// The root that certified this one, if that is sent with the leaf.
    cross: Option<String>,
    signer: String,
    obtained: Timestamp,
    not_after: Timestamp,
}

impl SimLeaf {
    /// Returns the roots that vouch for it.
    fn vouching(&self) -> impl Iterator<Item = &String> {
        std::iter::once(&self.root).chain(&self.cross)
    }
}

impl Renewable for SimLeaf {
    fn obtained(&self) -> Timestamp {
        self.obtained
    }

    fn not_after(&self) -> Timestamp {
        self.not_after
    }

    fn signer(&self) -> &str {
        &self.signer
    }
}

/// Returns whom an agent needs leaves for.
pub(super) fn subjects_of(id: u64) -> impl Iterator<Item = Subject> {
    services_of(id).into_iter().map(Subject::Service).chain([Subject::Agent])
}

/// What a server signs from what it knows: the decision is the server's own, the certificate only its facts.
fn sign(catalog: &Catalog, record: &AgentId, subject: &Subject, unset: Duration, now: Timestamp) -> Option<SimLeaf> {
    let record = catalog.agent_record(record)?;
    let id = entitled(catalog, record, subject).ok()?;
    let signer = catalog.active_intermediate()?;
    let root = catalog.root(&signer.root_id).filter(|_| signer.not_after > now)?;
    let cross = root.cross.as_ref().and_then(|cross| catalog.root(&cross.signed_by)).filter(|by| !by.retired);
    let ttl = catalog.ca_config().leaf_ttl().unwrap_or(unset);
    Some(SimLeaf {
        record: record.id.clone(),
        id,
        root: root.id.clone(),
        cross: cross.map(|by| by.id.clone()),
        signer: signer.id.clone(),
        obtained: now,
        not_after: now.saturating_add(ttl).min(signer.not_after),
    })
}

impl Mesh {
    pub(super) fn start_leaves(&mut self) {
        if self.plan.rotates {
            self.plan_stream(Duration::from_secs(2), StreamEvent::Handshake);
        }
    }

    /// An agent started: it holds what it kept, and asks for the rest.
    pub(super) fn leaves_start(&mut self, id: u64, kept: BTreeMap<Subject, SimLeaf>) {
        if !self.plan.rotates {
            return;
        }
        let mut leaves = Leaves::new(kept, self.random.next());
        leaves.need(&subjects_of(id).collect());
        let agent = self.agent(id);
        agent.leaves = Some(leaves);
        agent.distrusted = 0;
        agent.roots_in_force.clear();
        let life = agent.life;
        self.plan_stream(LOOK, StreamEvent::AgentNeedsLeaf { agent: id, life });
        self.agent_has_news(id);
    }

    /// What an agent decides by is something else soon: its proxy and its leaves hear of it together.
    pub(super) fn agent_has_news(&mut self, id: u64) {
        if self.plan.rotates {
            let (after, life) = (self.random.millis(0..20), self.agent(id).life);
            self.plan_stream(after, StreamEvent::AgentEnforces { agent: id, life });
        }
    }

    /// An agent puts into force what it was told.
    pub(super) fn agent_enforces(&mut self, id: u64, life: u64) -> Checked {
        let (wall, now) = (self.clock(Place::Agent(id)), self.schedule.now());
        let agent = self.agent(id);
        let Some(leaves) = agent.leaves.as_mut().filter(|_| agent.life == life) else { return Ok(()) };
        let items = |topic| agent.published.get(topic).into_iter().flat_map(|state| state.items.values());
        let signer = items(&Topic::Roots).find_map(|item| match item {
            Item::Root { signer, .. } => signer.clone(),
            _ => None,
        });
        let distrusted = items(&Topic::Revocations).filter(|item| matches!(item, Item::DistrustedRoot { .. })).count();
        let roots: BTreeSet<String> =
            agent.published.get(&Topic::Roots).into_iter().flat_map(|state| state.items.keys().cloned()).collect();
        if agent.roots_in_force != roots {
            agent.roots_in_force = roots;
            leaves.roots_came(now);
        }
        if let Some(signer) = signer {
            let is_urgent = distrusted > std::mem::replace(&mut agent.distrusted, distrusted);
            leaves.follow(&signer, wall, is_urgent);
        }
        let renewed = leaves.are_renewed();
        self.agent_step(id, sync::Input::Enforced { renewed })
    }

    /// An agent asks for a leaf, if one is due and a server is there.
    pub(super) fn agent_needs_leaf(&mut self, id: u64, life: u64) {
        let (wall, now) = (self.clock(Place::Agent(id)), self.schedule.now());
        let agent = self.agent(id);
        if agent.life != life {
            return;
        }
        let (link, leaves) = (agent.link, agent.leaves.as_mut());
        let asked = link.zip(leaves).and_then(|(link, leaves)| Some((link, leaves.ask(wall, now)?)));
        self.plan_stream(LOOK, StreamEvent::AgentNeedsLeaf { agent: id, life });
        let Some((link, subject)) = asked else { return };
        let number = self.streams.number();
        self.trace.say(now, || format!("agent {id} asks over {link} for a leaf of {subject:?}: {number}"));
        self.agent(id).asked_leaf = Some((number, link, subject.clone()));
        self.plan_stream(PATIENCE, StreamEvent::AgentHasNoLeaf { agent: id, life, number });
        self.send_up(link, Said::Sign { number, subject });
    }

    /// A server is asked for a leaf: it reads what was committed, and signs from that.
    pub(super) fn server_is_asked_for_leaf(&mut self, id: u64, connection: u64, number: u64, subject: Subject) {
        let Ok(record) = self.record(id, connection) else {
            return self.send_down(connection, Heard::Signed { number, leaf: None });
        };
        let is_revoked = matches!(&subject, Subject::Service(service) if self.checks.is_revoked(service, &record.id));
        let has_ended = is_revoked || self.checks.has_ended(&record.id);
        let Some(server) = self.servers.get_mut(&id) else { return };
        let asked = Asked::Leaf { connection, record: record.id, subject, has_ended };
        let asker = Asker { place: Place::Server(id), number, floor: catalog::CatalogIndex(0), subject: asked };
        let name = server.ask(asker.clone());
        if self.plan.planted == Planted::ReadsStale {
            // The bug that is put in: a server signs from what it has.
            let _ = self.server_signs(id, &asker);
        } else {
            self.input(id, Input::ReadIndex { id: name });
        }
    }

    /// A server knows what was committed when it was asked for a leaf.
    pub(super) fn server_signs(&mut self, id: u64, asker: &Asker) -> Checked {
        let Asked::Leaf { connection, record, subject, has_ended } = &asker.subject else { return Ok(()) };
        let now = self.clock(Place::Server(id));
        let Some(room) = self.servers.get(&id).and_then(|server| server.room()) else { return Ok(()) };
        let leaf = sign(room.catalog(), record, subject, self.authority.leaf_ttl, now);
        check!(
            leaf.is_none() || !has_ended,
            "a leaf was signed for {record} after the end of what it is entitled to was acknowledged: {leaf:?}"
        );
        *self.summary.certificates.entry(leaf.is_some()).or_default() += 1;
        self.trace.say(self.schedule.now(), || format!("server {id} signs for {record}: {leaf:?}"));
        self.send_down(*connection, Heard::Signed { number: asker.number, leaf: leaf.map(Box::new) });
        Ok(())
    }

    /// An agent has the answer to what it asked for, or gave up waiting.
    pub(super) fn agent_is_signed(&mut self, id: u64, number: u64, leaf: Option<SimLeaf>) {
        let (wall, now) = (self.clock(Place::Agent(id)), self.schedule.now());
        self.trace.say(now, || format!("agent {id} is answered {number}: {leaf:?}"));
        let agent = self.agent(id);
        let Some((_, _, subject)) = agent.asked_leaf.take_if(|(asked, ..)| *asked == number) else { return };
        let Some(leaves) = &mut agent.leaves else { return };
        let roots = agent.published.get(&Topic::Roots).map(|state| &state.items);
        let is_under_known_root =
            |leaf: &SimLeaf| subject == Subject::Agent || roots.is_none_or(|roots| roots.contains_key(&leaf.root));
        match leaf {
            Some(leaf) if !is_under_known_root(&leaf) => leaves.unvouched(&subject, now),
            Some(leaf) => {
                leaves.signed(&subject, SimLeaf { obtained: wall, ..leaf }, wall);
                let life = agent.life;
                self.agent_has_news(id);
                let after = self.random.millis(0..150);
                self.plan_stream(after, StreamEvent::AgentSaves { agent: id, life });
            }
            None => leaves.failed(&subject, None, now),
        }
    }

    /// Two agents shake hands: whoever holds a leaf that lives is recognised by everybody who knows any roots at all.
    pub(super) fn shake_hands(&mut self) -> Checked {
        let after = self.random.millis(50..250);
        self.plan_stream(after, StreamEvent::Handshake);
        let agents: Vec<u64> = self.streams.agents.keys().copied().collect();
        let (caller, callee) = (self.random.choose(&agents), self.random.choose(&agents));
        if caller == callee || !self.serves(caller) || !self.serves(callee) {
            return Ok(());
        }
        self.recognises(callee, caller)?;
        self.recognises(caller, callee)?;
        self.summary.streams.handshakes += 1;
        Ok(())
    }

    /// Whether an agent has roots and a leaf that lives for each of its services.
    fn serves(&self, id: u64) -> bool {
        let (agent, wall) = (&self.streams.agents[&id], self.clock(Place::Agent(id)).saturating_add(MARGIN));
        let has_leaf = |service: ServiceKey| {
            let held = agent.leaves.as_ref().and_then(|leaves| leaves.held().get(&Subject::Service(service)));
            held.is_some_and(|leaf| leaf.not_after > wall)
        };
        let has_roots = [Topic::Roots, Topic::Revocations].iter().all(|topic| agent.published.contains_key(topic));
        agent.process.is_some() && has_roots && services_of(id).into_iter().all(has_leaf)
    }

    fn recognises(&mut self, judge: u64, shown_by: u64) -> Checked {
        let roots = |id: u64| {
            let state = self.streams.agents[&id].published.get(&Topic::Roots);
            state.map(|state| state.items.keys().cloned().collect::<Vec<_>>()).unwrap_or_default()
        };
        let known = roots(judge);
        let Some(leaves) = &self.streams.agents[&shown_by].leaves else { return Ok(()) };
        // Who is under a root that was distrusted on purpose is cut on purpose, and so is who knows no other.
        let is_distrusted = |root: &String| self.authority.distrusted.contains(root);
        let is_left_behind = !known.is_empty() && known.iter().all(is_distrusted);
        let mut cut = 0;
        // An agent's own leaf is for servers.
        for leaf in leaves.held().iter().filter(|(of, _)| **of != Subject::Agent).map(|(_, leaf)| leaf) {
            let vouched = leaf.vouching().any(|root| known.contains(root));
            if !vouched && (is_left_behind || is_distrusted(&leaf.root)) {
                cut += 1;
                continue;
            }
            check!(
                vouched,
                "agent {judge} knows roots {known:?} and does not recognise {leaf:?} of agent {shown_by}, which knows {:?}",
                roots(shown_by)
            );
        }
        self.summary.streams.distrusted += cut;
        Ok(())
    }

    /// Says what is missing until an agent's leaves are all of the intermediate that signs.
    pub(super) fn leaves_rest(&self, id: u64, catalog: &Catalog) -> Result<(), String> {
        let leaves = self.streams.agents[&id].leaves.as_ref().filter(|_| self.authority.is_done());
        let Some(leaves) = leaves else { return Ok(()) };
        let signer = catalog.active_intermediate().map(|one| one.id.as_str());
        for subject in subjects_of(id) {
            let held = leaves.held().get(&subject).ok_or_else(|| format!("it has no leaf for {subject:?}"))?;
            if Some(held.signer.as_str()) != signer || held.not_after <= self.clock(Place::Agent(id)) {
                return Err(format!("it holds {held:?}, and {signer:?} signs"));
            }
        }
        Ok(())
    }
}
