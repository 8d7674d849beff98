//! What goes wrong between agents and servers, and what must be true once nothing does any more.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use catalog::{Catalog, CatalogIndex, Check, Instance};

use super::agents::Agent;
use super::checks::{Checked, check};
use super::hubs::agent_address;
use super::mesh::Mesh;
use super::network::Place;
use super::plan::Planted;
use super::streams::StreamEvent;

/// How long agents may take, once nothing is wrong, until they hold what the servers hold and the reverse.
const RECOVERY: Duration = Duration::from_secs(120);
/// How long nothing may happen to a session that is in step.
pub(super) const REST: Duration = Duration::from_secs(40);

impl Mesh {
    pub(super) fn start_streams(&mut self) {
        if self.plan.agents == 0 {
            return;
        }
        self.plan_stream(Duration::from_secs(1), StreamEvent::Operator);
        self.start_leaves();
        for agent in self.streams.agents.keys().copied().collect::<Vec<_>>() {
            self.plan_stream(Duration::from_secs(1), StreamEvent::AgentActs { agent });
        }
        if self.plan.has_faults {
            self.plan_stream(Duration::from_secs(2), StreamEvent::Fault);
        }
    }

    /// Draws the next fault between agents and servers and lets it happen.
    pub(super) fn stream_fault(&mut self) -> Checked {
        if !self.plan.has_faults {
            return Ok(());
        }
        // A write of an older session needs somebody to overtake it.
        let (pause, kinds) =
            if self.plan.planted == Planted::ForgetsFences { (50..400, 0..2) } else { (50..1500, 0..15) };
        let after = self.random.millis(pause);
        self.plan_stream(after, StreamEvent::Fault);
        let agents: Vec<u64> = self.streams.agents.keys().copied().collect();
        let servers: Vec<u64> = self.servers.keys().copied().collect();
        let (agent, server) = (self.random.choose(&agents), self.random.choose(&servers));
        let kind = match self.random.within(kinds) {
            0 | 1 | 12.. => {
                // Everybody who waits for an answer turns to another server, and what it wrote may still be on its way.
                let waits = |agent: &Agent| agent.link.filter(|_| !agent.pending.is_empty());
                for link in self.streams.agents.values().filter_map(waits).collect::<Vec<_>>() {
                    self.cut(link, true);
                }
                "agents that write lose their connections"
            }
            2 | 3 => {
                let is_loud = self.random.happens(50);
                if let Some(link) = self.agent(agent).link {
                    self.cut(link, is_loud);
                }
                "an agent loses its connection"
            }
            4 | 5 => {
                self.agent_crashes(agent, true);
                "an agent is killed"
            }
            6 => {
                self.agent_crashes(agent, false);
                "an agent is killed and loses its disk"
            }
            7 if self.plan.gives_up && self.random.happens(50) => {
                let away = self.random.millis(5_000..30_000);
                self.agent_is_away(agent, away);
                "an agent is away"
            }
            7 => {
                let until = self.schedule.now() + self.random.millis(100..12_000);
                self.agent(agent).paused_until = until;
                "an agent stands still"
            }
            8 => {
                self.network.cut(Place::Agent(agent), Place::Server(server));
                "an agent is not heard"
            }
            9 => {
                self.network.cut(Place::Server(server), Place::Agent(agent));
                "an agent hears nothing"
            }
            10 => {
                self.agent_leaves(agent)?;
                "an agent leaves"
            }
            11 => {
                for server in servers {
                    self.network.cut(Place::Agent(agent), Place::Server(server));
                }
                "an agent reaches no server"
            }
        };
        *self.summary.faults.entry(kind).or_default() += 1;
        Ok(())
    }

    /// Lets everything come to rest, and changes every topic once more.
    pub(super) fn streams_recover(&mut self) -> Checked {
        if self.plan.agents == 0 {
            return Ok(());
        }
        for agent in self.streams.agents.values_mut() {
            agent.paused_until = Duration::ZERO;
        }
        self.streams.operator.is_done = true;
        self.authority.calms_down();
        self.strayed_agents_are_started_anew();
        if self.plan.planted == Planted::Nothing {
            self.come_into_step(RECOVERY)?;
        }
        self.an_agent_goes_for_good()?;
        self.a_rotation_ends()?;
        let rotation = self.last_rotation();
        self.streams.operator.finish(rotation);
        self.plan_stream(Duration::ZERO, StreamEvent::Operator);
        self.run_for(Duration::from_secs(1))?;
        let patience = match self.plan.planted {
            Planted::LosesTheLastEvent => REST,
            // A last rotation, and the retirement of every root before.
            _ if self.plan.rotates => RECOVERY * 3,
            _ => RECOVERY,
        };
        self.come_into_step(patience)
    }

    /// Who was out of reach while every server that it knew of was replaced finds nobody: an operator starts it anew, with the
    /// addresses of those that are there.
    fn strayed_agents_are_started_anew(&mut self) {
        if !self.plan.has_membership {
            return;
        }
        let there: BTreeSet<String> =
            self.servers.values().filter(|it| !it.is_lost).map(|it| agent_address(it.id)).collect();
        let has_strayed = |agent: &Agent| {
            agent.process.as_ref().is_some_and(|machine| machine.servers().iter().all(|known| !there.contains(known)))
        };
        let strayed = self.streams.agents.iter().filter(|(_, agent)| has_strayed(agent)).map(|(id, _)| *id);
        for id in strayed.collect::<Vec<_>>() {
            self.agent_crashes(id, true);
            *self.summary.steps.entry("an agent that knows no server any more is started anew").or_default() += 1;
        }
    }

