//! A rule on one header, compiled.
//!
//! A header is the list of its values: those of repeated fields and those between commas are one list (RFC 9110 §5.3), for
//! applications read either. An allow matches if all of them do, a deny if any does. Where applications differ in how they
//! split or join a header, an allow must hold of it in each way, and a deny in one.

use regex::bytes::Regex;

use super::{Headers, compile::PermissionError, compile::expression};
use crate::{Action, HeaderMatch, HeaderTest};

/// Fields that are one value, commas and all.
const SINGLE: [&str; 14] = [
    ":authority",
    "authorization",
    "content-type",
    "cookie",
    "date",
    "from",
    "host",
    "if-modified-since",
    "if-range",
    "if-unmodified-since",
    "origin",
    "proxy-authorization",
    "referer",
    "user-agent",
];

/// Is a rule on one header.
#[derive(Debug, Clone)]
pub(crate) struct HeaderRule {
    /// Lower case.
    name: String,
    test: Test,
    ignore_case: bool,
    invert: bool,
    /// Whether the whole field is what is tested, and not what stands between its commas.
    whole: bool,
    action: Action,
}

#[derive(Debug, Clone)]
enum Test {
    Present,
    Exact(Vec<u8>),
    Prefix(Vec<u8>),
    Suffix(Vec<u8>),
    Contains(Vec<u8>),
    Regex(Regex),
}

impl HeaderRule {
    /// Compiles a condition of a permission with this action.
    pub(crate) fn new(header: &HeaderMatch, action: Action) -> Result<Self, PermissionError> {
        let name = header.name.as_str();
        let is_name = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.');
        if name != ":authority" && (name.is_empty() || !name.bytes().all(is_name)) {
            return Err(PermissionError::HeaderName { name: name.to_owned() });
        }
        let text = |text: &String| {
            if text.is_empty() || text.trim() != text {
                return Err(PermissionError::HeaderText { name: name.to_owned() });
            }
            Ok(text.clone().into_bytes())
        };
        let test = match &header.test {
            HeaderTest::Present => Test::Present,
            HeaderTest::Exact(wanted) => Test::Exact(text(wanted)?),
            HeaderTest::Prefix(wanted) => Test::Prefix(text(wanted)?),
            HeaderTest::Suffix(wanted) => Test::Suffix(text(wanted)?),
            HeaderTest::Contains(wanted) => Test::Contains(text(wanted)?),
            HeaderTest::Regex(pattern) => {
                Test::Regex(expression::of_bytes(pattern, header.ignore_case || is_host(name))?)
            }
        };
        let has_comma = match &header.test {
            HeaderTest::Present => false,
            HeaderTest::Exact(text)
            | HeaderTest::Prefix(text)
            | HeaderTest::Suffix(text)
            | HeaderTest::Contains(text)
            | HeaderTest::Regex(text) => text.contains(','),
        };
        Ok(Self {
            // The host has one form, in lower case and without its port, whichever way the request names it.
            name: name.to_owned(),
            test,
            ignore_case: header.ignore_case || is_host(name),
            invert: header.invert,
            whole: has_comma || SINGLE.contains(&name),
            action,
        })
    }

    /// Returns the header's name.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Reports whether the request's header is what the rule says.
    ///
    /// Where a field can be read as one value or as several, a deny takes it as an application may, and an allow only if it
    /// holds either way.
    pub(crate) fn matches<H: Headers + ?Sized>(&self, headers: &H, host: Option<&str>) -> bool {
        if is_host(&self.name) {
            return self.judge(|| host.into_iter().map(str::as_bytes));
        }
        self.judge(|| headers.values(&self.name))
    }

