//! Logging in: the seam between servers, which check credentials, agents, which show them, and the platforms that vouch.
//!
//! What knows a platform implements [`LoginMaker`] for servers and [`CredentialSource`] for agents, and the binary hands it in.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;

use catalog::{AuthConfig, KeyFingerprint, LoginClaims, Timestamp};

use crate::crypto::{Secret, SecretFileError, read_projected_token, read_secret_file};

/// No credential is longer.
pub const BEARER_BYTES_MAX: u64 = 16 * 1024;

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

    /// Returns the part of a credential by which it is known again, however the rest of it is spelt.
    fn known_by<'a>(&self, credential: &'a Credential) -> &'a str {
        credential.bearer.expose().trim()
    }

    /// Reports whether each of its credentials is made for one agent's key, and so worth nothing under another.
    fn is_of_one_key(&self) -> bool {
        false
    }

    /// Reports whether each check asks somebody else, so that what is made up costs others a question.
    fn asks_others(&self) -> bool {
        false
    }
}

/// Returns what a JSON Web Token's signature is over. One signature may be written in several ways, and this in one.
#[must_use]
pub fn signed_part(token: &Secret) -> &str {
    let token = token.expose().trim();
    token.rsplit_once('.').map_or(token, |(signed, _)| signed)
}

/// Makes the checks of methods of some types.
pub trait LoginMaker: std::fmt::Debug + Send + Sync {
    /// Makes the check of a method that is configured like this, or says why it cannot work; none where it is of a type that
    /// this one does not know. Nothing is asked of anybody yet.
    fn make(&self, config: &AuthConfig) -> Option<Result<Arc<dyn LoginMethod>, LoginError>>;
}

/// Has what an agent logs in with, as its platform gives it.
pub trait CredentialSource: std::fmt::Debug + Send + Sync {
    /// Says what it is, for the log: `the file /var/run/token`, `the credentials of AWS`.
    fn name(&self) -> String;

    /// Reports whether its credentials are made for one mesh, so that a server must be asked first which one it is of.
    fn names_the_mesh(&self) -> bool {
        false
    }

    /// Returns a credential as it is now, or makes one. It is asked anew for each login. Cancel safe.
    fn credential<'a>(&'a self, wanted: CredentialFor<'a>) -> CredentialWanted<'a>;
}

/// Is a credential that is being fetched or made.
pub type CredentialWanted<'a> = Pin<Box<dyn Future<Output = Result<Secret, CredentialError>> + Send + 'a>>;

/// Is what a credential may be bound to, so that it is worth nothing to anybody else.
#[derive(Debug, Clone, Copy)]
pub struct CredentialFor<'a> {
    /// The mesh's own name; empty where the source does not ask for it.
    pub cluster_id: &'a str,
    /// The key of the agent that logs in.
    pub key: &'a KeyFingerprint,
    /// The time.
    pub now: Timestamp,
}

/// Says why there is no credential now.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// The file cannot be used.
    #[error("cannot read the credential of the platform")]
    File(#[source] SecretFileError),
    /// The platform does not give one.
    #[error("the platform gives no credential: {reason}")]
    Platform {
        /// What is wrong, and what to do.
        reason: String,
    },
}

/// Reads credentials from a file of mode 0600 or 0400, which a platform may replace at any time.
#[derive(Debug, Clone)]
pub struct CredentialFile(pub PathBuf);

impl CredentialSource for CredentialFile {
    fn name(&self) -> String {
        format!("the file `{}`", self.0.display())
    }

    fn credential<'a>(&'a self, _wanted: CredentialFor<'a>) -> CredentialWanted<'a> {
        Box::pin(read_in_background(self.0.clone(), read_secret_file))
    }
}

/// Reads a token that a kubelet projects into a pod, and replaces from time to time.
#[derive(Debug, Clone)]
pub struct ProjectedToken(pub PathBuf);

impl CredentialSource for ProjectedToken {
    fn name(&self) -> String {
        format!("the projected token `{}`", self.0.display())
    }

    fn credential<'a>(&'a self, _wanted: CredentialFor<'a>) -> CredentialWanted<'a> {
        Box::pin(read_in_background(self.0.clone(), read_projected_token))
    }
}

/// Reads a credential as it is in its file now, by the rules of `read`; a disk may take its time.
async fn read_in_background(
    path: PathBuf,
    read: fn(&Path, u64) -> Result<Secret, SecretFileError>,
) -> Result<Secret, CredentialError> {
    let read = tokio::task::spawn_blocking(move || read(&path, BEARER_BYTES_MAX)).await;
    let read = read.map_err(|stopped| CredentialError::Platform { reason: stopped.to_string() })?;
    Ok(Secret::new(read.map_err(CredentialError::File)?.expose().trim()))
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
