//! What `agent/metrics` answers in Consul's form: the same numbers as the OpenMetrics text has, as JSON.

use std::collections::BTreeMap;

use ::catalog::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::rfc3339;

/// Answers `agent/metrics`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct AgentMetrics {
    /// When the numbers were read.
    pub timestamp: String,
    /// What goes up and down.
    pub gauges: Vec<GaugeValue>,
    /// Always empty.
    pub points: Vec<GaugeValue>,
    /// What only grows.
    pub counters: Vec<SampledValue>,
    /// How values are spread, such as times that something took.
    pub samples: Vec<SampledValue>,
}

/// Is a number that goes up and down.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct GaugeValue {
    /// Its name.
    pub name: String,
    /// What it is now.
    pub value: f64,
    /// What it is of.
    pub labels: BTreeMap<String, String>,
}

/// Is something that was counted or measured, since the process began.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct SampledValue {
    /// Its name.
    pub name: String,
    /// How often.
    pub count: u64,
    /// Always 0: rates are for whoever looks twice.
    pub rate: f64,
    /// All of it together.
    pub sum: f64,
    /// Always 0: it is not kept.
    pub min: f64,
    /// Always 0: it is not kept.
    pub max: f64,
    /// What it was on average.
    pub mean: f64,
    /// Always 0: it is not kept.
    pub stddev: f64,
    /// What it is of.
    pub labels: BTreeMap<String, String>,
}

/// How a family of metrics is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Gauge,
    Counter,
    Histogram,
}

impl AgentMetrics {
    /// Tells the numbers of an OpenMetrics text. A line that cannot be read is left out.
    #[must_use]
    pub fn of_text(text: &str, now: Timestamp) -> Self {
        let mut metrics = Self { timestamp: rfc3339::format(now), ..Self::default() };
        let mut family = ("", Kind::Gauge);
        let mut spread: BTreeMap<(String, BTreeMap<String, String>), (f64, f64)> = BTreeMap::new();
        for line in text.lines() {
            if let Some(typed) = line.strip_prefix("# TYPE ") {
                let (name, kind) = typed.split_once(' ').unwrap_or((typed, ""));
                let kind = match kind {
                    "counter" => Kind::Counter,
                    "histogram" | "summary" => Kind::Histogram,
                    _ => Kind::Gauge,
                };
                family = (name, kind);
                continue;
            }
            let Some((name, labels, value)) = read_sample(line) else { continue };
            match (family.1, name.strip_prefix(family.0)) {
                (Kind::Histogram, Some(part @ ("_sum" | "_count"))) => {
                    let entry = spread.entry((family.0.to_owned(), labels)).or_default();
                    *(if part == "_sum" { &mut entry.1 } else { &mut entry.0 }) = value;
                }
                (Kind::Histogram, _) => {}
                (Kind::Counter, _) => {
                    metrics.counters.push(SampledValue { labels, ..SampledValue::of(name, value, value) });
                }
                (Kind::Gauge, _) => metrics.gauges.push(GaugeValue { name: name.to_owned(), value, labels }),
            }
        }
        let samples = spread.into_iter();
        metrics.samples = samples
            .map(|((name, labels), (count, sum))| SampledValue { labels, ..SampledValue::of(&name, count, sum) })
            .collect();
        metrics
    }
}

impl SampledValue {
    fn of(name: &str, count: f64, sum: f64) -> Self {
        let mean = if count > 0.0 { sum / count } else { 0.0 };
        // What is counted is never negative, and a count beyond 2^53 is as good as any other.
        Self { name: name.to_owned(), count: count as u64, sum, mean, ..Self::default() }
    }
}

/// Reads `name{label="value"} number`; what JSON has no number for is left out.
fn read_sample(line: &str) -> Option<(&str, BTreeMap<String, String>, f64)> {
    if line.starts_with('#') {
        return None;
    }
    let end = line.find(['{', ' '])?;
    let (name, rest) = line.split_at(end);
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(inside) => read_labels(inside)?,
        None => (BTreeMap::new(), rest),
    };
    let value: f64 = rest.split_ascii_whitespace().next()?.parse().ok()?;
    (value.is_finite() && !name.is_empty()).then_some((name, labels, value))
}