    /// The last rotation is refused while another one is under way, and nothing takes its place.
    fn a_rotation_ends(&mut self) -> Checked {
        let deadline = self.schedule.now() + RECOVERY;
        while self.streams.newest().is_none_or(|catalog| catalog.ca_rotation().is_some()) {
            check!(self.schedule.now() < deadline, "after {RECOVERY:?} without faults a rotation is still under way");
            self.run_for(Duration::from_millis(500))?;
        }
        Ok(())
    }

    pub(super) fn come_into_step(&mut self, patience: Duration) -> Checked {
        let deadline = self.schedule.now() + patience;
        while let Err(what) = self.is_in_step() {
            check!(self.schedule.now() < deadline, "after {patience:?} without faults {what}");
            self.run_for(Duration::from_millis(500))?;
        }
        Ok(())
    }

    /// Agents and servers agree at the end, and have nothing more to say to each other.
    pub(super) fn streams_agree(&mut self) -> Checked {
        if self.plan.agents == 0 {
            return Ok(());
        }
        let before =
            (self.summary.streams.sessions, self.summary.streams.written, self.streams.newest().map(Catalog::index));
        self.run_for(REST)?;
        let after =
            (self.summary.streams.sessions, self.summary.streams.written, self.streams.newest().map(Catalog::index));
        check!(before == after, "sessions, writes and index went from {before:?} to {after:?} without any cause");
        let verdict = self.is_in_step();
        check!(verdict.is_ok(), "after everything was at rest {}", verdict.err().unwrap_or_default());
        Ok(())
    }

    /// Says what is not yet as it should be in the end.
    fn is_in_step(&self) -> Result<(), String> {
        let streams = &self.streams;
        if !streams.operator.rests() {
            return Err("the operator is busy".to_owned());
        }
        if !streams.errands.is_empty() {
            let first = streams.errands.values().next();
            return Err(format!("{} writes are under way, such as {first:?}", streams.errands.len()));
        }
        let newest = streams.newest().ok_or("no server runs")?;
        for (id, agent) in &streams.agents {
            holds(agent, newest).map_err(|what| format!("agent {id}: {what}"))?;
            is_registered(agent, newest).map_err(|what| format!("agent {id}: {what}"))?;
            self.leaves_rest(*id, newest).map_err(|what| format!("agent {id}: {what}"))?;
        }
        self.authority_rests(newest)
    }
}

/// Whether an agent has a session and holds what the servers hold.
fn holds(agent: &Agent, catalog: &Catalog) -> Result<(), String> {
    let machine = agent.process.as_ref().ok_or("it does not run")?;
    if agent.is_leaving || agent.link.is_none() {
        return Err(format!("it leaves: {}; its connection: {:?}", agent.is_leaving, agent.link));
    }
    if !agent.pending.is_empty() {
        return Err(format!("it waits for answers to {:?}", agent.pending));
    }
    for topic in &agent.needs {
        let items = catalog.view(topic);
        let held = machine.view().get(topic).ok_or_else(|| format!("it holds nothing of {topic}"))?;
        if held.items != items {
            let (index, settled) = (held.index, machine.settled_at());
            return Err(format!(
                "it holds {:?} of {topic} at {index}, settled at {settled:?}, and servers hold {items:?}",
                held.items
            ));
        }
        if agent.published.get(topic).map(|state| &state.items) != Some(&items) {
            return Err(format!("it did not say what it holds of {topic}"));
        }
    }
    if !machine.restraint().is_empty() {
        return Err(format!("it waits for the rest of {:?}", machine.restraint().keys()));
    }
    if machine.view().len() != agent.needs.len() {
        return Err("it holds what it does not need".to_owned());
    }
    Ok(())
}

/// Whether the catalog says of an agent's node what it should, in the name of the agent's newest session.
fn is_registered(agent: &Agent, catalog: &Catalog) -> Result<(), String> {
    let node = catalog.node(&agent.node).ok_or("its node is not registered")?;
    let record = agent.record.as_ref().and_then(|record| catalog.agent_record(record)).ok_or("it has no record")?;
    if !record.presence.is_plain() {
        return Err(format!("its session is given up: {:?}", record.presence));
    }
    if record.incarnation != agent.incarnation || node.incarnation != agent.incarnation {
        return Err(format!(
            "its session is {:?}, its record's {:?}, and {:?} registered",
            agent.incarnation, record.incarnation, node.incarnation
        ));
    }
    if node.meta != agent.desired.node.meta || node.owner != agent.desired.node.owner {
        return Err(format!("its node is registered as {node:?}"));
    }
    let there: BTreeMap<_, _> = catalog.instances_on(&agent.node).map(|it| (it.key.clone(), plain(it))).collect();
    if there != agent.desired.instances {
        return Err(format!("{there:?} is registered instead of {:?}", agent.desired.instances));
    }
    let says = |check: &Check| (check.key.clone(), (check.status, check.instance.clone()));
    let there: BTreeMap<_, _> = catalog.checks_on(&agent.node).map(says).collect();
    let wanted: BTreeMap<_, _> = agent.desired.checks.values().map(says).collect();
    if there != wanted {
        return Err(format!("checks say {there:?} instead of {wanted:?}"));
    }
    Ok(())
}

fn plain(instance: &Instance) -> Instance {
    Instance { created: CatalogIndex(0), modified: CatalogIndex(0), ..instance.clone() }
}
