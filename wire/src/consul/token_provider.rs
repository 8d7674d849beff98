//! `jwt-provider` config entries, as Consul writes them.

use std::time::Duration;

use ::catalog::{JwtKeys, ProviderName, TokenForwarding, TokenLocation, TokenProvider};
use data_encoding::{BASE64, BASE64_NOPAD};
use serde::Serialize;
use serde_json::{Value, json};

use crate::decode::{DecodeError, Fields};
use crate::{jwt, web};

/// The kind of entries that say who issues tokens.
pub const JWT_PROVIDER: &str = "jwt-provider";

/// What a `jwt-provider` says beside its kind and name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TokenProviderEntry(TokenProvider);

impl TokenProviderEntry {
    /// Reads what is the kind's own. Keys that stand in it are looked at, so that none is stored that cannot be used.
    pub(super) fn read(name: ProviderName, fields: &mut Fields) -> Result<Self, DecodeError> {
        let issuer: String = fields.required("Issuer")?;
        let keys = fields
            .object("JSONWebKeySet", read_keys)?
            .ok_or_else(|| DecodeError::Missing { path: fields.path_to("JSONWebKeySet") })?;
        let mut provider = TokenProvider::new(name, issuer, keys.keys);
        provider.fresh_seconds = keys.fresh.map_or(provider.fresh_seconds, |fresh| fresh.as_secs());
        provider.timeout_ms = keys.timeout_ms.unwrap_or(provider.timeout_ms);
        provider.fetch_ahead = keys.fetch_ahead;
        provider.audiences = fields.texts("Audiences")?;
        provider.locations = fields.objects("Locations", read_location)?;
        provider.forwarding = fields.object("Forwarding", read_forwarding)?;
        provider.clock_skew_seconds = fields.number::<u64>("ClockSkewSeconds")?.unwrap_or(provider.clock_skew_seconds);
        let size = fields.object("CacheConfig", |cache| cache.number::<u32>("Size"))?.flatten();
        provider.remembered = size.filter(|size| *size > 0).unwrap_or(provider.remembered);
        Ok(Self(provider))
    }

    /// Returns the provider as the catalog keeps it.
    pub(super) fn into_provider(self) -> TokenProvider {
        self.0
    }

    /// Shows a provider.
    pub(super) fn of(provider: &TokenProvider) -> Self {
        Self(provider.clone())
    }
}

impl Serialize for TokenProviderEntry {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let provider = &self.0;
        let mut shown = json!({
            "Issuer": provider.issuer,
            "JSONWebKeySet": show_keys(provider),
            "Audiences": provider.audiences,
            "Locations": provider.locations.iter().map(show_location).collect::<Vec<Value>>(),
            "ClockSkewSeconds": provider.clock_skew_seconds,
            "CacheConfig": {"Size": provider.remembered},
        });
        if let Some(TokenForwarding { header, pad }) = &provider.forwarding {
            shown["Forwarding"] = json!({"HeaderName": header, "PadForwardPayloadHeader": pad});
        }
        shown.serialize(serializer)
    }
}

/// What `JSONWebKeySet` says.
struct Keys {
    keys: JwtKeys,
    fresh: Option<Duration>,
    timeout_ms: Option<u64>,
    fetch_ahead: bool,
}

fn read_keys(fields: &mut Fields) -> Result<Keys, DecodeError> {
    let local = fields.object("Local", read_local)?;
    let remote = fields.object("Remote", read_remote)?;
    match (local, remote) {
        (Some(keys), None) => Ok(Keys { keys, fresh: None, timeout_ms: None, fetch_ahead: false }),
        (None, Some(keys)) => Ok(keys),
        _ => Err(fields.refuse("Local", "give exactly one of Local and Remote")),
    }
}

fn read_local(fields: &mut Fields) -> Result<JwtKeys, DecodeError> {
    // A file on every agent's disk is nothing that the catalog could vouch for.
    fields.unsupported(&["Filename"])?;
    let encoded: String = fields.required("JWKS")?;
    let text = encoded.trim();
    let bytes = BASE64.decode(text.as_bytes()).or_else(|_| BASE64_NOPAD.decode(text.as_bytes()));
    let bytes = bytes.map_err(|_| fields.refuse("JWKS", "it is no Base64 of a JSON Web Key Set"))?;
    jwt::KeySet::from_jwks(&bytes).map_err(|error| fields.refuse("JWKS", error))?;
    let text = String::from_utf8(bytes).map_err(|_| fields.refuse("JWKS", "it is no UTF-8"))?;
    Ok(JwtKeys::Set(text))
}

