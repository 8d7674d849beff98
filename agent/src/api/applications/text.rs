//! Reads the text in which applications tell metrics: Prometheus' of 0.0.4, and OpenMetrics.

use std::collections::{BTreeMap, BTreeSet};

/// Applications may write no names that start so: they are weft's, or tell of whom a sample is.
pub(super) const RESERVED: &str = "weft_";
/// Names the metric itself, and so could make one of weft's out of another.
const METRIC_NAME: &str = "__name__";

/// The types that Prometheus' older text knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
    Summary,
    Untyped,
}

impl Kind {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
            Self::Summary => "summary",
            Self::Untyped => "untyped",
        }
    }
}

/// What is said of a family before its samples; help is escaped as it will be written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Declared {
    pub(super) help: Option<String>,
    pub(super) kind: Option<Kind>,
}

/// One sample; labels stand as they will be written, without braces.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Sample<'a> {
    pub(super) name: &'a str,
    pub(super) labels: String,
    pub(super) value: &'a str,
    pub(super) timestamp_ms: Option<i64>,
    /// Whether it has a label whose name is weft's.
    has_reserved_label: bool,
}

/// What one text tells, with everything in the terms of 0.0.4.
#[derive(Debug, Default)]
pub(super) struct Told<'a> {
    pub(super) declared: BTreeMap<String, Declared>,
    pub(super) samples: Vec<Sample<'a>>,
}

impl Told<'_> {
    /// Leaves out what only weft may tell.
    pub(super) fn without_reserved(mut self) -> Self {
        self.declared.retain(|name, _| !name.starts_with(RESERVED));
        self.samples.retain(|sample| !sample.name.starts_with(RESERVED) && !sample.has_reserved_label);
        self
    }
}

/// A text that is no metrics, and from which line on.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line} is no metrics")]
pub(super) struct NoMetrics {
    pub(super) line: usize,
}

/// Reads a text of at most `lines_max` lines.
///
/// # Errors
///
/// [`NoMetrics`] with the first line that is neither blank nor a comment nor a sample, or is one too many.
pub(super) fn read(text: &str, lines_max: usize) -> Result<Told<'_>, NoMetrics> {
    // Only OpenMetrics marks its end, and its times are seconds.
    let told = text.trim_end().strip_suffix("# EOF").filter(|told| told.is_empty() || told.ends_with('\n'));
    let (text, is_openmetrics) = (told.unwrap_or(text), told.is_some());
    let mut told = Told::default();
    let mut open: BTreeMap<&str, OpenKind> = BTreeMap::new();
    for (at, line) in text.lines().enumerate() {
        let read = if at < lines_max { line_of(line, is_openmetrics) } else { None };
        match read.ok_or(NoMetrics { line: at + 1 })? {
            Line::Nothing => {}
            Line::Help(name, help) => {
                told.declared.entry(name.to_owned()).or_default().help.get_or_insert(help);
            }
            Line::Type(name, Named::Known(kind)) => {
                told.declared.entry(name.to_owned()).or_default().kind.get_or_insert(kind);
                if kind == Kind::Counter {
                    open.entry(name).or_insert(OpenKind { suffix: "_total", kind });
                }
            }
            Line::Type(name, Named::Info) => {
                told.declared.entry(name.to_owned()).or_default().kind.get_or_insert(Kind::Untyped);
                open.entry(name).or_insert(OpenKind { suffix: "_info", kind: Kind::Gauge });
            }
            Line::Sample(sample) => told.samples.push(sample),
        }
    }
    told.rename(&open);
    Ok(told)
}

/// A type whose families OpenMetrics names without what the names of their samples end with.
struct OpenKind {
    suffix: &'static str,
    kind: Kind,
}

