//! Servers of one process on loopback, with real sockets and real disks.

mod backup;
mod cluster;
mod crowd;
pub(crate) mod harness;
mod https;
mod membership;
mod refusals;
mod scale;
mod standing;