fn read_remote(fields: &mut Fields) -> Result<Keys, DecodeError> {
    let url: String = fields.required("URI")?;
    let timeout_ms = fields.number::<u64>("RequestTimeoutMs")?.filter(|timeout| *timeout > 0);
    let fresh = fields.duration("CacheDuration")?;
    let fetch_ahead = fields.flag("FetchAsynchronously")?.unwrap_or(false);
    // How often a place is asked that does not answer is not an entry's to say.
    fields.unsupported(&["RetryPolicy"])?;
    let ca_pem = fields.object("JWKSCluster", read_cluster)?.flatten();
    Ok(Keys { keys: JwtKeys::Url { url, ca_pem }, fresh, timeout_ms, fetch_ahead })
}

fn read_cluster(fields: &mut Fields) -> Result<Option<String>, DecodeError> {
    fields.unsupported(&["DiscoveryType", "ConnectTimeout"])?;
    let certificates = fields.object("TLSCertificates", |certificates| {
        certificates.unsupported(&["CaCertificateProviderInstance"])?;
        let trusted = certificates.object("TrustedCA", |trusted| {
            trusted.unsupported(&["Filename", "EnvironmentVariable", "InlineBytes"])?;
            let pem = trusted.text("InlineString")?;
            if !pem.is_empty() {
                web::check_roots(&pem).map_err(|error| trusted.refuse("InlineString", error))?;
            }
            Ok(Some(pem).filter(|pem| !pem.is_empty()))
        })?;
        Ok(trusted.flatten())
    })?;
    Ok(certificates.flatten())
}

fn read_location(fields: &mut Fields) -> Result<TokenLocation, DecodeError> {
    let header = fields.object("Header", |header| {
        Ok(TokenLocation::Header {
            name: header.required::<String>("Name")?.to_ascii_lowercase(),
            prefix: header.text("ValuePrefix")?,
            forward: header.flag("Forward")?.unwrap_or(false),
        })
    })?;
    let query = fields.object("QueryParam", |query| Ok(TokenLocation::Query { name: query.required("Name")? }))?;
    let cookie = fields.object("Cookie", |cookie| Ok(TokenLocation::Cookie { name: cookie.required("Name")? }))?;
    let mut found = [header, query, cookie].into_iter().flatten();
    match (found.next(), found.next()) {
        (Some(location), None) => Ok(location),
        _ => Err(fields.refuse("Header", "set exactly one of Header, QueryParam and Cookie")),
    }
}

fn read_forwarding(fields: &mut Fields) -> Result<TokenForwarding, DecodeError> {
    Ok(TokenForwarding {
        header: fields.required::<String>("HeaderName")?.to_ascii_lowercase(),
        pad: fields.flag("PadForwardPayloadHeader")?.unwrap_or(false),
    })
}

fn show_keys(provider: &TokenProvider) -> Value {
    match &provider.keys {
        JwtKeys::Set(text) => json!({"Local": {"JWKS": BASE64.encode(text.as_bytes())}}),
        JwtKeys::Url { url, ca_pem } => {
            let mut remote = json!({
                "URI": url,
                "RequestTimeoutMs": provider.timeout_ms,
                "CacheDuration": format!("{}s", provider.fresh_seconds),
                "FetchAsynchronously": provider.fetch_ahead,
            });
            if let Some(pem) = ca_pem {
                remote["JWKSCluster"] = json!({"TLSCertificates": {"TrustedCA": {"InlineString": pem}}});
            }
            json!({ "Remote": remote })
        }
        // A provider has no keys of these kinds: its form is checked when it is written.
        JwtKeys::Pem(_) | JwtKeys::Discovery { .. } => json!({}),
    }
}

fn show_location(location: &TokenLocation) -> Value {
    match location {
        TokenLocation::Header { name, prefix, forward } => {
            json!({"Header": {"Name": name, "ValuePrefix": prefix, "Forward": forward}})
        }
        TokenLocation::Query { name } => json!({"QueryParam": {"Name": name}}),
        TokenLocation::Cookie { name } => json!({"Cookie": {"Name": name}}),
    }
}

#[cfg(test)]
mod tests {
    use ::catalog::{ConfigContent, Namespace};

    use super::super::{ConfigEntry, TrafficEntry};
    use super::*;
    use crate::decode::{Format, from_json, from_value};
    use crate::jwt::testing::Issuer;

