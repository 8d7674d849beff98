//! Servers of one process on loopback, with real sockets and real disks.

mod cluster;
mod harness;
mod refusals;
