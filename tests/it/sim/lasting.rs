//! Trouble that lasts, each kind alone: a link that flaps, servers that restart one after the other, a
//! slow disk.

use std::time::Duration;

use super::mesh::{Event, Mesh};
use super::network::Place;
use super::plan::Lasting;

/// For how long a flapping link is down, and then up.
const FLAP: Duration = Duration::from_millis(200);
/// How long it is between two restarts.
const RESTART_EVERY: Duration = Duration::from_secs(20);
/// What a slow disk takes for what one look into the inbox asks of it.
const SLOW_DISK: Duration = Duration::from_millis(600);

impl Mesh {
    pub(super) fn start_lasting_trouble(&mut self) {
        let first = Duration::from_secs(5);
        match self.plan.lasting {
            Lasting::Nothing => {}
            Lasting::FlappingLink => {
                self.schedule.plan(first, Event::Flaps { one: 0, other: 0, until: self.plan.trouble });
            }
            Lasting::RollingRestarts => self.schedule.plan(first, Event::NextRestarts { before: 0 }),
            Lasting::SlowFollower => self.schedule.plan(first, Event::FollowerSlows),
        }
    }

    /// A link goes down if it is up, or comes up again, until the time has come for it to stay up. Between nobody, it is the
    /// one between whoever leads and another server.
    pub(super) fn flaps(&mut self, one: u64, other: u64, until: Duration) {
        let goes_on = self.plan.has_faults || self.plan.lasting == Lasting::FlappingLink;
        if !goes_on {
            return;
        }
        let (one, other) = match one {
            0 => self.leader().zip(self.last_follower()).unwrap_or((0, 0)),
            _ => (one, other),
        };
        let is_over = self.schedule.now() >= until;
        let (from, to) = (Place::Server(one), Place::Server(other));
        if is_over || self.network.is_cut(from, to) {
            self.network.mend(from, to);
            self.network.mend(to, from);
        } else {
            self.network.cut(from, to);
            self.network.cut(to, from);
        }
        if !is_over {
            self.schedule.plan(FLAP, Event::Flaps { one, other, until });
        }
    }

    /// The server after another loses power, and comes back.
    pub(super) fn next_restarts(&mut self, before: u64) {
        if self.plan.lasting != Lasting::RollingRestarts {
            return;
        }
        let next = super::clients::after(&self.servers, before);
        self.crash(next);
        self.schedule.plan(RESTART_EVERY, Event::NextRestarts { before: next });
    }

    /// The disk of a follower becomes slow, and stays so.
    pub(super) fn follower_slows(&mut self) {
        if self.plan.lasting == Lasting::SlowFollower
            && let Some(server) = self.last_follower().and_then(|id| self.servers.get_mut(&id))
        {
            server.disk_takes = SLOW_DISK;
            self.trace.note(self.schedule.now(), "slow", &[server.id]);
        }
    }

    /// Returns the follower that is in trouble, or its link: the last of them.
    pub(super) fn last_follower(&self) -> Option<u64> {
        let leader = self.leader()?;
        self.servers.keys().copied().rfind(|id| *id != leader)
    }
}
