//! The simulated mesh: one loop that takes the next event and lets it happen.

use std::collections::BTreeMap;
use std::time::Duration;

use catalog::{CatalogIndex, Outcome, Timestamp};
use server::raft::{Input, Limits, Message, MessageType, Output, ProposalFailure, Role};

use super::authority::Authority;
use super::checks::{Checked, Checks, check};
use super::clients::{Answer, Client, Wish};
use super::connections::Heard;
use super::group::{Group, GroupEvent};
use super::history;
use super::network::{Network, Place};
use super::plan::{Lasting, Plan, Planted, Summary};
use super::random::Random;
use super::schedule::Schedule;
use super::servers::{Asker, Process, Server, Subject};
use super::streams::{StreamEvent, Streams};
use super::trace::Trace;

/// How long a healed mesh may take until everybody writes again and all servers agree.
const RECOVERY: Duration = Duration::from_secs(30);
/// How long after the last write the servers may take to stand at the same index.
const SILENCE: Duration = Duration::from_secs(5);

/// Something that is going to happen.
#[derive(Debug)]
pub(crate) enum Event {
    /// A server's clock ticks.
    Tick { server: u64, life: u64 },
    /// A server looks into its inbox.
    Wake { server: u64, life: u64 },
    /// A server that is down comes back.
    Start { server: u64, life: u64 },
    /// Something arrives.
    Arrive { from: Place, to: Place, parcel: Parcel },
    /// Something reaches a server from within: its transport or its encoder.
    Inner { server: u64, life: u64, input: Input },
    /// A client thinks of something, or loses patience with its attempt.
    Client { client: u64, attempt: u64 },
    /// Something goes wrong.
    Fault,
    /// A link between two servers goes down or comes up again, until it stays up.
    Flaps { one: u64, other: u64, until: Duration },
    /// The next server is restarted, where all are, one after the other.
    NextRestarts { before: u64 },
    /// A follower's disk becomes slow for good.
    FollowerSlows,
    /// Something about agents and their streams.
    Stream(StreamEvent),
    /// Something about who the servers are.
    Group(GroupEvent),
}

/// What travels. Other machines add their kinds here.
#[derive(Debug, Clone)]
pub(crate) enum Parcel {
    Raft(Box<Message>),
    Ask { number: u64, wish: Wish },
    Answer { number: u64, answer: Answer },
}

/// The simulated mesh.
pub(crate) struct Mesh {
    pub(crate) plan: Plan,
    pub(crate) schedule: Schedule<Event>,
    pub(crate) random: Random,
    pub(crate) network: Network,
    pub(crate) servers: BTreeMap<u64, Server>,
    pub(crate) clients: BTreeMap<u64, Client>,
    /// Whether clients have shown what they can, and only go on so that there is always something under way.
    pub(crate) clients_are_calm: bool,
    pub(crate) trace: Trace,
    pub(super) limits: Limits,
    pub(crate) checks: Checks,
    pub(crate) summary: Summary,
    pub(crate) streams: Streams,
    /// By how many milliseconds wall clocks are wrong.
    pub(crate) clocks: BTreeMap<Place, i64>,
    pub(crate) group: Group,
    pub(crate) authority: Authority,
}

impl Mesh {
    pub(crate) fn new(seed: u64, plan: Plan) -> Mesh {
        let mut random = Random::new(seed);
        // Small bounds, so that segments roll, logs are compacted and snapshots sent within seconds.
        let limits = Limits {
            proposals_max: random.within(2..20) as usize,
            append_bytes_max: random.within(200..4000),
            appends_in_flight_max: random.within(1..10) as usize,
            segment_bytes: random.within(500..20_000),
            snapshot_entries: random.within(plan.snapshot_entries.0..plan.snapshot_entries.1),
            retained_entries: random.within(0..8),
            ..Limits::default()
        };
        let streams = Streams::new(plan, &mut random);
        let authority = Authority::new(&mut random, plan.rotates);
        Mesh {
            plan,
            schedule: Schedule::new(),
            random,
            network: Network::new(),
            servers: (1..=plan.servers).map(|id| (id, Server::new(id))).collect(),
            clients: (1..=plan.clients).map(|id| (id, Client::new(id))).collect(),
            clients_are_calm: false,
            trace: Trace::new(seed),
            limits,
            checks: Checks::new(plan.compared_every),
            summary: Summary::default(),
            streams,
            clocks: BTreeMap::new(),
            group: Group::default(),
            authority,
        }
    }

