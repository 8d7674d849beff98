//! The query string: what every route reads of it, and what is refused by name.

use axum::extract::Query as Pairs;
use catalog::{CatalogIndex, Namespace};
use http::Uri;

use super::error::ApiError;

/// Parameters of Consul's that weft does not carry out, although ignoring them would change the answer.
const UNSUPPORTED: [&str; 5] = ["partition", "peer", "sg", "merge-central-config", "max_stale"];

/// Parameters that every route has, or every read, or that say how an answer is shaped.
const EVERYWHERE: [&str; 11] =
    ["ns", "dc", "pretty", "token", "stale", "consistent", "index", "wait", "filter", "near", "node-meta"];

/// Parameters that may stand more than once.
const REPEATABLE: [&str; 5] = ["tag", "name", "node-meta", "header", "jwt"];

/// The decoded pairs of a query string, in the order in which they were sent.
#[derive(Clone, Debug, Default)]
pub(crate) struct Query {
    pairs: Vec<(String, String)>,
    /// What the route says that it reads; nothing where there is no route.
    declared: Option<&'static [&'static str]>,
}

impl Query {
    /// Reads the query string of `uri`; what it says is judged by [`Query::check`] once the caller may know.
    ///
    /// # Errors
    ///
    /// [`ApiError::TokenInQuery`], or [`ApiError::Query`] for a text that is no query string.
    pub(crate) fn parse(uri: &Uri) -> Result<Self, ApiError> {
        let Pairs(pairs) = Pairs::<Vec<(String, String)>>::try_from_uri(uri)
            .map_err(|error| ApiError::Query { reason: error.body_text() })?;
        let query = Self { pairs, declared: None };
        if query.has("token") { Err(ApiError::TokenInQuery) } else { Ok(query) }
    }

    /// Names the parameters of its own that the route reads, which is what the API's description tells of them.
    pub(crate) fn of_route(self, declared: &'static [&'static str]) -> Self {
        Self { declared: Some(declared), ..self }
    }

    /// Looks that a parameter that is read stands in the API's description.
    fn is_declared(&self, name: &str) -> bool {
        let ours = self.declared.is_none_or(|declared| declared.contains(&name));
        ours || EVERYWHERE.contains(&name) || UNSUPPORTED.contains(&name)
    }

    /// Refuses the first parameter that is unsupported or doubled, and another datacenter than `ours`.
    pub(crate) fn check(&self, ours: &str) -> Result<(), ApiError> {
        for name in UNSUPPORTED {
            let is_harmless = |value: &str| match name {
                "partition" => value.is_empty() || value == "default",
                "merge-central-config" => value == "false",
                _ => value.is_empty(),
            };
            if self.all(name).any(|value| !is_harmless(value)) {
                return Err(ApiError::ParameterUnsupported { name });
            }
        }
        self.refuse_doubles()?;
        self.check_datacenter(ours)
    }

    fn refuse_doubles(&self) -> Result<(), ApiError> {
        for (position, (name, _)) in self.pairs.iter().enumerate() {
            let is_doubled = self.pairs.iter().skip(position + 1).any(|(other, _)| other == name);
            if is_doubled && !REPEATABLE.contains(&name.as_str()) {
                return Err(ApiError::Query { reason: format!("the parameter `{name}` stands more than once") });
            }
        }
        Ok(())
    }

    /// Reports whether the parameter was sent, with or without a value.
    pub(crate) fn has(&self, name: &str) -> bool {
        debug_assert!(self.is_declared(name), "the route reads `{name}` and does not say so: add it to its `reads`");
        self.pairs.iter().any(|(key, _)| key == name)
    }

    /// Returns the parameter's value where it was sent and is not empty.
    pub(crate) fn get(&self, name: &'static str) -> Option<&str> {
        self.all(name).find(|value| !value.is_empty())
    }

    /// Returns all parameters, in the order in which they were sent.
    pub(crate) fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.pairs.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Returns every value of a parameter that may be repeated.
    pub(crate) fn all(&self, name: &'static str) -> impl Iterator<Item = &str> {
        debug_assert!(self.is_declared(name), "the route reads `{name}` and does not say so: add it to its `reads`");
        self.pairs.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Returns the parameter's value, which must have been sent.
    pub(crate) fn required(&self, name: &'static str, expected: &'static str) -> Result<&str, ApiError> {
        self.get(name).ok_or(ApiError::ParameterMissing { name, expected })
    }

    /// Reads a switch, in all forms that Consul takes: sent without a value it is on.
    pub(crate) fn flag(&self, name: &'static str) -> Result<bool, ApiError> {
        match self.all(name).next() {
            None => Ok(false),
            Some("" | "true" | "True" | "TRUE" | "t" | "T" | "1") => Ok(true),
            Some("false" | "False" | "FALSE" | "f" | "F" | "0") => Ok(false),
            Some(value) => Err(parameter(name, value, "send it empty, true or false")),
        }
    }

    /// Reads an index.
    pub(crate) fn index(&self, name: &'static str) -> Result<Option<CatalogIndex>, ApiError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        // `u64::from_str` takes a leading plus sign; an index as the server sends it has none.
        let is_plain = value.bytes().all(|byte| byte.is_ascii_digit());
        match value.parse() {
            Ok(number) if is_plain => Ok(Some(CatalogIndex(number))),
            _ => Err(parameter(name, value, "send a whole number as X-Consul-Index gives it")),
        }
    }

    /// Reads `ns`, which names one namespace; unset means `default`.
    pub(crate) fn namespace(&self) -> Result<Namespace, ApiError> {
        match self.get("ns") {
            None => Ok(Namespace::default_namespace()),
            Some(value) => {
                value.parse().map_err(|error| parameter("ns", value, format!("send one namespace: {error}")))
            }
        }
    }

    /// Checks that the request means this datacenter.
    fn check_datacenter(&self, ours: &str) -> Result<(), ApiError> {
        match self.get("dc") {
            None => Ok(()),
            Some(asked) if asked == ours => Ok(()),
            Some(asked) if !is_datacenter_name(asked) => {
                Err(parameter("dc", asked, "send the name of a datacenter: small letters, digits, `-` and `_`"))
            }
            Some(asked) => Err(ApiError::OtherDatacenter { asked: asked.to_owned(), ours: ours.to_owned() }),
        }
    }
}

