//! Kubernetes: what weft asks its API server, and what it makes of the answers.

#[cfg(test)]
mod testing;
