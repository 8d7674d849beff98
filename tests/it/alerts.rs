//! The alert rules ask about metrics that exist, and the manual describes every metric that there is.

use std::collections::BTreeSet;
use std::path::Path;

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Returns the metrics that the golden lists of servers and agents name, as they are written out.
fn written_metrics() -> BTreeSet<String> {
    let mut metrics = BTreeSet::new();
    for source in ["server/src/metrics.rs", "agent/src/metrics.rs"] {
        for line in read(source).lines().map(str::trim).filter(|line| line.starts_with("\"weft_")) {
            let Some((name, kind)) = line.trim_matches(['"', ',']).split_once(' ') else { continue };
            let names: Vec<String> = match kind {
                "counter" => vec![format!("{name}_total")],
                "histogram" => ["_bucket", "_sum", "_count"].map(|part| format!("{name}{part}")).to_vec(),
                "info" => vec![format!("{name}_info")],
                _ => vec![name.to_owned()],
            };
            metrics.extend(names);
        }
    }
    assert!(metrics.len() > 30, "found only {metrics:?}");
    metrics
}

/// Returns the words of a text that are names of metrics.
fn named_metrics(text: &str) -> BTreeSet<String> {
    let is_part = |character: char| character.is_ascii_lowercase() || character.is_ascii_digit() || character == '_';
    let words = text.split(|character| !is_part(character));
    words.filter(|word| word.starts_with("weft_")).map(str::to_owned).collect()
}

#[test]
fn every_alert_asks_about_metrics_that_exist() {
    let (rules, metrics) = (read("packaging/prometheus/weft.rules.yml"), written_metrics());
    let asked: BTreeSet<String> =
        rules.lines().filter(|line| line.trim_start().starts_with("expr:")).flat_map(named_metrics).collect();
    assert!(asked.len() > 15, "found only {asked:?}");
    for metric in asked {
        assert!(metrics.contains(&metric), "an alert asks about `{metric}`, which nothing counts");
    }
}

#[test]
fn every_alert_says_when_how_bad_and_what_it_is() {
    let rules = read("packaging/prometheus/weft.rules.yml");
    let alerts: Vec<&str> = rules.split("- alert: ").skip(1).collect();
    let names: BTreeSet<&str> = alerts.iter().filter_map(|alert| alert.lines().next()).collect();
    assert_eq!(names.len(), alerts.len(), "two alerts have one name");
    let manual = read("docs/telemetry.md");
    for alert in alerts {
        let name = alert.lines().next().unwrap();
        for part in ["expr: ", "labels: { severity: ", "annotations: { summary: \""] {
            assert_eq!(alert.matches(part).count(), 1, "`{name}` needs one `{part}`");
        }
        assert!(manual.contains(&format!("`{name}`")), "docs/telemetry.md does not say what to do about `{name}`");
    }
}

#[test]
fn the_manual_describes_every_metric() {
    let manual = named_metrics(&read("docs/telemetry.md"));
    for metric in written_metrics() {
        let base = ["_bucket", "_sum", "_count"].iter().find_map(|part| metric.strip_suffix(part)).unwrap_or(&metric);
        assert!(manual.contains(&metric) || manual.contains(base), "docs/telemetry.md does not describe `{metric}`");
    }
}
