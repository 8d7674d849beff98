//! Where a request has its token.

use catalog::TokenLocation;
use http::header::{COOKIE, HeaderMap, HeaderName, HeaderValue};

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

    /// Returns the tokens that stand there. What is none of ours, such as another scheme in the same header, is none.
    pub(super) fn tokens<'r>(&'r self, headers: &'r HeaderMap, query: Option<&'r str>) -> Vec<&'r str> {
        match self {
            Self::Header { name, prefix, .. } => {
                let values = headers.get_all(name).iter().filter_map(|value| after_prefix(value, prefix));
                values.filter(|token| !token.is_empty()).collect()
            }
            Self::Query { name } => named(query.unwrap_or_default(), '&', name),
            Self::Cookie { name } => {
                let lines = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
                lines.flat_map(|line| named(line, ';', name)).collect()
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
    let text = value.to_str().ok()?.trim();
    let start = text.get(..prefix.len())?;
    let rest = &text[prefix.len()..];
    // `Bearerx` is another word than `Bearer`.
    let is_apart = prefix.is_empty() || rest.is_empty() || rest.starts_with(' ') || !ends_in_word(prefix);
    (start.eq_ignore_ascii_case(prefix) && is_apart).then(|| rest.trim_start())
}

fn ends_in_word(prefix: &str) -> bool {
    prefix.ends_with(|last: char| last.is_ascii_alphanumeric())
}

/// Returns the values of a name in a list of `name=value`.
fn named<'r>(text: &'r str, separator: char, name: &str) -> Vec<&'r str> {
    let pairs = text.split(separator).filter_map(|pair| pair.trim().split_once('='));
    pairs.filter(|(known, value)| *known == name && !value.is_empty()).map(|(_, value)| value).collect()
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
