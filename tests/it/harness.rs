//! What the stories are told with: real processes of this binary, real peers, and waiting that ends.
//!
//! Everything listens on loopback, keeps its files in a temporary directory and ends with the test.

mod curl;
mod http;
mod mesh;
mod process;
mod tool;
mod wait;

pub(crate) use curl::Curl;
pub(crate) use http::{Response, exchange};
pub(crate) use mesh::{Agent, Mesh, Server, Service, free_port};
pub(crate) use process::{Output, Process, weft};
pub(crate) use tool::tool;
pub(crate) use wait::{PROMISE_FACTOR, eventually};
