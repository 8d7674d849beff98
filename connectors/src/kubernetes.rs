//! Kubernetes: what weft asks its API server, what it makes of the answers, and what it puts into pods.

pub mod bootstrap;
pub mod inject;
pub mod injector;
#[cfg(test)]
mod testing;
