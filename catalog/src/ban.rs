//! Bans: who is kept out although a platform vouches for them, until an operator lifts it.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{AuthMethodName, KeyFingerprint, NodeName, Timestamp};

/// Says who is kept out.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "of", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Banned {
    /// Whoever logs in with an agent's key.
    Key {
        /// The key.
        key: KeyFingerprint,
    },
    /// Whom an auth method vouches for.
    Login {
        /// The method.
        method: AuthMethodName,
        /// Only whom the method calls this; none for everybody.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        subject: Option<String>,
    },
}

impl fmt::Display for Banned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key { key } => write!(f, "key {key}"),
            Self::Login { method, subject: Some(subject) } => write!(f, "`{subject}` of auth method {method}"),
            Self::Login { method, subject: None } => write!(f, "everybody of auth method {method}"),
        }
    }
}

/// Keeps somebody out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ban {
    /// Whom.
    pub banned: Banned,
    /// The node of the agent whose key it is, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeName>,
    /// Since when, by the time in the log.
    pub since: Timestamp,
}