    fn jwks() -> String {
        BASE64.encode(Issuer::new().jwks("k1").to_string().as_bytes())
    }

    fn provider(entry: ConfigEntry) -> TokenProvider {
        let ConfigEntry::Traffic(entry) = entry else { panic!("{entry:?}") };
        match entry.into_entry(&Namespace::default_namespace()).unwrap().content {
            ConfigContent::JwtProvider(provider) => *provider,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_provider_is_read_from_hcl_and_what_is_shown_is_read_again() {
        let local = format!(
            r#"Kind = "jwt-provider"
               Name = "okta"
               Issuer = "https://okta.example"
               JSONWebKeySet {{ Local {{ JWKS = "{}" }} }}
               Audiences = ["api"]
               Locations = [{{ Header {{ Name = "X-Token", Forward = true }} }}, {{ QueryParam {{ Name = "t" }} }}, {{ Cookie {{ Name = "c" }} }}]
               Forwarding {{ HeaderName = "X-Claims", PadForwardPayloadHeader = true }}
               ClockSkewSeconds = 5
               CacheConfig {{ Size = 7 }}"#,
            jwks()
        );
        let remote = r#"kind = "jwt-provider"
               name = "auth0"
               issuer = "https://auth0.example"
               json_web_key_set { remote { uri = "https://auth0.example/keys", request_timeout_ms = 1500, cache_duration = "10m",
                 fetch_asynchronously = true, retry_policy { num_retries = 0 } } }"#;
        for text in [local.as_str(), remote] {
            let entry: ConfigEntry = from_value(Format::Hcl.read(text.as_bytes()).unwrap(), "").unwrap();
            let kept = provider(entry);
            let written = ::catalog::ConfigEntry::new(ConfigContent::JwtProvider(Box::new(kept.clone())));
            let shown = serde_json::to_vec(&TrafficEntry::from(&written)).unwrap();
            assert_eq!(provider(from_json(&shown).unwrap()), kept, "{text}");
        }
        let read: ConfigEntry = from_value(Format::Hcl.read(remote.as_bytes()).unwrap(), "").unwrap();
        let read = provider(read);
        assert_eq!((read.fresh_seconds, read.timeout_ms, read.fetch_ahead), (600, 1500, true));
        assert_eq!(read.clock_skew_seconds, 30, "as Consul has it");
    }

    #[test]
    fn f1_what_nothing_carries_out_is_refused_by_name() {
        let local = |more: &str| {
            let keys = format!(r#"{{"Local": {{"JWKS": "{}"}}}}"#, jwks());
            format!(r#"{{"Kind": "jwt-provider", "Name": "okta", "Issuer": "i", "JSONWebKeySet": {keys}{more}}}"#)
        };
        let keys = |keys: &str| {
            format!(r#"{{"Kind": "jwt-provider", "Name": "okta", "Issuer": "i", "JSONWebKeySet": {keys}}}"#)
        };
        assert!(from_json::<ConfigEntry>(local("").as_bytes()).is_ok());
        for (body, want) in [
            (local(r#", "Namespace": "shop""#), "`Namespace`"),
            (local(r#", "Locations": [{"Header": {"Name": "a"}, "Cookie": {"Name": "b"}}]"#), "exactly one of Header"),
            (local(r#", "Locations": [{"Header": {}}]"#), "`Locations[0].Header.Name` is missing"),
            (local(r#", "Scopes": ["a"]"#), "unknown field `Scopes`"),
            (keys("{}"), "exactly one of Local and Remote"),
            (keys(r#"{"Local": {"Filename": "/keys"}}"#), "`JSONWebKeySet.Local.Filename` is not supported"),
            (keys(r#"{"Local": {"JWKS": "%"}}"#), "no Base64"),
            (keys(r#"{"Local": {"JWKS": "e30="}}"#), "no list `keys`"),
            (keys(r#"{"Remote": {"URI": "https://i/", "RetryPolicy": {"NumRetries": 3}}}"#), "RetryPolicy.NumRetries"),
            (keys(r#"{"Remote": {"URI": "https://i/", "JWKSCluster": {"ConnectTimeout": "5s"}}}"#), "ConnectTimeout"),
            (
                keys(
                    r#"{"Remote": {"URI": "https://i/", "JWKSCluster": {"TLSCertificates": {"TrustedCA": {"InlineString": "x"}}}}}"#,
                ),
                "InlineString",
            ),
        ] {
            let error = from_json::<ConfigEntry>(body.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(want), "{error} has no {want}");
        }
    }
}
