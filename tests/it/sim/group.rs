//! Servers that come and go: each runs a steward beside its room, and an operator adds servers, takes servers out and replaces
//! those whose disks are lost.

use std::time::Duration;

use catalog::{
    Actor, Autopilot, CatalogIndex, Command, ENVELOPE_VERSION, MemberFacts, MemberRole, Membership, MembershipChange,
    Outcome, PathTemplate, ServerMember,
};
use server::raft::{Input, Role};
use server::steward::{GroupHealth, Output, Steward, View};

use super::checks::{Checked, check};
use super::errands::Purpose;
use super::hubs::server_name;
use super::mesh::{Event, Mesh};
use super::network::Place;
use super::servers::{Process, Server};

/// How often a steward looks.
const LOOK: Duration = Duration::from_millis(500);
/// How long a healed group may take until it is what it is meant to be.
const RECOVERY: Duration = Duration::from_secs(120);
/// How many servers a group has at most.
const SERVERS_MAX: usize = 7;

/// Something about the group that is going to happen.
#[derive(Debug)]
pub(crate) enum GroupEvent {
    Look { server: u64, life: u64 },
    Operator,
}

/// What there is beside the rooms.
#[derive(Debug, Default)]
pub(crate) struct Group {
    is_busy: bool,
    errands: u64,
    /// What the leader's steward said last.
    health: Option<GroupHealth>,
    /// Whose disk is lost: it never comes back.
    lost: Option<u64>,
    /// Whether the operator only finishes what was begun.
    pub(super) is_done: bool,
}

/// The list of servers that a mesh is founded with.
pub(crate) fn founders(servers: u64) -> Vec<ServerMember> {
    let founder = |raft_id| ServerMember {
        id: server_name(raft_id),
        raft_id,
        disk_id: disk(raft_id),
        raft_address: format!("server-{raft_id}:8301"),
        reads: ENVELOPE_VERSION,
    };
    (1..=servers).map(founder).collect()
}

fn disk(raft_id: u64) -> String {
    format!("disk-{raft_id}")
}

impl Mesh {
    pub(super) fn start_group(&mut self) {
        if !self.plan.has_membership {
            return;
        }
        self.schedule.plan(Duration::from_secs(1), Event::Group(GroupEvent::Operator));
        let mesh = catalog::Mesh {
            cluster_id: "cluster-1".to_owned(),
            datacenter: "dc1".to_owned(),
            trust_domain: "mesh.test".parse().expect("it is a trust domain"),
            template: PathTemplate::default(),
            servers: founders(self.plan.servers),
        };
        self.group_errand(Actor::Server(server_name(1)), Command::Bootstrap { mesh });
    }

    /// A server of a group that changes started: its steward looks from now on.
    pub(super) fn steward_starts(&mut self, server: u64) {
        if self.plan.has_membership {
            let life = self.servers[&server].life;
            self.schedule.plan(LOOK, Event::Group(GroupEvent::Look { server, life }));
        }
    }

    pub(super) fn group_happens(&mut self, event: GroupEvent) -> Checked {
        match event {
            GroupEvent::Look { server, life } if self.lives(server, life) => {
                self.schedule.plan(LOOK, Event::Group(GroupEvent::Look { server, life }));
                self.steward_looks(server);
                Ok(())
            }
            GroupEvent::Look { .. } => Ok(()),
            GroupEvent::Operator => {
                let after = self.random.millis(300..2_000);
                self.schedule.plan(after, Event::Group(GroupEvent::Operator));
                self.group_operator_acts()
            }
        }
    }

