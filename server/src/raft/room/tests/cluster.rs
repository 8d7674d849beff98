//! Rooms that reach each other at once, for tests of what one room does.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::rc::Rc;
use std::time::Duration;

use catalog::{
    Action, Actor, Command, Effect, Envelope, Intention, RequestId, ServicePattern, SourcePattern, Timestamp,
};
use catalog::{CatalogIndex, WriteMode};
use raft::eraftpb::Message;

use crate::raft::room::{Input, Output, Role, Room};
use crate::raft::{Disk, Limits, MemoryDisk, RoomConfig, Space};

/// Returns an encoded command that changes the catalog, distinct by its number.
pub(super) fn command(number: u64) -> Vec<u8> {
    let intention = Intention {
        destination: format!("service-{number}").parse::<ServicePattern>().unwrap(),
        source: SourcePattern::Service(ServicePattern::Any),
        effect: Effect::Action(Action::Allow),
        description: String::new(),
        meta: BTreeMap::new(),
        jwt: None,
        expires_at: None,
        owner: None,
        audit: false,
        created: CatalogIndex(0),
        modified: CatalogIndex(0),
    };
    let envelope = Envelope {
        version: 1,
        request_id: format!("request-{number}").parse::<RequestId>().unwrap(),
        actor: Actor::ClusterKey,
        source_address: None,
        proposed_at: Timestamp(number),
        command: Command::WriteIntention { intention: Box::new(intention), mode: WriteMode::Upsert },
    };
    envelope.encode()
}

/// What happened on a server, in order.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "a test's events are few")]
pub(super) enum Event {
    Append(String),
    Sync(String),
    Send(Message),
}

/// A disk that notes its writes, and fails from a given one on.
#[derive(Debug, Clone, Default)]
pub(super) struct Recording {
    pub(super) disk: MemoryDisk,
    pub(super) events: Rc<RefCell<Vec<Event>>>,
    /// How many writing operations still succeed.
    pub(super) writes_left: Option<u64>,
}

