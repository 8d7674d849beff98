//! What two weft processes say to each other: API types, the client, mutual TLS with SPIFFE.

// The tests of other crates share files with those of this one, and name it.
#[cfg(test)]
extern crate self as wire;

pub mod accept;
pub mod acl;
mod address_kind;
pub mod agent_protocol;
pub mod api_name;
pub mod api_types;
pub mod asked_request;
pub mod backup;
pub mod body;
pub mod client;
pub mod cluster_key;
pub mod consul;
pub mod crypto;
pub mod decode;
pub mod defaults;
pub mod diagnosis;
pub mod expectation;
pub mod frame;
pub mod front_door;
pub mod join_token;
pub mod jwt;
pub mod log_monitor;
pub mod login;
pub mod lost_lines;
pub mod mesh_status;
mod one_line;
mod one_request;
pub mod openapi;
pub mod pki;
pub mod random;
pub mod report;
mod request_fields;
pub mod rfc3339;
pub mod surroundings;
pub mod tap;
pub mod tls;
pub mod wall_clock;
pub mod web;
mod whole_file;
pub mod written_mesh;

pub use address_kind::AddressKind;
pub use one_line::{harmless, one_line};
pub use one_request::ask_once;
pub use request_fields::RequestFields;
pub use whole_file::replace_file;