/// Reads labels up to the brace that ends them, and returns what comes after.
fn read_labels(mut rest: &str) -> Option<(BTreeMap<String, String>, &str)> {
    let mut labels = BTreeMap::new();
    loop {
        rest = rest.trim_start_matches(',');
        if let Some(after) = rest.strip_prefix('}') {
            return Some((labels, after));
        }
        let (name, quoted) = rest.split_once("=\"")?;
        let (mut value, mut escaped, mut end) = (String::new(), false, None);
        for (at, character) in quoted.char_indices() {
            match (escaped, character) {
                (true, 'n') => value.push('\n'),
                (true, other) => value.push(other),
                (false, '\\') => {}
                (false, '"') => {
                    end = Some(at);
                    break;
                }
                (false, other) => value.push(other),
            }
            escaped = !escaped && character == '\\';
        }
        labels.insert(name.to_owned(), value);
        rest = &quoted[end? + 1..];
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const TEXT: &str = r#"# HELP weft_build Information about the build.
# TYPE weft_build info
weft_build_info{version="0.1.0"} 1
# HELP weft_api_requests Requests.
# TYPE weft_api_requests counter
weft_api_requests_total{class="2xx",what="a \"b\\c"} 7
weft_api_requests_total{class="5xx"} 0
# TYPE weft_raft_term gauge
weft_raft_term 3
# TYPE weft_age_seconds gauge
# UNIT weft_age_seconds seconds
weft_age_seconds NaN
# TYPE weft_commit_seconds histogram
weft_commit_seconds_sum 1.5
weft_commit_seconds_count 3
weft_commit_seconds_bucket{le="0.1"} 1
weft_commit_seconds_bucket{le="+Inf"} 3
# EOF
"#;

    #[test]
    fn the_numbers_of_the_text_are_told_in_consuls_form() {
        let metrics = AgentMetrics::of_text(TEXT, Timestamp(0));
        let told = serde_json::to_value(&metrics).unwrap();
        let counter = |class: serde_json::Value, count: f64, mean: f64| {
            json!({
                "Name": "weft_api_requests_total", "Count": count as u64, "Rate": 0.0, "Sum": count, "Min": 0.0, "Max": 0.0,
                "Mean": mean, "Stddev": 0.0, "Labels": class,
            })
        };
        assert_eq!(
            told,
            json!({
                "Timestamp": "1970-01-01T00:00:00Z",
                "Gauges": [
                    {"Name": "weft_build_info", "Value": 1.0, "Labels": {"version": "0.1.0"}},
                    {"Name": "weft_raft_term", "Value": 3.0, "Labels": {}},
                ],
                "Points": [],
                "Counters": [
                    counter(json!({"class": "2xx", "what": "a \"b\\c"}), 7.0, 1.0),
                    counter(json!({"class": "5xx"}), 0.0, 0.0),
                ],
                "Samples": [{
                    "Name": "weft_commit_seconds", "Count": 3, "Rate": 0.0, "Sum": 1.5, "Min": 0.0, "Max": 0.0, "Mean": 0.5,
                    "Stddev": 0.0, "Labels": {},
                }],
            })
        );
        assert_eq!(serde_json::from_value::<AgentMetrics>(told).unwrap(), metrics);
    }

    #[test]
    fn what_cannot_be_read_is_left_out() {
        for line in
            ["weft_x", "weft_x{a=\"b", "weft_x{a=\"b\"} many", "{} 1", "", "# HELP x", "weft_x +Inf", "weft_x{a} 1"]
        {
            assert_eq!(AgentMetrics::of_text(line, Timestamp(0)).gauges, [], "{line}");
        }
    }
}
