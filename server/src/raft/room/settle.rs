//! Carries out everything Raft asks for, in the one order that loses nothing.

use raft::eraftpb::{Message, MessageType};
use raft::{Ready, StateRole};

use super::{Disk, Fatal, Output, Room, Sent};

impl<D: Disk> Room<D> {
    /// Carries out everything Raft asks for until it asks for nothing.
    pub(super) fn settle(&mut self, out: &mut dyn FnMut(Output)) -> Result<(), Fatal> {
        while self.node.has_ready() {
            let mut ready = self.node.ready();
            // A leader's messages may go before the disk (the Raft thesis, §10.2.1), except in the ready in which it
            // became one without asking anybody: nobody may hear of a term that a crash could make it use twice.
            let early = ready.take_messages();
            if self.is_term_or_vote_new(&ready) {
                self.persist(&mut ready)?;
                self.send(early, out);
            } else {
                self.send(early, out);
                self.persist(&mut ready)?;
            }
            self.send(ready.take_persisted_messages(), out);
            self.reads.confirm(ready.take_read_states());
            if !ready.snapshot().is_empty() {
                self.restore(ready.snapshot(), out)?;
            }
            self.apply(ready.take_committed_entries(), out)?;
            let mut light = self.node.advance(ready);
            if let Some(commit) = light.commit_index() {
                self.node.mut_store().save_commit(commit);
            }
            self.send(light.take_messages(), out);
            self.apply(light.take_committed_entries(), out)?;
            self.node.advance_apply();
        }
        if let Some(damage) = self.node.mut_store().take_damage() {
            return Err(damage.into());
        }
        self.report(out);
        self.request_snapshot(out);
        Ok(())
    }

    fn is_term_or_vote_new(&self, ready: &Ready) -> bool {
        let stored = self.node.store().hard_state();
        ready.hs().is_some_and(|new| (new.term, new.vote) != (stored.term, stored.vote))
    }

    /// Makes durable what the ready carries. A change of nothing but the commit index waits for the next record.
    fn persist(&mut self, ready: &mut Ready) -> Result<(), Fatal> {
        let hard_state = ready.hs().cloned();
        let must_sync = ready.must_sync();
        let entries = ready.take_entries();
        let store = self.node.mut_store();
        if !ready.snapshot().is_empty() {
            store.install(ready.snapshot(), hard_state, entries)?;
        } else if must_sync {
            store.save(hard_state, entries)?;
        } else if let Some(hard_state) = hard_state {
            store.save_commit(hard_state.commit);
        }
        Ok(())
    }

    fn send(&mut self, messages: Vec<Message>, out: &mut dyn FnMut(Output)) {
        for message in messages {
            if message.msg_type == MessageType::MsgSnapshot as i32 {
                let index = message.get_snapshot().get_metadata().index;
                let until = self.ticks + self.limits.snapshot_ticks_max;
                self.sent_snapshots.insert(message.to, Sent { index, until });
            }
            out(Output::Send(message));
        }
    }

    /// Tells whoever waits what the new state means for them.
    fn report(&mut self, out: &mut dyn FnMut(Output)) {
        let now = self.role();
        let (_, leader, term) = now;
        if self.node.raft.state != StateRole::Leader {
            self.sent_snapshots.clear();
            self.proposals.fail_lost(None, out);
        } else {
            self.proposals.fail_lost(Some(term), out);
        }
        self.reads.leader_is(leader, term, out);
        self.reads.applied(self.catalog.index(), out);
        if now != self.reported {
            self.reported = now;
            let (role, leader, term) = now;
            out(Output::RoleChanged { role, leader, term });
        }
    }
}
