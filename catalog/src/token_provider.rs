//! Providers of tokens: `jwt-provider` config entries, which intentions name.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{JwtKeys, ProviderName, Refusal};

/// How far an issuer's clock may be away where nobody says otherwise.
const CLOCK_SKEW_SECONDS: u64 = 30;
/// For so long keys count as new where nobody says otherwise.
const FRESH_SECONDS: u64 = 300;
/// How long a fetch of keys may take where nobody says otherwise.
const TIMEOUT_MS: u64 = 10_000;
/// How many checked tokens an agent remembers of a provider where nobody says otherwise.
const REMEMBERED: u32 = 256;

const AUDIENCES_MAX: usize = 16;
const LOCATIONS_MAX: usize = 8;
const TEXT_MAX: usize = 512;
const NAME_MAX: usize = 128;
const KEYS_BYTES_MAX: usize = 64 * 1024;
const SKEW_SECONDS_MAX: u64 = 300;
const FRESH_SECONDS_MIN: u64 = 30;
const FRESH_SECONDS_MAX: u64 = 24 * 3600;
const TIMEOUT_MS_MAX: u64 = 30_000;
const REMEMBERED_MAX: u32 = 10_000;

/// Is somebody who issues tokens to users, and how agents recognise theirs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenProvider {
    /// The name that intentions give.
    pub name: ProviderName,
    /// The one issuer, compared letter by letter.
    pub issuer: String,
    /// The audiences of which a token must name one; empty where any counts, and none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub audiences: Vec<String>,
    /// The keys that sign: a set, or the address of one.
    pub keys: JwtKeys,
    /// For how long fetched keys count as new, in seconds.
    #[serde(default = "fresh_seconds")]
    pub fresh_seconds: u64,
    /// How long a fetch may take, in milliseconds.
    #[serde(default = "timeout_ms")]
    pub timeout_ms: u64,
    /// Whether keys are fetched before the first request needs them.
    #[serde(default)]
    pub fetch_ahead: bool,
    /// Where requests have their token; see [`TokenProvider::places`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub locations: Vec<TokenLocation>,
    /// What the application is told of a token; nothing where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forwarding: Option<TokenForwarding>,
    /// How far the issuer's clock may be away, in seconds.
    #[serde(default = "clock_skew_seconds")]
    pub clock_skew_seconds: u64,
    /// How many checked tokens an agent remembers.
    #[serde(default = "remembered")]
    pub remembered: u32,
}

fn fresh_seconds() -> u64 {
    FRESH_SECONDS
}

fn timeout_ms() -> u64 {
    TIMEOUT_MS
}

fn clock_skew_seconds() -> u64 {
    CLOCK_SKEW_SECONDS
}

fn remembered() -> u32 {
    REMEMBERED
}

/// Says where requests have their token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TokenLocation {
    /// In a header, after a prefix.
    Header {
        /// The header's name, lower case.
        name: String,
        /// What stands before the token, such as `Bearer `; letter case does not count in it.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        prefix: String,
        /// Whether the application gets the token, too.
        #[serde(default)]
        forward: bool,
    },
    /// In a parameter of the query, as it is.
    Query {
        /// Its name.
        name: String,
    },
    /// In a cookie.
    Cookie {
        /// Its name.
        name: String,
    },
}

/// Says in which header the application is told what a token says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenForwarding {
    /// The header's name, lower case. What callers write into it never arrives.
    pub header: String,
    /// Whether the Base64 in it is padded.
    #[serde(default)]
    pub pad: bool,
}

impl TokenProvider {
    /// Makes a provider whose tokens are where most are, with the usual times.
    #[must_use]
    pub fn new(name: ProviderName, issuer: String, keys: JwtKeys) -> Self {
        Self {
            name,
            issuer,
            audiences: Vec::new(),
            keys,
            fresh_seconds: FRESH_SECONDS,
            timeout_ms: TIMEOUT_MS,
            fetch_ahead: false,
            locations: Vec::new(),
            forwarding: None,
            clock_skew_seconds: CLOCK_SKEW_SECONDS,
            remembered: REMEMBERED,
        }
    }