impl Recording {
    fn spend(&mut self) -> io::Result<()> {
        match &mut self.writes_left {
            Some(0) => Err(io::Error::other("the disk is broken")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }
}

impl Disk for Recording {
    fn append(&mut self, file: &str, bytes: &[u8]) -> io::Result<()> {
        if let Err(error) = self.spend() {
            // A write that fails may have written a part.
            self.disk.append(file, &bytes[..bytes.len() / 2])?;
            return Err(error);
        }
        self.events.borrow_mut().push(Event::Append(file.to_owned()));
        self.disk.append(file, bytes)
    }

    fn sync(&mut self, file: &str) -> io::Result<()> {
        self.spend()?;
        self.events.borrow_mut().push(Event::Sync(file.to_owned()));
        self.disk.sync(file)
    }

    fn read(&self, file: &str) -> io::Result<Vec<u8>> {
        self.disk.read(file)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.disk.list()
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        self.spend()?;
        self.disk.rename(from, to)
    }

    fn remove(&mut self, file: &str) -> io::Result<()> {
        self.spend()?;
        self.disk.remove(file)
    }

    fn truncate(&mut self, file: &str, length: u64) -> io::Result<()> {
        self.spend()?;
        self.disk.truncate(file, length)
    }

    fn space(&mut self) -> io::Result<Option<Space>> {
        self.disk.space()
    }
}

/// Rooms that reach each other at once, unless cut off.
pub(super) struct Cluster {
    pub(super) rooms: BTreeMap<u64, Room<Recording>>,
    pub(super) outputs: BTreeMap<u64, Vec<Output>>,
    pub(super) cut_off: BTreeSet<u64>,
    pub(super) limits: Limits,
    /// Which messages never arrive.
    pub(super) lost: fn(&Message) -> bool,
    in_flight: VecDeque<Message>,
    now: Duration,
}

impl Cluster {
    pub(super) fn new(count: u64) -> Cluster {
        Cluster::with_limits(count, Limits::default())
    }

    pub(super) fn with_limits(count: u64, limits: Limits) -> Cluster {
        let mut cluster = Cluster {
            rooms: BTreeMap::new(),
            outputs: BTreeMap::new(),
            cut_off: BTreeSet::new(),
            limits,
            lost: |_| false,
            in_flight: VecDeque::new(),
            now: Duration::ZERO,
        };
        for id in 1..=count {
            cluster.start(id, Recording::default(), (1..=count).collect());
        }
        cluster
    }

    pub(super) fn start(&mut self, id: u64, disk: Recording, voters: Vec<u64>) {
        let config = RoomConfig { limits: self.limits.clone(), ..RoomConfig::new(id, voters, id) };
        self.rooms.insert(id, Room::open(disk, config).unwrap());
    }

    /// Hands an input to a room and delivers everything that follows from it, everywhere.
    pub(super) fn step(&mut self, id: u64, input: Input) {
        self.step_all(id, vec![input]);
    }

    pub(super) fn step_all(&mut self, id: u64, inputs: Vec<Input>) {
        self.step_alone(id, inputs);
        while let Some(message) = self.in_flight.pop_front() {
            if self.rooms.contains_key(&message.to) && !self.cut_off.contains(&message.to) {
                self.step_alone(message.to, vec![Input::Peer(message)]);
            }
        }
    }

    fn step_alone(&mut self, id: u64, inputs: Vec<Input>) {
        let room = self.rooms.get_mut(&id).unwrap();
        let events = room.node.store().disk().events.clone();
        let (outputs, in_flight) = (self.outputs.entry(id).or_default(), &mut self.in_flight);
        let (is_cut_off, lost) = (self.cut_off.contains(&id), self.lost);
        let mut encode = Vec::new();
        room.step_all(inputs, self.now, &mut |output| match output {
            Output::Send(message) => {
                events.borrow_mut().push(Event::Send(message.clone()));
                if !is_cut_off && !lost(&message) {
                    in_flight.push_back(message);
                }
            }
            Output::EncodeSnapshot { index, catalog, .. } => {
                encode.push(Input::SnapshotEncoded { index, bytes: catalog.snapshot() });
            }
            output => outputs.push(output),
        })
        .unwrap();
        if !encode.is_empty() {
            self.step_alone(id, encode);
        }
    }

    pub(super) fn tick(&mut self, count: usize) {
        for _ in 0..count {
            self.now += Duration::from_millis(100);
            for id in self.rooms.keys().copied().collect::<Vec<_>>() {
                self.step(id, Input::Tick);
            }
        }
    }

    /// Makes one server the leader: by election, or by the leader that there is.
    pub(super) fn elect(&mut self, id: u64) {
        for attempt in 0.. {
            assert!(attempt < 500, "server {id} cannot be elected");
            let reachable = |other: &u64| !self.cut_off.contains(other) && self.role(*other) == Role::Leader;
            match self.rooms.keys().copied().find(reachable) {
                Some(leader) if leader == id => break,
                Some(leader) => self.step(leader, Input::TransferLeader(id)),
                // The others' leases must end, too, but their elections should not begin.
                None if attempt % 20 == 19 => self.tick(9),
                None => self.step(id, Input::Tick),
            }
        }
        self.outputs.clear();
    }

    pub(super) fn role(&self, id: u64) -> Role {
        self.rooms[&id].status(self.now).role
    }

    pub(super) fn propose(&mut self, id: u64, number: u64) {
        self.step(id, Input::Propose { id: number, data: command(number) });
    }

    /// Returns what a server put out since the last call, without messages and role changes.
    pub(super) fn take_outputs(&mut self, id: u64) -> Vec<Output> {
        let outputs = self.outputs.remove(&id).unwrap_or_default();
        outputs.into_iter().filter(|output| !matches!(output, Output::RoleChanged { .. })).collect()
    }

    pub(super) fn take_events(&mut self, id: u64) -> Vec<Event> {
        self.rooms[&id].node.store().disk().events.take()
    }

    pub(super) fn stop(&mut self, id: u64) -> Recording {
        self.rooms.remove(&id).unwrap().into_disk()
    }
}
