//! What a route does to requests besides: copies of them go elsewhere, or some are held up and refused for a trial.

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use crate::ServiceKey;

/// All requests, in hundredths of a percent.
pub(super) const ALL: u16 = 10_000;
const DELAY_MS_MAX: u64 = 60 * 1000;
const STATUSES: RangeInclusive<u16> = 400..=599;

/// Says where copies of requests go. Nobody hears what is answered to them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mirror {
    /// The service; the router's own where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceKey>,
    /// The subset of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subset: Option<String>,
    /// Of how many requests, in hundredths of a percent.
    pub share: u16,
}

/// Says what goes wrong with requests on purpose.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// Some are held up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay: Option<DelayFault>,
    /// Some are answered with an error by the caller's agent, and go nowhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub abort: Option<AbortFault>,
}

/// Holds requests up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DelayFault {
    /// For how long, in milliseconds.
    pub delay_ms: u64,
    /// How many, in hundredths of a percent.
    pub share: u16,
}

/// Answers requests with an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AbortFault {
    /// The status.
    pub status: u16,
    /// How many, in hundredths of a percent.
    pub share: u16,
}

/// Checks where copies go; says what is wrong.
pub(super) fn check_mirror(mirror: &Mirror) -> Result<(), String> {
    if mirror.service.is_none() && mirror.subset.is_none() {
        return Err("it names neither a service nor a subset".to_owned());
    }
    check_share(mirror.share)
}

/// Checks what goes wrong on purpose; says what is wrong with it by accident.
pub(super) fn check_fault(fault: &Fault) -> Result<(), String> {
    if let Some(DelayFault { delay_ms, share }) = fault.delay {
        if delay_ms == 0 || delay_ms > DELAY_MS_MAX {
            return Err("a delay is at most one minute, and not 0".to_owned());
        }
        check_share(share)?;
    }
    if let Some(AbortFault { status, share }) = fault.abort {
        if !STATUSES.contains(&status) {
            return Err(format!("a status is {} to {}", STATUSES.start(), STATUSES.end()));
        }
        check_share(share)?;
    }
    if *fault == Fault::default() { Err("it says neither delay nor abort".to_owned()) } else { Ok(()) }
}

fn check_share(share: u16) -> Result<(), String> {
    if (1..=ALL).contains(&share) { Ok(()) } else { Err("a percentage is more than 0, and at most 100".to_owned()) }
}
