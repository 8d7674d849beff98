//! Who is told of requests, besides the metrics.

use std::sync::Arc;

use super::taps::Taps;
use crate::access_log::AccessLog;
use crate::spans::Spans;

/// Is who is told of requests.
#[derive(Debug, Default)]
pub(crate) struct Observers {
    /// Where a line is written for each.
    pub(crate) access_log: Option<AccessLog>,
    /// Where spans go.
    pub(crate) spans: Option<Spans>,
    /// Who watches them.
    pub(crate) taps: Arc<Taps>,
}

impl Observers {
    /// Reports whether more is to be told of requests than numbers.
    pub(crate) fn are_any(&self) -> bool {
        self.access_log.is_some() || self.spans.is_some() || self.taps.are_any()
    }
}
