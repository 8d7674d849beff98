//! The one normal form of a request's path.

use std::borrow::Cow;

use super::NotNormal;

/// Is a request's path in its normal form.
///
/// Escapes that are not needed are undone and those that are needed are upper case, slashes are merged, and dot segments are
/// gone (RFC 3986 §6.2.2). What could be read in more than one way has no normal form. A path that is normal already is
/// borrowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NormalPath<'a> {
    forwarded: Cow<'a, str>,
    /// The same without any escape; none where there are none.
    decoded: Option<String>,
    has_parameters: bool,
}

impl<'a> NormalPath<'a> {
    /// Normalises a path, without its query.
    ///
    /// # Errors
    /// [`NotNormal`] says what could be read in more than one way.
    pub fn of(path: &'a str) -> Result<Self, NotNormal> {
        if !path.starts_with('/') {
            return Err(NotNormal::Target);
        }
        if is_plain(path) {
            return Ok(Self { forwarded: Cow::Borrowed(path), decoded: None, has_parameters: false });
        }
        let respelt = respell(path)?;
        let forwarded = remove_dots(&respelt)?;
        let decoded = if forwarded.contains('%') { Some(decode(&forwarded)?) } else { None };
        let has_parameters = decoded.as_ref().unwrap_or(&forwarded).contains(';');
        let forwarded = if forwarded == path { Cow::Borrowed(path) } else { Cow::Owned(forwarded) };
        Ok(Self { forwarded, decoded, has_parameters })
    }

    /// Splits a target into its path, normalised, and its query, as it is.
    ///
    /// # Errors
    /// [`NotNormal`] says what could be read in more than one way.
    pub fn with_query(target: &'a str) -> Result<(Self, Option<&'a str>), NotNormal> {
        let (path, query) = match target.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (target, None),
        };
        let is_query = |b: u8| (b' ' < b && b < 0x7F && b != b'#') || b >= 0x80;
        if query.is_some_and(|query| !query.bytes().all(is_query)) {
            return Err(NotNormal::Query);
        }
        Ok((Self::of(path)?, query))
    }

    /// Returns the path as it is sent on.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.forwarded
    }

    /// Returns the path as rules are held against it: with what its escapes stand for, so that each path has one spelling.
    #[must_use]
    pub fn decoded(&self) -> &str {
        self.decoded.as_deref().unwrap_or(&self.forwarded)
    }

    /// Reports whether a segment has parameters (`;name=value`), which applications cut off or do not.
    #[must_use]
    pub fn has_parameters(&self) -> bool {
        self.has_parameters
    }
}

/// Returns what rules hold requests' paths against for a rule's own text.
///
/// # Errors
/// [`NotNormal`] if the text has no normal form; `Ok(None)` if it has another one, so that it would never match.
pub(super) fn rule_text(text: &str) -> Result<Option<String>, NotNormal> {
    let normal = NormalPath::of(text)?;
    // A text with needless escapes is fine; one with dot segments or empty ones can equal no path.
    let as_written = decode(text)?;
    Ok((normal.decoded() == as_written && !normal.has_parameters()).then_some(as_written))
}

fn is_unreserved(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~')
}

