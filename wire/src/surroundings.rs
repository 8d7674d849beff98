//! What a platform says of where an agent runs, while it runs: the seam between agents and what knows platforms.

use std::pin::Pin;
use std::time::Duration;

use catalog::CheckStatus;

/// Asks a platform about the one place that this agent is in.
pub trait Surroundings: std::fmt::Debug + Send + Sync {
    /// Says how often it should be asked.
    fn interval(&self) -> Duration;

    /// Asks once. Cancel safe.
    fn observe(&self) -> Observing<'_>;
}

/// Is a question to the platform under way.
pub type Observing<'a> = Pin<Box<dyn Future<Output = Result<Observed, ObserveError>> + Send + 'a>>;

/// Is what the platform says now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    /// Whether it has decided to end this place. It does not change its mind: what was true once stays true.
    pub is_ending: bool,
    /// How what runs beside the agent is; sorted by name, unique.
    pub neighbours: Vec<Neighbour>,
}

/// Is how something is that the platform runs beside the agent, such as a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Neighbour {
    /// Its name, as the platform has it.
    pub name: String,
    /// How it is.
    pub status: CheckStatus,
    /// What the platform says of it, for people.
    pub output: String,
}

/// Says why the platform has no answer now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct ObserveError {
    /// What is wrong, on one line.
    pub reason: String,
}
