//! The task that keeps the certificate authority in order, on whichever server leads.

use std::time::Duration;

use catalog::{CaChange, Catalog, Command, Outcome, Refusal, Timestamp, WatchKey};
use tokio::time::Instant;
use tracing::{debug, info, warn};
use wire::cluster_key::ClusterKeys;
use wire::crypto;

use super::duty::{Duty, next_duty};
use super::found::{self, AuthorityError};
use crate::consensus::{Consensus, Role};

/// The longest that the leader goes without looking, however the wall clock jumps.
const LOOK_INTERVAL: Duration = Duration::from_secs(600);
/// As long while a rotation is under way.
const ROTATION_LOOK_INTERVAL: Duration = Duration::from_secs(5);
/// How soon a step that failed is tried again.
const RETRY_INTERVAL: Duration = Duration::from_secs(10);
/// How soon whoever does not lead looks whether it does now.
const FOLLOWER_INTERVAL: Duration = Duration::from_millis(500);

/// What the task works with.
pub(crate) struct Stewardship {
    pub(crate) consensus: Consensus,
    pub(crate) cluster_keys: ClusterKeys,
    /// How long leaves live where the catalog does not say.
    pub(crate) leaf_ttl: Duration,
}

/// Does what is due whenever this server leads. Never returns.
pub(crate) async fn run(stewardship: Stewardship) {
    loop {
        if stewardship.consensus.status().role != Role::Leader || stewardship.consensus.read_index().await.is_err() {
            tokio::time::sleep(FOLLOWER_INTERVAL).await;
            continue;
        }
        let catalog = stewardship.consensus.catalog();
        let now = crypto::now();
        let duty = next_duty(&catalog, stewardship.leaf_ttl, now);
        if let Duty::Wait { until } = duty {
            stewardship.wait(&catalog, until, now).await;
        } else if let Some(pause) = stewardship.carry_out(&catalog, duty, now).await {
            stewardship.wait(&catalog, Some(now.saturating_add(pause)), now).await;
        }
    }
}

impl Stewardship {
    /// Waits until the authority or its agents change, or until the time comes.
    async fn wait(&self, catalog: &Catalog, until: Option<Timestamp>, now: Timestamp) {
        let keys = [WatchKey::Roots, WatchKey::CaRotation, WatchKey::Agents];
        let longest = if catalog.ca_rotation().is_some() { ROTATION_LOOK_INTERVAL } else { LOOK_INTERVAL };
        let pause = until.map_or(longest, |until| until.since(now).min(longest));
        let deadline = Instant::now() + pause.max(Duration::from_millis(50));
        let mut seen = catalog.index_of(&keys);
        // Whoever loses the lead meanwhile looks again soon, and so does whoever is not let wait.
        while Instant::now() < deadline && self.consensus.status().role == Role::Leader {
            let soon = deadline.min(Instant::now() + FOLLOWER_INTERVAL);
            let index = self.consensus.changed(&keys, seen, soon).await.index_of(&keys);
            if index != seen {
                return;
            }
            seen = index;
            if Instant::now() < soon {
                tokio::time::sleep_until(soon).await;
            }
        }
    }

    /// Carries out a duty, and says how much later the next look is due; none for at once.
    async fn carry_out(&self, catalog: &Catalog, duty: Duty, now: Timestamp) -> Option<Duration> {
        info!(duty = ?duty, "certificate authority: next step");
        let (change, not_before) = match self.change(catalog, duty, now) {
            Ok(change) => change,
            Err(error) => {
                warn!(error = wire::one_line(&error), "certificate authority: the step cannot be taken");
                return Some(RETRY_INTERVAL);
            }
        };
        // What waited for a time is judged by the catalog's own clock.
        if not_before.is_some_and(|not_before| catalog.clock() < not_before)
            && let Err(error) = self.consensus.tell_time(Duration::ZERO).await
        {
            debug!(error = wire::one_line(&error), "certificate authority: the time is not written yet");
        }
        let command = Command::Ca { change, not_before };
        match self.consensus.propose_as_server(command).await.map(|committed| committed.outcome) {
            Ok(Outcome::Refused(refusal @ Refusal::CaMovedOn { .. })) => {
                debug!(error = %refusal, "certificate authority: step not taken");
                None
            }
            Ok(Outcome::Refused(Refusal::TooEarly { left_s })) => {
                debug!(left_s, "certificate authority: step not taken");
                Some(Duration::from_secs(left_s).min(RETRY_INTERVAL))
            }
            Ok(Outcome::Refused(refusal)) => {
                warn!(error = %refusal, "certificate authority: step refused");
                Some(RETRY_INTERVAL)
            }
            Ok(_) => None,
            Err(error) => {
                debug!(error = wire::one_line(&error), "certificate authority: step not committed");
                Some(RETRY_INTERVAL)
            }
        }
    }

    fn change(
        &self,
        catalog: &Catalog,
        duty: Duty,
        now: Timestamp,
    ) -> Result<(CaChange, Option<Timestamp>), AuthorityError> {
        Ok(match duty {
            Duty::Wait { .. } => return Err(AuthorityError::NotReady),
            Duty::RenewIntermediate { not_before } => {
                (found::renewed_intermediate(&self.cluster_keys, catalog, now)?, Some(not_before))
            }
            Duty::StartRotation { not_before } => {
                (found::rotation(&self.cluster_keys, catalog, false, now)?, Some(not_before))
            }
            Duty::Activate { root, not_before } => (CaChange::Activate { root }, not_before),
            Duty::Finish { root, not_before } => (CaChange::Finish { root }, not_before),
            Duty::Distrust { root, not_before } => (CaChange::Distrust { root }, not_before),
            Duty::Retire { root, not_before } => (CaChange::Retire { root }, Some(not_before)),
        })
    }
}
