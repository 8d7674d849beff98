//! Which cluster is talked to, and as whom.

use kube::{Client, Config};

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

/// Makes a client of the cluster that this process runs in, or that `KUBECONFIG` names, and returns it with the namespace
/// that this process runs in, or that is chosen there. Nothing is sent.
///
/// # Errors
/// [`ClusterError`] where there is none.
pub async fn client() -> Result<(Client, String), ClusterError> {
    wire::crypto::install_provider();
    let config = Config::infer().await.map_err(|error| ClusterError::Unknown(Box::new(error)))?;
    let namespace = config.default_namespace.clone();
    let client = Client::try_from(config).map_err(|error| ClusterError::Unusable(Box::new(error)))?;
    Ok((client, namespace))
}
