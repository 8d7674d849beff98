//! Decisions by rule, read off the tally when somebody asks for the metrics.

use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;

use crate::tally::Tally;

/// Shows the decisions of each rule; those beyond the tally's bound together as `other`.
#[derive(Debug)]
pub(super) struct Decisions(pub(super) Arc<Tally>);

impl Collector for Decisions {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let help = "Connections and requests decided, by the rule that did";
        let mut family = encoder.encode_descriptor("proxy_decisions", help, None, MetricType::Counter)?;
        let mut write = |destination: &str, rule: &str, allowed: u64, denied: u64| {
            for (decision, count) in [("allow", allowed), ("deny", denied)] {
                let labels = [("destination", destination), ("rule", rule), ("decision", decision)];
                ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
            }
            Ok(())
        };
        for used in self.0.rule_uses() {
            write(&used.destination.to_string(), &used.rule.to_string(), used.allowed, used.denied)?;
        }
        match self.0.other() {
            (0, 0) => Ok(()),
            (allowed, denied) => write("other", "other", allowed, denied),
        }
    }
}
