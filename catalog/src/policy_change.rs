//! Changes of policy that speak of more than one intention, of who owns one, or of how strictly they are taken.

use serde::{Deserialize, Serialize};

use crate::{CatalogIndex, Intention, IntentionKey, IntentionOwner, RelaxedScope, ServicePattern, WriteMode};

/// Is one change of policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "kebab-case", deny_unknown_fields)]
pub enum PolicyChange {
    /// Puts destinations into audit mode for a limited time, from when this was proposed.
    Relax {
        /// Which.
        scope: RelaxedScope,
        /// Why.
        reason: String,
        /// For how long, in milliseconds.
        lasts_ms: u64,
    },
    /// Ends a relaxation before its time.
    EndRelaxation {
        /// What it concerns.
        scope: RelaxedScope,
    },
    /// Writes an intention, whoever owns the one that is there.
    TakeOver {
        /// The intention.
        intention: Box<Intention>,
        /// When the write counts.
        mode: WriteMode,
    },
    /// Removes an intention that has an owner.
    DeleteOwned {
        /// Which.
        key: IntentionKey,
        /// Only if it was last changed at this index.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        compare: Option<CatalogIndex>,
        /// In whose name.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        owner: Option<IntentionOwner>,
        /// Whether it is removed whoever owns it.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        take_over: bool,
    },
    /// Makes the intentions of one owner toward one destination these, all at once. Those of others stay.
    WriteDestination {
        /// The destination, as all of them write it.
        destination: ServicePattern,
        /// In whose name; without one, in that of nobody.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        owner: Option<IntentionOwner>,
        /// The intentions; what another owns may be among them as it is.
        intentions: Vec<Intention>,
        /// Only if those toward the destination were last changed at this index; 0 is "only if there are none".
        #[serde(default, skip_serializing_if = "Option::is_none")]
        compare: Option<CatalogIndex>,
    },
    /// Removes the intentions of one owner toward one destination, all at once.
    DeleteDestination {
        /// The destination, as all of them write it.
        destination: ServicePattern,
        /// In whose name; without one, in that of nobody.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        owner: Option<IntentionOwner>,
        /// Only if those toward the destination were last changed at this index.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        compare: Option<CatalogIndex>,
    },
}
