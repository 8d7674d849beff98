//! Waiting until the agent beside serves everything that it is to serve, or did so once.

use std::time::Duration;

use tokio::time::Instant;

use super::{api::Api, error::hinted_by};

/// How often the agent is asked whether it is ready.
const ASK_EVERY: Duration = Duration::from_millis(200);
/// An agent that is there answers at once.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// Waits until the agent whose admin listener `api` asks is ready; says what is missing where it is not in time, with this advice.
pub(super) async fn until_ready(api: &Api, patience: Duration, advice: &str) -> anyhow::Result<()> {
    until(api, "/ready", patience, advice).await
}

/// Does so until it has been ready once, whatever it lacks now.
pub(super) async fn until_started(api: &Api, patience: Duration, advice: &str) -> anyhow::Result<()> {
    until(api, "/started", patience, advice).await
}

async fn until(api: &Api, path: &str, patience: Duration, advice: &str) -> anyhow::Result<()> {
    let deadline = Instant::now() + patience;
    loop {
        let error = match api.answer(path, &[], ANSWER_TIMEOUT).await {
            Ok(_) => return Ok(()),
            Err(error) => error,
        };
        if Instant::now() >= deadline {
            return Err(hinted_by(error, format!("the agent was not ready within {patience:?}"), advice));
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}
