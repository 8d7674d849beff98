//! Tells a server at a slow pace what the proxy has seen: soft state, which a server that does not know the path, or
//! cannot be reached, simply does not have.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tracing::debug;
use wire::agent_protocol::REPORT_PATH;

use crate::core::Handle;
use crate::sync::connection::{CallError, Connection};
use crate::tally::Tally;
use wire::random::Seeded;

/// A server that is new to the agent is told within this.
const FIRST_MAX: Duration = Duration::from_secs(10);
/// However often is asked for, it is told no more often.
const INTERVAL_MIN: Duration = Duration::from_secs(1);
/// Time for one report.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Reports for ever.
pub(crate) async fn keep(core: Handle, tally: Arc<Tally>, interval: Duration) {
    let interval = interval.max(INTERVAL_MIN);
    let since = wire::crypto::now();
    let mut jitter = Seeded::from_entropy();
    loop {
        let connection = core.connected().await;
        // Agents that come back together do not report together.
        tokio::time::sleep(jitter.up_to(interval.min(FIRST_MAX))).await;
        while connection.is_open() {
            let services = core.status().services.iter().map(|it| it.instance.service_key()).collect::<BTreeSet<_>>();
            let report = tally.report(since, services.into_iter().collect());
            if !tell(&connection, &report).await {
                break;
            }
            tokio::select! {
                () = tokio::time::sleep(interval) => {}
                () = core.disconnected(&connection) => {}
            }
        }
        core.disconnected(&connection).await;
    }
}

/// Sends one report; false where the server will take none.
async fn tell(connection: &Connection, report: &wire::report::AgentReport) -> bool {
    match connection.call::<_, serde_json::Value>(REPORT_PATH, report, TIMEOUT).await {
        Ok(_) => true,
        Err(CallError::Refused { status, error, .. }) => {
            debug!(error, "server did not take the report of what was seen");
            // A server of an earlier release has no such path.
            status != http::StatusCode::NOT_FOUND
        }
        Err(error) => {
            debug!(error = wire::one_line(&error), "report of what was seen did not arrive");
            true
        }
    }
}
