//! JSON Web Tokens: one check of them for servers, where somebody logs in, and for agents, where requests carry them.

mod kept;
mod keys;
mod remote;
mod source;
#[cfg(test)]
#[allow(dead_code, reason = "other crates' tests use all of it")]
pub(crate) mod testing;
mod verify;

pub use kept::KeptKeys;
pub use keys::{KeySet, KeysError};
pub use remote::{Freshness, KEPT_MAX, RemoteKeys, Told};
pub use source::{KeySource, KeysUnavailable};
pub use verify::{TOKEN_BYTES_MAX, TokenFault, TokenRules, UnprovedToken, VerifiedToken};