    fn steward_looks(&mut self, id: u64) {
        let now = self.schedule.now();
        let Some(server) = self.servers.get_mut(&id).filter(|server| server.paused_until <= now) else { return };
        let Process::Up(room) = &server.process else { return };
        let status = room.status(now);
        if status.role != Role::Leader || !status.is_established {
            server.steward.rest();
            return;
        }
        let membership = room.catalog().membership().clone();
        let view =
            View { own: id, membership: &membership, group: &status.group, commit: status.commit, term: status.term };
        let (health, output) = server.steward.step(&view, now);
        self.group.health = Some(health);
        let Some(output) = output else { return };
        *self.summary.steps.entry(kind(&output)).or_default() += 1;
        match output {
            Output::Change(change) => self.input(id, Input::ChangeGroup(change)),
            Output::TransferLeader(to) => self.input(id, Input::TransferLeader(to)),
            Output::Propose(change) => {
                self.group.errands += 1;
                let name = format!("steward-{}", self.group.errands);
                let actor = Actor::Server(server_name(id));
                self.run_errand(Place::Server(id), name, actor, Command::Membership { change }, Purpose::Steward);
            }
        }
    }

    /// Returns the list of servers as the leader has it, and whether its group is that list and does not change.
    fn listed(&self) -> Option<(Membership, bool)> {
        let room = self.servers.get(&self.leader()?)?.room()?;
        let status = room.status(self.schedule.now());
        let membership = room.catalog().membership().clone();
        let voters: Vec<u64> = membership.voters().collect();
        let rests = status.is_established
            && !status.group.is_changing
            && status.group.outgoing.is_empty()
            && status.group.voters == voters
            && membership.members.len() == voters.len();
        Some((membership, rests))
    }

    fn group_operator_acts(&mut self) -> Checked {
        let Some((membership, rests)) = self.listed() else { return Ok(()) };
        // Who was taken out is told to stop.
        for retired in membership.retired.keys() {
            if self.servers.remove(retired).is_some() {
                self.hub_falls(*retired);
            }
        }
        if self.group.lost.is_some_and(|lost| membership.member(lost).is_none()) {
            self.group.lost = None;
        }
        if self.group.is_busy || membership.members.is_empty() {
            return Ok(());
        }
        let members: Vec<u64> = membership.members.keys().copied().collect();
        let few = members.len() as u64 <= self.plan.servers;
        if let Some(lost) = self.group.lost {
            // First another one, then the lost one goes.
            let change = if few { self.newcomer() } else { MembershipChange::Remove { raft_id: lost } };
            if few || rests {
                self.group_errand(Actor::ClusterKey, Command::Membership { change });
            }
            return Ok(());
        }
        if !rests || self.group.is_done {
            return Ok(());
        }
        if membership.autopilot.created == CatalogIndex(0) {
            // Newcomers vote soon, so that much happens in a run.
            let autopilot = Autopilot { server_stabilization_time_ms: 1_500, ..membership.autopilot };
            let change = MembershipChange::SetAutopilot { autopilot, compare: None };
            self.group_errand(Actor::ClusterKey, Command::Membership { change });
            return Ok(());
        }
        match self.random.within(0..6) {
            0..2 if members.len() < SERVERS_MAX => {
                let change = self.newcomer();
                self.group_errand(Actor::ClusterKey, Command::Membership { change });
            }
            2..5 if !few => {
                // A leader that is to go must give way first.
                let leader = self.leader().filter(|_| self.random.happens(50));
                let raft_id = leader.unwrap_or_else(|| self.random.choose(&members));
                let objection = self.group.health.as_ref().and_then(|health| health.objection_to_removing(raft_id));
                if objection.is_none() {
                    let change = MembershipChange::Remove { raft_id };
                    self.group_errand(Actor::ClusterKey, Command::Membership { change });
                }
            }
            5 if members.len() >= 3 && self.plan.has_faults => self.lose_a_disk(&members),
            _ => {}
        }
        Ok(())
    }

    fn newcomer(&mut self) -> MembershipChange {
        self.group.errands += 1;
        let number = 1_000 + self.group.errands;
        let facts = MemberFacts {
            raft_address: format!("server-{number}:8301"),
            agent_address: format!("server-{number}:8300"),
            release: "1.0.0".to_owned(),
            reads: ENVELOPE_VERSION,
            keys: Vec::new(),
        };
        MembershipChange::Add { id: server_name(number), disk_id: disk(number), facts }
    }

