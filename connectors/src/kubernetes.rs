//! Kubernetes: what weft asks its API server, what it makes of the answers, and what it puts into pods.

pub mod bootstrap;
mod cluster;
mod connector;
mod entries;
pub mod inject;
pub mod injector;
pub mod lease;
mod login;
pub mod mirror;
pub mod pods;
pub mod resources;
#[cfg(test)]
mod testing;
mod watch;

pub use cluster::{ClusterError, ClusterName, ClusterNameError, client};
pub use connector::{Settings, own_namespaces, run};
pub use login::{KubernetesLogins, ReviewerTokens, ReviewerTokensError};
