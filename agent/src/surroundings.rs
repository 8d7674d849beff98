//! Watching what the platform says of where the agent is.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval_at};
use tracing::{info, warn};
use wire::surroundings::{ObserveError, Observed, Surroundings};

use crate::core::{Handle, Request};

/// No platform is waited for longer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Asks once.
pub(crate) async fn look(surroundings: &dyn Surroundings) -> Result<Observed, ObserveError> {
    match tokio::time::timeout(TIMEOUT, surroundings.observe()).await {
        Ok(answer) => answer,
        Err(_) => Err(ObserveError { reason: format!("the platform did not answer within {TIMEOUT:?}") }),
    }
}

/// Asks again and again, and tells the core. While there is no answer, the last one counts: that the platform is silent
/// says nothing of what runs here.
pub(crate) async fn watch(core: Handle, surroundings: Arc<dyn Surroundings>) {
    let period = surroundings.interval();
    let mut ticks = interval_at(tokio::time::Instant::now() + period, period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut is_silent = false;
    let mut known = None;
    loop {
        ticks.tick().await;
        match look(surroundings.as_ref()).await {
            Ok(observed) => {
                if std::mem::take(&mut is_silent) {
                    info!("the platform answers again");
                }
                if known.as_ref() != Some(&observed) {
                    core.send(Request::Observed(observed.clone())).await;
                    known = Some(observed);
                }
            }
            Err(error) if is_silent => tracing::debug!(%error, "the platform does not answer"),
            Err(error) => {
                is_silent = true;
                warn!(%error, "the platform does not answer; what it said last counts");
            }
        }
    }
}