    /// Returns what the wall clock of a place shows; the world began in 2026.
    pub(crate) fn clock(&self, place: Place) -> Timestamp {
        const BEGINNING: u64 = 1_790_000_000_000;
        let truth = BEGINNING + self.schedule.now().as_millis() as u64;
        Timestamp(truth.saturating_add_signed(self.clocks.get(&place).copied().unwrap_or(0)))
    }

    /// Runs through trouble and recovery.
    pub(crate) fn run(mut self) -> Checked<Summary> {
        for server in self.servers.keys() {
            self.schedule.plan(Duration::ZERO, Event::Start { server: *server, life: 0 });
        }
        for client in self.clients.keys() {
            self.schedule.plan(Duration::from_secs(1), Event::Client { client: *client, attempt: 0 });
        }
        if self.plan.has_faults {
            self.schedule.plan(Duration::from_secs(2), Event::Fault);
        }
        self.start_lasting_trouble();
        self.start_streams();
        self.start_group();
        self.run_for(self.plan.trouble)?;
        self.summary.troubled = self.schedule.now();
        (self.plan.has_faults, self.plan.lasting) = (false, Lasting::Nothing);
        self.heal();
        self.recover()?;
        self.summary.leaders = self.checks.leader_count();
        self.summary.term = self.checks.last_term();
        self.summary.simulated = self.schedule.now();
        self.summary.trace = self.trace.hash;
        Ok(self.summary)
    }

    pub(crate) fn run_for(&mut self, duration: Duration) -> Checked {
        let deadline = self.schedule.now() + duration;
        while let Some(event) = self.schedule.next(deadline) {
            self.happen(event)?;
        }
        Ok(())
    }

    /// A healed mesh writes again, loses nothing, and its servers come to agree.
    fn recover(&mut self) -> Checked {
        let before: Vec<u64> = self.clients.values().map(|client| client.done).collect();
        let deadline = self.schedule.now() + RECOVERY;
        // Agents come to rest only once the servers around them do.
        self.group.is_done |= self.plan.agents > 0;
        let progress =
            |mesh: &Mesh| mesh.clients.values().zip(&before).all(|(client, before)| client.done > before + 1);
        while !(self.leader().is_some() && progress(self)) {
            check!(
                self.schedule.now() < deadline,
                "after {RECOVERY:?} without faults {:?} leads and the clients' writes went from {before:?} to {:?}",
                self.leader(),
                self.clients.values().map(|client| client.done).collect::<Vec<_>>()
            );
            self.run_for(Duration::from_millis(500))?;
        }
        self.clients_are_calm = true;
        self.streams_recover()?;
        self.group_recovers()?;
        // Everybody falls silent, and the last writes reach everybody.
        self.clients_fall_silent();
        self.run_for(SILENCE)?;
        if self.plan.has_membership {
            // A change of the group may have been under way still, and made room for one more.
            self.group_recovers()?;
            self.run_for(SILENCE)?;
        }
        let now = self.schedule.now();
        let mut applied = Vec::new();
        for server in self.servers.values() {
            let Some(room) = server.room() else { continue };
            self.checks.applied(server.id, room.catalog(), true)?;
            self.checks.kept(server.id, room.catalog())?;
            applied.push(room.catalog().index());
            let refused = room.status(now).refused_messages;
            check!(refused == 0, "server {} refused {refused} messages of honest peers", server.id);
        }
        check!(
            applied.len() == self.servers.len() && applied.len() as u64 >= self.plan.servers,
            "only {} servers run after everything was healed",
            applied.len()
        );
        check!(
            applied.windows(2).all(|pair| pair[0] == pair[1]),
            "servers stand at {applied:?} after everything was healed"
        );
        self.a_backup_is_restored()?;
        self.a_majority_is_lost_for_good()?;
        self.streams_agree()?;
        self.summary.deeds = self.checks.history.len();
        self.checks.history.is_linearizable()
    }

