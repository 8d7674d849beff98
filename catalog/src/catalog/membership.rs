//! What changes of the list of servers do to the state.

use std::sync::Arc;

use super::{Attempt, Catalog, Touched, backup::NUMBERS_SKIPPED};
use crate::membership::RETIRED_MAX;
use crate::{
    Actor, CatalogIndex, Digest, Envelope, MEMBERS_MAX, Member, MemberFacts, MemberRole, Membership, MembershipChange,
    Outcome, Refusal, RetiredMember, ServerId, StateDigest, WatchKey, Witness,
};

impl Catalog {
    /// Returns the list of servers; empty before the mesh is bootstrapped.
    #[must_use]
    pub fn membership(&self) -> &Membership {
        &self.membership
    }

    /// Rewrites the list of servers to `survivor` alone, in a new epoch, at an index of its own: all others count as taken
    /// out. Nothing but the recovery from a majority that is lost for good does this. The lost ones may have given numbers to
    /// agents that this one never heard of: none of these comes twice.
    ///
    /// The audit trail tells of it; `digest` as in [`Catalog::apply`].
    ///
    /// # Panics
    /// If `index` does not follow the last one.
    pub fn recover_membership(&mut self, index: CatalogIndex, survivor: u64, digest: Digest) {
        self.apply_empty(index);
        let mut membership = Membership::clone(&self.membership);
        let others: Vec<u64> = membership.members.keys().copied().filter(|raft_id| *raft_id != survivor).collect();
        let name = |raft_id: u64| membership.member(raft_id).map_or(raft_id.to_string(), |it| it.id.to_string());
        let (kept, lost): (String, Vec<String>) = (name(survivor), others.iter().map(|id| name(*id)).collect());
        others.into_iter().for_each(|raft_id| membership.retire(raft_id, index));
        if let Some(member) = membership.members.get_mut(&survivor) {
            let member = Arc::make_mut(member);
            (member.role, member.modified) = (MemberRole::Voter, index);
        }
        membership.epoch += 1;
        self.membership = Arc::new(membership);
        self.numbers_ahead = self.numbers_ahead.saturating_add(NUMBERS_SKIPPED);
        self.changes.insert(WatchKey::Members, index);
        self.record_recovery(index, &kept, &lost, digest);
    }

    pub(super) fn change_membership(
        &mut self,
        index: CatalogIndex,
        envelope: &Envelope,
        change: &MembershipChange,
        touched: &mut Touched,
    ) -> Attempt {
        let is_by_operator = matches!(
            change,
            MembershipChange::Remove { .. } | MembershipChange::SetAutopilot { .. } | MembershipChange::HandOver { .. }
        );
        if !is_by_operator && !matches!(envelope.actor, Actor::Server(_)) {
            return Err(Refusal::membership("only a server says this of servers"));
        }
        let mut membership = Membership::clone(&self.membership);
        let outcome = match change {
            MembershipChange::Add { id, disk_id, facts } => {
                self.check_reads(id, facts)?;
                membership.add(index, id, disk_id, facts)?
            }
            MembershipChange::Describe { raft_id, facts } => {
                let member = membership.existing(*raft_id)?;
                if member.facts != *facts {
                    (member.facts, member.modified) = (facts.clone(), index);
                }
                Outcome::Done
            }
            MembershipChange::Promote { raft_id } => membership.promote(index, *raft_id)?,
            MembershipChange::Remove { raft_id } => membership.remove(index, *raft_id)?,
            MembershipChange::Retire { raft_id } => {
                if membership.existing(*raft_id)?.role != MemberRole::Leaving {
                    return Err(Refusal::membership(format!("server {raft_id} is not leaving")));
                }
                membership.retire(*raft_id, index);
                Outcome::Done
            }
            MembershipChange::SetAutopilot { autopilot, compare } => {
                let before = &membership.autopilot;
                let modified = before.modified;
                if let Some(expected) = compare.filter(|expected| *expected != modified) {
                    return Err(Refusal::EntryChanged { name: "autopilot".to_owned(), modified, expected });
                }
                let created = if before.created == CatalogIndex::default() { index } else { before.created };
                membership.autopilot = crate::Autopilot { created, modified: index, ..autopilot.clone() };
                Outcome::Done
            }
            // Who leads is no part of the state; that somebody asked for it stands in the trail.
            MembershipChange::HandOver { .. } => Outcome::Done,
            MembershipChange::Witness { raft_id, index, found } => {
                membership.witness(*raft_id, *index, found)?;
                Outcome::Done
            }
        };
        if membership != *self.membership {
            self.membership = Arc::new(membership);
            touched.changed(WatchKey::Members);
        }
        Ok(outcome)
    }

