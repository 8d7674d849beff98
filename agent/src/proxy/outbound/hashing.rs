//! What leads a call to an instance on a ring: what it says, in the words of the service's hash policies.

use std::net::SocketAddr;

use catalog::{HashBy, Hashing, IssuedCookie};
use http::header::{COOKIE, HeaderMap, HeaderValue};

use super::ring::hash_of;

/// Is what of a request a hash may be made of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HashedRequest<'a> {
    /// Its header fields.
    pub(crate) headers: &'a HeaderMap,
    /// Its query, as it is.
    pub(crate) query: Option<&'a str>,
    /// Where it comes from.
    pub(crate) from: SocketAddr,
}

/// Is what leads a request to an instance.
#[derive(Debug, Default)]
pub(crate) struct Hashed {
    /// The hash; none where no policy says anything of the request, which then goes anywhere.
    pub(crate) hash: Option<u64>,
    /// The cookie that its caller gets, so that the next one goes to the same.
    pub(crate) cookie: Option<HeaderValue>,
}

/// Hashes a request; `draw` is any number, for a cookie that has to be issued.
pub(crate) fn of_request(hashing: &Hashing, request: HashedRequest<'_>, draw: u64) -> Hashed {
    let mut hashed = Hashed::default();
    for policy in &hashing.policies {
        let part = match &policy.by {
            HashBy::Header(name) => of_header(request.headers, name),
            HashBy::Query(name) => request.query.and_then(|query| parameter(query, name)).map(hash_of),
            HashBy::Source => Some(of_source(request.from)),
            HashBy::Cookie { name, issued } => match (cookie(request.headers, name), issued) {
                (Some(value), _) => Some(hash_of(value)),
                (None, None) => None,
                (None, Some(issued)) => {
                    let value = format!("{draw:016x}");
                    hashed.cookie = written(name, &value, issued);
                    Some(hash_of(value.as_bytes()))
                }
            },
        };
        if let Some(part) = part {
            // Turned, so that two alike do not undo one another.
            hashed.hash = Some(hashed.hash.map_or(0, |hash| hash.rotate_left(1)) ^ part);
        }
        if policy.terminal && hashed.hash.is_some() {
            break;
        }
    }
    hashed
}

/// Hashes a connection that nobody looks into: by where it comes from, if by anything.
pub(crate) fn of_connection(hashing: &Hashing, from: SocketAddr) -> Option<u64> {
    hashing.policies.iter().any(|policy| policy.by == HashBy::Source).then(|| of_source(from))
}

fn of_source(from: SocketAddr) -> u64 {
    match from.ip().to_canonical() {
        std::net::IpAddr::V4(v4) => hash_of(&v4.octets()),
        std::net::IpAddr::V6(v6) => hash_of(&v6.octets()),
    }
}

/// Hashes all values of a header, in their order.
fn of_header(headers: &HeaderMap, name: &str) -> Option<u64> {
    let values = headers.get_all(name).iter().map(|value| hash_of(value.as_bytes()));
    values.reduce(|hash, value| hash.rotate_left(1) ^ value)
}

fn parameter<'a>(query: &'a str, name: &str) -> Option<&'a [u8]> {
    let pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs.into_iter().find(|(found, _)| *found == name).map(|(_, value)| value.as_bytes())
}

fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a [u8]> {
    let lines = headers.get_all(COOKIE).iter().filter_map(|line| line.to_str().ok());
    let pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.into_iter().find(|(found, _)| *found == name).map(|(_, value)| value.trim_matches('"').as_bytes())
}

fn written(name: &str, value: &str, issued: &IssuedCookie) -> Option<HeaderValue> {
    let mut line = format!("{name}={value}");
    if let Some(ttl) = issued.ttl_s {
        line += &format!("; Max-Age={ttl}");
    }
    if let Some(path) = &issued.path {
        line += &format!("; Path={path}");
    }
    HeaderValue::try_from(line + "; HttpOnly").ok()
}

#[cfg(test)]
mod tests {
    use catalog::HashPolicy;

    use super::*;

    fn hashing(policies: Vec<(HashBy, bool)>) -> Hashing {
        let policies = policies.into_iter().map(|(by, terminal)| HashPolicy { by, terminal }).collect();
        Hashing { policies, ..Hashing::default() }
    }

    fn hashed(hashing: &Hashing, lines: &[(&'static str, &'static str)], query: Option<&str>, from: &str) -> Hashed {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_static(value));
        }
        of_request(hashing, HashedRequest { headers: &headers, query, from: from.parse().unwrap() }, 0xabc)
    }

    #[test]
    fn the_same_has_the_same_hash_whatever_else_differs() {
        let user = hashing(vec![(HashBy::Header("x-user".to_owned()), true), (HashBy::Source, false)]);
        let of = |lines: &[(&'static str, &'static str)], from| hashed(&user, lines, None, from).hash;
        let ann = of(&[("x-user", "ann")], "127.0.0.1:1");
        assert_eq!(ann, of(&[("x-user", "ann"), ("x-other", "1")], "127.0.0.9:7"), "what comes after is not asked");
        assert_ne!(ann, of(&[("x-user", "bob")], "127.0.0.1:1"));
        assert_ne!(
            of(&[("x-user", "a"), ("x-user", "b")], "127.0.0.1:1"),
            of(&[("x-user", "b"), ("x-user", "a")], "127.0.0.1:1"),
        );
        assert_eq!(of(&[], "127.0.0.1:1"), of(&[], "[::ffff:127.0.0.1]:2"), "the source where there is no header");
        assert_ne!(of(&[], "127.0.0.1:1"), of(&[], "127.0.0.2:1"));
        assert_eq!(of_connection(&user, "127.0.0.1:1".parse().unwrap()), of(&[], "127.0.0.1:1"));

        let query = hashing(vec![(HashBy::Query("id".to_owned()), false)]);
        let of = |query_text| hashed(&query, &[], query_text, "127.0.0.1:1").hash;
        assert_eq!(of(Some("a=1&id=7&b=2")), of(Some("id=7")));
        assert_ne!(of(Some("id=7")), of(Some("id=8")));
        assert_eq!((of(Some("ide=7")), of(None)), (None, None), "nothing to go by");
        assert_eq!(of_connection(&query, "127.0.0.1:1".parse().unwrap()), None);
    }

    #[test]
    fn a_caller_without_the_cookie_gets_one_that_leads_to_the_same() {
        let issued = Some(IssuedCookie { ttl_s: Some(60), path: Some("/".to_owned()) });
        let by = |issued| hashing(vec![(HashBy::Cookie { name: "s".to_owned(), issued }, false)]);
        let first = hashed(&by(issued.clone()), &[], None, "127.0.0.1:1");
        assert_eq!(first.cookie.unwrap(), "s=0000000000000abc; Max-Age=60; Path=/; HttpOnly");
        let next = hashed(&by(issued), &[("cookie", "a=b; s=0000000000000abc")], None, "127.0.0.2:1");
        assert_eq!((next.hash, next.cookie), (first.hash, None));
        let none = hashed(&by(None), &[("cookie", "a=b")], None, "127.0.0.1:1");
        assert_eq!((none.hash, none.cookie), (None, None));
        let session = hashed(&by(Some(IssuedCookie::default())), &[], None, "127.0.0.1:1");
        assert_eq!(session.cookie.unwrap(), "s=0000000000000abc; HttpOnly");
    }
}
