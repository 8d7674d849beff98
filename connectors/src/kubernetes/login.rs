//! The `kubernetes` method: an API server says whose a service account's token is, and whether its pod lives.
//!
//! Nothing that the token says of itself counts before the server has said it, too. A token counts only if it is for an
//! audience of the method and bound to a pod: one out of a Secret, which never ends, is refused.

mod access;
mod shown;

use std::sync::Arc;

use ::catalog::{AuthConfig, KubernetesConfig, LoginClaims, Timestamp};
use k8s_openapi::api::authentication::v1::{TokenReviewStatus, UserInfo};
use wire::crypto::Secret;
use wire::login::{
    Credential, LoginContext, LoginError, LoginMaker, LoginMethod, Verification, VerifiedIdentity, signed_part,
};

use access::Reviewer;
pub use access::{ReviewerTokens, ReviewerTokensError};
use shown::ShownToken;

/// What an API server calls the user behind a service account's token.
const ACCOUNT_PREFIX: &str = "system:serviceaccount:";
/// The group that every such user is in, and nobody else.
const ACCOUNTS: &str = "system:serviceaccounts";
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";

/// Makes the checks of methods of type `kubernetes`.
#[derive(Debug, Clone)]
pub struct KubernetesLogins {
    tokens: ReviewerTokens,
}

impl KubernetesLogins {
    /// Asks API servers with these tokens.
    #[must_use]
    pub fn new(tokens: ReviewerTokens) -> Self {
        Self { tokens }
    }
}

impl LoginMaker for KubernetesLogins {
    fn make(&self, config: &AuthConfig) -> Option<Result<Arc<dyn LoginMethod>, LoginError>> {
        let AuthConfig::Kubernetes(config) = config else { return None };
        let method = Reviewer::new(config, &self.tokens).map(|reviewer| {
            let method: Arc<dyn LoginMethod> = Arc::new(KubernetesMethod { config: (**config).clone(), reviewer });
            method
        });
        Some(method)
    }
}

/// Checks tokens of one cluster.
#[derive(Debug)]
struct KubernetesMethod {
    config: KubernetesConfig,
    reviewer: Reviewer,
}

impl KubernetesMethod {
    async fn check(&self, bearer: &Secret, now: Timestamp) -> Result<VerifiedIdentity, LoginError> {
        let shown = ShownToken::read(bearer, &self.config.audiences, now)?;
        let status = self.reviewer.review(bearer, &self.config.audiences).await?;
        judge(&shown, status, &self.config.audiences)
    }
}

impl LoginMethod for KubernetesMethod {
    fn asks_others(&self) -> bool {
        true
    }

    fn glance(&self, credential: &Credential) -> Result<(), LoginError> {
        ShownToken::read(&credential.bearer, &self.config.audiences, wire::crypto::now()).map(drop)
    }

    fn verify<'a>(&'a self, credential: &'a Credential, context: LoginContext<'a>) -> Verification<'a> {
        Box::pin(self.check(&credential.bearer, context.now))
    }

    fn known_by<'a>(&self, credential: &'a Credential) -> &'a str {
        signed_part(&credential.bearer)
    }
}

/// Decides by what an API server says of a token that says `shown` of itself.
fn judge(shown: &ShownToken, status: TokenReviewStatus, audiences: &[String]) -> Result<VerifiedIdentity, LoginError> {
    let no = |reason: &str| Err(LoginError::rejected(reason));
    if status.authenticated != Some(true) || status.error.as_ref().is_some_and(|error| !error.is_empty()) {
        // The server's own words may repeat the token: they stay out.
        return no(
            "the API server does not know the token: it has ended, is of another cluster, or its pod or account is gone",
        );
    }
    // A server that looks at no audiences names none; what it says is then of tokens for itself.
    if !status.audiences.unwrap_or_default().iter().any(|audience| audiences.contains(audience)) {
        return no("the API server does not say that the token is for an audience of the method");
    }
    let Some(user) = status.user else { return no("the API server does not say whose the token is") };
    let Some((namespace, account)) = account_of(&user) else { return no("it is not of a service account") };
    let (Some(pod), Some(pod_uid)) = (only(&user, POD_NAME), only(&user, POD_UID)) else {
        return no("the API server does not say which pod the token is bound to");
    };
    let account_uid = user.uid.as_deref().unwrap_or_default();
    let found = [namespace, account, account_uid, pod, pod_uid];
    if found != [&shown.namespace, &shown.account, &shown.account_uid, &shown.pod, &shown.pod_uid] {
        return no("the API server speaks of another account or pod than the token");
    }
    let facts = [
        (KubernetesConfig::ACCOUNT_NAMESPACE, namespace),
        (KubernetesConfig::ACCOUNT_NAME, account),
        (KubernetesConfig::ACCOUNT_UID, account_uid),
        (KubernetesConfig::POD_NAME, pod),
        (KubernetesConfig::POD_UID, pod_uid),
    ];
    let facts = facts.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let claims = LoginClaims {
        // The account and not the pod: who bans it means the next pod, too.
        subject: format!("{namespace}/{account}"),
        facts: facts.into_iter().collect(),
        ..LoginClaims::default()
    };
    Ok(VerifiedIdentity { claims, ends: shown.ends })
}

/// Reads namespace and name of the account that a user is; none for users of any other sort.
fn account_of(user: &UserInfo) -> Option<(&str, &str)> {
    let is_account = user.groups.as_ref().is_some_and(|groups| groups.iter().any(|group| group == ACCOUNTS));
    let (namespace, name) = user.username.as_deref()?.strip_prefix(ACCOUNT_PREFIX)?.split_once(':')?;
    (is_account && shown::is_object_name(namespace) && shown::is_object_name(name)).then_some((namespace, name))
}

/// Returns a fact that must stand there exactly once.
fn only<'a>(user: &'a UserInfo, name: &str) -> Option<&'a str> {
    match user.extra.as_ref()?.get(name)?.as_slice() {
        [one] if !one.is_empty() => Some(one),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