    /// Returns where requests have their token: where nobody says otherwise, after `Bearer` in `authorization`, or in the
    /// query's `access_token` (RFC 6750 §2.1, §2.3).
    #[must_use]
    pub fn places(&self) -> Vec<TokenLocation> {
        if !self.locations.is_empty() {
            return self.locations.clone();
        }
        let (name, prefix) = ("authorization".to_owned(), "Bearer ".to_owned());
        let query = TokenLocation::Query { name: "access_token".to_owned() };
        vec![TokenLocation::Header { name, prefix, forward: false }, query]
    }

    /// Returns how far the issuer's clock may be away.
    #[must_use]
    pub fn clock_skew(&self) -> Duration {
        Duration::from_secs(self.clock_skew_seconds)
    }

    /// Checks what the provider says by itself.
    pub(crate) fn check(&self) -> Result<(), Refusal> {
        check_text("Issuer", &self.issuer, TEXT_MAX)?;
        check_number("Audiences", self.audiences.len() as u64, 0, AUDIENCES_MAX as u64)?;
        self.audiences.iter().try_for_each(|audience| check_text("Audiences", audience, TEXT_MAX))?;
        check_number("ClockSkewSeconds", self.clock_skew_seconds, 0, SKEW_SECONDS_MAX)?;
        check_number("CacheConfig.Size", self.remembered.into(), 1, REMEMBERED_MAX.into())?;
        check_number("Locations", self.locations.len() as u64, 0, LOCATIONS_MAX as u64)?;
        self.locations.iter().try_for_each(check_location)?;
        if let Some(forwarding) = &self.forwarding {
            check_header("Forwarding.HeaderName", &forwarding.header)?;
            let holds_token = |place: &TokenLocation| matches!(place, TokenLocation::Header { name, .. } if *name == forwarding.header);
            if self.places().iter().any(holds_token) {
                let problem = format!("tokens stand in `{}`: name another header", forwarding.header);
                return Err(Refusal::invalid("Forwarding.HeaderName", problem));
            }
        }
        self.check_keys()
    }

    fn check_keys(&self) -> Result<(), Refusal> {
        const REMOTE: &str = "JSONWebKeySet.Remote";
        match &self.keys {
            JwtKeys::Set(set) if set.len() > KEYS_BYTES_MAX => {
                let problem = format!("it has {} bytes: use at most {KEYS_BYTES_MAX}", set.len());
                Err(Refusal::invalid("JSONWebKeySet.Local.JWKS", problem))
            }
            JwtKeys::Set(_) => Ok(()),
            JwtKeys::Url { url, ca_pem } => {
                crate::validate::check_https(
                    &format!("{REMOTE}.URI"),
                    url,
                    &format!("{REMOTE}.JWKSCluster.TLSCertificates.TrustedCA.InlineString"),
                    ca_pem.as_deref(),
                )?;
                check_number(
                    &format!("{REMOTE}.CacheDuration, in seconds"),
                    self.fresh_seconds,
                    FRESH_SECONDS_MIN,
                    FRESH_SECONDS_MAX,
                )?;
                check_number(&format!("{REMOTE}.RequestTimeoutMs"), self.timeout_ms, 1, TIMEOUT_MS_MAX)
            }
            JwtKeys::Pem(_) | JwtKeys::Discovery { .. } => {
                Err(Refusal::invalid("JSONWebKeySet", "give a key set, or the address of one"))
            }
        }
    }
}

fn check_location(location: &TokenLocation) -> Result<(), Refusal> {
    match location {
        TokenLocation::Header { name, prefix, .. } => {
            check_header("Locations.Header.Name", name)?;
            let is_plain = prefix.bytes().all(|b| b == b' ' || b.is_ascii_graphic());
            if prefix.len() > NAME_MAX || !is_plain {
                return Err(Refusal::invalid("Locations.Header.ValuePrefix", "use at most 128 printable characters"));
            }
            Ok(())
        }
        TokenLocation::Query { name } => check_word("Locations.QueryParam.Name", name),
        TokenLocation::Cookie { name } => check_word("Locations.Cookie.Name", name),
    }
}

/// Takes names that mean one thing in a query or a cookie, however these are read.
fn check_word(field: &str, name: &str) -> Result<(), Refusal> {
    let is_plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
    if (1..=NAME_MAX).contains(&name.len()) && is_plain {
        return Ok(());
    }
    Err(Refusal::invalid(field, format!("use 1 to {NAME_MAX} letters, digits, `-`, `_` and `.`")))
}

