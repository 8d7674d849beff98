//! The certificate authority: the leader takes its steps, an operator begins, hurries and cancels rotations, and leaders die at
//! every step. Certificates are only names and dates here; who recognises whom is decided as the proxy decides it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use catalog::{
    Actor, AgentId, CaChange, CaConfig, CaIntermediate, CaRoot, Catalog, CatalogIndex, Command, CrossCertificate,
    Outcome, RootsAck, RotationStep, SealedSecret, Timestamp,
};
use server::duty::{Duty, next_duty};
use server::raft::Role;

use super::errands::Purpose;
use super::hubs::server_name;
use super::mesh::Mesh;
use super::network::Place;
use super::operator::ROOT;
use super::plan::Planted;
use super::random::Random;
use super::streams::StreamEvent;

/// How often a server looks whether the authority needs something.
const LOOK: Duration = Duration::from_millis(300);
/// What agents said within this time goes into one log entry.
const GATHER: Duration = Duration::from_millis(250);
/// How long certificates live that are drawn once everything is to come to rest.
const CALM: Duration = Duration::from_secs(30 * 24 * 3600);

/// What there is of the authority beside the catalog.
#[derive(Debug)]
pub(crate) struct Authority {
    /// How long leaves live where the catalog does not say.
    pub(super) leaf_ttl: Duration,
    drawn: u64,
    errands: u64,
    /// The life in which each server waits for what it proposed.
    busy: BTreeMap<u64, u64>,
    /// Whether what is drawn from now on lives long.
    is_calm: bool,
    /// Whether the last rotation was begun: everything comes to rest after it.
    is_done: bool,
    /// What a leader was seen at last.
    phase: &'static str,
    /// Every root that any server knew as distrusted, whoever is down now.
    pub(super) distrusted: BTreeSet<String>,
}

impl Authority {
    pub(super) fn new(random: &mut Random, rotates: bool) -> Authority {
        let leaf_ttl = if rotates { random.millis(8_000..20_000) } else { Duration::from_secs(3600) };
        Authority {
            leaf_ttl,
            drawn: 0,
            errands: 0,
            busy: BTreeMap::new(),
            is_calm: false,
            is_done: false,
            phase: "rests",
            distrusted: BTreeSet::new(),
        }
    }

    pub(super) fn is_done(&self) -> bool {
        self.is_done
    }

    pub(super) fn calms_down(&mut self) {
        self.is_calm = true;
    }

    fn leaf_ttl(&self, catalog: &Catalog) -> Duration {
        catalog.ca_config().leaf_ttl().unwrap_or(self.leaf_ttl)
    }

    fn intermediate(&mut self, root: &str, now: Timestamp, life: Duration) -> CaIntermediate {
        self.drawn += 1;
        CaIntermediate {
            id: format!("intermediate-{}", self.drawn),
            root_id: root.to_owned(),
            certificate_pem: ROOT.to_owned(),
            sealed_key: Some(sealed()),
            active: false,
            not_before: now,
            not_after: now.saturating_add(life),
            created: CatalogIndex(0),
            modified: CatalogIndex(0),
        }
    }

    /// Draws a root that the active one certifies where its key is there; `is_operators` if an operator keeps its key.
    fn rotation(
        &mut self,
        catalog: &Catalog,
        now: Timestamp,
        life: Duration,
        (is_operators, distrust_replaced): (bool, bool),
    ) -> Option<CaChange> {
        let active = catalog.active_root()?;
        self.drawn += 1;
        let certifies =
            |_: &SealedSecret| CrossCertificate { signed_by: active.id.clone(), certificate_pem: ROOT.to_owned() };
        let root = CaRoot {
            id: format!("root-{}", self.drawn),
            certificate_pem: ROOT.to_owned(),
            sealed_key: (!is_operators).then(sealed),
            active: false,
            cross: active.sealed_key.as_ref().map(certifies),
            replaced_at: None,
            retired: false,
            not_before: now,
            not_after: now.saturating_add(life * 4),
            created: CatalogIndex(0),
            modified: CatalogIndex(0),
        };
        let intermediate = Box::new(self.intermediate(&root.id, now, life));
        let (root, replaces) = (Box::new(root), active.id.clone());
        Some(CaChange::StartRotation { root, intermediate, replaces, distrust_replaced })
    }
}

fn sealed() -> SealedSecret {
    SealedSecret { key_id: String::new(), nonce: String::new(), ciphertext: String::new() }
}

impl Mesh {
    /// A server started: it looks after the authority from now on, and gathers what agents say of roots.
    pub(super) fn authority_starts(&mut self, server: u64, life: u64) {
        if self.plan.rotates {
            self.plan_stream(LOOK, StreamEvent::AuthorityLooks { server, life });
            self.plan_stream(GATHER, StreamEvent::AcksGather { server, life });
        }
    }

