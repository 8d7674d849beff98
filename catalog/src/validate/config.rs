//! The form of config entries that shape the traffic of services.

use super::check_meta;
use crate::{ConfigChange, Refusal, routing::check_content};

pub(super) fn check(change: &ConfigChange) -> Result<(), Refusal> {
    match change {
        ConfigChange::Write { entry, .. } => {
            check_meta("meta", &entry.meta)?;
            check_content(&entry.content)
        }
        ConfigChange::Delete { .. } => Ok(()),
    }
}