impl Told<'_> {
    /// Names families as their samples, where OpenMetrics named them otherwise.
    fn rename(&mut self, open: &BTreeMap<&str, OpenKind>) {
        let names: BTreeSet<&str> = self.samples.iter().map(|sample| sample.name).collect();
        for (name, open) in open {
            let long = format!("{name}{}", open.suffix);
            if names.contains(name) || !names.contains(long.as_str()) {
                continue;
            }
            if let Some(declared) = self.declared.remove(*name) {
                self.declared.entry(long).or_insert(Declared { kind: Some(open.kind), ..declared });
            }
        }
    }
}

enum Line<'a> {
    Nothing,
    Help(&'a str, String),
    Type(&'a str, Named),
    Sample(Sample<'a>),
}

/// A type by its name.
enum Named {
    Known(Kind),
    Info,
}

fn line_of(line: &str, is_openmetrics: bool) -> Option<Line<'_>> {
    // To readers a NUL is the end of everything, and a lone CR of nothing.
    if line.chars().any(|it| it.is_control() && it != '\t') {
        return None;
    }
    let mut rest = Rest(line);
    rest.blanks();
    if rest.0.is_empty() {
        return Some(Line::Nothing);
    }
    if !rest.take('#') {
        return sample(rest, is_openmetrics).map(Line::Sample);
    }
    rest.blanks();
    match rest.token() {
        "HELP" => {
            rest.blanks();
            let name = rest.metric_name()?;
            Some(Line::Help(name, help(rest.end_of_name()?)))
        }
        "TYPE" => {
            rest.blanks();
            let name = rest.metric_name()?;
            let named = match rest.end_of_name()?.trim_end_matches(BLANKS) {
                "counter" => Named::Known(Kind::Counter),
                "gauge" | "stateset" => Named::Known(Kind::Gauge),
                "histogram" => Named::Known(Kind::Histogram),
                "summary" => Named::Known(Kind::Summary),
                "untyped" | "unknown" | "gaugehistogram" => Named::Known(Kind::Untyped),
                "info" => Named::Info,
                _ => return None,
            };
            Some(Line::Type(name, named))
        }
        _ => Some(Line::Nothing),
    }
}

/// Reads `name[{labels}] value [timestamp] [# {labels} value [timestamp]]`; what follows the `#` is read and forgotten,
/// for 0.0.4 has no exemplars.
fn sample(mut rest: Rest<'_>, is_openmetrics: bool) -> Option<Sample<'_>> {
    let name = rest.metric_name()?;
    let is_apart = rest.blanks();
    let labels = if rest.take('{') { Some(rest.labels()?) } else { None };
    if labels.is_none() && !is_apart {
        return None;
    }
    let (labels, has_reserved_label) = labels.unwrap_or_default();
    rest.blanks();
    let value = rest.token();
    is_number(value).then_some(())?;
    rest.blanks();
    let timestamp_ms = match rest.0.chars().next() {
        None | Some('#') => None,
        Some(_) => Some(timestamp_ms(rest.token(), is_openmetrics)?),
    };
    rest.blanks();
    if rest.take('#') {
        rest.blanks();
        rest.take('{').then_some(())?;
        rest.labels()?;
        rest.blanks();
        is_number(rest.token()).then_some(())?;
        rest.blanks();
        let time = rest.token();
        (time.is_empty() || is_number(time)).then_some(())?;
        rest.blanks();
    }
    rest.0.is_empty().then_some(Sample { name, labels, value, timestamp_ms, has_reserved_label })
}

/// Says whether the text is a number to those who read it: Go's readers refuse what is too large to be one.
fn is_number(text: &str) -> bool {
    let digits = text.trim_start_matches(['+', '-']);
    match text.parse::<f64>() {
        Ok(number) if number.is_nan() => text.len() == digits.len(),
        Ok(number) => number.is_finite() || digits.starts_with(['i', 'I']),
        Err(_) => false,
    }
}

#[expect(clippy::cast_possible_truncation, reason = "bounded just before")]
fn timestamp_ms(text: &str, is_openmetrics: bool) -> Option<i64> {
    if !is_openmetrics {
        return text.bytes().all(|it| it.is_ascii_digit()).then(|| text.parse().ok())?;
    }
    let time_ms = text.parse::<f64>().ok()? * 1000.0;
    // Beyond this a number has no thousandths to speak of, and no time is that far.
    (0.0..9e15).contains(&time_ms).then(|| time_ms.round() as i64)
}

/// Returns help with none but the escapes that 0.0.4 has there.
fn help(text: &str) -> String {
    let (mut help, mut rest) = (String::with_capacity(text.len()), text.chars());
    while let Some(it) = rest.next() {
        match (it, rest.clone().next()) {
            ('\\', Some(next @ ('\\' | 'n'))) => {
                help.extend(['\\', next]);
                rest.next();
            }
            // OpenMetrics escapes quotes here, too.
            ('\\', Some('"')) => {}
            ('\\', _) => help.push_str("\\\\"),
            (it, _) => help.push(it),
        }
    }
    help
}

const BLANKS: [char; 2] = [' ', '\t'];

/// What is left of a line.
#[derive(Clone, Copy)]
struct Rest<'a>(&'a str);

impl<'a> Rest<'a> {
    /// Skips blanks, and says whether there were any.
    fn blanks(&mut self) -> bool {
        let left = self.0.trim_start_matches(BLANKS);
        let were_some = left.len() < self.0.len();
        self.0 = left;
        were_some
    }

    fn take(&mut self, wanted: char) -> bool {
        self.0.strip_prefix(wanted).inspect(|left| self.0 = left).is_some()
    }

    fn until(&mut self, is_end: impl Fn(char) -> bool) -> &'a str {
        let (taken, left) = self.0.split_at(self.0.find(is_end).unwrap_or(self.0.len()));
        self.0 = left;
        taken
    }

    fn token(&mut self) -> &'a str {
        self.until(|it| BLANKS.contains(&it))
    }

    fn metric_name(&mut self) -> Option<&'a str> {
        let name = self.until(|it| !(it.is_ascii_alphanumeric() || matches!(it, '_' | ':')));
        (!name.is_empty() && !name.starts_with(|it: char| it.is_ascii_digit())).then_some(name)
    }

    fn label_name(&mut self) -> Option<&'a str> {
        self.metric_name().filter(|name| !name.contains(':') && *name != METRIC_NAME)
    }

    /// Returns what follows a name, if the name ends here.
    fn end_of_name(&mut self) -> Option<&'a str> {
        (self.blanks() || self.0.is_empty()).then_some(self.0)
    }

    /// Reads labels up to the brace that ends them, and whether one of them has a name that is weft's. A name that
    /// stands twice would cost the whole page.
    fn labels(&mut self) -> Option<(String, bool)> {
        let (mut labels, mut names) = (String::new(), BTreeSet::new());
        loop {
            self.blanks();
            if self.take('}') {
                break;
            }
            let name = self.label_name()?;
            names.insert(name).then_some(())?;
            self.blanks();
            self.take('=').then_some(())?;
            self.blanks();
            self.take('"').then_some(())?;
            if !labels.is_empty() {
                labels.push(',');
            }
            labels.push_str(name);
            labels.push_str("=\"");
            self.quoted(&mut labels)?;
            labels.push('"');
            self.blanks();
            if !self.take(',') {
                self.take('}').then_some(())?;
                break;
            }
        }
        Some((labels, names.iter().any(|name| name.starts_with(RESERVED))))
    }

    /// Reads to the quote that ends a value, with none but the escapes that 0.0.4 has.
    fn quoted(&mut self, into: &mut String) -> Option<()> {
        let mut rest = self.0.chars();
        loop {
            match rest.next()? {
                '"' => break,
                '\\' => match rest.next()? {
                    known @ ('\\' | '"' | 'n') => into.extend(['\\', known]),
                    other => into.extend(['\\', '\\', other]),
                },
                it => into.push(it),
            }
        }
        self.0 = rest.as_str();
        Some(())
    }
}
