//! A weft agent: the proxy, certificates, local services and their health checks.

mod api;
mod checks;
mod config;
mod leaf;
mod local;
mod metrics;
pub mod proxy;
mod state;
pub mod sync;