    fn happen(&mut self, event: Event) -> Checked {
        match event {
            Event::Tick { server, life } => {
                if self.lives(server, life) {
                    let tick = self.servers[&server].tick;
                    self.schedule.plan(tick, Event::Tick { server, life });
                    self.input(server, Input::Tick);
                }
            }
            Event::Wake { server, life } => {
                if self.lives(server, life) {
                    self.wake(server)?;
                }
            }
            Event::Start { server, life } => self.start(server, life)?,
            Event::Arrive { from, to, parcel } => self.arrive(from, to, parcel)?,
            Event::Inner { server, life, input } => {
                if self.lives(server, life) {
                    self.input(server, input);
                }
            }
            Event::Client { client, attempt } => self.client_acts(client, attempt),
            Event::Stream(event) => self.stream_happens(event)?,
            Event::Group(event) => self.group_happens(event)?,
            Event::Flaps { one, other, until } => self.flaps(one, other, until),
            Event::NextRestarts { before } => self.next_restarts(before),
            Event::FollowerSlows => self.follower_slows(),
            Event::Fault => {
                if self.plan.has_faults {
                    self.fault();
                    // Agents and changes of the group need a mesh that works at times, or they would never get anywhere.
                    let is_hasty = self.plan.agents == 0 && !self.plan.has_membership;
                    let pause = if is_hasty { 50..1500 } else { 300..5000 };
                    let after = self.random.millis(pause);
                    self.schedule.plan(after, Event::Fault);
                }
            }
        }
        Ok(())
    }

    pub(crate) fn lives(&self, server: u64, life: u64) -> bool {
        self.servers.get(&server).is_some_and(|server| server.life == life && server.room().is_some())
    }

    fn start(&mut self, id: u64, life: u64) -> Checked {
        // Who joins later waits for a leader that adds it.
        let voters = if id <= self.plan.servers { (1..=self.plan.servers).collect() } else { Vec::new() };
        let Some(server) = self.servers.get_mut(&id) else { return Ok(()) };
        if server.life != life || server.is_lost || !matches!(server.process, Process::Down(_)) {
            return Ok(());
        }
        server.start(voters, self.limits.clone(), !self.plan.has_honest_disks, &mut self.random)?;
        self.trace.note(self.schedule.now(), "start", &[id, server.life]);
        let (life, tick) = (server.life, server.tick);
        if let Some(status) = server.room().map(|room| room.status(self.schedule.now())) {
            self.checks.comes_back(id, status.term, status.last_index)?;
        }
        self.schedule.plan(tick, Event::Tick { server: id, life });
        self.steward_starts(id);
        self.authority_starts(id, life);
        self.hub_starts(id)
    }

    /// Puts something into a server's inbox. It looks soon, but not at once: inputs come in batches.
    pub(crate) fn input(&mut self, id: u64, input: Input) {
        let delay = self.random.millis(0..3);
        let Some(server) = self.servers.get_mut(&id) else { return };
        if server.room().is_none() {
            return;
        }
        server.inbox.push(input);
        if !server.is_woken {
            server.is_woken = true;
            let pause = server.paused_until.saturating_sub(self.schedule.now()).max(server.disk_takes);
            self.schedule.plan(delay.max(pause), Event::Wake { server: id, life: server.life });
        }
    }

