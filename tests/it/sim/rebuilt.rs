//! A majority that is lost for good: one server goes on alone with what is on its disk, and agents find it.

use std::time::Duration;

use catalog::Command;
use server::raft::Replayed;

use super::checks::{Checked, Violation, check};
use super::mesh::{Event, Mesh};
use super::recovery::REST;
use super::servers::{Process, Server};
use super::streams::StreamEvent;

/// How long agents may take until they are in step with the survivor.
const RECOVERY: Duration = Duration::from_secs(120);
/// How long a hub may take to hear what its server has applied.
const HEARD: Duration = Duration::from_secs(1);

impl Mesh {
    /// In some runs, all servers but one are lost in the end, and the group is rebuilt from that one.
    pub(super) fn a_majority_is_lost_for_good(&mut self) -> Checked {
        if !self.plan.has_policy || !self.random.happens(30) {
            return Ok(());
        }
        let ids: Vec<u64> = self.servers.keys().copied().collect();
        // Who has only begun to join is nobody to go on with.
        let floor = self.checks.floor();
        let stands = |id: &u64| self.servers[id].room().is_some_and(|room| room.catalog().index() >= floor);
        let able: Vec<u64> = ids.iter().copied().filter(stands).collect();
        let survivor = self.random.choose(&able);
        for id in ids {
            let seed = self.random.next();
            if id == survivor {
                let server = self.servers.get_mut(&id).expect("the server exists");
                server.crash(seed);
                server.goes_on_alone()?;
                self.checks.is_released(id);
                let life = server.life;
                self.schedule.plan(Duration::from_secs(1), Event::Start { server: id, life });
            } else {
                self.servers.remove(&id);
            }
            self.hub_falls(id);
        }
        self.trace.note(self.schedule.now(), "alone", &[survivor]);
        // Whose server ended without a word takes a while to notice, and until then looks as if it were in step.
        self.run_for(REST)?;
        self.come_into_step(RECOVERY)?;
        let catalog = self.streams.newest().ok_or_else(|| Violation("the survivor does not run".to_owned()))?;
        let membership = catalog.membership();
        let members: Vec<u64> = membership.members.keys().copied().collect();
        check!(
            membership.epoch == 1 && members == [survivor],
            "server {survivor} went on alone, and the list has {members:?} in epoch {}",
            membership.epoch
        );
        self.checks.read(survivor, catalog, floor)?;
        self.checks.kept(survivor, catalog)?;
        *self.summary.steps.entry("a group is rebuilt from one survivor").or_default() += 1;
        self.an_agent_is_revoked()
    }

    /// Whose record ends is cut, although records and sessions are numbered far beyond the log's indexes from here on. Then it
    /// comes back under a new one.
    fn an_agent_is_revoked(&mut self) -> Checked {
        let enrolled = self.streams.agents.iter().find_map(|(id, agent)| Some((*id, agent.record.clone()?)));
        let Some((id, record)) = enrolled else { return Ok(()) };
        self.agent(id).is_replaced = true;
        self.streams.operator.push(Command::RevokeAgent { agent: record.clone() });
        self.plan_stream(Duration::ZERO, StreamEvent::Operator);
        let deadline = self.schedule.now() + RECOVERY;
        while self.streams.newest().is_none_or(|catalog| catalog.agent_record(&record).is_some()) {
            check!(
                self.schedule.now() < deadline,
                "after {RECOVERY:?} the record of an agent that was revoked still lives"
            );
            self.run_for(Duration::from_millis(500))?;
        }
        self.run_for(HEARD)?;
        for (server, here) in &self.streams.hubs {
            let is_held = here.hub.open_sessions().contains_key(&record);
            check!(!is_held, "server {server} still streams to {record}, which was revoked");
        }
        self.streams.operator.enrol(id);
        self.plan_stream(Duration::ZERO, StreamEvent::Operator);
        self.come_into_step(RECOVERY)
    }
}

impl Server {
    /// Makes this server, which is down, the only one of its group.
    fn goes_on_alone(&mut self) -> Checked {
        let Process::Down(disk) = std::mem::replace(&mut self.process, Process::Between) else {
            return Err(Violation(format!("server {} goes on alone and is not down", self.id)));
        };
        let cannot =
            |error: &dyn std::error::Error| Violation(format!("server {} cannot go on alone: {error}", self.id));
        let replayed = Replayed::read(disk).map_err(|error| cannot(&error))?;
        let (_, disk) = replayed.rewrite(self.id).map_err(|error| cannot(&error))?;
        self.process = Process::Down(disk);
        Ok(())
    }
}