    fn judge<'v, I: Iterator<Item = &'v [u8]>>(&self, lines: impl Fn() -> I) -> bool {
        if matches!(self.test, Test::Present) {
            return lines().next().is_some() != self.invert;
        }
        // Taken in every way in which an application may take it: by line, by element with or without regard to quotes
        // and with or without them, and as one line.
        let any = || {
            let either = |one| self.passes(one) || self.passes(unquoted(one));
            let split = |line| elements(line).chain(parts(line)).any(either);
            lines().any(|line| self.passes(line.trim_ascii()) || split(line)) || self.passes_joined(lines())
        };
        let every = || {
            let mut all = lines().peekable();
            let is_there = all.peek().is_some();
            is_there
                && all.all(|line| {
                    let split = || elements(line).chain(parts(line)).all(|one| self.passes(one));
                    if self.whole { self.passes(line.trim_ascii()) } else { split() }
                })
        };
        match (self.action, self.invert) {
            (Action::Deny, false) => any(),
            (Action::Deny, true) => !every(),
            (Action::Allow, false) => every(),
            (Action::Allow, true) => !any(),
        }
    }

    /// Reports whether repeated fields pass once they are one line (RFC 9110 §5.3; RFC 9113 §8.2.3 for cookies).
    fn passes_joined<'v>(&self, lines: impl Iterator<Item = &'v [u8]>) -> bool {
        let mut lines = lines.map(<[u8]>::trim_ascii);
        let (Some(first), Some(second)) = (lines.next(), lines.next()) else { return false };
        // Repeated fields are rare, so that it is these that cost an allocation.
        let all: Vec<&[u8]> = [first, second].into_iter().chain(lines).collect();
        let separators: [&[u8]; 2] = if self.name == "cookie" { [b"; ", b";"] } else { [b", ", b","] };
        separators.iter().any(|separator| self.passes(&all.join(*separator)))
    }

    fn passes(&self, value: &[u8]) -> bool {
        let same = |one: &[u8], other: &[u8]| {
            if self.ignore_case { one.eq_ignore_ascii_case(other) } else { one == other }
        };
        match &self.test {
            Test::Present => true,
            Test::Exact(wanted) => same(value, wanted),
            Test::Prefix(wanted) => value.get(..wanted.len()).is_some_and(|start| same(start, wanted)),
            Test::Suffix(wanted) => {
                value.len().checked_sub(wanted.len()).is_some_and(|start| same(&value[start..], wanted))
            }
            Test::Contains(wanted) => value.windows(wanted.len()).any(|part| same(part, wanted)),
            Test::Regex(regex) => regex.is_match(value),
        }
    }
}

fn is_host(name: &str) -> bool {
    matches!(name, "host" | ":authority")
}

/// Returns what stands between the commas of a field, quoted ones apart, without the blanks around it and without empty
/// parts; the whole field where that leaves nothing.
fn elements(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(line);
    let mut is_first = true;
    std::iter::from_fn(move || {
        loop {
            let Some(left) = rest else {
                return std::mem::take(&mut is_first).then(|| line.trim_ascii());
            };
            let end = element_end(left);
            rest = left.get(end + 1..);
            let element = left[..end].trim_ascii();
            if !element.is_empty() {
                is_first = false;
                return Some(element);
            }
        }
    })
}

/// Returns what stands between the commas of a field, those within quotes too: not everybody knows of quotes.
fn parts(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    let is_quoted = line.contains(&b'"');
    let parts = is_quoted.then(|| line.split(|b| *b == b',').map(<[u8]>::trim_ascii));
    parts.into_iter().flatten().filter(|part| !part.is_empty())
}

/// Returns an element without the quotes at its ends, which are no part of it for some.
fn unquoted(element: &[u8]) -> &[u8] {
    let start = element.strip_prefix(b"\"").unwrap_or(element);
    start.strip_suffix(b"\"").unwrap_or(start)
}

/// Returns where the first element of a list ends: at a comma outside of quotes, or at the end.
fn element_end(list: &[u8]) -> usize {
    let mut quoted = false;
    let mut at = 0;
    while let Some(b) = list.get(at) {
        match b {
            b'"' => quoted = !quoted,
            b'\\' if quoted => at += 1,
            b',' if !quoted => return at,
            _ => {}
        }
        at += 1;
    }
    list.len()
}
