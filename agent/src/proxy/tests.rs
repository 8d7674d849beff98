//! Whole proxies on loopback, with certificates made for the occasion.

mod agents;
mod auditing;
mod authority;
mod certificates;
mod choosing;
mod cutting;
mod draining;
mod ends;
mod frames;
mod gateways;
mod handshakes;
mod hbone;
mod http;
mod ingress;
mod listeners;
mod outside;
mod passing;
mod renewing;

pub(in crate::proxy) use agents::bare_snapshot;
