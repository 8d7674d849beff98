//! Where the keys of an issuer come from: from its configuration, or from a place that publishes them.

use std::sync::Arc;

use catalog::{JwtKeys, Timestamp};
use tokio::time::Instant;

use super::kept::KeptKeys;
use super::keys::{KeySet, KeysError};
use super::remote::{Freshness, RemoteKeys, Told};
use crate::web::Reach;

/// Explains why an issuer's keys cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct KeysUnavailable {
    /// What is wrong, on one line.
    pub reason: String,
}

impl KeysUnavailable {
    pub(super) fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into() }
    }
}

impl From<KeysError> for KeysUnavailable {
    fn from(error: KeysError) -> Self {
        Self::new(error.to_string())
    }
}

/// Gives the keys of an issuer.
#[derive(Debug)]
pub enum KeySource {
    /// They are part of its configuration.
    Fixed(Arc<KeySet>),
    /// They are published somewhere.
    Remote(RemoteKeys),
}

impl KeySource {
    /// Reads the keys, or gets ready to fetch them; nobody is asked yet.
    ///
    /// # Errors
    ///
    /// [`KeysUnavailable`] if they, or the roots for fetching them, cannot be used.
    pub fn new(
        keys: &JwtKeys,
        issuer: &str,
        reach: Reach,
        freshness: Freshness,
        told: Option<Told>,
    ) -> Result<Self, KeysUnavailable> {
        match keys {
            JwtKeys::Pem(texts) => Ok(Self::Fixed(Arc::new(KeySet::from_pem(texts)?))),
            JwtKeys::Set(text) => Ok(Self::Fixed(Arc::new(KeySet::from_jwks(text.as_bytes())?))),
            JwtKeys::Url { .. } | JwtKeys::Discovery { .. } => {
                let remote = RemoteKeys::new(keys, issuer, reach, freshness, told)?;
                remote.map(Self::Remote).ok_or_else(|| KeysUnavailable::new("there are no keys"))
            }
        }
    }

    /// Has what is fetched kept, and goes on with what was kept before; returns when that was fetched.
    #[must_use]
    pub fn kept_by(self, kept: Arc<dyn KeptKeys>, now: Timestamp) -> (Self, Option<Timestamp>) {
        match self {
            Self::Fixed(keys) => (Self::Fixed(keys), None),
            Self::Remote(remote) => {
                let (remote, fetched) = remote.kept_by(kept, now);
                (Self::Remote(remote), fetched)
            }
        }
    }

    /// Returns the name that its keys are kept under; none of keys that nobody fetches.
    #[must_use]
    pub fn kept_as(&self) -> Option<&str> {
        match self {
            Self::Fixed(_) => None,
            Self::Remote(remote) => Some(remote.kept_as()),
        }
    }

    /// Has what is kept of its keys forgotten, and what is fetched from now on not kept.
    ///
    /// # Panics
    ///
    /// If it is called outside of a runtime.
    pub fn forget(&self) {
        if let Self::Remote(remote) = self {
            remote.forget();
        }
    }

    /// Returns the keys if no others can be had for now, without asking anybody.
    #[must_use]
    pub fn all_there_are(&self, now: Instant) -> Option<Arc<KeySet>> {
        match self {
            Self::Fixed(keys) => Some(Arc::clone(keys)),
            Self::Remote(remote) => remote.all_there_are(now),
        }
    }
}
