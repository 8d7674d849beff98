//! Calls of AWS within a budget for each API, repeated where that may help.

use std::{future::Future, num::NonZeroU32, time::Duration};

use aws_sdk_servicediscovery::error::{ProvideErrorMetadata, SdkError};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use wire::random::Seeded;

use crate::metrics::Metrics;

/// How long one call takes at most.
const CALL_MAX: Duration = Duration::from_secs(10);
/// How often a call is made at most; a cycle that fails is followed by another.
const TRIES_MAX: u32 = 4;
const BACKOFF_MIN: Duration = Duration::from_millis(200);
const BACKOFF_MAX: Duration = Duration::from_secs(60);

/// Names an API with a budget of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Api {
    ListNamespaces,
    ListServices,
    ListTags,
    ListInstances,
    DiscoverInstances,
    GetOperation,
    CreateService,
    Register,
    Deregister,
    SetHealth,
    DescribeTasks,
}

impl Api {
    const ALL: [Self; 11] = [
        Self::ListNamespaces,
        Self::ListServices,
        Self::ListTags,
        Self::ListInstances,
        Self::DiscoverInstances,
        Self::GetOperation,
        Self::CreateService,
        Self::Register,
        Self::Deregister,
        Self::SetHealth,
        Self::DescribeTasks,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Self::ListNamespaces => "list_namespaces",
            Self::ListServices => "list_services",
            Self::ListTags => "list_tags",
            Self::ListInstances => "list_instances",
            Self::DiscoverInstances => "discover_instances",
            Self::GetOperation => "get_operation",
            Self::CreateService => "create_service",
            Self::Register => "register_instance",
            Self::Deregister => "deregister_instance",
            Self::SetHealth => "update_instance_custom_health_status",
            Self::DescribeTasks => "describe_tasks",
        }
    }

    /// Returns calls a minute and calls at once: what AWS's own controller keeps to, or less.
    fn budget(self) -> (u32, u32) {
        match self {
            Self::ListNamespaces => (30, 5),
            Self::ListServices => (120, 10),
            Self::ListTags | Self::CreateService => (300, 50),
            Self::ListInstances | Self::DescribeTasks => (600, 20),
            Self::DiscoverInstances => (30_000, 1000),
            Self::GetOperation => (6000, 200),
            Self::Register | Self::Deregister | Self::SetHealth => (3000, 100),
        }
    }
}

/// Explains why AWS did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CloudError {
    /// The credentials are not taken.
    #[error("AWS takes the credentials no more ({code}): renew them, or the role")]
    Credentials {
        /// AWS's word for it.
        code: String,
    },
    /// Something is used up.
    #[error("a quota of AWS is used up ({code}): {message}")]
    Quota {
        /// AWS's word for it.
        code: String,
        /// AWS's sentence.
        message: String,
    },
    /// AWS asks for fewer calls, or failed by itself.
    #[error("`{api}` has not succeeded: {reason}")]
    Passing {
        /// The call.
        api: &'static str,
        /// What came of it.
        reason: String,
    },
    /// AWS refuses it.
    #[error("AWS refuses `{api}` ({code}): {message}")]
    Refused {
        /// The call.
        api: &'static str,
        /// AWS's word for it.
        code: String,
        /// AWS's sentence.
        message: String,
    },
}

impl CloudError {
    /// Reports whether AWS answered with this word.
    pub(super) fn has_code(&self, wanted: &str) -> bool {
        match self {
            Self::Credentials { code } | Self::Quota { code, .. } | Self::Refused { code, .. } => code == wanted,
            Self::Passing { .. } => false,
        }
    }
}

/// Keeps the calls of one connector within their budgets.
#[derive(Debug)]
pub(super) struct Budget {
    limits: Vec<DefaultDirectRateLimiter>,
    metrics: Metrics,
}

impl Budget {
    /// Takes `share` of what AWS's own controller takes: all that call from one account share its limits.
    pub(super) fn new(share: f64, metrics: Metrics) -> Self {
        let quota = |api: Api| {
            let (minute, burst) = api.budget();
            let part = |whole: u32| {
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "it is between 1 and the whole"
                )]
                let part = (f64::from(whole) * share).clamp(1.0, f64::from(whole)) as u32;
                NonZeroU32::new(part).unwrap_or(NonZeroU32::MIN)
            };
            RateLimiter::direct(Quota::per_minute(part(minute)).allow_burst(part(burst)))
        };
        Self { limits: Api::ALL.into_iter().map(quota).collect(), metrics }
    }

    /// Makes a call within its budget, and again with full jitter where it may succeed yet. Whatever is asked is harmless to
    /// do twice.
    pub(super) async fn call<T, E, F>(&self, api: Api, attempt: impl Fn() -> F) -> Result<T, CloudError>
    where
        F: Future<Output = Result<T, SdkError<E>>>,
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        let mut tries = 0;
        loop {
            self.limits[api as usize].until_ready().await;
            let error = match within(CALL_MAX, api, attempt()).await {
                Ok(value) => {
                    self.metrics.platform_call(api.as_str(), "done");
                    return Ok(value);
                }
                Err(error) => error,
            };
            self.metrics.platform_call(api.as_str(), outcome(&error));
            tries += 1;
            if tries >= TRIES_MAX || !matches!(error, CloudError::Passing { .. }) {
                return Err(error);
            }
            tokio::time::sleep(backoff(&mut Seeded::from_entropy(), tries)).await;
        }
    }
}

