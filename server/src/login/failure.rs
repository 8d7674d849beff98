//! Why somebody was not let in: all of it for this server's log and metrics, one text for whoever asked.
//!
//! Anybody who reaches a server can try to log in. What they are told must not say which methods there are, what their
//! credential lacks, which rules would let them in, or which names are taken.

use std::time::Duration;

use catalog::{AclName, AuthMethodName, Namespace, Refusal};
use http::StatusCode;
use wire::login::LoginError;

/// What whoever is not let in is told, whatever the reason.
pub(crate) const DENIED: &str = "the login was not accepted; the log of the server that was asked says why";
/// What whoever cannot be judged now is told.
const UNAVAILABLE: &str =
    "this login cannot be judged now; try again later, and see the log of the server that was asked";

/// Why somebody was not let in.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoginFailed {
    /// There is no such method, or what the state says of the login is no.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The method did not accept the credential.
    #[error("auth method `{method}`: {error}")]
    Credential { method: AuthMethodName, error: LoginError },
    /// More credentials come than are checked.
    #[error("this server checks too many logins just now: try again in {} s", retry_after.as_secs())]
    Busy { retry_after: Duration },
    /// Nobody logs in for everything.
    #[error(
        "auth method `{method}` binds this login to the policy `global-management`: nobody gets that by logging in"
    )]
    Management { method: AuthMethodName },
    /// One token cannot stand for services of several namespaces.
    #[error("auth method `{method}` binds this login to services of several namespaces: a token is of one only")]
    Ambiguous { method: AuthMethodName },
    /// Rights stay in their namespace: the link would grant nothing.
    #[error(
        "auth method `{method}` binds this login to the {what} `{name}` of the namespace `{found}`, and its token is of `{wanted}`: make one there"
    )]
    LinkElsewhere { method: AuthMethodName, what: &'static str, name: AclName, found: Namespace, wanted: Namespace },
}

impl LoginFailed {
    /// Returns the status that goes with it.
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::Refused(
                Refusal::LoginRulesChanged { .. }
                | Refusal::TooManyLogins { .. }
                | Refusal::TooManyBearers
                | Refusal::TooManyBearersOf { .. },
            ) => StatusCode::CONFLICT,
            Self::Busy { .. } | Self::Credential { error: LoginError::Unavailable { .. }, .. } => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::Refused(_)
            | Self::Credential { error: LoginError::Rejected { .. }, .. }
            | Self::Management { .. }
            | Self::Ambiguous { .. }
            | Self::LinkElsewhere { .. } => StatusCode::FORBIDDEN,
        }
    }

    /// Returns what whoever asked is told.
    pub(crate) fn told(&self) -> String {
        match (self.status(), self) {
            (StatusCode::FORBIDDEN, _) => DENIED.to_owned(),
            (_, Self::Credential { .. }) => UNAVAILABLE.to_owned(),
            // It says of the caller's own doing only, or of this server's load.
            _ => wire::one_line(self),
        }
    }

    /// Returns the metric label of the reason, from a closed set.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Self::Credential { error: LoginError::Rejected { .. }, .. } => "credential_rejected",
            Self::Credential { error: LoginError::Unavailable { .. }, .. } => "login_unavailable",
            Self::Busy { .. } => "busy",
            Self::Refused(Refusal::BearerUsed) => "credential_replayed",
            Self::Refused(Refusal::NodeTaken { .. }) => "node_taken",
            Self::Refused(Refusal::LoginUnbound { .. } | Refusal::LoginNoService { .. })
            | Self::Management { .. }
            | Self::Ambiguous { .. }
            | Self::LinkElsewhere { .. } => "login_unbound",
            Self::Refused(_) => "write_refused",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_denies_a_login_is_told_in_the_same_words() {
        let method = || "jwt".parse::<AuthMethodName>().unwrap();
        let credential = |error| LoginFailed::Credential { method: method(), error };
        let denied = [
            LoginFailed::Refused(Refusal::NotFound { what: "auth method".to_owned(), name: "jwt".to_owned() }),
            LoginFailed::Refused(Refusal::LoginUnbound { method: method(), subject: "web".to_owned() }),
            LoginFailed::Refused(Refusal::NodeTaken { node: "n1".parse().unwrap() }),
            LoginFailed::Refused(Refusal::BearerUsed),
            LoginFailed::Management { method: method() },
            LoginFailed::Ambiguous { method: method() },
            credential(LoginError::rejected("its audience is another")),
        ];
        for failed in denied {
            assert_eq!((failed.status(), failed.told().as_str()), (StatusCode::FORBIDDEN, DENIED), "{failed}");
        }
        let unavailable = credential(LoginError::unavailable("https://keys.internal does not answer"));
        assert_eq!(unavailable.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(!unavailable.told().contains("keys.internal"), "{}", unavailable.told());
        let changed = LoginFailed::Refused(Refusal::LoginRulesChanged { method: method() });
        assert_eq!(changed.status(), StatusCode::CONFLICT);
        assert!(changed.told().contains("log in again"), "{}", changed.told());
    }
}