    fn wake(&mut self, id: u64) -> Checked {
        let now = self.schedule.now();
        let server = self.servers.get_mut(&id).expect("the server exists");
        if server.paused_until > now {
            let pause = server.paused_until - now;
            self.schedule.plan(pause, Event::Wake { server: id, life: server.life });
            return Ok(());
        }
        server.is_woken = false;
        let inputs = std::mem::take(&mut server.inbox);
        self.trace.note(now, "wake", &[id, inputs.len() as u64]);
        let server = self.servers.get_mut(&id).expect("the server exists");
        let mut outputs = Vec::new();
        let result = match server.room_mut() {
            Some(room) => room.step_all(inputs, now, &mut |output| outputs.push(output)),
            None => Ok(()),
        };
        for output in outputs {
            self.carry_out(id, output)?;
        }
        match result {
            Ok(()) => {}
            // The disk broke: the process ends. Anything else is a violation.
            Err(_) if self.servers[&id].writes_left.get() == Some(0) => self.crash(id),
            Err(error) => check!(false, "server {id} halted: {}", chain(&error)),
        }
        Ok(())
    }

    fn carry_out(&mut self, id: u64, output: Output) -> Checked {
        let now = self.schedule.now();
        match output {
            Output::Send(message) => self.send_raft(id, message),
            Output::Applied { index, catalog, touched, restored } => {
                self.trace.note(now, "applied", &[id, index.0, u64::from(restored)]);
                let server = self.servers.get_mut(&id).expect("the server exists");
                let before = std::mem::replace(&mut server.applied, index);
                self.summary.restored += u64::from(restored);
                check!(index > before, "server {id} went from index {before} to {index}");
                check!(catalog.index() == index, "server {id} put out index {} as {index}", catalog.index());
                self.checks.applied(id, &catalog, restored)?;
                self.authority_is_told(id, &catalog);
                self.hub_is_told(id, catalog, touched, restored)?;
            }
            Output::RoleChanged { role, leader, term } => {
                self.trace.note(now, "role", &[id, role as u64, leader.unwrap_or(0), term]);
                if role == Role::Leader {
                    self.checks.leads(id, term)?;
                }
            }
            Output::ProposalDone { id: name, index, outcome } => {
                self.answer(id, name, Answer::Written { index, outcome })
            }
            Output::ProposalFailed { id: name, reason } => {
                let answer = match reason {
                    ProposalFailure::NotLeader { leader } => Answer::Elsewhere(leader),
                    ProposalFailure::Overloaded | ProposalFailure::DiskFull => Answer::Elsewhere(None),
                    ProposalFailure::LeadershipLost | ProposalFailure::Stopped => Answer::Unknown,
                    reason => {
                        check!(false, "server {id} refused a sound proposal: {reason}");
                        Answer::Unknown
                    }
                };
                self.answer(id, name, answer);
            }
            Output::ReadReady { id: name, .. } => {
                let server = &self.servers[&id];
                let (Some(asker), Some(room)) = (server.askers.get(&name), server.room()) else { return Ok(()) };
                self.checks.read(id, room.catalog(), asker.floor)?;
                if let Subject::Leaf { .. } = asker.subject {
                    let asker = asker.clone();
                    return self.server_signs(id, &asker);
                }
                self.answer_read(id, name);
            }
            Output::ReadFailed { id: name, .. } => self.answer(id, name, Answer::Elsewhere(None)),
            Output::SpaceLow { is_low } => self.trace.note(now, "space", &[id, u64::from(is_low)]),
            Output::Checkpoint { .. } => {}
            Output::EncodeSnapshot { index, catalog, .. } => {
                let after = self.random.millis(1..200);
                let input = Input::SnapshotEncoded { index, bytes: catalog.snapshot() };
                self.schedule.plan(after, Event::Inner { server: id, life: self.servers[&id].life, input });
            }
        }
        Ok(())
    }

    fn send_raft(&mut self, id: u64, message: Message) {
        let numbers = [id, message.to, message.msg_type as u64, message.term, message.index, message.commit];
        self.trace.note(self.schedule.now(), "send", &numbers);
        self.checks.answers(id, &message);
        let (from, to) = (Place::Server(id), Place::Server(message.to));
        let peer = message.to;
        let is_snapshot = message.msg_type == MessageType::MsgSnapshot as i32;
        let arrivals = self.send(from, to, Parcel::Raft(Box::new(message)));
        if is_snapshot {
            // The transport knows what became of it, a little later.
            let input = Input::SnapshotStatus { to: peer, delivered: arrivals > 0 };
            let life = self.servers[&id].life;
            self.schedule.plan(Duration::from_millis(400), Event::Inner { server: id, life, input });
        }
    }