fn check_header(field: &str, name: &str) -> Result<(), Refusal> {
    let is_plain = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if !(1..=NAME_MAX).contains(&name.len()) || !is_plain {
        return Err(Refusal::invalid(field, format!("`{}` is no header: use a-z, 0-9 and `-`", name.escape_debug())));
    }
    // Cookies have a location of their own.
    if crate::http::is_reserved(name) || name == "cookie" {
        return Err(Refusal::invalid(field, format!("`{name}` frames or routes a message, or weft vouches for it")));
    }
    Ok(())
}

fn check_text(field: &str, text: &str, max: usize) -> Result<(), Refusal> {
    if text.is_empty() || text.len() > max {
        return Err(Refusal::invalid(field, format!("it has {} bytes: use 1 to {max}", text.len())));
    }
    Ok(())
}

fn check_number(field: &str, number: u64, min: u64, max: u64) -> Result<(), Refusal> {
    if (min..=max).contains(&number) {
        return Ok(());
    }
    Err(Refusal::invalid(field, format!("{number} is not between {min} and {max}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn provider() -> TokenProvider {
        TokenProvider::new("okta".parse().unwrap(), "https://okta.example".to_owned(), JwtKeys::Set("{}".to_owned()))
    }

    fn url(url: &str) -> JwtKeys {
        JwtKeys::Url { url: url.to_owned(), ca_pem: None }
    }

    fn header(name: &str) -> TokenLocation {
        TokenLocation::Header { name: name.to_owned(), prefix: String::new(), forward: false }
    }

    #[test]
    fn j2_a_provider_names_its_issuer_and_bounds_everything() {
        assert_eq!(provider().check(), Ok(()));
        assert_eq!(TokenProvider { keys: url("https://okta.example/keys"), ..provider() }.check(), Ok(()));
        let forwarding = |header: &str| Some(TokenForwarding { header: header.to_owned(), pad: false });
        for (wrong, want) in [
            (TokenProvider { issuer: String::new(), ..provider() }, "Issuer"),
            (TokenProvider { audiences: vec![String::new()], ..provider() }, "Audiences"),
            (TokenProvider { audiences: vec!["a".to_owned(); 17], ..provider() }, "Audiences"),
            (TokenProvider { clock_skew_seconds: 301, ..provider() }, "ClockSkewSeconds"),
            (TokenProvider { remembered: 0, ..provider() }, "CacheConfig"),
            (TokenProvider { keys: JwtKeys::Pem(vec![]), ..provider() }, "JSONWebKeySet"),
            (TokenProvider { keys: JwtKeys::Set("x".repeat(KEYS_BYTES_MAX + 1)), ..provider() }, "Local.JWKS"),
            (TokenProvider { keys: url("http://okta.example/keys"), ..provider() }, "Remote.URI"),
            (TokenProvider { keys: url("https://a@okta.example/keys"), ..provider() }, "Remote.URI"),
            (TokenProvider { keys: url("https://okta.example/"), fresh_seconds: 5, ..provider() }, "CacheDuration"),
            (TokenProvider { keys: url("https://okta.example/"), timeout_ms: 0, ..provider() }, "RequestTimeoutMs"),
            (TokenProvider { locations: vec![header("Authorization")], ..provider() }, "Locations.Header"),
            (TokenProvider { locations: vec![header("x-forwarded-for")], ..provider() }, "weft vouches"),
            (TokenProvider { locations: vec![header("x-weft-port")], ..provider() }, "weft vouches"),
            (TokenProvider { locations: vec![header("x"); 9], ..provider() }, "Locations"),
            (
                TokenProvider { locations: vec![TokenLocation::Query { name: "a&b".to_owned() }], ..provider() },
                "QueryParam",
            ),
            (TokenProvider { locations: vec![TokenLocation::Cookie { name: String::new() }], ..provider() }, "Cookie"),
            (TokenProvider { forwarding: forwarding("authorization"), ..provider() }, "tokens stand in"),
            (TokenProvider { forwarding: forwarding("host"), ..provider() }, "Forwarding"),
        ] {
            let refusal = wrong.check().unwrap_err().to_string();
            assert!(refusal.contains(want), "{refusal} has no {want}");
        }
    }

    #[test]
    fn a_token_is_looked_for_where_the_field_has_it_unless_the_entry_says_otherwise() {
        assert_eq!(provider().places().len(), 2);
        let own = TokenProvider { locations: vec![header("x-token")], ..provider() };
        assert_eq!(own.places(), [header("x-token")]);
    }
}
