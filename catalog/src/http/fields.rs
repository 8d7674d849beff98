//! What a request's header fields must be for there to be one way to read them.

use super::NotNormal;

/// How many fields a request has at most.
pub const FIELDS_MAX: usize = 100;
/// How long the names and values of a request's fields are at most, together.
pub const FIELDS_BYTES_MAX: usize = 64 * 1024;

/// Names the versions of HTTP that differ in what a field may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HttpVersion {
    /// HTTP/1.0 and HTTP/1.1.
    One,
    /// HTTP/2.
    Two,
}

/// The fields that are of one connection and never go on (RFC 9110 §7.6.1), `te: trailers` apart.
pub const CONNECTION_FIELDS: [&str; 7] =
    ["connection", "http2-settings", "keep-alive", "proxy-connection", "te", "transfer-encoding", "upgrade"];

/// The fields that say who calls: an application gets weft's word for it, never a caller's.
pub const CALLER_FIELDS: [&str; 3] = ["forwarded", "x-forwarded-client-cert", "x-forwarded-for"];

/// What the names of weft's own fields begin with.
pub const OWN_FIELD_PREFIX: &str = "x-weft-";

/// Reports whether a field frames or routes a message, or is weft's to vouch for: no operator's entry writes such a field.
pub(crate) fn is_reserved(name: &str) -> bool {
    const FRAMING: [&str; 4] = ["content-length", "host", "trailer", "x-request-id"];
    let mut reserved = CONNECTION_FIELDS.iter().chain(&CALLER_FIELDS).chain(&FRAMING);
    name.starts_with(OWN_FIELD_PREFIX) || reserved.any(|reserved| *reserved == name)
}

/// What a trailer must not be, besides: it would frame, route, authorize or qualify a message that is on its way already.
const NO_TRAILERS: [&str; 13] = [
    "authorization",
    "cache-control",
    "content-encoding",
    "content-length",
    "content-range",
    "content-type",
    "cookie",
    "expect",
    "host",
    "max-forwards",
    "proxy-authorization",
    "set-cookie",
    "trailer",
];

/// Checks that there is one way to read a request's fields, the Host apart.
///
/// # Errors
/// [`NotNormal`] says what could be read in more than one way.
pub fn check_fields<'a>(
    version: HttpVersion,
    fields: impl IntoIterator<Item = (&'a str, &'a [u8])>,
) -> Result<(), NotNormal> {
    let (mut count, mut bytes) = (0, 0);
    let (mut has_length, mut has_encoding) = (false, false);
    for (name, value) in fields {
        count += 1;
        bytes += name.len() + value.len();
        if count > FIELDS_MAX || bytes > FIELDS_BYTES_MAX {
            return Err(NotNormal::TooLarge);
        }
        check_name(version, name)?;
        if !value.iter().copied().all(is_value_byte) {
            return Err(NotNormal::FieldValue);
        }
        if name.eq_ignore_ascii_case("content-length") {
            if has_length || value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
                return Err(NotNormal::Length);
            }
            has_length = true;
        }
        if name.eq_ignore_ascii_case("transfer-encoding") {
            if has_encoding || !value.trim_ascii().eq_ignore_ascii_case(b"chunked") {
                return Err(NotNormal::TransferEncoding);
            }
            has_encoding = true;
        }
        match version {
            HttpVersion::One => check_connection(name, value)?,
            HttpVersion::Two => refuse_of_connection(name, value)?,
        }
    }
    if has_length && has_encoding {
        return Err(NotNormal::Length);
    }
    Ok(())
}

/// Checks that a message's trailers say nothing that must stand before its body.
///
/// # Errors
/// [`NotNormal`] says what they must not say.
pub fn check_trailers<'a>(fields: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Result<(), NotNormal> {
    for (name, value) in fields {
        check_name(HttpVersion::One, name)?;
        if !value.iter().copied().all(is_value_byte) {
            return Err(NotNormal::FieldValue);
        }
        let mut forbidden = NO_TRAILERS.iter().chain(&CONNECTION_FIELDS).chain(&CALLER_FIELDS);
        let is_own =
            name.get(..OWN_FIELD_PREFIX.len()).is_some_and(|start| start.eq_ignore_ascii_case(OWN_FIELD_PREFIX));
        if is_own || forbidden.any(|forbidden| name.eq_ignore_ascii_case(forbidden)) {
            return Err(NotNormal::Trailer);
        }
    }
    Ok(())
}

/// A name with `_` is refused, for applications behind CGI take it for the one with `-`.
fn check_name(version: HttpVersion, name: &str) -> Result<(), NotNormal> {
    let is_name_byte = |b: u8| {
        b.is_ascii_lowercase()
            || b.is_ascii_digit()
            || matches!(
                b,
                b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'`' | b'|' | b'~'
            )
            || (version == HttpVersion::One && b.is_ascii_uppercase())
    };
    if name.is_empty() || !name.bytes().all(is_name_byte) {
        return Err(NotNormal::FieldName);
    }
    Ok(())
}

fn is_value_byte(b: u8) -> bool {
    b == b'\t' || !b.is_ascii_control()
}

/// Whoever could name another field would have it taken away on the way to the application.
fn check_connection(name: &str, value: &[u8]) -> Result<(), NotNormal> {
    if !name.eq_ignore_ascii_case("connection") {
        return Ok(());
    }
    let is_of_connection = |word: &[u8]| {
        let word = word.trim_ascii();
        let is_known = |known: &&str| word.eq_ignore_ascii_case(known.as_bytes());
        word.is_empty() || is_known(&"close") || CONNECTION_FIELDS.iter().any(is_known)
    };
    if value.split(|b| *b == b',').all(is_of_connection) { Ok(()) } else { Err(NotNormal::Connection) }
}

fn refuse_of_connection(name: &str, value: &[u8]) -> Result<(), NotNormal> {
    let is_fine = match name {
        "te" => value.trim_ascii().eq_ignore_ascii_case(b"trailers"),
        name => !CONNECTION_FIELDS.contains(&name),
    };
    if is_fine { Ok(()) } else { Err(NotNormal::ConnectionField) }
}