/// Builds the error for a parameter's value.
pub(crate) fn parameter(name: &'static str, value: &str, expected: impl Into<String>) -> ApiError {
    ApiError::Parameter { name, value: value.to_owned(), expected: expected.into() }
}

fn is_datacenter_name(text: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    text.len() <= 63 && text.bytes().all(is_allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(query: &str) -> Result<Query, ApiError> {
        Query::parse(&format!("/v1/x?{query}").parse().unwrap())
    }

    #[track_caller]
    fn refused(query: &str, part: &str) {
        let error = parse(query).unwrap().check("dc1").unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }

    #[test]
    fn a6_refuses_a_token_in_the_query_string_without_repeating_it() {
        let error = parse("token=0a1b2c3d").unwrap_err();
        assert!(matches!(error, ApiError::TokenInQuery));
        assert!(!error.to_string().contains("0a1b2c3d"));
        assert!(matches!(parse("token=").unwrap_err(), ApiError::TokenInQuery));
        assert!(matches!(parse("to%6Ben=x").unwrap_err(), ApiError::TokenInQuery));
    }

    #[test]
    fn refuses_by_name_what_would_change_the_answer() {
        refused("max_stale=10s", "`max_stale`");
        refused("partition=blue", "`partition`");
        parse("filter=&partition=default&merge-central-config=false&cached&pretty&whatever=1")
            .unwrap()
            .check("dc1")
            .unwrap();
    }

    #[test]
    fn refuses_a_parameter_that_stands_twice_unless_it_may() {
        refused("index=1&index=2", "`index`");
        let query = parse("tag=a&tag=b").unwrap();
        assert_eq!(query.all("tag").collect::<Vec<_>>(), ["a", "b"]);
    }

    #[test]
    fn an_index_is_a_plain_number() {
        assert_eq!(parse("index=17").unwrap().index("index").unwrap(), Some(CatalogIndex(17)));
        assert_eq!(parse("index=").unwrap().index("index").unwrap(), None);
        for bad in ["-1", "%2B1", "1e3", "x", "99999999999999999999"] {
            let error = parse(&format!("index={bad}")).unwrap().index("index").unwrap_err().to_string();
            assert!(error.contains("`index`"), "{error}");
        }
    }

    #[test]
    fn another_datacenter_has_no_path() {
        let error = parse("dc=dc2").unwrap().check("dc1").unwrap_err();
        assert!(error.to_string().starts_with("No path to datacenter"), "{error}");
        let error = parse("dc=d%20c").unwrap().check("dc1").unwrap_err();
        assert!(matches!(error, ApiError::Parameter { name: "dc", .. }));
        parse("dc=dc1").unwrap().check("dc1").unwrap();
    }
}
