//! Sessions that end without a word: every server reports those that it held, the leader those of servers that it cannot hear,
//! and the nodes of agents that stay away leave the catalog.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use catalog::{
    AGENT_CHECK, Actor, AgentId, Catalog, CheckStatus, Command, Incarnation, Instance, NodeName, Outcome, ServerId,
    SessionChange, Topic,
};
use server::raft::Role;
use server::sessions::{Periods, Seen, Sessions};

use super::checks::{Checked, check};
use super::errands::Purpose;
use super::hubs::server_name;
use super::logins;
use super::mesh::Mesh;
use super::network::Place;
use super::plan::Planted;
use super::streams::StreamEvent;

/// How often a server looks at its sessions.
const LOOK: Duration = Duration::from_millis(400);
/// How long agents may be away here: seconds, so that much happens in a run.
const GRACE: Duration = Duration::from_secs(3);
/// How long their nodes stay after that.
const REAP: Duration = Duration::from_secs(5);
/// How long a node may stay in the catalog whose agent has gone for good: a silent end is found out first.
const GONE_WITHIN: Duration = Duration::from_secs(60);

/// Returns the machine of a server that starts.
pub(super) fn machine(id: u64, leaf_ttl: Duration) -> Sessions {
    Sessions::new(server_name(id), Periods { grace: GRACE, reap: REAP, leaf_ttl })
}

/// What is registered on nodes whose sessions were given up: nothing of it may change until another session opens.
#[derive(Debug, Default)]
pub(crate) struct GivenUp(BTreeMap<(u64, NodeName), (Incarnation, Vec<Instance>)>);

impl GivenUp {
    /// A node whose session is given up, or whose agent is shutting down, is critical, and stays as it was.
    pub(super) fn applied(&mut self, server: u64, catalog: &Catalog) -> Checked {
        for record in catalog.agent_records() {
            let Some(incarnation) = record.incarnation.filter(|_| catalog.holds_node(record)) else { continue };
            let at = (server, record.node.clone());
            let is_away = !record.presence.is_plain();
            let shows = catalog.checks_on(&record.node).any(|check| check.key.id.as_str() == AGENT_CHECK);
            check!(is_away == shows, "node {} is away: {is_away}, and shows it: {shows}", record.node);
            if !is_away {
                self.0.remove(&at);
                continue;
            }
            let instances: Vec<Instance> = catalog.instances_on(&record.node).cloned().collect();
            for instance in &instances {
                let view = catalog.view(&Topic::Endpoints(instance.service_key()));
                let is_advertised = view.iter().any(|(key, item)| {
                    let catalog::Item::Endpoint(endpoint) = item else { return false };
                    *key == instance.key.to_string() && endpoint.status != CheckStatus::Critical
                });
                check!(!is_advertised, "{} is passing on a node whose agent is away", instance.key);
            }
            // Who only says that it shuts down may register something yet, and be given up before this server looks again.
            if record.presence.lost_at.is_none() {
                self.0.remove(&at);
                continue;
            }
            let (since, held) = self.0.entry(at).or_insert_with(|| (incarnation, instances.clone()));
            let is_changed = *since == incarnation && !instances.iter().all(|one| held.contains(one));
            check!(!is_changed, "session {incarnation} of {} was given up and registered {instances:?}", record.node);
            (*since, *held) = (incarnation, instances);
        }
        Ok(())
    }

    /// A server ended: what it saw before counts no more.
    pub(super) fn forgets(&mut self, server: u64) {
        self.0.retain(|(of, _), _| *of != server);
    }
}

impl Mesh {
    pub(super) fn sessions_start(&mut self, server: u64, life: u64) {
        if self.plan.gives_up {
            self.plan_stream(LOOK, StreamEvent::SessionsLook { server, life });
        }
    }