    fn draw_life(&mut self, catalog: &Catalog) -> Duration {
        if self.authority.is_calm {
            return CALM;
        }
        self.authority.leaf_ttl(catalog) * self.random.within(4..10) as u32
    }

    /// The leader does what the authority needs next, one thing at a time.
    pub(super) fn authority_looks(&mut self, id: u64, life: u64) {
        self.plan_stream(LOOK, StreamEvent::AuthorityLooks { server: id, life });
        let status = self.servers.get(&id).and_then(|server| Some(server.room()?.status(self.schedule.now())));
        let is_leader = status.is_some_and(|status| status.role == Role::Leader && status.is_established);
        let Some(here) = self.streams.hubs.get(&id).filter(|_| is_leader) else { return };
        if self.authority.busy.get(&id) == Some(&life) {
            return;
        }
        let (catalog, now) = (here.catalog.clone(), self.clock(Place::Server(id)));
        let duty = match next_duty(&catalog, self.authority.leaf_ttl, now) {
            Duty::Wait { .. } if self.plan.planted == Planted::HurriesRotations => hasty_duty(&catalog),
            duty => duty,
        };
        let life_drawn = self.draw_life(&catalog);
        let (change, not_before) = match duty {
            Duty::Wait { .. } => return,
            Duty::RenewIntermediate { not_before } => {
                let Some(active) = catalog.active_intermediate() else { return };
                let intermediate = Box::new(self.authority.intermediate(&active.root_id, now, life_drawn));
                (CaChange::RenewIntermediate { intermediate, replaces: active.id.clone() }, Some(not_before))
            }
            Duty::StartRotation { not_before } => {
                let Some(change) = self.authority.rotation(&catalog, now, life_drawn, (false, false)) else { return };
                (change, Some(not_before))
            }
            Duty::Activate { root, not_before } => (CaChange::Activate { root }, not_before),
            Duty::Finish { root, not_before } => (CaChange::Finish { root }, not_before),
            Duty::Distrust { root, not_before } => (CaChange::Distrust { root }, not_before),
            Duty::Retire { root, not_before } => {
                let is_hurried = self.plan.planted == Planted::HurriesRotations;
                (CaChange::Retire { root }, (!is_hurried).then_some(not_before))
            }
        };
        self.authority.busy.insert(id, life);
        self.propose_for_authority(id, change, not_before, Purpose::Authority { server: id, life });
        // Some leaders die before anybody else has heard of it.
        if self.plan.has_faults && self.random.happens(15) {
            let after = self.random.millis(0..20);
            self.plan_stream(after, StreamEvent::LeaderDies { server: id, life });
        }
    }

    pub(super) fn leader_dies(&mut self, id: u64) {
        *self.summary.faults.entry("a leader dies at a step of the authority").or_default() += 1;
        self.crash(id);
    }

    fn propose_for_authority(&mut self, id: u64, change: CaChange, not_before: Option<Timestamp>, purpose: Purpose) {
        self.authority.errands += 1;
        let name = format!("authority-{}", self.authority.errands);
        let command = Command::Ca { change, not_before };
        self.run_errand(Place::Server(id), name, Actor::Server(server_name(id)), command, purpose);
    }

    /// What a server proposed for the authority is in the log, or did not get there in time.
    pub(super) fn authority_hears(&mut self, server: u64, life: u64, change: &Command, outcome: Option<&Outcome>) {
        if self.authority.busy.get(&server) == Some(&life) {
            self.authority.busy.remove(&server);
        }
        self.count_step(change, outcome);
    }

    pub(super) fn count_step(&mut self, command: &Command, outcome: Option<&Outcome>) {
        if let (Command::Ca { change, .. }, Some(Outcome::Done | Outcome::RotationBegun { .. })) = (command, outcome) {
            *self.summary.steps.entry(step_name(change)).or_default() += 1;
        }
    }

    /// A server brings what its agents said of roots into the log.
    pub(super) fn acks_gather(&mut self, id: u64, life: u64) {
        self.plan_stream(GATHER, StreamEvent::AcksGather { server: id, life });
        let Some(here) = self.streams.hubs.get_mut(&id).filter(|here| !here.is_acknowledging) else { return };
        let acks = here.acks.batch(&here.catalog);
        if !acks.is_empty() {
            here.is_acknowledging = true;
            let change = CaChange::Acknowledge { acks: acks.clone() };
            self.propose_for_authority(id, change, None, Purpose::Acks { server: id, acks });
        }
    }

    pub(super) fn acks_are_taken(&mut self, id: u64, acks: &BTreeMap<AgentId, RootsAck>, is_answered: bool) {
        let Some(here) = self.streams.hubs.get_mut(&id) else { return };
        here.is_acknowledging = false;
        if is_answered {
            here.acks.committed(acks);
        }
    }

