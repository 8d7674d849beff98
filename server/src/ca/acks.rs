//! What agents say of the roots that they have in force, gathered until a batch of it is worth a log entry.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use catalog::{AgentId, CaChange, Catalog, Command, RootsAck};
use tokio::sync::Notify;
use tracing::debug;

use crate::consensus::Consensus;

/// What arrives within this time goes into one log entry.
const GATHER: Duration = Duration::from_millis(250);
/// Acknowledgements in one log entry at most.
const BATCH_MAX: usize = 1_000;
/// How far what an agent speaks of may be ahead of this server: further than any server that takes part falls behind.
const AHEAD_MAX: u64 = 1_000_000;

/// Holds what was said and is not in the log yet.
#[derive(Debug, Default)]
pub struct Acks {
    waiting: Mutex<BTreeMap<AgentId, RootsAck>>,
    arrived: Notify,
}

impl Acks {
    /// Takes what an agent says now; it stands for all that it said before.
    pub fn note(&self, agent: &AgentId, ack: RootsAck) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(agent.clone(), ack);
        self.arrived.notify_one();
    }

    /// Takes a batch of what the rotation under way has not heard yet, and drops what means nothing to it.
    ///
    /// What speaks of roots that this server has not applied yet is kept until it has.
    pub fn batch(&self, catalog: &Catalog) -> BTreeMap<AgentId, RootsAck> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.retain(|agent, ack| {
            if catalog.agent_record(agent).is_none() && agent.index() <= catalog.number_at(catalog.index()) {
                return false;
            }
            if ack.roots > catalog.index() {
                return ack.roots.0 - catalog.index().0 <= AHEAD_MAX;
            }
            catalog.ca_rotation().is_some() && catalog.roots_ack(agent) != Some(*ack)
        });
        let ready = waiting.iter().filter(|(_, ack)| ack.roots <= catalog.index()).take(BATCH_MAX);
        ready.map(|(agent, ack)| (agent.clone(), *ack)).collect()
    }

    /// Drops what has been committed, unless something newer was said since.
    pub fn committed(&self, acks: &BTreeMap<AgentId, RootsAck>) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.retain(|agent, ack| acks.get(agent) != Some(ack));
    }

    fn is_empty(&self) -> bool {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Carries batches into the log. Never returns.
    pub(crate) async fn keep(&self, consensus: &Consensus) {
        loop {
            if self.is_empty() {
                self.arrived.notified().await;
            }
            tokio::time::sleep(GATHER).await;
            let acks = self.batch(&consensus.catalog());
            if acks.is_empty() {
                continue;
            }
            let command = Command::Ca { change: CaChange::Acknowledge { acks: acks.clone() }, not_before: None };
            match consensus.propose_as_server(command).await {
                Ok(_) => self.committed(&acks),
                Err(error) => debug!(error = wire::one_line(&error), "acknowledgements are not committed yet"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use catalog::CatalogIndex;

    use super::*;

    fn agent(number: u64) -> AgentId {
        AgentId::enrolled_at(CatalogIndex(number))
    }

    #[test]
    fn what_no_rotation_waits_for_is_dropped_and_what_runs_ahead_is_kept() {
        let acks = Acks::default();
        let (old, ahead) = (RootsAck { roots: CatalogIndex(0), renewed: true }, CatalogIndex(9));
        acks.note(&agent(1), old);
        acks.note(&agent(2), RootsAck { roots: ahead, renewed: false });
        let mut catalog = Catalog::default();
        assert!(acks.batch(&catalog).is_empty());
        assert!(!acks.is_empty(), "this server has not applied yet what the second agent speaks of");
        for index in 1..=9 {
            catalog.apply_empty(CatalogIndex(index));
        }
        assert!(acks.batch(&catalog).is_empty());
        assert!(acks.is_empty(), "nothing is rotated");
    }

    #[test]
    fn what_no_agent_or_no_server_can_have_is_dropped() {
        let acks = Acks::default();
        let said = |roots| RootsAck { roots: CatalogIndex(roots), renewed: false };
        let mut catalog = Catalog::default();
        catalog.apply_empty(CatalogIndex(1));
        acks.note(&agent(1), said(2));
        acks.note(&agent(2), said(u64::MAX));
        acks.note(&agent(3), said(2));
        assert!(acks.batch(&catalog).is_empty());
        let kept: Vec<AgentId> = acks.waiting.lock().unwrap().keys().cloned().collect();
        assert_eq!(kept, [agent(3)], "the first has no record, and nobody streamed to the second what it speaks of");
    }

    #[test]
    fn what_an_agent_said_that_is_gone_is_dropped_where_numbers_run_ahead_of_indexes() {
        let (acks, mut catalog) = (Acks::default(), Catalog::default());
        catalog.recover_membership(CatalogIndex(1), 1, wire::crypto::sha256);
        let number = |index: u64| catalog.number_at(CatalogIndex(index)).0;
        let ahead = RootsAck { roots: CatalogIndex(9), renewed: false };
        acks.note(&agent(number(1)), ahead);
        acks.note(&agent(number(2)), ahead);
        assert!(acks.batch(&catalog).is_empty());
        let kept: Vec<AgentId> = acks.waiting.lock().unwrap().keys().cloned().collect();
        assert_eq!(kept, [agent(number(2))], "this server has not applied yet what would enrol the second");
    }

    #[test]
    fn what_was_said_while_a_batch_was_under_way_is_not_lost() {
        let acks = Acks::default();
        let said = |renewed| RootsAck { roots: CatalogIndex(3), renewed };
        acks.note(&agent(1), said(false));
        let batch = BTreeMap::from([(agent(1), said(false))]);
        acks.note(&agent(1), said(true));
        acks.committed(&batch);
        assert!(!acks.is_empty());
        acks.committed(&BTreeMap::from([(agent(1), said(true))]));
        assert!(acks.is_empty());
    }
}
