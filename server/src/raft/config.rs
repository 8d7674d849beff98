//! How a Raft room is configured, and what becomes of it in the `raft` crate.

use raft::{Config, ReadOnlyOption};

/// How one server takes part in its Raft group.
#[derive(Debug, Clone)]
pub struct RoomConfig {
    /// This server's Raft id. Never zero, never reused by another disk.
    pub raft_id: u64,
    /// The voters that bootstrap the group, equal on all of them. Used on an empty disk only; empty there means: wait
    /// for a leader that adds this server.
    pub voters: Vec<u64>,
    /// Ticks without a leader before a lease ends; elections start after this many to twice as many.
    pub election_tick: usize,
    /// Ticks between a leader's heartbeats.
    pub heartbeat_tick: usize,
    /// What is bounded, and by how much.
    pub limits: Limits,
    /// Seeds the jitter of elections and the names of reads. Must differ at every start and between servers, for a
    /// late answer to a read of an earlier life must not be taken for one of this life.
    pub seed: u64,
}

impl RoomConfig {
    /// Returns a configuration with the default timing and limits.
    pub fn new(raft_id: u64, voters: Vec<u64>, seed: u64) -> RoomConfig {
        RoomConfig { raft_id, voters, election_tick: 10, heartbeat_tick: 1, limits: Limits::default(), seed }
    }

    /// Returns the `raft` crate's configuration: its defaults are not safe here, so every field is set.
    pub(crate) fn raft(&self, applied: u64) -> Config {
        // The crate draws election timeouts from a thread-local generator. A fixed timeout of almost twice the lease
        // leaves the draw to the room, which hurries the last ticks (`ElectionJitter`).
        let election_timeout = self.election_tick * 2 - 1;
        Config {
            id: self.raft_id,
            election_tick: self.election_tick,
            heartbeat_tick: self.heartbeat_tick,
            applied,
            max_size_per_msg: self.limits.append_bytes_max,
            max_inflight_msgs: self.limits.appends_in_flight_max,
            check_quorum: true,
            pre_vote: true,
            min_election_tick: election_timeout,
            max_election_tick: election_timeout + 1,
            read_only_option: ReadOnlyOption::Safe,
            skip_bcast_commit: false,
            batch_append: false,
            priority: 0,
            max_uncommitted_size: self.limits.uncommitted_bytes_max,
            max_committed_size_per_ready: self.limits.apply_bytes_max,
        }
    }
}

/// What the room bounds.
#[derive(Debug, Clone)]
pub struct Limits {
    /// How many proposals may wait for their outcome.
    pub proposals_max: usize,
    /// How many reads may wait.
    pub reads_max: usize,
    /// Ticks after which a waiting read fails.
    pub read_ticks_max: u64,
    /// How long one proposal may be, in bytes.
    pub entry_bytes_max: usize,
    /// How many bytes of entries one append message carries (one entry always fits).
    pub append_bytes_max: u64,
    /// How many append messages may be on the way to one follower.
    pub appends_in_flight_max: usize,
    /// How many bytes of uncommitted entries a leader holds before it refuses proposals.
    pub uncommitted_bytes_max: u64,
    /// How many bytes of committed entries are applied in one go.
    pub apply_bytes_max: u64,
    /// How many bytes a log segment has before the next is begun.
    pub segment_bytes: u64,
    /// How many entries are applied between two snapshots.
    pub snapshot_entries: u64,
    /// How many bytes of entries are applied between two snapshots at most.
    pub snapshot_bytes: u64,
    /// How many entries before the snapshot stay in the log for slow followers.
    pub retained_entries: u64,
    /// How many bytes of such entries stay at most.
    pub retained_bytes: u64,
    /// How many bytes of the disk stay free, or a sixteenth of a small disk; below that nothing enters the log.
    pub space_floor_bytes: u64,
    /// How many entries lie between the states that servers compare.
    pub checkpoint_entries: u64,
    /// Ticks after which a snapshot under way to a follower counts as lost if nobody said what became of it.
    pub snapshot_ticks_max: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        const MIB: u64 = 1 << 20;
        Limits {
            proposals_max: 4096,
            reads_max: 16_384,
            read_ticks_max: 20,
            entry_bytes_max: 4 << 20,
            append_bytes_max: MIB / 2,
            appends_in_flight_max: 64,
            uncommitted_bytes_max: 64 * MIB,
            apply_bytes_max: 4 * MIB,
            segment_bytes: 8 * MIB,
            snapshot_entries: 8192,
            snapshot_bytes: 64 * MIB,
            retained_entries: 4096,
            retained_bytes: 32 * MIB,
            space_floor_bytes: 128 * MIB,
            checkpoint_entries: 4096,
            snapshot_ticks_max: 600,
        }
    }
}

#[cfg(test)]
mod tests {
    use raft::NO_LIMIT;

    use super::*;

    #[test]
    fn no_unsafe_default_of_the_raft_crate_is_used() {
        let config = RoomConfig::new(1, vec![1, 2, 3], 7).raft(5);
        config.validate().unwrap();
        assert!(config.pre_vote, "an isolated server must not raise the term when it comes back");
        assert!(config.check_quorum, "a leader without a quorum must step down");
        assert_eq!(config.read_only_option, ReadOnlyOption::Safe, "reads never rest on clocks");
        assert!(config.max_size_per_msg > 0, "0 means one entry per message");
        for bound in [config.max_size_per_msg, config.max_uncommitted_size, config.max_committed_size_per_ready] {
            assert!(bound < NO_LIMIT, "every queue has a bound");
        }
        assert!(config.max_inflight_msgs <= 256);
        assert_eq!(config.applied, 5);
    }

    #[test]
    fn the_raft_crate_draws_no_election_timeout_of_its_own() {
        let config = RoomConfig::new(1, vec![1, 2, 3], 7).raft(0);
        assert_eq!(
            config.max_election_tick() - config.min_election_tick(),
            1,
            "the only value in the range is the room's"
        );
        assert!(config.min_election_tick() >= config.election_tick);
    }
}