    /// Loses a server with everything that it had. The others are as many as before only once another one has joined.
    fn lose_a_disk(&mut self, members: &[u64]) {
        let id = self.random.choose(members);
        let Some(server) = self.servers.get_mut(&id) else { return };
        server.crash(0);
        server.life += 1;
        server.is_lost = true;
        self.group.lost = Some(id);
        self.hub_falls(id);
        self.trace.note(self.schedule.now(), "lost", &[id]);
        *self.summary.faults.entry("a disk is lost").or_default() += 1;
    }

    fn group_errand(&mut self, actor: Actor, command: Command) {
        let is_add = matches!(command, Command::Membership { change: MembershipChange::Add { .. } });
        // A newcomer asks for itself, in the name of a server.
        let actor = if is_add { Actor::Server(server_name(0)) } else { actor };
        self.group.is_busy = true;
        self.group.errands += 1;
        let name = format!("group-{}", self.group.errands);
        self.run_errand(Place::Operator, name, actor, command, Purpose::Group);
    }

    /// What the operator did to the group is in the log.
    pub(super) fn group_hears(&mut self, outcome: Option<Outcome>) -> Checked {
        self.group.is_busy = false;
        match outcome {
            Some(Outcome::MemberAdded { raft_id }) => {
                check!(!self.servers.contains_key(&raft_id), "number {raft_id} was given to two servers");
                self.servers.insert(raft_id, Server::new(raft_id));
                self.schedule.plan(Duration::ZERO, Event::Start { server: raft_id, life: 0 });
                *self.summary.steps.entry("a server joins").or_default() += 1;
            }
            Some(Outcome::Done | Outcome::Refused(_)) | None => {}
            Some(outcome) => check!(false, "a change of the list was answered with {outcome:?}"),
        }
        Ok(())
    }

    /// Once nothing goes wrong any more, the group becomes what its list says, and nobody is missed.
    pub(super) fn group_recovers(&mut self) -> Checked {
        if !self.plan.has_membership {
            return Ok(());
        }
        self.group.is_done = true;
        let deadline = self.schedule.now() + RECOVERY;
        loop {
            let settled = self.listed().is_some_and(|(membership, rests)| {
                let runs = |raft_id: &u64| self.servers.get(raft_id).is_some_and(|server| server.room().is_some());
                rests
                    && membership.members.keys().all(runs)
                    && membership.members.values().all(|member| member.role == MemberRole::Voter)
                    && self.servers.len() == membership.members.len()
            });
            if settled && self.group.lost.is_none() && !self.group.is_busy {
                return Ok(());
            }
            check!(
                self.schedule.now() < deadline,
                "after {RECOVERY:?} without faults the group is {:?} of servers {:?}, lost is {:?}: {:?}",
                self.listed(),
                self.servers.keys().collect::<Vec<_>>(),
                self.group.lost,
                self.group.health
            );
            self.run_for(Duration::from_millis(500))?;
        }
    }
}

fn kind(output: &Output) -> &'static str {
    match output {
        Output::Change(change) if !change.learners.is_empty() => "a learner is added",
        Output::Change(change) if !change.voters.is_empty() => "a learner votes",
        Output::Change(change) if !change.removed.is_empty() => "a server is taken out",
        Output::Change(_) => "a joint membership is left",
        Output::Propose(MembershipChange::Promote { .. }) => "a learner is promoted",
        Output::Propose(MembershipChange::Remove { .. }) => "a dead server is cleaned up",
        Output::Propose(_) => "the list is changed",
        Output::TransferLeader(_) => "a leader gives way",
    }
}

/// The steward of a server starts anew with its process.
impl Server {
    pub(crate) fn new_steward(&mut self) {
        self.steward = Steward::default();
    }
}
