//! A weft server: Raft, the CA, ACL, the HTTP API and the streams to agents.

mod agent_port;
mod api;
mod ca;
mod config;
mod consensus;
mod enrol;
pub mod hub;
mod metrics;
pub mod raft;
