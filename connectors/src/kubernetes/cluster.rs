//! Which cluster is talked to, and as whom; and how its pods' nodes are told from those of another one.

use std::str::FromStr;
use std::time::Duration;

use kube::client::ClientBuilder;
use kube::{Client, Config};
use tower::timeout::TimeoutLayer;

/// The longest name of a cluster: with a pod's own name and its namespace's, a node's name holds no more.
const NAME_BYTES_MAX: usize = 32;

/// The longest name that a node of the catalog has.
pub(super) const NODE_NAME_BYTES_MAX: usize = 128;

/// Names a cluster where several are in one mesh: it ends the names of their pods' nodes, which would be the same otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterName(String);

/// Explains why a text names no cluster.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}` names no cluster: write at most {NAME_BYTES_MAX} small letters, digits and hyphens, no hyphen first or last"
)]
pub struct ClusterNameError {
    text: String,
}

impl FromStr for ClusterName {
    type Err = ClusterNameError;

    fn from_str(text: &str) -> Result<Self, ClusterNameError> {
        let is_of_name = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let is_name = (1..=NAME_BYTES_MAX).contains(&text.len()) && text.bytes().all(is_of_name);
        if is_name && !text.starts_with('-') && !text.ends_with('-') {
            return Ok(Self(text.to_owned()));
        }
        Err(ClusterNameError { text: text.to_owned() })
    }
}

/// Writes the name of a pod's node, of its parts or of what is put in their places: `<pod>.<namespace>`, and the cluster's
/// name where it has one.
pub(super) fn node_name(pod: &str, namespace: &str, cluster: Option<&ClusterName>) -> String {
    match cluster {
        Some(ClusterName(cluster)) => format!("{pod}.{namespace}.{cluster}"),
        None => format!("{pod}.{namespace}"),
    }
}

/// Explains why no cluster can be talked to.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// Neither the environment of a pod nor a configuration file says where one is.
    #[error("this is no pod of a cluster, and no KUBECONFIG says where one is")]
    Unknown(#[source] Box<kube::config::InferConfigError>),
    /// What says it cannot be used.
    #[error("the configuration of the cluster cannot be used")]
    Unusable(#[source] Box<kube::Error>),
}

/// How long an API server may say nothing of what it was asked.
const SILENCE_MAX: Duration = Duration::from_secs(295);

/// Makes a client of the cluster that this process runs in, or that `KUBECONFIG` names, and returns it with the namespace
/// that this process runs in, or that is chosen there. Nothing is sent.
///
/// # Errors
/// [`ClusterError`] where there is none.
pub async fn client() -> Result<(Client, String), ClusterError> {
    wire::crypto::install_provider();
    let mut config = Config::infer().await.map_err(|error| ClusterError::Unknown(Box::new(error)))?;
    // A watch is silent for at most 290 s.
    (config.read_timeout, config.reset_reader_on_write) = (Some(SILENCE_MAX), true);
    let namespace = config.default_namespace.clone();
    let client = ClientBuilder::try_from(config).map_err(|error| ClusterError::Unusable(Box::new(error)))?;
    // A question that is lost with its connection has nobody who reads in vain: without a bound it would stop a mirror for ever.
    Ok((client.with_layer(&TimeoutLayer::new(SILENCE_MAX)).build(), namespace))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_has_a_short_name_of_small_letters() {
        for name in ["east", "eu-1", &"a".repeat(32)] {
            assert_eq!(name.parse(), Ok(ClusterName(name.to_owned())));
        }
        for name in ["", "East", "a.b", "-a", "a-", "a b", &"a".repeat(33)] {
            assert!(name.parse::<ClusterName>().is_err(), "{name}");
        }
    }

    #[test]
    fn nodes_of_two_clusters_have_two_names() {
        let [east, west] = ["east", "west"].map(|name| node_name("db-0", "shop", Some(&name.parse().unwrap())));
        assert_eq!((east.as_str(), west.as_str()), ("db-0.shop.east", "db-0.shop.west"));
        assert_eq!(node_name("db-0", "shop", None), "db-0.shop");
    }
}
