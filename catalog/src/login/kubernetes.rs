//! Auth methods of type `kubernetes`: an API server says whose a service account's token is.

use serde::{Deserialize, Serialize};

/// Says which cluster's tokens count.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KubernetesConfig {
    /// The API server's address, `https` only; where there is none, that of the cluster that a server runs in itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Always none: by which authority an API server is known is each server's own setting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_pem: Option<String>,
    /// The audiences of which a token must be for one; never empty.
    pub audiences: Vec<String>,
}

impl KubernetesConfig {
    /// Returns the audience that a token must be for where the method names none: one of this mesh alone, so that none of
    /// several that trust one cluster holds tokens that count in another.
    #[must_use]
    pub fn own_audience(cluster_id: &str) -> String {
        format!("weft/{cluster_id}")
    }

    /// What is known of whoever logs in, by name.
    pub const FACTS: [&str; 5] =
        ["pod.name", "pod.uid", "serviceaccount.name", "serviceaccount.namespace", "serviceaccount.uid"];
}
