//! Stories told from the outside: real processes, real sockets, and the simulator.
#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test fails by a panic, and tells about it on standard error"
)]

mod alerts;
mod backup;
mod bootstrap;
mod ca_rotation;
mod canary;
mod catch_up;
mod chart;
mod choosing;
mod cli;
mod cloud_map;
mod debian;
mod demo;
mod envoy;
mod errors;
mod fargate;
mod faults;
mod gateways;
mod guardrails;
mod harness;
mod ingress;
mod inject;
mod kubernetes;
mod log_sink;
mod logins;
mod membership;
mod monitor;
mod one_mesh;
mod operations;
mod outside;
mod packaging;
mod permissions;
mod processes;
mod py_consul;
mod readme;
mod redirect;
mod redirected_pod;
mod redirection;
mod refused;
mod rollout;
mod routing;
mod seen;
mod sessions;
mod sim;
mod supervised;
mod systemd;
mod terraform;
mod tidy;
mod traffic;
mod user_tokens;
