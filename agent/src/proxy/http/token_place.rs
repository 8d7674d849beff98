//! Where a request has its token.

use catalog::TokenLocation;
use http::header::{COOKIE, HeaderMap, HeaderName, HeaderValue};

/// Stands for something in a token's place that is no text. No token is equal to it, and none can be made of it.
const NO_TEXT: &str = "\u{fffd}";

/// Is a place where requests have their token, ready to be looked at.
#[derive(Debug)]
pub(super) enum Place {
    Header { name: HeaderName, prefix: String, forward: bool },
    Query { name: String },
    Cookie { name: String },
}

impl Place {
    /// Makes a place ready; none if no header can have its name, which is refused when it is written.
    pub(super) fn new(location: &TokenLocation) -> Option<Self> {
        Some(match location {
            TokenLocation::Header { name, prefix, forward } => {
                let prefix = prefix.trim_end().to_owned();
                Self::Header { name: HeaderName::try_from(name).ok()?, prefix, forward: *forward }
            }
            TokenLocation::Query { name } => Self::Query { name: name.clone() },
            TokenLocation::Cookie { name } => Self::Cookie { name: name.clone() },
        })
    }

    /// Returns what stands there and an application could take for a token, however it reads; so that nobody is let in by one
    /// token and taken for whom another one names. What is none of ours, such as another scheme in the same header, is none,
    /// unless the application gets that header beside the token.
    pub(super) fn tokens<'r>(&'r self, headers: &'r HeaderMap, query: Option<&'r str>) -> Vec<&'r str> {
        match self {
            Self::Header { name, prefix, forward } => {
                let lines = headers.get_all(name).iter().map(|value| after_prefix(value, prefix));
                let lines: Vec<Option<&str>> = lines.map(|token| token.filter(|token| !token.is_empty())).collect();
                let has_token = lines.iter().any(Option::is_some);
                let others = if *forward && has_token { Some(NO_TEXT) } else { None };
                lines.into_iter().filter_map(|token| token.or(others)).collect()
            }
            Self::Query { name } => {
                let pairs = query.unwrap_or_default().split(['&', ';']);
                let named = pairs.filter_map(|pair| pair.split_once('='));
                let named = named.filter(|(known, value)| !value.is_empty() && is_named(known, name));
                named.map(|(_, value)| value).collect()
            }
            Self::Cookie { name } => {
                let lines = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes);
                lines.flat_map(|line| line.split(|byte| *byte == b';')).filter_map(|pair| cookie(pair, name)).collect()
            }
        }
    }

    /// Takes the token out of a head, unless the application is to have it. What stands in the query or in a cookie goes on:
    /// these are the application's own to read.
    pub(super) fn take_out(&self, headers: &mut HeaderMap) {
        let Self::Header { name, prefix, forward: false } = self else { return };
        let is_token = |value: &HeaderValue| after_prefix(value, prefix).is_some_and(|token| !token.is_empty());
        if !headers.get_all(name).iter().any(is_token) {
            return;
        }
        let others: Vec<HeaderValue> = headers.get_all(name).iter().filter(|value| !is_token(value)).cloned().collect();
        headers.remove(name);
        for other in others {
            headers.append(name.clone(), other);
        }
    }
}

/// Returns what follows a prefix, whose letter case does not count, and blanks.
fn after_prefix<'r>(value: &'r HeaderValue, prefix: &str) -> Option<&'r str> {
    let line = value.as_bytes().trim_ascii();
    let (start, rest) = line.split_at_checked(prefix.len())?;
    // `Bearerx` is another word than `Bearer`. What is no ASCII is a blank to some.
    let is_blank = |byte: &u8| byte.is_ascii_whitespace() || !byte.is_ascii();
    let is_apart = prefix.is_empty() || rest.first().is_none_or(is_blank) || !ends_in_word(prefix);
    (start.eq_ignore_ascii_case(prefix.as_bytes()) && is_apart).then(|| text(rest.trim_ascii_start()))
}

fn ends_in_word(prefix: &str) -> bool {
    prefix.ends_with(|last: char| last.is_ascii_alphanumeric())
}

/// Returns the value of a cookie, if it has this name and a value.
fn cookie<'r>(pair: &'r [u8], name: &str) -> Option<&'r str> {
    let equals = pair.iter().position(|byte| *byte == b'=')?;
    let (known, value) = (pair.get(..equals)?.trim_ascii(), pair.get(equals + 1..)?.trim_ascii());
    (known == name.as_bytes() && !value.is_empty()).then(|| text(value))
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).ok().filter(|text| text.is_ascii()).unwrap_or(NO_TEXT)
}

