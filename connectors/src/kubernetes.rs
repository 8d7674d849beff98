//! Kubernetes: what weft asks its API server, what it makes of the answers, and what it puts into pods.

mod annotations;
pub mod bootstrap;
mod cluster;
mod connector;
mod entries;
pub mod inject;
pub mod injector;
mod lease;
mod login;
mod mirror;
mod pods;
mod resources;
#[cfg(test)]
mod testing;
mod watch;

pub use cluster::{ClusterError, ClusterName, ClusterNameError, client};
pub use connector::{Settings, own_namespaces, run};
pub use login::{KubernetesLogins, ReviewerTokens, ReviewerTokensError};
pub use pods::SyncRules;
