//! How many calls one service makes of another at once, held against what its settings allow.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use catalog::{CallLimits, RetryBudget};

use super::call_error::CallError;

/// Counts the calls of one service to another.
#[derive(Debug, Default)]
pub(crate) struct Allowance {
    connections: AtomicUsize,
    pending: AtomicUsize,
    requests: AtomicUsize,
    /// What may be spent on repetitions.
    pub(crate) retries: RetryBudget,
}

/// Names what is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Counted {
    /// Connections that nobody looks into.
    Connections,
    /// Calls that wait for a tunnel.
    Pending,
    /// Requests.
    Requests,
}

/// Counts a call as one of those at once, until it is dropped.
#[derive(Debug)]
pub(crate) struct Allowed {
    allowance: Arc<Allowance>,
    counted: Counted,
}

impl Counted {
    /// Returns the label of the metric that counts what is too many.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Connections => "too_many_connections",
            Self::Pending => "too_many_pending",
            Self::Requests => "too_many_requests",
        }
    }
}

impl Allowance {
    /// Counts one more.
    ///
    /// # Errors
    ///
    /// [`CallError::TooMany`] if there are as many as the limits allow.
    pub(crate) fn take(
        self: &Arc<Self>,
        counted: Counted,
        limits: Option<&CallLimits>,
    ) -> Result<Option<Allowed>, CallError> {
        let Some(limits) = limits else { return Ok(None) };
        let most = match counted {
            Counted::Connections => limits.connections_max,
            Counted::Pending => limits.pending_max,
            Counted::Requests => limits.requests_max,
        };
        let Some(most) = most else { return Ok(None) };
        let taken = self
            .of(counted)
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |count| (count < most as usize).then_some(count + 1));
        match taken {
            Ok(_) => Ok(Some(Allowed { allowance: Arc::clone(self), counted })),
            Err(_) => Err(CallError::TooMany { counted, most }),
        }
    }

    fn of(&self, counted: Counted) -> &AtomicUsize {
        match counted {
            Counted::Connections => &self.connections,
            Counted::Pending => &self.pending,
            Counted::Requests => &self.requests,
        }
    }
}

impl Drop for Allowed {
    fn drop(&mut self) {
        self.allowance.of(self.counted).fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_as_are_allowed_are_let_through_at_once() {
        let allowance = Arc::new(Allowance::default());
        let limits = CallLimits { requests_max: Some(2), ..CallLimits::default() };
        let take = || allowance.take(Counted::Requests, Some(&limits));
        let (one, _two) = (take().unwrap(), take().unwrap());
        assert_eq!(take().unwrap_err().label(), "too_many_requests");
        assert!(allowance.take(Counted::Connections, Some(&limits)).unwrap().is_none(), "not bounded");
        assert!(allowance.take(Counted::Requests, None).unwrap().is_none());
        drop(one);
        assert!(take().is_ok());
    }
}