    /// Refuses a server that could not read what is in the log by now: it would stop at once, and hold up all the others
    /// until it is taken out again.
    fn check_reads(&self, id: &ServerId, facts: &MemberFacts) -> Result<(), Refusal> {
        if facts.reads >= self.speaks {
            return Ok(());
        }
        let (theirs, ours) = (facts.reads, self.speaks);
        Err(Refusal::membership(format!(
            "server `{id}` reads commands up to version {theirs}, and the group's log has version {ours}: start it with the release of the others"
        )))
    }
}

impl Membership {
    fn existing(&mut self, raft_id: u64) -> Result<&mut Member, Refusal> {
        self.members.get_mut(&raft_id).map(Arc::make_mut).ok_or_else(|| Refusal::not_found("server", raft_id))
    }

    fn add(&mut self, index: CatalogIndex, id: &ServerId, disk_id: &str, facts: &MemberFacts) -> Attempt {
        if self.members.is_empty() {
            return Err(Refusal::membership("there is no group yet: it is formed by its first servers"));
        }
        if self.is_retired(disk_id) {
            return Err(Refusal::membership(format!(
                "server `{id}` was taken out with this data directory: start it with an empty one"
            )));
        }
        let same_disk = self.members.values_mut().find(|member| member.disk_id == disk_id);
        if let Some(member) = same_disk {
            if member.id != *id {
                return Err(Refusal::exists("the data directory of server", &member.id));
            }
            let raft_id = member.raft_id;
            if member.role == MemberRole::Leaving {
                return Err(Refusal::membership(format!("server `{id}` is being taken out")));
            }
            if member.facts != *facts {
                let member = Arc::make_mut(member);
                (member.facts, member.modified) = (facts.clone(), index);
            }
            return Ok(Outcome::MemberAdded { raft_id });
        }
        if self.member_named(id).is_some() {
            return Err(Refusal::membership(format!(
                "server `{id}` is a member with another disk: start the new server under another --node, then take the lost one out with `weft operator raft remove-peer {id}`"
            )));
        }
        if self.members.len() >= MEMBERS_MAX {
            return Err(Refusal::membership(format!("a group has at most {MEMBERS_MAX} servers: take one out first")));
        }
        let raft_id = self.next_raft_id;
        self.next_raft_id += 1;
        let member = Member {
            id: id.clone(),
            raft_id,
            disk_id: disk_id.to_owned(),
            role: MemberRole::Learner,
            facts: facts.clone(),
            created: index,
            modified: index,
        };
        self.members.insert(raft_id, Arc::new(member));
        Ok(Outcome::MemberAdded { raft_id })
    }

    fn promote(&mut self, index: CatalogIndex, raft_id: u64) -> Attempt {
        let member = self.existing(raft_id)?;
        match member.role {
            MemberRole::Voter => {}
            MemberRole::Learner => (member.role, member.modified) = (MemberRole::Voter, index),
            MemberRole::Leaving => {
                return Err(Refusal::membership(format!("server `{}` is being taken out", member.id)));
            }
        }
        Ok(Outcome::Done)
    }

    fn remove(&mut self, index: CatalogIndex, raft_id: u64) -> Attempt {
        let others_vote = self.voters().any(|voter| voter != raft_id);
        let member = self.existing(raft_id)?;
        match member.role {
            MemberRole::Leaving => {}
            MemberRole::Voter if !others_vote => {
                return Err(Refusal::membership(format!(
                    "server `{}` is the last that votes: let another one join first",
                    member.id
                )));
            }
            MemberRole::Voter | MemberRole::Learner => (member.role, member.modified) = (MemberRole::Leaving, index),
        }
        Ok(Outcome::Done)
    }

    fn retire(&mut self, raft_id: u64, index: CatalogIndex) {
        let Some(member) = self.members.remove(&raft_id) else { return };
        let retired = RetiredMember { id: member.id.clone(), disk_id: member.disk_id.clone(), retired: index };
        self.retired.insert(raft_id, Arc::new(retired));
        self.witness.digests.remove(&raft_id);
        while self.retired.len() > RETIRED_MAX {
            self.retired.pop_first();
        }
    }