/// Reports whether a segment may have the byte unescaped (RFC 3986 §3.3, `pchar`).
fn is_segment_byte(b: u8) -> bool {
    is_unreserved(b)
        || matches!(b, b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=' | b':' | b'@')
}

/// Reports whether a path is normal as it stands: no escapes, parameters, dot segments or empty ones.
fn is_plain(path: &str) -> bool {
    let bytes = path.as_bytes();
    let mut previous = b' ';
    for (at, b) in bytes.iter().copied().enumerate() {
        let plain = match b {
            b'/' => previous != b'/',
            // A segment that starts with a dot is looked at closely.
            b'.' => previous != b'/' || !is_dots(segment_at(bytes, at)),
            b';' => false,
            b => is_segment_byte(b),
        };
        if !plain {
            return false;
        }
        previous = b;
    }
    true
}

fn segment_at(bytes: &[u8], start: usize) -> &[u8] {
    let rest = &bytes[start..];
    &rest[..rest.iter().position(|b| *b == b'/').unwrap_or(rest.len())]
}

fn is_dots(segment: &[u8]) -> bool {
    matches!(segment, b"." | b"..")
}

/// Gives each byte its one spelling; the path's segments stay as they are.
fn respell(path: &str) -> Result<String, NotNormal> {
    let bytes = path.as_bytes();
    let mut respelt = String::with_capacity(bytes.len() + 8);
    let mut at = 0;
    while let Some(b) = bytes.get(at).copied() {
        match b {
            b'%' => {
                let b = escaped(bytes, at)?;
                if b == b'/' || b == b'\\' || b.is_ascii_control() {
                    return Err(NotNormal::EscapedSeparator);
                }
                if is_unreserved(b) {
                    respelt.push(char::from(b))
                } else {
                    push_escaped(&mut respelt, b)
                }
                at += 3;
                continue;
            }
            b'#' => return Err(NotNormal::Fragment),
            b'\\' | b' ' | b'?' => return Err(NotNormal::PathCharacter),
            b if b.is_ascii_control() => return Err(NotNormal::PathCharacter),
            b if b == b'/' || is_segment_byte(b) => respelt.push(char::from(b)),
            b => push_escaped(&mut respelt, b),
        }
        at += 1;
    }
    // Looked for at the end, for the digits may have been escaped themselves.
    for (at, _) in respelt.match_indices("%25") {
        let behind = respelt.as_bytes().get(at + 3..at + 5);
        if behind.is_some_and(|two| two.iter().all(u8::is_ascii_hexdigit)) {
            return Err(NotNormal::DoublyEscaped);
        }
    }
    Ok(respelt)
}

/// Returns the byte that the escape at `at` stands for.
fn escaped(bytes: &[u8], at: usize) -> Result<u8, NotNormal> {
    let digit = |offset: usize| bytes.get(at + offset).and_then(|b| char::from(*b).to_digit(16));
    match (digit(1), digit(2)) {
        (Some(high), Some(low)) => Ok(u8::try_from(high * 16 + low).expect("two hexadecimal digits are a byte")),
        _ => Err(NotNormal::Escape),
    }
}

fn push_escaped(text: &mut String, b: u8) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    text.push('%');
    text.push(char::from(DIGITS[usize::from(b >> 4)]));
    text.push(char::from(DIGITS[usize::from(b & 15)]));
}

/// Removes empty and dot segments. What ends in one ends in a slash.
fn remove_dots(path: &str) -> Result<String, NotNormal> {
    let mut kept = String::with_capacity(path.len());
    let mut ends_in_slash = false;
    for segment in path.split('/').skip(1) {
        let bare = segment.split(';').next().unwrap_or_default();
        let bare = bare.split("%3B").next().unwrap_or_default();
        if is_dots(bare.as_bytes()) && bare != segment {
            return Err(NotNormal::DotParameters);
        }
        ends_in_slash = true;
        match segment {
            "" | "." => {}
            ".." => kept.truncate(kept.rfind('/').unwrap_or_default()),
            segment => {
                kept.push('/');
                kept.push_str(segment);
                ends_in_slash = false;
            }
        }
    }
    if ends_in_slash {
        kept.push('/');
    }
    Ok(kept)
}

/// Returns what a text's escapes stand for.
fn decode(text: &str) -> Result<String, NotNormal> {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(b) = bytes.get(at).copied() {
        if b == b'%' {
            decoded.push(escaped(bytes, at)?);
            at += 3;
        } else {
            decoded.push(b);
            at += 1;
        }
    }
    String::from_utf8(decoded).map_err(|_| NotNormal::NotUtf8)
}
