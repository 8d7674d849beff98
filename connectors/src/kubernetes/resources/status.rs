//! What a resource is told: whether the mesh has taken it, and if not, why.

use catalog::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Verdict;

/// The one type of condition: whether the mesh says what the resource does.
pub const SYNCED: &str = "Synced";
/// No message is longer; what API servers take at most is much more.
const MESSAGE_CHARS_MAX: usize = 1024;

/// Is what a resource is told.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ResourceStatus {
    /// What holds of it.
    #[serde(default)]
    pub conditions: Vec<Condition>,
}

/// Says whether something holds of a resource, in the form of all conditions.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// What it is about: `Synced`.
    #[serde(rename = "type")]
    pub kind: String,
    /// `True` or `False`.
    pub status: String,
    /// `Synced`, `Refused`, `Conflicting` or `Waiting`.
    pub reason: String,
    /// Why, and what to do.
    pub message: String,
    /// The generation of the resource that it speaks of.
    #[serde(default)]
    pub observed_generation: i64,
    /// When it last became `True` or `False`.
    pub last_transition_time: String,
}

impl ResourceStatus {
    /// Returns what the status is to be after a verdict on a generation; none where it says that already.
    #[must_use]
    pub fn told(&self, verdict: &Verdict, generation: i64, now: Timestamp) -> Option<Self> {
        let held = self.conditions.iter().find(|one| one.kind == SYNCED);
        let status = if *verdict == Verdict::Synced { "True" } else { "False" };
        let since = held.filter(|held| held.status == status).map(|held| held.last_transition_time.clone());
        let condition = Condition {
            kind: SYNCED.to_owned(),
            status: status.to_owned(),
            reason: verdict.reason().to_owned(),
            message: verdict.message().chars().take(MESSAGE_CHARS_MAX).collect(),
            observed_generation: generation,
            last_transition_time: since.unwrap_or_else(|| wire::rfc3339::format(Timestamp(now.0 / 1000 * 1000))),
        };
        if held == Some(&condition) {
            return None;
        }
        // What others say in conditions of their own stays.
        let others = self.conditions.iter().filter(|one| one.kind != SYNCED).cloned();
        Some(Self { conditions: others.chain([condition]).collect() })
    }
}
