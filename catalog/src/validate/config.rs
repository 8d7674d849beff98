//! The form of config entries that shape the traffic of services.

use super::check_meta;
use crate::{ConfigChange, Refusal};

pub(super) fn check(change: &ConfigChange) -> Result<(), Refusal> {
    match change {
        ConfigChange::Write { entry, .. } => check_meta("meta", &entry.meta),
        ConfigChange::Delete { .. } => Ok(()),
    }
}
