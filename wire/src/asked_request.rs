//! A request that somebody asks about, as far as rules look at it.

use std::collections::BTreeMap;

use catalog::http::{
    CompiledPolicy, NormalAuthority, NormalPath, NotNormal, Request, RequestExplanation, TokenState, Tokens,
    check_method,
};
use catalog::{Caller, Platform, Protocol, ServiceKey, Timestamp};
use serde_json::{Map, Value};

use crate::decode::{DecodeError, Fields};

/// Describes a request, as far as rules look at it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AskedRequest {
    /// The method; `GET` where it is empty.
    pub method: String,
    /// The path, perhaps with a query; `/` where it is empty.
    pub path: String,
    /// The host; empty for none.
    pub host: String,
    /// The header fields, in their order.
    pub headers: Vec<(String, String)>,
    /// What the tokens say that the request carries, by their provider. They count as verified.
    pub tokens: BTreeMap<String, Map<String, Value>>,
    /// What the caller runs on; none where its certificate does not say.
    pub platform: Option<Platform>,
}

/// Explains why a description is of no request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AskedRequestError {
    /// A parameter is not of its form.
    #[error("`{parameter}`: `{}` {problem}", text.escape_debug())]
    Parameter {
        /// The parameter.
        parameter: &'static str,
        /// What it says.
        text: String,
        /// What is wrong with it, and what to write.
        problem: &'static str,
    },
    /// Nobody reads requests toward the service.
    #[error(
        "requests to {destination} are not read, for its protocol is {protocol}: ask about a connection, or write \
         `service-defaults` with an HTTP protocol first"
    )]
    NotRead {
        /// The service that is called.
        destination: ServiceKey,
        /// Its protocol.
        protocol: Protocol,
    },
    /// No such request reaches a rule: agents refuse it.
    #[error("agents refuse such a request whatever the rules say: {0}")]
    NotNormal(#[from] NotNormal),
}

impl AskedRequest {
    /// Reads parameters as the API has them; none where they describe no request.
    ///
    /// # Errors
    ///
    /// [`AskedRequestError`] names the parameter that is malformed.
    pub fn from_parameters<'a>(
        parameters: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Option<Self>, AskedRequestError> {
        let mut asked = Self::default();
        let mut is_described = false;
        for (name, text) in parameters {
            let refused =
                |parameter, problem| AskedRequestError::Parameter { parameter, text: text.to_owned(), problem };
            match name {
                "method" => asked.method = text.to_owned(),
                "path" => asked.path = text.to_owned(),
                "host" => asked.host = text.to_owned(),
                "header" => {
                    let (name, value) = text.split_once(':').ok_or_else(|| refused("header", "is no `name: value`"))?;
                    asked.headers.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
                }
                "jwt" => {
                    let problem = "is no `provider={\"claim\": ...}`";
                    let (provider, claims) = text.split_once('=').ok_or_else(|| refused("jwt", problem))?;
                    let claims = serde_json::from_str(claims).map_err(|_| refused("jwt", problem))?;
                    asked.tokens.insert(provider.to_owned(), claims);
                }
                "platform" => {
                    let platform =
                        text.parse().map_err(|_| refused("platform", "is not `vm`, `ecs` or `kubernetes`"))?;
                    asked.platform = Some(platform);
                }
                _ => continue,
            }
            is_described = true;
        }
        Ok(is_described.then_some(asked))
    }

    /// Writes the parameters that describe it.
    #[must_use]
    pub fn to_parameters(&self) -> Vec<(&'static str, String)> {
        let mut parameters = vec![("method", self.method().to_owned()), ("path", self.path().to_owned())];
        if !self.host.is_empty() {
            parameters.push(("host", self.host.clone()));
        }
        parameters.extend(self.headers.iter().map(|(name, value)| ("header", format!("{name}: {value}"))));
        let token = |(provider, claims): (&String, &Map<String, Value>)| {
            ("jwt", format!("{provider}={}", Value::Object(claims.clone())))
        };
        parameters.extend(self.tokens.iter().map(token));
        parameters.extend(self.platform.map(|platform| ("platform", platform.as_str().to_owned())));
        parameters
    }