    /// A server looks at its sessions; a leader also at those of servers that it does not hear.
    pub(super) fn sessions_look(&mut self, id: u64, life: u64) {
        self.plan_stream(LOOK, StreamEvent::SessionsLook { server: id, life });
        let now = self.schedule.now();
        let Some(room) = self.servers.get(&id).and_then(|server| server.room()) else { return };
        let leads = room.status(now).role == Role::Leader;
        let hears = |other: &u64| {
            let is_up = self.servers[other].room().is_some() && self.servers[other].paused_until <= now;
            *other == id || (is_up && !self.network.is_cut(Place::Server(*other), Place::Server(id)))
        };
        let heard: Option<BTreeSet<ServerId>> =
            leads.then(|| self.servers.keys().filter(|other| hears(other)).map(|other| server_name(*other)).collect());
        let clock = self.clock(Place::Server(id));
        let Some(here) = self.streams.hubs.get_mut(&id).filter(|here| !here.is_reporting) else { return };
        let open = match self.plan.planted {
            // The bug that is put in: a server does not know the sessions that it holds.
            Planted::GivesUpOpenSessions => BTreeMap::new(),
            _ => here.hub.open_sessions(),
        };
        let seen = Seen { catalog: &here.catalog, open: &open, heard: heard.as_ref(), clock };
        let mut commands = here.watch.step(&seen, now);
        if self.plan.planted == Planted::GivesNobodyUp {
            commands.clear();
        }
        // What is not said now is said at the next look.
        if let Some(command) = commands.into_iter().next() {
            here.is_reporting = true;
            let number = self.streams.number();
            let purpose = Purpose::Sessions { server: id, life };
            let actor = Actor::Server(server_name(id));
            self.run_errand(Place::Server(id), format!("sessions-{number}"), actor, command, purpose);
        }
    }

    /// What a server said of sessions is in the log, or did not get there in time.
    pub(super) fn sessions_are_told(
        &mut self,
        id: u64,
        life: u64,
        command: &Command,
        outcome: Option<&Outcome>,
    ) -> Checked {
        if self.lives(id, life)
            && let Some(here) = self.streams.hubs.get_mut(&id)
        {
            here.is_reporting = false;
        }
        check!(
            matches!(outcome, Some(Outcome::Done) | None),
            "server {id} said of sessions what was refused: {outcome:?}"
        );
        self.count_sessions(command, outcome);
        self.records_end(command);
        Ok(())
    }

    /// Records that agents stayed away from are gone: nothing is signed for them any more.
    fn records_end(&mut self, command: &Command) {
        let Command::Sessions { change: SessionChange::Ended { sessions } } = command else { return };
        let Some(newest) = self.streams.newest() else { return };
        let gone = |agent: &AgentId| newest.agent_record(agent).is_none();
        let ended: Vec<AgentId> = sessions.iter().map(|it| it.agent.clone()).filter(gone).collect();
        ended.iter().for_each(|agent| self.checks.revoked(agent));
    }

    pub(super) fn count_sessions(&mut self, command: &Command, outcome: Option<&Outcome>) {
        if let (Command::Sessions { change }, Some(Outcome::Done)) = (command, outcome) {
            let step = match change {
                SessionChange::Lost { .. } => "sessions are given up",
                SessionChange::Reaped { .. } => "nodes leave whose agents stay away",
                SessionChange::Drain { .. } => "an agent says that it shuts down",
                SessionChange::Ended { .. } => "records end whose agents stay away",
                SessionChange::Unused { .. } => "records end whose agents never came",
            };
            *self.summary.steps.entry(step).or_default() += 1;
        }
    }

    /// An agent that goes for good is taken out of the catalog; then it comes back.
    pub(super) fn an_agent_goes_for_good(&mut self) -> Checked {
        if !self.plan.gives_up {
            return Ok(());
        }
        // The record of one that its platform vouches for ends as well.
        let may_go = |id: &u64| !self.plan.logs_in || logins::is_vouched_for(*id);
        let goes = self.streams.agents.iter().find(|(id, _)| may_go(id));
        let Some((id, node)) = goes.map(|(id, agent)| (*id, agent.node.clone())) else { return Ok(()) };
        self.agent_is_away(id, GONE_WITHIN * 2);
        let deadline = self.schedule.now() + GONE_WITHIN;
        while self.streams.newest().is_none_or(|catalog| catalog.node(&node).is_some()) {
            check!(
                self.schedule.now() < deadline,
                "after {GONE_WITHIN:?} the node of an agent that went is still there"
            );
            self.run_for(Duration::from_millis(500))?;
        }
        self.run_for(GONE_WITHIN * 2)
    }
}
