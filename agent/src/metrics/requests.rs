//! What is counted of requests: by who asks whom and how it was answered.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::StatusCode;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::Direction;

/// How many pairs of services are counted under their own names.
const PAIRS_MAX: usize = 500;

/// The classes of answers; what is no status of HTTP is counted as the last.
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// The bounds of the histogram of durations, in seconds.
const DURATIONS: [f64; 13] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RequestLabel {
    direction: &'static str,
    source: String,
    destination: String,
    response: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct PairLabel {
    direction: &'static str,
    source: String,
    destination: String,
}

/// Who asks whom, seen from which side.
type Pair = (&'static str, String, String);

/// Counts requests; a clone counts into the same numbers.
#[derive(Clone)]
pub(super) struct RequestMetrics {
    requests: Family<RequestLabel, Counter>,
    durations: Family<PairLabel, Histogram, fn() -> Histogram>,
    pairs: Arc<Mutex<BTreeSet<Pair>>>,
}

/// The numbers of one pair of services, looked up once: counting a request must not take a lock.
#[derive(Debug)]
pub(crate) struct PairCounters {
    /// Who asks.
    pub(crate) source: String,
    /// Who is asked.
    pub(crate) destination: String,
    by_class: [Counter; 5],
    duration: Histogram,
}

impl Default for RequestMetrics {
    fn default() -> Self {
        let histogram: fn() -> Histogram = || Histogram::new(DURATIONS);
        Self { requests: Family::default(), durations: Family::new_with_constructor(histogram), pairs: Arc::default() }
    }
}

impl RequestMetrics {
    /// Returns the numbers of a pair. Pairs beyond a bound are counted together: who has many callers must not fill a
    /// collector.
    pub(super) fn pair(&self, direction: Direction, source: String, destination: String) -> Arc<PairCounters> {
        let direction = direction.as_str();
        let named = (direction, source.clone(), destination.clone());
        let mut pairs = self.pairs.lock().unwrap_or_else(PoisonError::into_inner);
        let is_counted = pairs.contains(&named) || (pairs.len() < PAIRS_MAX && pairs.insert(named));
        drop(pairs);
        let other = || ("other".to_owned(), "other".to_owned());
        let (by_source, by_destination) = if is_counted { (source.clone(), destination.clone()) } else { other() };
        let by_class = CLASSES.map(|response| {
            let (source, destination) = (by_source.clone(), by_destination.clone());
            self.requests.get_or_create_owned(&RequestLabel { direction, source, destination, response })
        });
        let pair = PairLabel { direction, source: by_source, destination: by_destination };
        let duration = self.durations.get_or_create_owned(&pair);
        Arc::new(PairCounters { source, destination, by_class, duration })
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "proxy_requests",
            "Requests answered, by who asks whom and the class of the answer",
            self.requests.clone(),
        );
        registry.register(
            "proxy_request_duration_seconds",
            "Time from a request's arrival to the end of its answer",
            self.durations.clone(),
        );
    }
}

impl PairCounters {
    /// Counts a request that was answered, be it by weft.
    pub(crate) fn answered(&self, status: StatusCode, took: Duration) {
        let [.., last] = &self.by_class;
        let class = usize::from(status.as_u16() / 100).checked_sub(1).and_then(|class| self.by_class.get(class));
        class.unwrap_or(last).inc();
        self.duration.observe(took.as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    #[test]
    fn requests_are_counted_by_pair_and_class() {
        let metrics = Metrics::new();
        let pair = metrics.proxy.requests(Direction::Inbound, "default/web".to_owned(), "default/api".to_owned());
        pair.answered(StatusCode::OK, Duration::from_millis(3));
        pair.answered(StatusCode::FORBIDDEN, Duration::from_millis(3));
        pair.answered(StatusCode::from_u16(999).unwrap(), Duration::from_millis(3));
        let text = metrics.text();
        let labels = "direction=\"inbound\",source=\"default/web\",destination=\"default/api\"";
        for class in ["2xx", "4xx", "5xx"] {
            let line = format!("weft_proxy_requests_total{{{labels},response=\"{class}\"}} 1");
            assert!(text.contains(&line), "{text}");
        }
        assert!(text.contains(&format!("weft_proxy_request_duration_seconds_count{{{labels}}} 3")), "{text}");
    }

    #[test]
    fn a11_pairs_beyond_the_bound_are_counted_together() {
        let metrics = Metrics::new();
        for index in 0..PAIRS_MAX + 20 {
            let pair =
                metrics.proxy.requests(Direction::Inbound, format!("default/s{index}"), "default/api".to_owned());
            pair.answered(StatusCode::OK, Duration::ZERO);
        }
        let text = metrics.text();
        let count =
            text.lines().filter(|line| line.starts_with("weft_proxy_requests_total") && line.contains("2xx")).count();
        assert_eq!(count, PAIRS_MAX + 1);
        assert!(text.contains("source=\"other\",destination=\"other\",response=\"2xx\"} 20"), "{text}");
    }
}
