//! One page of the agent's metrics and those of applications.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::text::{Declared, Kind, Sample, Told};

/// Writes what was told on one page, each family in one place and declared once, as whoever comes first declares it.
/// Each of those who tell comes with the labels that its samples get.
pub(super) fn write(told: &[(String, Told<'_>)]) -> String {
    let mut declared: BTreeMap<&str, Declared> = BTreeMap::new();
    for (name, it) in told.iter().flat_map(|(_, told)| &told.declared) {
        let known = declared.entry(name).or_default();
        known.kind = known.kind.or(it.kind);
        if known.help.is_none() {
            known.help.clone_from(&it.help);
        }
    }
    let mut families: BTreeMap<&str, Vec<(&str, &Sample<'_>)>> = BTreeMap::new();
    for (labels, told) in told {
        for sample in &told.samples {
            families.entry(family_of(sample.name, &declared)).or_default().push((labels, sample));
        }
    }
    let mut page = String::new();
    for (name, samples) in families {
        let known = declared.get(name).cloned().unwrap_or_default();
        if let Some(help) = known.help {
            push(&mut page, format_args!("# HELP {name} {help}\n"));
        }
        if let Some(kind) = known.kind {
            push(&mut page, format_args!("# TYPE {name} {}\n", kind.as_str()));
        }
        for (labels, sample) in samples {
            push_sample(&mut page, labels, sample);
        }
    }
    page
}

/// Names the family that a sample is of: its own name, but for the parts of histograms and summaries.
fn family_of<'a>(name: &'a str, declared: &BTreeMap<&str, Declared>) -> &'a str {
    let part = |suffix: &str| Some((name.strip_suffix(suffix)?, suffix == "_bucket"));
    let parts = ["_bucket", "_sum", "_count"].into_iter().filter_map(part);
    let is_whole = |(whole, is_bucket): &(&str, bool)| match declared.get(whole).and_then(|it| it.kind) {
        Some(Kind::Histogram) => true,
        Some(Kind::Summary) => !is_bucket,
        _ => false,
    };
    parts.into_iter().find(is_whole).map_or(name, |(whole, _)| whole)
}

fn push_sample(page: &mut String, labels: &str, sample: &Sample<'_>) {
    page.push_str(sample.name);
    let both: Vec<&str> = [sample.labels.as_str(), labels].into_iter().filter(|labels| !labels.is_empty()).collect();
    if !both.is_empty() {
        push(page, format_args!("{{{}}}", both.join(",")));
    }
    push(page, format_args!(" {}", sample.value));
    if let Some(time_ms) = sample.timestamp_ms {
        push(page, format_args!(" {time_ms}"));
    }
    page.push('\n');
}

fn push(page: &mut String, text: std::fmt::Arguments<'_>) {
    page.write_fmt(text).expect("writing to a string cannot fail");
}