/// Reports whether applications read this as the name in a query: with escapes undone, and blanks around it gone.
fn is_named(known: &str, name: &str) -> bool {
    form_urlencoded::parse(known.as_bytes()).next().is_some_and(|(known, _)| known.trim_ascii() == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(all: &[(&'static str, &'static str)]) -> HeaderMap {
        all.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    fn bearer(forward: bool) -> Place {
        let (name, prefix) = ("authorization".to_owned(), "Bearer ".to_owned());
        Place::new(&TokenLocation::Header { name, prefix, forward }).unwrap()
    }

    #[test]
    fn a_token_is_found_in_its_place_and_nowhere_else() {
        for (value, want) in [
            ("Bearer a.b.c", &["a.b.c"][..]),
            ("bearer   a.b.c ", &["a.b.c"]),
            ("Basic a.b.c", &[]),
            ("Bearerx a.b.c", &[]),
            ("Bearer", &[]),
            ("Bearer ", &[]),
            ("Bearer a, Bearer b", &["a, Bearer b"]),
            // Applications split at any blank.
            ("Bearer\ta.b.c", &["a.b.c"]),
            (" \tBEARER \t a.b.c\t", &["a.b.c"]),
        ] {
            assert_eq!(bearer(false).tokens(&headers(&[("authorization", value)]), None), want, "{value}");
        }
        let twice = headers(&[("authorization", "Bearer a"), ("authorization", "Bearer b")]);
        assert_eq!(bearer(false).tokens(&twice, None), ["a", "b"]);
        let whole = TokenLocation::Header { name: "x-token".to_owned(), prefix: String::new(), forward: false };
        assert_eq!(Place::new(&whole).unwrap().tokens(&headers(&[("x-token", "a.b.c")]), None), ["a.b.c"]);
        let query = Place::new(&TokenLocation::Query { name: "t".to_owned() }).unwrap();
        assert_eq!(query.tokens(&headers(&[]), Some("a=1&t=x.y.z&tt=2&t=")), ["x.y.z"]);
        assert!(query.tokens(&headers(&[]), None).is_empty());
        let cookie = Place::new(&TokenLocation::Cookie { name: "t".to_owned() }).unwrap();
        assert_eq!(cookie.tokens(&headers(&[("cookie", "a=b; t=x.y.z"), ("cookie", "t=u")]), None), ["x.y.z", "u"]);
    }

    #[test]
    fn j1_what_an_application_could_read_as_the_token_is_one() {
        let good = ("authorization", "Bearer GOOD");
        for other in ["Bearer\tFORGED", "Basic FORGED"] {
            let lines = headers(&[("authorization", other), good]);
            assert_eq!(bearer(true).tokens(&lines, None).len(), 2, "{other:?}: nobody knows which line is read");
        }
        assert!(
            bearer(true)
                .tokens(&headers(&[("authorization", "Basic a"), ("authorization", "Basic b")]), None)
                .is_empty()
        );
        let mut unreadable = headers(&[good]);
        unreadable.append("authorization", HeaderValue::from_bytes(b"Bearer\xa0FORGED").unwrap());
        for forward in [true, false] {
            assert_eq!(bearer(forward).tokens(&unreadable, None), ["GOOD", NO_TEXT]);
        }
        let query = Place::new(&TokenLocation::Query { name: "token".to_owned() }).unwrap();
        for name in ["t%6Fken", "%74oken", "+token", "token%20", "a;token"] {
            let asked = format!("{name}=FORGED&token=GOOD");
            assert_eq!(query.tokens(&headers(&[]), Some(&asked)), ["FORGED", "GOOD"], "{asked}");
        }
        for name in ["t%256Fken", "t%6Fke", "TOKEN", "%zztoken", "%7"] {
            let asked = format!("{name}=FORGED&token=GOOD");
            assert_eq!(query.tokens(&headers(&[]), Some(&asked)), ["GOOD"], "{asked}");
        }
        let cookie = Place::new(&TokenLocation::Cookie { name: "token".to_owned() }).unwrap();
        for line in ["token =FORGED; token=GOOD", "token\t= FORGED;token=GOOD"] {
            assert_eq!(cookie.tokens(&headers(&[("cookie", line)]), None), ["FORGED", "GOOD"], "{line:?}");
        }
        let mut lines = headers(&[("cookie", "token=GOOD")]);
        lines.append("cookie", HeaderValue::from_bytes(b"a=\xff; token=FORGED; token=\xff").unwrap());
        assert_eq!(cookie.tokens(&lines, None), ["GOOD", "FORGED", NO_TEXT]);
    }

    #[test]
    fn a_token_goes_no_further_unless_the_application_is_to_have_it() {
        let asked = || headers(&[("authorization", "Bearer a"), ("authorization", "Basic b"), ("x-other", "c")]);
        let mut left = asked();
        bearer(false).take_out(&mut left);
        assert_eq!(left, headers(&[("x-other", "c"), ("authorization", "Basic b")]));
        let mut left = asked();
        bearer(true).take_out(&mut left);
        assert_eq!(left, asked());
    }
}
