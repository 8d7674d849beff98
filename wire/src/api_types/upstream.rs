//! The upstreams of the services beside an agent, as an application finds them.

use std::{collections::BTreeMap, net::SocketAddr};

use catalog::ServiceKey;
use serde::{Deserialize, Serialize};

/// Is one upstream, on the list that an agent's admin listener shows at `/upstreams`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct UpstreamView {
    /// The service that calls.
    pub owner: ServiceKey,
    /// The service that is called.
    pub destination: ServiceKey,
    /// Whether it speaks HTTP.
    pub is_http: bool,
    /// Where it is called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<SocketAddr>,
    /// Why it cannot be called, where it cannot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// Explains why applications cannot be told of their upstreams by variables.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{first} and {second} would both be told in {variable}: name one service by --service, or rename one of the upstreams"
)]
pub struct VariableTwice {
    variable: String,
    first: String,
    second: String,
}

impl UpstreamView {
    /// Returns the environment variables that tell an application of these upstreams: `WEFT_UPSTREAM_API_ADDR`, and for HTTP
    /// `WEFT_UPSTREAM_API_URL`. The namespace stands before the name where it is another one than the caller's.
    ///
    /// # Errors
    /// [`VariableTwice`] where one variable would have two values: the application would call the wrong one of them.
    pub fn variables_of(upstreams: &[Self]) -> Result<BTreeMap<String, String>, VariableTwice> {
        let mut told: BTreeMap<String, (String, &Self)> = BTreeMap::new();
        for upstream in upstreams {
            for (variable, value) in upstream.variables() {
                let (known, first) = told.entry(variable.clone()).or_insert_with(|| (value.clone(), upstream));
                if *known != value || first.destination != upstream.destination {
                    let named = |view: &Self| format!("upstream {} of {}", view.destination, view.owner);
                    return Err(VariableTwice { variable, first: named(first), second: named(upstream) });
                }
            }
        }
        Ok(told.into_iter().map(|(variable, (value, _))| (variable, value)).collect())
    }

    fn variables(&self) -> Vec<(String, String)> {
        let Some(address) = self.address else { return Vec::new() };
        let mut name = self.destination.name.to_string();
        if self.destination.namespace != self.owner.namespace {
            name = format!("{}_{name}", self.destination.namespace);
        }
        let name = name.to_ascii_uppercase().replace('-', "_");
        let mut variables = vec![(format!("WEFT_UPSTREAM_{name}_ADDR"), address.to_string())];
        if self.is_http {
            let authority =
                if address.port() == 80 && address.is_ipv4() { address.ip().to_string() } else { address.to_string() };
            variables.push((format!("WEFT_UPSTREAM_{name}_URL"), format!("http://{authority}")));
        }
        variables
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upstream_is_told_by_variables() {
        let view = |destination: &str, is_http, address: Option<&str>| UpstreamView {
            owner: "web".parse().unwrap(),
            destination: destination.parse().unwrap(),
            is_http,
            address: address.map(|address| address.parse().unwrap()),
            problem: None,
        };
        let told = |view: UpstreamView| -> Vec<String> {
            let told = UpstreamView::variables_of(&[view]).unwrap();
            told.into_iter().map(|(name, value)| format!("{name}={value}")).collect()
        };
        assert_eq!(
            told(view("billing-api", true, Some("127.64.0.7:80"))),
            ["WEFT_UPSTREAM_BILLING_API_ADDR=127.64.0.7:80", "WEFT_UPSTREAM_BILLING_API_URL=http://127.64.0.7"]
        );
        assert_eq!(
            told(view("shop/api", true, Some("127.0.0.1:9191"))),
            ["WEFT_UPSTREAM_SHOP_API_ADDR=127.0.0.1:9191", "WEFT_UPSTREAM_SHOP_API_URL=http://127.0.0.1:9191"]
        );
        assert_eq!(told(view("db", false, Some("127.64.0.8:5432"))), ["WEFT_UPSTREAM_DB_ADDR=127.64.0.8:5432"]);
        assert!(told(view("db", false, None)).is_empty());
    }

    #[test]
    fn no_variable_tells_of_two_upstreams() {
        let view = |owner: &str, destination: &str, address: &str| UpstreamView {
            owner: owner.parse().unwrap(),
            destination: destination.parse().unwrap(),
            is_http: false,
            address: Some(address.parse().unwrap()),
            problem: None,
        };
        let refused = |views: &[UpstreamView]| UpstreamView::variables_of(views).unwrap_err().to_string();
        let alike = refused(&[view("web", "shop-api", "127.0.0.1:1"), view("web", "shop/api", "127.0.0.1:2")]);
        assert!(
            alike.contains("default/shop-api of default/web") && alike.contains("shop/api of default/web"),
            "{alike}"
        );
        assert!(alike.contains("WEFT_UPSTREAM_SHOP_API_ADDR"), "{alike}");
        // Whoever calls by the other's listener calls in the other's name.
        let owners = refused(&[view("web", "api", "127.0.0.1:1"), view("admin", "api", "127.0.0.1:2")]);
        assert!(owners.contains("of default/web") && owners.contains("of default/admin"), "{owners}");
        let same = [view("web", "api", "127.64.0.1:80"), view("admin", "api", "127.64.0.1:80")];
        assert_eq!(UpstreamView::variables_of(&same).unwrap().len(), 1, "it is one listener");
    }
}
