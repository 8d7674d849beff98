//! How an intention writes services: one service, all of a namespace, or all.

use std::{fmt, str::FromStr};

use crate::{NameError, Namespace, ServiceKey, SpiffeId, SpiffeIdError, name::written_as_text};

/// Explains why a text names no services.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// One of the names is malformed.
    #[error(transparent)]
    Name(#[from] NameError),
    /// An exact name may not follow a wildcard namespace (Consul's rule).
    #[error("`{0}` has an exact name behind a wildcard namespace: write `*/*`, or name the namespace")]
    ExactAfterWildcard(String),
    /// `*` stands for a whole name only.
    #[error("`{0}` has a wildcard inside a name: `*` stands for a whole name only")]
    WildcardInside(String),
    /// A source that looks like a SPIFFE ID is none.
    #[error(transparent)]
    Spiffe(#[from] SpiffeIdError),
}

/// Names the services that one side of an intention speaks of.
///
/// The order of the variants is the order of specificity: later is less specific.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ServicePattern {
    /// One service.
    Exact(ServiceKey),
    /// Every service of a namespace, written `namespace/*`.
    Namespace(Namespace),
    /// Every service, written `*/*`.
    Any,
}

written_as_text!(ServicePattern);

impl ServicePattern {
    /// Reads `name`, `namespace/name`, `*`, `namespace/*` or `*/*`; `name` and `*` alone are of the namespace `current`.
    ///
    /// # Errors
    /// [`PatternError`] names the text and the rule that it breaks.
    pub fn parse(text: &str, current: &Namespace) -> Result<Self, PatternError> {
        let (namespace, name) = match text.split_once('/') {
            Some((namespace, name)) => (namespace, name),
            None => (current.as_str(), text),
        };
        if [namespace, name].iter().any(|part| part.len() > 1 && part.contains('*')) {
            return Err(PatternError::WildcardInside(text.to_owned()));
        }
        match (namespace, name) {
            ("*", "*") => Ok(Self::Any),
            ("*", _) => Err(PatternError::ExactAfterWildcard(text.to_owned())),
            (namespace, "*") => Ok(Self::Namespace(namespace.parse()?)),
            (namespace, name) => Ok(Self::Exact(ServiceKey::new(namespace.parse()?, name.parse()?))),
        }
    }

    /// Reports whether the pattern speaks of `service`.
    #[must_use]
    pub fn matches(&self, service: &ServiceKey) -> bool {
        match self {
            Self::Exact(exact) => exact == service,
            Self::Namespace(namespace) => *namespace == service.namespace,
            Self::Any => true,
        }
    }

    /// Returns the three patterns that speak of `service`, most specific first.
    #[must_use]
    pub fn covering(service: &ServiceKey) -> [Self; 3] {
        [Self::Exact(service.clone()), Self::Namespace(service.namespace.clone()), Self::Any]
    }

    /// Returns the namespace as Consul writes it: `*` for every one.
    #[must_use]
    pub fn namespace_text(&self) -> &str {
        match self {
            Self::Exact(key) => key.namespace.as_str(),
            Self::Namespace(namespace) => namespace.as_str(),
            Self::Any => "*",
        }
    }

    /// Returns the name as Consul writes it: `*` for every one.
    #[must_use]
    pub fn name_text(&self) -> &str {
        match self {
            Self::Exact(key) => key.name.as_str(),
            Self::Namespace(_) | Self::Any => "*",
        }
    }

    /// Returns how many of namespace and name are exact: 2, 1 or 0.
    #[must_use]
    pub fn exact_parts(&self) -> u8 {
        match self {
            Self::Exact(_) => 2,
            Self::Namespace(_) => 1,
            Self::Any => 0,
        }
    }
}

impl FromStr for ServicePattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        Self::parse(text, &Namespace::default_namespace())
    }
}

impl TryFrom<String> for ServicePattern {
    type Error = PatternError;

    fn try_from(text: String) -> Result<Self, PatternError> {
        text.parse()
    }
}

impl From<ServicePattern> for String {
    fn from(pattern: ServicePattern) -> Self {
        pattern.to_string()
    }
}

impl fmt::Display for ServicePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match f.width().or(f.precision()) {
            None => write!(f, "{}/{}", self.namespace_text(), self.name_text()),
            Some(_) => f.pad(&format!("{}/{}", self.namespace_text(), self.name_text())),
        }
    }
}

/// Names who calls: services of this mesh, or one foreign identity to the letter.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SourcePattern {
    /// Services of this mesh.
    Service(ServicePattern),
    /// One SPIFFE ID of another trust domain, matched exactly.
    Spiffe(SpiffeId),
}

written_as_text!(SourcePattern);

impl SourcePattern {
    /// Reads a service pattern, or a SPIFFE ID where the text starts with `spiffe://`.
    ///
    /// # Errors
    /// [`PatternError`] names the text and the rule that it breaks.
    pub fn parse(text: &str, current: &Namespace) -> Result<Self, PatternError> {
        if text.len() >= 9 && text.as_bytes()[..9].eq_ignore_ascii_case(b"spiffe://") {
            Ok(Self::Spiffe(text.parse()?))
        } else {
            Ok(Self::Service(ServicePattern::parse(text, current)?))
        }
    }

    /// Returns how many of namespace and name are exact; a SPIFFE ID counts as both.
    #[must_use]
    pub fn exact_parts(&self) -> u8 {
        match self {
            Self::Service(pattern) => pattern.exact_parts(),
            Self::Spiffe(_) => 2,
        }
    }
}

impl FromStr for SourcePattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        Self::parse(text, &Namespace::default_namespace())
    }
}

impl TryFrom<String> for SourcePattern {
    type Error = PatternError;

    fn try_from(text: String) -> Result<Self, PatternError> {
        text.parse()
    }
}

impl From<SourcePattern> for String {
    fn from(pattern: SourcePattern) -> Self {
        pattern.to_string()
    }
}

impl fmt::Display for SourcePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(pattern) => pattern.fmt(f),
            Self::Spiffe(id) => id.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, want: &str) {
        let shop: Namespace = "shop".parse().unwrap();
        assert_eq!(ServicePattern::parse(text, &shop).unwrap().to_string(), want);
    }

    #[test]
    fn a_lone_star_means_every_service_of_the_current_namespace() {
        check("*", "shop/*");
        check("*/*", "*/*");
        check("web", "shop/web");
        check("bank/*", "bank/*");
        check("bank/api", "bank/api");
    }

    #[test]
    fn h12_a_star_stands_for_a_whole_name_only() {
        for bad in ["we*", "*b", "b*nk/api", "*/api", "a/**", "", "a/", "/a", "a/b/c"] {
            assert!(bad.parse::<ServicePattern>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_source_may_be_a_foreign_spiffe_id() {
        let source: SourcePattern = "spiffe://other.example/ns/a/sa/b".parse().unwrap();
        assert_eq!(source.exact_parts(), 2);
        assert_eq!(source.to_string(), "spiffe://other.example/ns/a/sa/b");
        assert!("spiffe://Other example/x".parse::<SourcePattern>().is_err());
    }
}
