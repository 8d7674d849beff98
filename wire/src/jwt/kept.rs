//! Keys of issuers, kept across restarts: who could judge a token a moment ago can do so still.

use std::fmt;

use catalog::Timestamp;

/// Keeps what issuers published, each by a name of where it was fetched.
///
/// Whoever can write there can sign in an issuer's name: it must be as private as the policy that is kept beside it.
pub trait KeptKeys: fmt::Debug + Send + Sync {
    /// Returns the key set that was kept last under a name, and when it was fetched.
    fn load(&self, place: &str) -> Option<(String, Timestamp)>;

    /// Keeps the key set that was fetched then. It may wait for a disk.
    fn keep(&self, place: &str, keys: String, fetched: Timestamp);

    /// Forgets what was kept under a name. It may wait for a disk.
    fn forget(&self, place: &str);
}
