//! Simulated servers: a room over a disk, an inbox, and who waits for what.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use catalog::{AgentId, CatalogIndex};
use server::raft::{Input, Limits, Room, RoomConfig};
use server::steward::Steward;

use super::checks::{Checked, Violation};
use super::disk::SimDisk;
use super::network::Place;
use super::random::Random;

/// What a read is about.
#[derive(Debug, Clone)]
pub(crate) enum Subject {
    Register(u64),
    /// Whether an agent's record lives, for its certificate to be signed.
    Record(AgentId),
    /// What an agent may be signed, over the connection that it asked on.
    Leaf {
        connection: u64,
        record: AgentId,
        subject: wire::agent_protocol::Subject,
        has_ended: bool,
    },
    /// It is no read.
    Nothing,
}

/// Who waits for a proposal or a read.
#[derive(Debug, Clone)]
pub(crate) struct Asker {
    pub(crate) place: Place,
    pub(crate) number: u64,
    /// For a read: what it must have seen, and what is read.
    pub(crate) floor: CatalogIndex,
    pub(crate) subject: Subject,
}

/// One server, running or not.
pub(crate) struct Server {
    pub(crate) id: u64,
    /// Counts starts; what was meant for an earlier life is dropped.
    pub(crate) life: u64,
    pub(crate) process: Process,
    pub(crate) inbox: Vec<Input>,
    /// Whether it is already planned to look into its inbox.
    pub(crate) is_woken: bool,
    pub(crate) paused_until: Duration,
    pub(crate) askers: BTreeMap<u64, Asker>,
    asked: u64,
    pub(crate) applied: CatalogIndex,
    /// How long its ticks are: no two clocks run alike.
    pub(crate) tick: Duration,
    /// How many writes its disk still carries out, if it is about to break.
    pub(crate) writes_left: Rc<Cell<Option<u64>>>,
    pub(crate) has_full_disk: Rc<Cell<bool>>,
    /// How long its disk takes for what one look into the inbox asks of it.
    pub(crate) disk_takes: Duration,
    pub(crate) steward: Steward,
    /// Whether its disk is gone for good, and so is the server.
    pub(crate) is_lost: bool,
}

/// The room of a running server, or the disk of one that is down.
pub(crate) enum Process {
    Up(Box<Room<SimDisk>>),
    Down(SimDisk),
    /// While it changes from one to the other.
    Between,
}

impl Server {
    pub(crate) fn new(id: u64) -> Server {
        Server {
            id,
            life: 0,
            process: Process::Down(SimDisk::default()),
            inbox: Vec::new(),
            is_woken: false,
            paused_until: Duration::ZERO,
            askers: BTreeMap::new(),
            asked: 0,
            applied: CatalogIndex(0),
            tick: Duration::ZERO,
            writes_left: Rc::default(),
            has_full_disk: Rc::default(),
            disk_takes: Duration::ZERO,
            steward: Steward::default(),
            is_lost: false,
        }
    }

    pub(crate) fn room(&self) -> Option<&Room<SimDisk>> {
        match &self.process {
            Process::Up(room) => Some(room),
            _ => None,
        }
    }

    pub(crate) fn room_mut(&mut self) -> Option<&mut Room<SimDisk>> {
        match &mut self.process {
            Process::Up(room) => Some(room),
            _ => None,
        }
    }

    /// Notes who asks, and returns the name under which the room answers.
    pub(crate) fn ask(&mut self, asker: Asker) -> u64 {
        self.asked += 1;
        self.askers.insert(self.asked, asker);
        self.asked
    }

    /// Loses power: what was not synced is lost as the seed says, and so is everything in memory.
    pub(crate) fn crash(&mut self, seed: u64) {
        self.process = match std::mem::replace(&mut self.process, Process::Between) {
            Process::Up(room) => {
                let mut disk = room.into_disk();
                disk.memory.crash(seed);
                Process::Down(disk)
            }
            down => down,
        };
        self.inbox.clear();
        self.askers.clear();
        self.applied = CatalogIndex(0);
    }

    /// Starts a server that is down. What its disk holds must always be enough to start from.
    pub(crate) fn start(&mut self, voters: Vec<u64>, limits: Limits, is_lying: bool, random: &mut Random) -> Checked {
        let Process::Down(disk) = std::mem::replace(&mut self.process, Process::Between) else {
            return Err(Violation(format!("server {} was started twice", self.id)));
        };
        self.writes_left.set(None);
        let disk = SimDisk {
            memory: disk.memory,
            writes_left: self.writes_left.clone(),
            is_full: self.has_full_disk.clone(),
            is_lying,
            syncs: 0,
        };
        let config = RoomConfig { limits, ..RoomConfig::new(self.id, voters, random.next()) };
        let room = Room::open(disk, config).map_err(|error| {
            let source = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
            Violation(format!("server {} does not start: {error}: {source}", self.id))
        })?;
        self.process = Process::Up(Box::new(room));
        self.life += 1;
        self.new_steward();
        self.is_woken = false;
        self.paused_until = Duration::ZERO;
        self.tick = random.millis(95..105);
        Ok(())
    }
}