    /// A server applied something. At each new phase of the authority, some leaders die before they can do anything more.
    pub(super) fn authority_is_told(&mut self, id: u64, catalog: &Catalog) {
        if !self.plan.rotates {
            return;
        }
        self.authority.distrusted.extend(catalog.distrusted_roots().map(|(root, _)| root.clone()));
        if self.leader() != Some(id) {
            return;
        }
        let phase = match catalog.ca_rotation().map(|rotation| rotation.step) {
            Some(RotationStep::Distributing) => "the leader dies while a new root is distributed",
            Some(RotationStep::Reissuing) => "the leader dies while leaves are signed anew",
            None => "the leader dies when a rotation has ended",
        };
        if phase != std::mem::replace(&mut self.authority.phase, phase) && self.plan.has_faults {
            let life = self.servers[&id].life;
            if self.random.happens(50) {
                *self.summary.faults.entry(phase).or_default() += 1;
                let after = self.random.millis(0..50);
                self.plan_stream(after, StreamEvent::LeaderDies { server: id, life });
            }
        }
    }

    /// Returns what comes to the operator's mind of the authority, from what is known of it now.
    pub(super) fn operator_thinks_of_authority(&mut self) -> Option<Command> {
        let catalog = self.streams.newest()?.clone();
        let (now, life) = (self.clock(Place::Operator), self.draw_life(&catalog));
        let rotation = catalog.ca_rotation();
        let change = match self.random.within(0..10) {
            0..6 if rotation.is_none() => {
                let draws = (self.random.happens(20), self.random.happens(30));
                self.authority.rotation(&catalog, now, life, draws)?
            }
            6 => CaChange::CancelRotation { root: rotation?.root_id.clone() },
            7 => {
                let active = catalog.active_intermediate()?;
                let intermediate = Box::new(self.authority.intermediate(&active.root_id, now, life));
                CaChange::RenewIntermediate { intermediate, replaces: active.id.clone() }
            }
            8 => {
                let leaf_ttl_ms = Some(self.random.within(6_000..20_000));
                CaChange::Configure { config: CaConfig { leaf_ttl_ms, ..CaConfig::default() }, compare: None }
            }
            9 if self.random.happens(30) => {
                CaChange::Distrust { root: catalog.roots().find(|root| root.replaced_at.is_some())?.id.clone() }
            }
            _ => return None,
        };
        Some(Command::Ca { change, not_before: None })
    }

    /// Returns the last rotation: to a root under which everything lives long.
    pub(super) fn last_rotation(&mut self) -> Option<Command> {
        if !self.plan.rotates {
            return None;
        }
        let catalog = self.streams.newest()?.clone();
        let now = self.clock(Place::Operator);
        self.authority.is_done = true;
        let change = self.authority.rotation(&catalog, now, CALM, (false, false))?;
        Some(Command::Ca { change, not_before: None })
    }

    /// Says what the authority has still to do before everything is at rest.
    pub(super) fn authority_rests(&self, catalog: &Catalog) -> Result<(), String> {
        if !self.authority.is_done {
            return Ok(());
        }
        if let Some(rotation) = catalog.ca_rotation() {
            return Err(format!(
                "a rotation is under way: {rotation:?}, {:?}",
                catalog.roots_acks().collect::<Vec<_>>()
            ));
        }
        let now = self.clock(Place::Operator);
        match next_duty(catalog, self.authority.leaf_ttl, now) {
            Duty::Wait { until } if until.is_none_or(|until| until.since(now) > CALM / 4) => Ok(()),
            duty => Err(format!("the authority is to do something yet: {duty:?}")),
        }
    }
}

/// The bug that is put in: a leader that waits for no agent.
fn hasty_duty(catalog: &Catalog) -> Duty {
    let replaced = catalog.roots().find(|root| root.replaced_at.is_some() && !root.retired);
    match (catalog.ca_rotation(), replaced) {
        (Some(rotation), _) if rotation.step == RotationStep::Distributing => {
            Duty::Activate { root: rotation.root_id.clone(), not_before: None }
        }
        (Some(rotation), _) => Duty::Finish { root: rotation.root_id.clone(), not_before: None },
        (None, Some(root)) => Duty::Retire { root: root.id.clone(), not_before: Timestamp(0) },
        (None, None) => Duty::Wait { until: None },
    }
}

fn step_name(change: &CaChange) -> &'static str {
    match change {
        CaChange::StartRotation { .. } => "a new root is distributed",
        CaChange::CancelRotation { .. } => "a rotation is cancelled",
        CaChange::Acknowledge { .. } => "agents acknowledge roots",
        CaChange::Activate { .. } => "a new root signs",
        CaChange::Finish { .. } => "a rotation ends",
        CaChange::RenewIntermediate { .. } => "an intermediate is renewed",
        CaChange::Retire { .. } => "a root is retired",
        CaChange::Distrust { .. } => "a root is distrusted",
        CaChange::Configure { .. } => "the lives of certificates are set",
        CaChange::Reseal { .. } => "keys are sealed anew",
    }
}
