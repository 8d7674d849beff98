//! Query strings of the agent's own routes.

use catalog::Namespace;
use http::Uri;

use super::error::ApiError;

/// More parameters than any route knows are not read.
const PARAMETERS_MAX: usize = 32;

/// Parameters that every route has.
const EVERYWHERE: [&str; 2] = ["ns", "pretty"];

/// The parameters of one request, each at most once.
#[derive(Debug, Default)]
pub(super) struct Query {
    pairs: Vec<(String, String)>,
    /// What the route says that it reads; nothing where there is no route.
    declared: Option<&'static [&'static str]>,
}

impl Query {
    pub(super) fn parse(uri: &Uri) -> Result<Self, ApiError> {
        let mut pairs: Vec<(String, String)> = Vec::new();
        for pair in uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (name, value) = (decoded(name)?, decoded(value)?);
            if name == "token" {
                return Err(ApiError::TokenInQuery);
            }
            if pairs.iter().any(|(known, _)| *known == name) {
                return Err(ApiError::Query { reason: format!("`{name}` is there twice") });
            }
            if pairs.len() == PARAMETERS_MAX {
                return Err(ApiError::Query { reason: format!("there are more than {PARAMETERS_MAX} parameters") });
            }
            pairs.push((name, value));
        }
        Ok(Self { pairs, declared: None })
    }

    /// Names the parameters of its own that the route reads, which is what the API's description tells of them.
    pub(super) fn of_route(self, declared: &'static [&'static str]) -> Self {
        Self { declared: Some(declared), ..self }
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let is_declared = self.declared.is_none_or(|declared| declared.contains(&name)) || EVERYWHERE.contains(&name);
        debug_assert!(is_declared, "the route reads `{name}` and does not say so: add it to its `reads`");
        self.pairs.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Returns the namespace that the request speaks of.
    pub(super) fn namespace(&self) -> Result<Namespace, ApiError> {
        match self.get("ns") {
            None | Some("") => Ok(Namespace::default_namespace()),
            Some(text) => text.parse().map_err(|_| ApiError::Parameter {
                name: "ns",
                value: text.to_owned(),
                expected: "use a namespace: lower-case letters, digits and `-`",
            }),
        }
    }

    /// Returns the value of a parameter that is `true` or `false`, in all forms that Consul takes.
    pub(super) fn flag(&self, name: &'static str) -> Result<Option<bool>, ApiError> {
        match self.get(name) {
            None => Ok(None),
            Some("" | "true" | "True" | "TRUE" | "t" | "T" | "1") => Ok(Some(true)),
            Some("false" | "False" | "FALSE" | "f" | "F" | "0") => Ok(Some(false)),
            Some(other) => {
                Err(ApiError::Parameter { name, value: other.to_owned(), expected: "use `true` or `false`" })
            }
        }
    }
}

/// Undoes percent-encoding and `+`.
fn decoded(text: &str) -> Result<String, ApiError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let byte = match byte {
            b'+' => b' ',
            b'%' => match (rest.next().and_then(hex), rest.next().and_then(hex)) {
                (Some(high), Some(low)) => high * 16 + low,
                _ => return Err(ApiError::Query { reason: "`%` needs two hexadecimal digits".to_owned() }),
            },
            other => other,
        };
        bytes.push(byte);
    }
    String::from_utf8(bytes).map_err(|_| ApiError::Query { reason: "it is not UTF-8".to_owned() })
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(query: &str) -> Result<Query, ApiError> {
        Query::parse(&format!("/v1/agent/services?{query}").parse().unwrap())
    }

    #[test]
    fn parameters_are_decoded_and_read() {
        let query = parse("ns=team-a&enable=true&reason=disk%20full+again").unwrap();
        assert_eq!(query.namespace().unwrap().as_str(), "team-a");
        assert_eq!(query.flag("enable").unwrap(), Some(true));
        assert_eq!(query.get("reason"), Some("disk full again"));
        assert_eq!(parse("").unwrap().namespace().unwrap(), Namespace::default_namespace());
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        for query in ["a=1&a=2", "a=%zz", "a=%f", "a=%ff", "token=secret"] {
            assert!(parse(query).is_err(), "{query}");
        }
        assert!(parse("ns=*").unwrap().namespace().is_err());
        assert!(parse("enable=maybe").unwrap().flag("enable").is_err());
        let many: String = (0..40).map(|n| format!("p{n}=1&")).collect();
        assert!(parse(&many).is_err());
    }
}
