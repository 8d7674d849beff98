//! What checks a login: the seam between servers and the platforms that vouch for identities.

use std::future::Future;
use std::pin::Pin;

use catalog::{KeyFingerprint, LoginClaims, Timestamp};

use crate::crypto::Secret;

/// Is the check of one auth method, as it is configured.
pub trait LoginMethod: Send + Sync {
    /// Looks at what costs nothing to look at, so that what cannot count takes no turn of what may.
    ///
    /// # Errors
    /// [`LoginError`] for what [`LoginMethod::verify`] would certainly not accept.
    fn glance(&self, credential: &Credential) -> Result<(), LoginError>;

    /// Checks a credential and says whose it is.
    ///
    /// It judges the credential alone; what its holder is here is for the binding rules. Cancel safe.
    fn verify<'a>(&'a self, credential: &'a Credential, context: LoginContext<'a>) -> Verification<'a>;
}

/// Is a check under way.
pub type Verification<'a> = Pin<Box<dyn Future<Output = Result<VerifiedIdentity, LoginError>> + Send + 'a>>;

/// Is what somebody logs in with. It is as good as a password while it lasts.
#[derive(Debug, Clone)]
pub struct Credential {
    /// The text, in the form of its method: a JSON Web Token, or a signed request.
    pub bearer: Secret,
}

/// Is what a credential may have to be bound to.
#[derive(Debug, Clone, Copy)]
pub struct LoginContext<'a> {
    /// The mesh's own name, so that a credential which was made for another one does not count here.
    pub cluster_id: &'a str,
    /// The key of the agent that logs in; none where somebody logs in for a token.
    pub key: Option<&'a KeyFingerprint>,
    /// The time.
    pub now: Timestamp,
}

/// Is what a method found out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedIdentity {
    /// Who it is.
    pub claims: LoginClaims,
    /// When the credential ends.
    pub ends: Timestamp,
}

/// Says why a login was not accepted. No text repeats any of the credential's secret parts.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoginError {
    /// The credential does not count, and will not.
    #[error("the credential does not count: {reason}")]
    Rejected {
        /// What is wrong with it, and what to do.
        reason: String,
    },
    /// What is needed to judge it cannot be had now.
    #[error("the credential cannot be judged now: {reason}")]
    Unavailable {
        /// What is missing.
        reason: String,
    },
}

impl LoginError {
    /// Makes the error that a credential does not count.
    pub fn rejected(reason: impl Into<String>) -> Self {
        Self::Rejected { reason: reason.into() }
    }

    /// Makes the error that a credential cannot be judged now.
    pub fn unavailable(reason: impl Into<String>) -> Self {
        Self::Unavailable { reason: reason.into() }
    }
}