    fn witness(&mut self, raft_id: u64, index: CatalogIndex, found: &StateDigest) -> Result<(), Refusal> {
        self.existing(raft_id)?;
        if index > self.witness.index {
            self.witness = Witness { index, ..Witness::default() };
        }
        if index == self.witness.index {
            self.witness.digests.insert(raft_id, found.clone());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::tests::{digest, every_kind, log_of};
    use crate::{Command, Timestamp};

    fn facts(port: u16) -> MemberFacts {
        MemberFacts {
            raft_address: format!("10.0.0.1:{port}"),
            agent_address: "10.0.0.1:8300".to_owned(),
            release: "1.0.0".to_owned(),
            reads: 2,
            keys: Vec::new(),
        }
    }

    fn add(id: &str, disk_id: &str) -> MembershipChange {
        MembershipChange::Add { id: id.parse().unwrap(), disk_id: disk_id.to_owned(), facts: facts(1) }
    }

    /// A catalog whose group was founded by `s1` alone.
    struct Group(Catalog);

    impl Group {
        fn new() -> Self {
            Self(log_of(&every_kind()[..1]))
        }

        fn apply(&mut self, actor: Actor, change: MembershipChange) -> crate::Applied {
            let next = self.0.index().0 + 1;
            let envelope = Envelope {
                version: 2,
                request_id: format!("m{next}").parse().unwrap(),
                actor,
                source_address: None,
                proposed_at: Timestamp(next),
                command: Command::Membership { change },
            };
            self.0.apply(CatalogIndex(next), &envelope, digest)
        }

        #[track_caller]
        fn done(&mut self, change: MembershipChange) -> Outcome {
            let applied = self.apply(Actor::Server("s1".parse().unwrap()), change);
            assert!(!matches!(applied.outcome, Outcome::Refused(_)), "{:?}", applied.outcome);
            applied.outcome
        }

        #[track_caller]
        fn refused(&mut self, change: MembershipChange) -> String {
            let before = self.0.membership().clone();
            let applied = self.apply(Actor::Server("s1".parse().unwrap()), change);
            assert!(!applied.touched.contains(&WatchKey::Members));
            assert_eq!(before, *self.0.membership());
            match applied.outcome {
                Outcome::Refused(refusal) => refusal.to_string(),
                outcome => panic!("not refused: {outcome:?}"),
            }
        }
    }

    #[test]
    fn r9_a_server_that_cannot_read_the_log_is_not_taken_in() {
        let mut group = Group::new();
        group.0.speaks = 3;
        let old = MembershipChange::Add {
            id: "s2".parse().unwrap(),
            disk_id: "d2".to_owned(),
            facts: MemberFacts { reads: 2, ..facts(1) },
        };
        assert!(group.refused(old).contains("up to version 2, and the group's log has version 3"));
        let new = MembershipChange::Add {
            id: "s2".parse().unwrap(),
            disk_id: "d2".to_owned(),
            facts: MemberFacts { reads: 3, ..facts(1) },
        };
        assert_eq!(group.done(new), Outcome::MemberAdded { raft_id: 2 });
    }

    #[test]
    fn r9_a_newcomer_is_a_learner_until_it_is_promoted_and_its_number_is_never_used_again() {
        let mut group = Group::new();
        assert_eq!(group.done(add("s2", "d2")), Outcome::MemberAdded { raft_id: 2 });
        assert_eq!(group.0.membership().member(2).unwrap().role, MemberRole::Learner);
        assert_eq!(group.done(add("s2", "d2")), Outcome::MemberAdded { raft_id: 2 }, "asked again, it is the same");
        group.done(MembershipChange::Promote { raft_id: 2 });
        assert_eq!(group.0.membership().voters().collect::<Vec<_>>(), [1, 2]);
        assert!(group.refused(MembershipChange::Retire { raft_id: 2 }).contains("is not leaving"));
        group.done(MembershipChange::Remove { raft_id: 2 });
        assert!(group.refused(MembershipChange::Promote { raft_id: 2 }).contains("is being taken out"));
        group.done(MembershipChange::Retire { raft_id: 2 });
        assert!(group.0.membership().is_retired("d2"));
        assert!(group.refused(add("s2", "d2")).contains("start it with an empty one"));
        assert_eq!(group.done(add("s2", "d2b")), Outcome::MemberAdded { raft_id: 3 });
    }

    #[test]
    fn fault_19_a_members_name_with_another_disk_is_refused_and_told_what_to_do() {
        let mut group = Group::new();
        let refusal = group.refused(add("s1", "another"));
        assert!(refusal.contains("under another --node"), "{refusal}");
        assert!(refusal.contains("`weft operator raft remove-peer s1`"), "{refusal}");
        assert!(group.refused(add("s9", "d1")).contains("the data directory of server `s1`"));
    }

    #[test]
    fn r9_the_last_voter_is_not_taken_out_and_storms_end_where_they_must() {
        let mut group = Group::new();
        assert!(group.refused(MembershipChange::Remove { raft_id: 1 }).contains("is the last that votes"));
        for round in 0..100_u64 {
            let raft_id = round + 2;
            assert_eq!(group.done(add("s2", &format!("d{raft_id}"))), Outcome::MemberAdded { raft_id });
            group.done(MembershipChange::Remove { raft_id });
            group.done(MembershipChange::Remove { raft_id });
            group.done(MembershipChange::Retire { raft_id });
        }
        assert_eq!(group.0.membership().voters().collect::<Vec<_>>(), [1]);
        for number in 0..MEMBERS_MAX - 1 {
            group.done(add(&format!("n{number}"), &format!("disk{number}")));
        }
        assert!(group.refused(add("one-more", "disk")).contains("at most"));
    }

    #[test]
    fn only_servers_speak_for_servers() {
        let mut group = Group::new();
        let applied = group.apply(Actor::ClusterKey, add("s2", "d2"));
        assert!(matches!(applied.outcome, Outcome::Refused(Refusal::Membership { .. })), "{:?}", applied.outcome);
    }

    #[test]
    fn autopilot_is_written_only_over_what_the_writer_has_seen() {
        let mut group = Group::new();
        let autopilot = crate::Autopilot { max_trailing_logs: 7, ..crate::Autopilot::default() };
        let set = |compare| MembershipChange::SetAutopilot { autopilot: autopilot.clone(), compare };
        group.done(set(Some(CatalogIndex(0))));
        assert!(group.refused(set(Some(CatalogIndex(0)))).contains("config entry `autopilot`"));
        let modified = group.0.membership().autopilot.modified;
        group.done(set(Some(modified)));
        assert_eq!(group.0.membership().autopilot.created, modified);
    }

    #[test]
    fn r6_a_majority_of_one_release_says_what_the_state_is() {
        let mut group = Group::new();
        group.done(add("s2", "d2"));
        group.done(add("s3", "d3"));
        let found =
            |digest: &str, release: &str| StateDigest { release: release.to_owned(), digest: digest.to_owned() };
        let says = |raft_id, digest, release| MembershipChange::Witness {
            raft_id,
            index: CatalogIndex(100),
            found: found(digest, release),
        };
        group.done(says(1, "good", "1.0.0"));
        group.done(says(2, "other", "1.1.0"));
        assert_eq!(group.0.membership().witness.majority(3, "1.0.0"), None, "another release may write another form");
        group.done(says(3, "good", "1.0.0"));
        assert_eq!(group.0.membership().witness.majority(3, "1.0.0"), Some("good"));
        let late = MembershipChange::Witness { raft_id: 2, index: CatalogIndex(50), found: found("good", "1.0.0") };
        group.done(late);
        assert_eq!(group.0.membership().witness.digests[&2], found("other", "1.1.0"), "what is old does not count");
        assert!(group.refused(says(9, "x", "1.0.0")).contains("no server"));
    }

    #[test]
    fn fault_11_after_a_recovery_no_number_is_given_that_the_lost_servers_may_have_given() {
        let mut group = Group::new();
        let index = CatalogIndex(group.0.index().0 + 1);
        // The lost ones went on for as long as a log may go on meanwhile.
        let lost = group.0.number_at(CatalogIndex(index.0 + 1_000_000));
        group.0.recover_membership(index, 1, digest);
        assert!(group.0.number_at(index) > lost);
        let once = group.0.number_at(index);
        assert_eq!(Catalog::restore(&group.0.snapshot()).unwrap().number_at(index), once, "a snapshot keeps it");
        let next = CatalogIndex(index.0 + 1);
        group.0.recover_membership(next, 1, digest);
        assert!(group.0.number_at(next).0 > once.0 + 1_000_000, "and each recovery skips some");
    }

    #[test]
    fn fault_11_recovery_leaves_one_server_in_a_new_epoch() {
        let mut group = Group::new();
        group.done(add("s2", "d2"));
        group.done(MembershipChange::Promote { raft_id: 2 });
        group.done(MembershipChange::Remove { raft_id: 1 });
        let index = CatalogIndex(group.0.index().0 + 1);
        group.0.recover_membership(index, 1, digest);
        let membership = group.0.membership();
        assert_eq!(membership.voters().collect::<Vec<_>>(), [1]);
        assert_eq!((membership.epoch, membership.next_raft_id), (1, 3));
        assert!(membership.is_retired("d2"));
        assert_eq!(group.0.index_of(&[WatchKey::Members]), index);
        assert_eq!(Catalog::restore(&group.0.snapshot()).unwrap(), group.0);
    }
}