    /// Sends something, and returns how many copies will arrive.
    pub(crate) fn send(&mut self, from: Place, to: Place, parcel: Parcel) -> usize {
        let fate = self.network.fate(from, to, &mut self.random);
        // Most arrives once, and snapshots are large: nothing is copied but what arrives again.
        if let Some((last, others)) = fate.split_last() {
            for delay in others {
                self.schedule.plan(*delay, Event::Arrive { from, to, parcel: parcel.clone() });
            }
            self.schedule.plan(*last, Event::Arrive { from, to, parcel });
        }
        fate.len()
    }

    fn arrive(&mut self, from: Place, to: Place, parcel: Parcel) -> Checked {
        match (from, to, parcel) {
            (Place::Server(_), Place::Server(to), Parcel::Raft(message)) => self.input(to, Input::Peer(*message)),
            (place, Place::Server(to), Parcel::Ask { number, wish }) => {
                self.is_asked(to, place, number, wish)?;
            }
            (Place::Server(from), Place::Client(client), Parcel::Answer { number, answer }) => {
                self.client_hears(client, from, number, answer)?;
            }
            (Place::Server(_), _, Parcel::Answer { number, answer }) => self.errand_hears(number, answer),
            (from, to, parcel) => check!(false, "{parcel:?} went from {from:?} to {to:?}"),
        }
        Ok(())
    }

    /// Puts what somebody asks of a server into its inbox; with a bug planted, it is answered at once and wrongly.
    fn is_asked(&mut self, id: u64, place: Place, number: u64, wish: Wish) -> Checked {
        let (floor, subject) = match &wish {
            Wish::Read { floor, register } => (*floor, Subject::Register(*register)),
            Wish::Certificate { record, .. } => (CatalogIndex(0), Subject::Record(record.clone())),
            _ => (CatalogIndex(0), Subject::Nothing),
        };
        let Some(server) = self.servers.get_mut(&id) else { return Ok(()) };
        let name = server.ask(Asker { place, number, floor, subject });
        let Some(room) = server.room() else { return Ok(()) };
        match (self.plan.planted, &wish) {
            (Planted::ReadsStale, Wish::Read { .. } | Wish::Certificate { .. }) => {
                self.answer_read(id, name);
                return Ok(());
            }
            (Planted::AnswersBeforeCommit, Wish::Set { .. } | Wish::Write { .. })
                if room.status(self.schedule.now()).role == Role::Leader =>
            {
                let index = room.catalog().index();
                self.answer(id, name, Answer::Written { index, outcome: Outcome::Done });
            }
            _ => {}
        }
        self.input(
            id,
            match wish {
                Wish::Write { data, .. } | Wish::Set { data, .. } | Wish::Errand(data) => {
                    Input::Propose { id: name, data }
                }
                Wish::Read { .. } | Wish::Certificate { .. } => Input::ReadIndex { id: name },
            },
        );
        Ok(())
    }

    /// Answers a read from what a server has.
    fn answer_read(&mut self, id: u64, name: u64) {
        let server = &self.servers[&id];
        let (Some(asker), Some(room)) = (server.askers.get(&name), server.room()) else { return };
        let answer = match &asker.subject {
            Subject::Register(register) => Answer::Read(history::read(room.catalog(), *register)),
            Subject::Record(record) => Answer::Certificate(room.catalog().agent_record(record).is_some()),
            Subject::Leaf { .. } | Subject::Nothing => return,
        };
        self.answer(id, name, answer);
    }

    fn answer(&mut self, id: u64, name: u64, answer: Answer) {
        let server = self.servers.get_mut(&id).expect("the server exists");
        if let Some(Asker { place, number, subject, .. }) = server.askers.remove(&name) {
            if let Subject::Leaf { connection, .. } = subject {
                return self.send_down(connection, Heard::Signed { number, leaf: None });
            }
            self.send(Place::Server(id), place, Parcel::Answer { number, answer });
        }
    }
}

/// Returns an error with everything that caused it.
fn chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source()).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
