//! A task of ECS, by what its metadata endpoint (version 4) says of it.

mod endpoint;
mod reading;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use catalog::NodeName;
use http::Uri;
use wire::surroundings::{ObserveError, Observed, Observing, Surroundings};

use reading::{Container, Task};

/// How often the endpoint is asked; it is on the same machine and allows forty times as much.
const INTERVAL: Duration = Duration::from_secs(1);

/// Is what is fixed about a task when its agent starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskFacts {
    /// The task's id, which names its node.
    pub node: NodeName,
    /// Its availability zone.
    pub zone: Option<String>,
    /// Its own address, where it has one: in the network mode `awsvpc`, which Fargate always has.
    pub address: Option<IpAddr>,
    /// What is known of it besides, for the catalog.
    pub meta: BTreeMap<String, String>,
}

/// For how long an endpoint that does not answer is asked what this task is, and how often.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(250);

/// Watches the task that this process is in.
#[derive(Debug)]
pub struct EcsTask {
    endpoint: Uri,
    /// The agent's own container, whose health is the agent's own.
    own: String,
    facts: TaskFacts,
    /// Containers that must be there: those that were named, and those that had a health check once.
    expected: Mutex<BTreeSet<String>>,
}

impl EcsTask {
    /// Asks the endpoint, which `ECS_CONTAINER_METADATA_URI_V4` names, what this task is. The containers that `required`
    /// names must run, whether they have a health check or not.
    ///
    /// An endpoint that is busy or not there yet is asked again for a while: an agent that gave up would end its task.
    ///
    /// # Errors
    /// [`ObserveError`] if it does not answer, or not in its form.
    pub async fn find(endpoint: &str, required: &[String]) -> Result<Self, ObserveError> {
        let given_up = Instant::now() + PATIENCE;
        loop {
            match Self::ask(endpoint, required).await {
                Err(_) if Instant::now() < given_up => tokio::time::sleep(PAUSE).await,
                answer => return answer,
            }
        }
    }

    async fn ask(endpoint: &str, required: &[String]) -> Result<Self, ObserveError> {
        let wrong = |reason: String| ObserveError { reason };
        let endpoint: Uri =
            endpoint.trim_end_matches('/').parse().map_err(|_| wrong(format!("`{endpoint}` is no address")))?;
        let own = Container::read(&endpoint::get(&endpoint, "").await?)?;
        let task = Task::read(&endpoint::get(&endpoint, "/task").await?)?;
        let facts = TaskFacts {
            node: task.id()?.parse().map_err(|error: catalog::NameError| wrong(error.to_string()))?,
            zone: task.availability_zone.clone(),
            address: own.address(),
            meta: task.meta(),
        };
        let expected = Mutex::new(required.iter().cloned().collect());
        Ok(Self { endpoint, own: own.name, facts, expected })
    }

    /// Returns what is fixed about the task.
    #[must_use]
    pub fn facts(&self) -> &TaskFacts {
        &self.facts
    }

    async fn look(&self) -> Result<Observed, ObserveError> {
        let task = Task::read(&endpoint::get(&self.endpoint, "/task").await?)?;
        let mut expected = self.expected.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(task.observed(&self.own, &mut expected))
    }
}

impl Surroundings for EcsTask {
    fn interval(&self) -> Duration {
        INTERVAL
    }

    fn observe(&self) -> Observing<'_> {
        Box::pin(self.look())
    }
}

#[cfg(test)]
mod tests;
