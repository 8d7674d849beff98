//! `Mirror` and `Fault` of a `service-router`'s destination: fields of weft's own, where Consul has none.

use ::catalog::{AbortFault, DelayFault, Fault, Mirror};
use serde_json::Value;

use super::route_entry::{Reference, Shown, milliseconds, read_percent, shown_duration};
use crate::decode::{DecodeError, Fields};

/// All requests, in hundredths of a percent.
const ALL: u16 = 10_000;

/// Reads where copies go; the service stands beside it as it is named.
pub(super) fn read_mirror(to: &mut Fields) -> Result<Option<(Mirror, Option<Reference>)>, DecodeError> {
    to.object("Mirror", |mirror| {
        let reference = Reference::read(mirror)?;
        let subset = mirror.parsed("ServiceSubset")?;
        let share = read_percent(mirror, "Percent")?.unwrap_or(ALL);
        Ok((Mirror { service: None, subset, share }, reference))
    })
}

pub(super) fn show_mirror(mirror: &Mirror, reference: Option<&Reference>) -> Value {
    let mut shown = Shown::default();
    if let Some(reference) = reference {
        reference.show(&mut shown);
    }
    shown.put("ServiceSubset", mirror.subset.as_deref().unwrap_or_default());
    shown.put("Percent", f64::from(mirror.share) / 100.0);
    shown.done()
}

pub(super) fn read_fault(to: &mut Fields) -> Result<Option<Fault>, DecodeError> {
    to.object("Fault", |fault| {
        let delay = fault.object("Delay", |delay| {
            let delay_ms = delay.duration("Duration")?.map(milliseconds).unwrap_or_default();
            Ok(DelayFault { delay_ms, share: read_percent(delay, "Percent")?.unwrap_or(ALL) })
        })?;
        let abort = fault.object("Abort", |abort| {
            let status = abort.number("Status")?.unwrap_or_default();
            Ok(AbortFault { status, share: read_percent(abort, "Percent")?.unwrap_or(ALL) })
        })?;
        Ok(Fault { delay, abort })
    })
}

pub(super) fn show_fault(fault: &Fault) -> Value {
    let mut shown = Shown::default();
    if let Some(DelayFault { delay_ms, share }) = fault.delay {
        let mut delay = Shown::default();
        delay.put("Duration", shown_duration(delay_ms));
        delay.put("Percent", f64::from(share) / 100.0);
        shown.put("Delay", delay.done());
    }
    if let Some(AbortFault { status, share }) = fault.abort {
        let mut abort = Shown::default();
        abort.put("Status", status);
        abort.put("Percent", f64::from(share) / 100.0);
        shown.put("Abort", abort.done());
    }
    shown.done()
}
