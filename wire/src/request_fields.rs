//! The header fields of a request, as rules read them.

use catalog::http::Headers;
use http::HeaderMap;

/// Lets rules read a request's header fields where they are.
#[derive(Debug, Clone, Copy)]
pub struct RequestFields<'a>(pub &'a HeaderMap);

impl Headers for RequestFields<'_> {
    fn values<'s>(&'s self, name: &'s str) -> impl Iterator<Item = &'s [u8]> {
        self.0.get_all(name).into_iter().map(|value| value.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h6_every_value_of_a_repeated_field_is_seen_in_its_order() {
        let mut map = HeaderMap::new();
        map.append("x-env", http::HeaderValue::from_static("prod"));
        map.append("X-Env", http::HeaderValue::from_static("dev"));
        let fields = RequestFields(&map);
        assert_eq!(fields.values("x-env").collect::<Vec<_>>(), [b"prod".as_slice(), b"dev"]);
        assert_eq!(fields.values("x-other").next(), None);
        assert_eq!(fields.values(":authority").next(), None);
    }
}
