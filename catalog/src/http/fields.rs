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

/// What `connection` may name: the fields that are of the connection, and the two words. Whoever could name another would
/// have it taken away on the way to the application.
const OF_CONNECTION: [&str; 8] =
    ["close", "keep-alive", "upgrade", "te", "trailer", "http2-settings", "proxy-connection", "transfer-encoding"];

/// What a trailer must not be: it would frame, route, authorize or qualify a message that is on its way already.
const NO_TRAILERS: [&str; 22] = [
    "authorization",
    "cache-control",
    "connection",
    "content-encoding",
    "content-length",
    "content-range",
    "content-type",
    "cookie",
    "expect",
    "forwarded",
    "host",
    "keep-alive",
    "max-forwards",
    "proxy-authorization",
    "proxy-connection",
    "set-cookie",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-forwarded-client-cert",
    "x-forwarded-for",
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
        if NO_TRAILERS.iter().any(|forbidden| name.eq_ignore_ascii_case(forbidden)) {
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

fn check_connection(name: &str, value: &[u8]) -> Result<(), NotNormal> {
    if !name.eq_ignore_ascii_case("connection") {
        return Ok(());
    }
    let is_of_connection = |word: &[u8]| {
        let word = word.trim_ascii();
        word.is_empty() || OF_CONNECTION.iter().any(|known| word.eq_ignore_ascii_case(known.as_bytes()))
    };
    if value.split(|b| *b == b',').all(is_of_connection) { Ok(()) } else { Err(NotNormal::Connection) }
}

fn refuse_of_connection(name: &str, value: &[u8]) -> Result<(), NotNormal> {
    match name {
        "connection" | "keep-alive" | "proxy-connection" | "transfer-encoding" | "upgrade" | "http2-settings" => {
            Err(NotNormal::ConnectionField)
        }
        "te" if !value.trim_ascii().eq_ignore_ascii_case(b"trailers") => Err(NotNormal::ConnectionField),
        _ => Ok(()),
    }
}