/// Makes one call; one that nobody answers in time may be answered when it is made again.
async fn within<T, E>(
    patience: Duration,
    api: Api,
    attempt: impl Future<Output = Result<T, SdkError<E>>>,
) -> Result<T, CloudError>
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    match tokio::time::timeout(patience, attempt).await {
        Ok(answer) => answer.map_err(|error| classify(api, &error)),
        Err(_) => Err(CloudError::Passing { api: api.as_str(), reason: format!("no answer within {patience:?}") }),
    }
}

fn outcome(error: &CloudError) -> &'static str {
    match error {
        CloudError::Credentials { .. } => "credentials",
        CloudError::Quota { .. } => "quota",
        CloudError::Passing { .. } => "failed",
        CloudError::Refused { .. } => "refused",
    }
}

/// Returns a random time up to one that doubles with each try.
fn backoff(jitter: &mut Seeded, tries: u32) -> Duration {
    jitter.backoff(tries, BACKOFF_MIN, BACKOFF_MAX)
}

fn classify<E: ProvideErrorMetadata + std::error::Error + 'static>(api: Api, error: &SdkError<E>) -> CloudError {
    let api = api.as_str();
    let Some(code) = error.code() else {
        return CloudError::Passing { api, reason: wire::one_line(error) };
    };
    let (code, message) = (code.to_owned(), error.message().unwrap_or("it says no more").to_owned());
    let status = match error {
        SdkError::ServiceError(context) => context.raw().status().as_u16(),
        _ => 500,
    };
    match code.as_str() {
        "ExpiredToken"
        | "ExpiredTokenException"
        | "UnrecognizedClientException"
        | "InvalidClientTokenId"
        | "InvalidSignatureException"
        | "IncompleteSignature"
        | "SignatureDoesNotMatch" => CloudError::Credentials { code },
        "ResourceLimitExceeded" => CloudError::Quota { code, message },
        "ThrottlingException"
        | "Throttling"
        | "RequestLimitExceeded"
        | "TooManyRequestsException"
        | "ResourceInUse"
        | "DuplicateRequest" => CloudError::Passing { api, reason: format!("{code}: {message}") },
        _ if status >= 500 || status == 429 => CloudError::Passing { api, reason: format!("{code}: {message}") },
        _ => CloudError::Refused { api, code, message },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn m3_a_repeat_waits_a_random_time_that_grows_to_a_minute() {
        let mut jitter = Seeded::new(7);
        for (tries, most) in [(1, 400), (2, 800), (5, 6_400), (9, 60_000), (40, 60_000)] {
            for _ in 0..200 {
                assert!(backoff(&mut jitter, tries) <= Duration::from_millis(most), "{tries}");
            }
        }
        let several: std::collections::BTreeSet<Duration> = (0..20).map(|_| backoff(&mut jitter, 6)).collect();
        assert!(several.len() > 10, "not all at once");
    }

    #[tokio::test]
    async fn m3_a_call_that_nobody_answers_is_given_up_and_may_be_made_again() {
        type Answer = Result<(), SdkError<aws_sdk_servicediscovery::operation::list_services::ListServicesError>>;
        let nobody = within(Duration::from_millis(10), Api::ListServices, std::future::pending::<Answer>()).await;
        assert!(
            matches!(&nobody, Err(CloudError::Passing { api: "list_services", reason }) if reason == "no answer within 10ms"),
            "{nobody:?}"
        );
        let somebody = within(CALL_MAX, Api::ListServices, std::future::ready(Answer::Ok(()))).await;
        assert!(somebody.is_ok(), "{somebody:?}");
    }

    #[tokio::test]
    async fn m3_a_burst_passes_at_once_and_what_is_beyond_the_budget_waits() {
        let budget = Budget::new(1.0, Metrics::new());
        let limit = &budget.limits[Api::ListNamespaces as usize];
        assert_eq!((0..9).filter(|_| limit.check().is_ok()).count(), 5);
        let shared = Budget::new(0.01, Metrics::new());
        assert_eq!((0..9).filter(|_| shared.limits[0].check().is_ok()).count(), 1, "never none at all");
    }
}
