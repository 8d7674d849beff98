//! What the stories are told with: real processes of this binary, real peers, and waiting that ends.
//!
//! Everything listens on loopback, keeps its files in a temporary directory and ends with the test.

mod application;
mod authority;
mod aws;
mod booted;
mod collector;
mod curl;
mod grpc;
mod http;
mod kubelet;
#[allow(dead_code, reason = "the tests of the connectors use all of it")]
pub(crate) mod kubernetes;
mod machines;
mod mesh;
mod metrics;
mod moto;
pub(crate) mod objects;
mod page;
mod peers;
mod platforms;
mod process;
mod task;
pub(crate) mod tls;
mod tool;
mod wait;
mod websocket;

pub(crate) use application::application;
pub(crate) use aws::{Aws, Fault};
pub(crate) use booted::{Booted, can_boot, cgroups, debian};
pub(crate) use collector::{Collector, Seen};
pub(crate) use curl::Curl;
pub(crate) use grpc::GrpcServer;
pub(crate) use http::{Response, exchange};
pub(crate) use kubelet::{Kubelet, RunningPod};
pub(crate) use machines::Machines;
pub(crate) use mesh::{Mesh, Server, Service, free_port, write_secret};
pub(crate) use metrics::{BY_CERTIFICATES, Metrics};
pub(crate) use moto::{Boto3, CREDENTIALS, Moto};
pub(crate) use page::{Block, blocks};
pub(crate) use peers::{Postgres, nghttpd, nginx};
pub(crate) use platforms::{ADMITTED, AUDIENCE, Platforms};
pub(crate) use process::{
    Output, PATIENCE, Process, ended_within, log_of, output_within, weft, weft_command, weft_within,
};
pub(crate) use task::{ACCOUNT, Task, VOLUME};
pub(crate) use tool::{copy, entries, missing, optional_tool, python, root, skipped, succeed, tool};
pub(crate) use wait::{PROMISE_FACTOR, eventually, within};
pub(crate) use websocket::{Conversation, serve_echo};
