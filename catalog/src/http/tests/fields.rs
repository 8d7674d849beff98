//! Header fields and trailers: what could be read in more than one way is refused.

use super::super::{FIELDS_MAX, HttpVersion, NotNormal, check_fields, check_trailers};

fn check(version: HttpVersion, fields: &[(&str, &str)]) -> Result<(), NotNormal> {
    check_fields(version, fields.iter().map(|(name, value)| (*name, value.as_bytes())))
}

#[track_caller]
fn one(fields: &[(&str, &str)], want: Result<(), NotNormal>) {
    assert_eq!(check(HttpVersion::One, fields), want, "{fields:?}");
}

#[track_caller]
fn two(fields: &[(&str, &str)], want: Result<(), NotNormal>) {
    assert_eq!(check(HttpVersion::Two, fields), want, "{fields:?}");
}

#[test]
fn h1_a_body_has_one_length() {
    one(&[("content-length", "5")], Ok(()));
    one(&[("transfer-encoding", "chunked")], Ok(()));
    one(&[("Transfer-Encoding", " Chunked ")], Ok(()));
    one(&[("content-length", "5"), ("transfer-encoding", "chunked")], Err(NotNormal::Length));
    one(&[("content-length", "5"), ("content-length", "6")], Err(NotNormal::Length));
    one(&[("content-length", "5"), ("Content-Length", "5")], Err(NotNormal::Length));
    for length in ["+5", "-1", "5, 5", "0x5", "", " 5", "5 ", "1e1"] {
        one(&[("content-length", length)], Err(NotNormal::Length));
    }
    for encoding in ["chunked, identity", "identity, chunked", "gzip, chunked", "xchunked", "", "chunked, chunked"] {
        one(&[("transfer-encoding", encoding)], Err(NotNormal::TransferEncoding));
    }
    one(&[("transfer-encoding", "chunked"), ("transfer-encoding", "identity")], Err(NotNormal::TransferEncoding));
    one(&[("transfer-encoding ", "chunked")], Err(NotNormal::FieldName));
    two(&[("content-length", "5"), ("content-length", "6")], Err(NotNormal::Length));
}

#[test]
fn h1_trailers_frame_and_authorize_nothing() {
    let trailers =
        |fields: &[(&str, &str)]| check_trailers(fields.iter().map(|(name, value)| (*name, value.as_bytes())));
    assert_eq!(trailers(&[("grpc-status", "0"), ("grpc-message", "fine"), ("x-checksum", "7")]), Ok(()));
    for name in [
        "Content-Length",
        "transfer-encoding",
        "host",
        "authorization",
        "x-forwarded-client-cert",
        "cookie",
        "X-Weft-Port",
        "forwarded",
    ] {
        assert_eq!(trailers(&[(name, "5")]), Err(NotNormal::Trailer), "{name}");
    }
    assert_eq!(trailers(&[("x\r\ny", "5")]), Err(NotNormal::FieldName));
}

#[test]
fn h3_no_header_is_taken_away_by_naming_it_in_connection() {
    for value in ["close", "Keep-Alive", "upgrade, HTTP2-Settings", "te", "keep-alive, Upgrade", ""] {
        one(&[("connection", value)], Ok(()));
    }
    for value in ["authorization", "close, x-forwarded-client-cert", "Cookie", "keep-alive,x-env", "host"] {
        one(&[("connection", value)], Err(NotNormal::Connection));
    }
}

#[test]
fn h4_names_have_no_underscore_and_fields_have_a_bound() {
    one(&[("x_env", "prod")], Err(NotNormal::FieldName));
    for name in ["", "x env", "x:env", "x\0", "é", "x(y)"] {
        one(&[(name, "1")], Err(NotNormal::FieldName));
    }
    let many = vec![("a", "b"); FIELDS_MAX];
    one(&many, Ok(()));
    one(&[many, vec![("a", "b")]].concat(), Err(NotNormal::TooLarge));
    let long = "v".repeat(64 * 1024);
    one(&[("a", &long)], Err(NotNormal::TooLarge));
    assert_eq!((NotNormal::TooLarge.status(), NotNormal::FieldName.status()), (431, 400));
}

#[test]
fn h9_http_2_has_no_fields_of_the_connection() {
    two(&[("te", "trailers"), ("x-env", "prod")], Ok(()));
    for name in ["connection", "keep-alive", "proxy-connection", "upgrade"] {
        two(&[(name, "close")], Err(NotNormal::ConnectionField));
    }
    two(&[("transfer-encoding", "chunked")], Err(NotNormal::ConnectionField));
    two(&[("te", "gzip")], Err(NotNormal::ConnectionField));
    two(&[("X-Env", "prod")], Err(NotNormal::FieldName));
    for value in ["a\r\nb: c", "a\nb", "a\0", "a\u{7f}"] {
        two(&[("x-env", value)], Err(NotNormal::FieldValue));
        one(&[("x-env", value)], Err(NotNormal::FieldValue));
    }
    one(&[("x-env", "a\tb")], Ok(()));
}