    /// Reads the fields that describe a request in a document.
    ///
    /// # Errors
    ///
    /// [`DecodeError`] names the field that is malformed.
    pub fn read(fields: &mut Fields) -> Result<Option<Self>, DecodeError> {
        let headers = fields.map("Headers", |value, path| match value {
            Value::String(text) => Ok(vec![text]),
            Value::Array(list) => list.into_iter().map(|one| text(one, path)).collect(),
            other => text(other, path).map(|text| vec![text]),
        })?;
        let tokens = fields.map("JWT", |value, path| match value {
            Value::Object(claims) => Ok(claims),
            _ => Err(DecodeError::Value { path: path.to_owned(), reason: "write the token's claims".to_owned() }),
        })?;
        let asked = Self {
            method: fields.text("Method")?,
            path: fields.text("Path")?,
            host: fields.text("Host")?,
            headers: headers
                .into_iter()
                .flat_map(|(name, values)| values.into_iter().map(move |value| (name.to_ascii_lowercase(), value)))
                .collect(),
            tokens,
            platform: fields.parsed("Platform")?,
        };
        Ok((asked != Self::default()).then_some(asked))
    }

    /// Returns the method.
    #[must_use]
    pub fn method(&self) -> &str {
        if self.method.is_empty() { "GET" } else { &self.method }
    }

    /// Returns the path, as it was asked about.
    #[must_use]
    pub fn path(&self) -> &str {
        if self.path.is_empty() { "/" } else { &self.path }
    }

    /// Has it explained, and hands the explanation and the path's normal form to `show`.
    ///
    /// # Errors
    ///
    /// [`AskedRequestError::NotNormal`] if it has no normal form.
    pub fn explain<R>(
        &self,
        policy: &CompiledPolicy,
        caller: &Caller,
        now: Timestamp,
        show: impl FnOnce(&RequestExplanation<'_>, &str) -> R,
    ) -> Result<R, AskedRequestError> {
        check_method(self.method())?;
        let authority = if self.host.is_empty() { None } else { Some(NormalAuthority::of(&self.host)?) };
        let (path, query) = NormalPath::with_query(self.path())?;
        let request = Request {
            method: self.method(),
            authority: authority.as_ref(),
            path: &path,
            query,
            headers: &self.headers,
            tokens: &Carried(&self.tokens),
            source_platform: self.platform,
            now,
        };
        Ok(show(&policy.explain_request(caller, &request), path.as_str()))
    }
}

/// Are the tokens that a request is said to carry: those of other providers it does not have.
struct Carried<'a>(&'a BTreeMap<String, Map<String, Value>>);

impl Tokens for Carried<'_> {
    fn of(&self, provider: &str) -> TokenState<'_> {
        self.0.get(provider).map_or(TokenState::Missing, TokenState::Valid)
    }
}

fn text(value: Value, path: &str) -> Result<String, DecodeError> {
    match value {
        Value::String(text) => Ok(text),
        _ => Err(DecodeError::Value { path: path.to_owned(), reason: "write a string".to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_described_by_parameters_and_these_by_it() {
        let parameters = [
            ("source", "web"),
            ("method", "POST"),
            ("path", "/v1?x"),
            ("host", "api"),
            ("header", "X-Env: prod"),
            ("header", "x-env:dev"),
            ("jwt", r#"okta={"role":"admin"}"#),
            ("platform", "ecs"),
        ];
        let asked = AskedRequest::from_parameters(parameters).unwrap().unwrap();
        assert_eq!(asked.headers, [("x-env", "prod"), ("x-env", "dev")].map(|(a, b)| (a.to_owned(), b.to_owned())));
        let again = asked.to_parameters();
        let again = AskedRequest::from_parameters(again.iter().map(|(name, value)| (*name, value.as_str())));
        assert_eq!(again.unwrap(), Some(asked));
        assert_eq!(AskedRequest::from_parameters([("source", "web"), ("destination", "api")]).unwrap(), None);
    }

    #[test]
    fn what_describes_no_request_is_refused_by_name() {
        for (name, text) in [("header", "x-env"), ("jwt", "okta"), ("jwt", "okta=7"), ("platform", "mars")] {
            let error = AskedRequest::from_parameters([(name, text)]).unwrap_err().to_string();
            assert!(error.starts_with(&format!("`{name}`: `{text}` is")), "{error}");
        }
    }
}
