//! What goes wrong: drawn from the seed, one after the other.

use std::time::Duration;

use server::raft::{Input, Role};

use super::mesh::{Event, Mesh};
use super::network::{Place, Weather};
use super::servers::Process;

impl Mesh {
    /// Draws the next fault and lets it happen.
    pub(crate) fn fault(&mut self) {
        let ids: Vec<u64> = self.servers.keys().copied().collect();
        let one = self.random.choose(&ids);
        let kind = match self.random.within(0..18) {
            0 | 1 => {
                self.crash(one);
                "a server loses power"
            }
            2 => {
                ids.iter().for_each(|id| self.crash(*id));
                "all servers lose power"
            }
            3 => {
                self.leader().into_iter().for_each(|leader| self.crash(leader));
                "the leader loses power"
            }
            4 => {
                self.partition(&ids);
                "a partition"
            }
            5 => {
                // One direction only: a leader that is heard and hears nothing, or the reverse.
                let other = self.random.choose(&ids);
                self.network.cut(Place::Server(one), Place::Server(other));
                "one direction is cut"
            }
            6 => {
                self.bridge(&ids, one);
                "a bridge partition"
            }
            7 => {
                self.network.weather = Weather::STORM;
                "loss, delay and reordering"
            }
            8 => {
                self.network.weather = Weather::SLOW;
                "a slow network"
            }
            9 | 10 => {
                self.network.heal();
                "the network heals"
            }
            11 => {
                self.pause(one);
                "a server pauses"
            }
            12 => {
                self.break_disk(one);
                "a disk breaks"
            }
            13 => {
                let disk = &self.servers[&one].has_full_disk;
                disk.set(!disk.get());
                "a disk runs full, or has space again"
            }
            14 => {
                self.move_clock(&ids);
                "a clock jumps"
            }
            15 => {
                let takes = self.random.millis(20..600);
                let server = self.servers.get_mut(&one).expect("the server exists");
                server.disk_takes = if server.disk_takes.is_zero() { takes } else { Duration::ZERO };
                "a disk slows down, or is fast again"
            }
            16 => {
                let other = self.random.choose(&ids);
                let until = self.schedule.now() + self.random.millis(1_000..8_000);
                if one != other {
                    self.flaps(one, other, until);
                }
                "a link flaps"
            }
            _ => {
                self.leader().into_iter().for_each(|leader| self.input(leader, Input::TransferLeader(one)));
                "leadership is handed over"
            }
        };
        *self.summary.faults.entry(kind).or_default() += 1;
    }

    /// Moves the clock of a server or of a client, by up to ten years, to either side, or sets it right.
    fn move_clock(&mut self, ids: &[u64]) {
        const YEARS: i64 = 10 * 365 * 24 * 3_600_000;
        let clients: Vec<u64> = self.clients.keys().copied().collect();
        let place = if clients.is_empty() || self.random.happens(30) {
            Place::Server(self.random.choose(ids))
        } else {
            Place::Client(self.random.choose(&clients))
        };
        let skew = if self.plan.rotates {
            // Rotations are as safe as clocks are right, in proportion to the lives of leaves: here these are seconds.
            self.random.choose(&[0, 200, -200, 1_000, -1_000])
        } else {
            self.random.choose(&[0, 300_000, -300_000, 3_600_000, -3_600_000, YEARS, -YEARS])
        };
        self.clocks.insert(place, skew);
    }

    /// Ends every fault: all servers run, nothing is cut.
    pub(crate) fn heal(&mut self) {
        self.network.heal();
        self.clocks.clear();
        for server in self.servers.values_mut() {
            server.paused_until = Duration::ZERO;
            server.writes_left.set(None);
            server.has_full_disk.set(false);
            server.disk_takes = Duration::ZERO;
            if let (Process::Down(_), false) = (&server.process, server.is_lost) {
                self.schedule.plan(Duration::ZERO, Event::Start { server: server.id, life: server.life });
            }
        }
    }

    /// Loses a server's power; it comes back after a while.
    pub(crate) fn crash(&mut self, id: u64) {
        let (seed, after) = (self.random.next(), self.random.millis(10..4000));
        let Some(server) = self.servers.get_mut(&id) else { return };
        if server.room().is_some() {
            server.crash(seed);
            self.summary.crashes += 1;
            self.trace.note(self.schedule.now(), "crash", &[id]);
            self.schedule.plan(after, Event::Start { server: id, life: server.life });
            self.hub_falls(id);
        }
    }

    /// Splits the servers, and the clients with them, into two sides.
    fn partition(&mut self, ids: &[u64]) {
        let clients: Vec<u64> = self.clients.keys().copied().collect();
        let places = ids.iter().map(|id| Place::Server(*id)).chain(clients.into_iter().map(Place::Client));
        let places = places.chain(self.streams.agents.keys().map(|id| Place::Agent(*id)));
        let sides: Vec<(Place, bool)> = places.map(|place| (place, self.random.happens(50))).collect();
        for (from, from_side) in &sides {
            for (to, to_side) in &sides {
                if from_side != to_side {
                    self.network.cut(*from, *to);
                }
            }
        }
    }

    /// Cuts the servers so that only one reaches all others.
    fn bridge(&mut self, ids: &[u64], bridge: u64) {
        for from in ids {
            for to in ids {
                if *from != bridge && *to != bridge && from != to {
                    self.network.cut(Place::Server(*from), Place::Server(*to));
                }
            }
        }
    }

    /// Stops a server from running for a while; the world goes on, and its inbox fills.
    fn pause(&mut self, id: u64) {
        let until = self.schedule.now() + self.random.millis(100..5000);
        self.servers.get_mut(&id).expect("the server exists").paused_until = until;
    }

    /// Lets one of the next writes of a server's disk fail; the server ends, as it must, and is started again.
    fn break_disk(&mut self, id: u64) {
        let writes = self.random.within(0..12);
        self.servers[&id].writes_left.set(Some(writes));
    }

    pub(crate) fn leader(&self) -> Option<u64> {
        let now = self.schedule.now();
        let leads = |id: &u64| {
            self.servers[id].room().map(|room| room.status(now)).filter(|status| status.role == Role::Leader)
        };
        let leaders = self.servers.keys().filter_map(leads);
        leaders.max_by_key(|status| status.term).map(|status| status.id)
    }
}
