//! Auth methods of type `kubernetes`: an API server says whose a service account's token is.

use serde::{Deserialize, Serialize};

/// Says which cluster's tokens count.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KubernetesConfig {
    /// The API server's address, `https` only; where there is none, that of the cluster that a server runs in itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
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

    /// Names the fact that is the namespace of the account.
    pub const ACCOUNT_NAMESPACE: &str = "serviceaccount.namespace";
    /// Names the fact that is the account's name.
    pub const ACCOUNT_NAME: &str = "serviceaccount.name";
    /// Names the fact that tells the account from one of the same name before it.
    pub const ACCOUNT_UID: &str = "serviceaccount.uid";
    /// Names the fact that is the pod's name.
    pub const POD_NAME: &str = "pod.name";
    /// Names the fact that tells the pod from one of the same name before it.
    pub const POD_UID: &str = "pod.uid";
    /// Lists what is known of whoever logs in, by name.
    pub const FACTS: [&str; 5] =
        [Self::POD_NAME, Self::POD_UID, Self::ACCOUNT_NAME, Self::ACCOUNT_NAMESPACE, Self::ACCOUNT_UID];
}
