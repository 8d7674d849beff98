//! The agent's side: the question, signed with the credentials that AWS gives a task, a machine or a user.

use std::time::{Duration, UNIX_EPOCH};

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::Credentials;
use aws_credential_types::provider::ProvideCredentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use tokio::sync::OnceCell;
use wire::crypto::Secret;
use wire::login::{CredentialError, CredentialFor, CredentialSource, CredentialWanted};

use super::{CLUSTER_HEADER, CONTENT_TYPE, KEY_HEADER, QUESTION, Signed, endpoints};

/// Signs with what AWS's own chain finds: environment, profile, web identity, the task's or the machine's role. No secret
/// of weft's is in it.
#[derive(Debug, Default)]
pub struct AwsCredentials {
    /// The endpoint to sign for, where it is not the region's own.
    endpoint: Option<String>,
    /// The chain; it keeps credentials while they last.
    chain: OnceCell<SdkConfig>,
}

impl AwsCredentials {
    /// Reads `AWS_ENDPOINT_URL_STS`, given as a function so that a test can make it up; all else is read when it is needed.
    #[must_use]
    pub fn new(variable: impl Fn(&str) -> Option<String>) -> Self {
        let endpoint = variable("AWS_ENDPOINT_URL_STS").filter(|endpoint| !endpoint.is_empty());
        Self { endpoint: endpoint.map(|endpoint| endpoint.trim_end_matches('/').to_owned()), chain: OnceCell::new() }
    }

    async fn signed(&self, wanted: CredentialFor<'_>) -> Result<Secret, CredentialError> {
        let missing = |reason: String| CredentialError::Platform { reason };
        let (chain, region) = kept(&self.chain, Box::pin(aws_config::load_defaults(BehaviorVersion::latest()))).await?;
        let provider = chain.credentials_provider().ok_or_else(|| missing("AWS's chain is empty".to_owned()))?;
        let credentials = provider.provide_credentials().await.map_err(|error| {
            missing(format!("AWS gives no credentials, so give the task or machine a role: {}", wire::one_line(&error)))
        })?;
        let endpoint = self.endpoint.clone().unwrap_or_else(|| endpoints::of_region(region));
        let signed = signed(&credentials, &endpoint, region, wanted).map_err(missing)?;
        serde_json::to_string(&signed).map(Secret::new).map_err(|error| missing(error.to_string()))
    }
}

impl CredentialSource for AwsCredentials {
    fn name(&self) -> String {
        "the credentials that AWS gives".to_owned()
    }

    fn names_the_mesh(&self) -> bool {
        true
    }

    fn credential<'a>(&'a self, wanted: CredentialFor<'a>) -> CredentialWanted<'a> {
        Box::pin(self.signed(wanted))
    }
}

/// Returns the chain with its region, as it was loaded, or as it is loaded now: what has no region is not kept, for a machine
/// that has just started may be told it later.
async fn kept(
    chain: &OnceCell<SdkConfig>,
    loading: impl Future<Output = SdkConfig>,
) -> Result<(&SdkConfig, &str), CredentialError> {
    let missing = || CredentialError::Platform {
        reason: "nothing says which region of AWS this is: set AWS_REGION, as ECS does in every task".to_owned(),
    };
    let loaded = async { Some(loading.await).filter(|config| config.region().is_some()).ok_or_else(missing) };
    let chain = chain.get_or_try_init(|| loaded).await?;
    Ok((chain, chain.region().map(Region::as_ref).ok_or_else(missing)?))
}

/// Signs the question for one mesh and one key.
pub(super) fn signed(
    credentials: &Credentials,
    endpoint: &str,
    region: &str,
    wanted: CredentialFor<'_>,
) -> Result<Signed, String> {
    // The global endpoint is in one region, wherever it is asked from.
    let region = if endpoint == "https://sts.amazonaws.com" { "us-east-1" } else { region };
    let identity = credentials.clone().into();
    let params = v4::SigningParams::builder()
        .identity(&identity)
        .region(region)
        .name("sts")
        .time(UNIX_EPOCH + Duration::from_millis(wanted.now.0))
        .settings(SigningSettings::default())
        .build()
        .map_err(|error| error.to_string())?
        .into();
    let url = format!("{endpoint}/");
    let headers =
        [("content-type", CONTENT_TYPE), (CLUSTER_HEADER, wanted.cluster_id), (KEY_HEADER, wanted.key.0.as_str())];
    let body = SignableBody::Bytes(QUESTION.as_bytes());
    let request =
        SignableRequest::new("POST", &url, headers.into_iter(), body).map_err(|error| wire::one_line(&error))?;
    let (instructions, _) = sign(request, &params).map_err(|error| wire::one_line(&error))?.into_parts();
    let header =
        |name: &str| instructions.headers().find(|(known, _)| *known == name).map(|(_, value)| value.to_owned());
    let (Some(date), Some(authorization)) = (header(super::DATE_HEADER), header("authorization")) else {
        return Err("the signature has no date".to_owned());
    };
    Ok(Signed { endpoint: endpoint.to_owned(), date, security_token: header(super::TOKEN_HEADER), authorization })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_agent_that_starts_before_anything_says_its_region_logs_in_later() {
        let chain = OnceCell::new();
        let config =
            |region: Option<&'static str>| SdkConfig::builder().region(region.map(Region::from_static)).build();
        let error = kept(&chain, async { config(None) }).await.unwrap_err();
        assert!(wire::one_line(&error).contains("AWS_REGION"), "{error}");
        let told = kept(&chain, async { config(Some("eu-west-1")) }).await.unwrap();
        assert_eq!(told.1, "eu-west-1");
        let kept = kept(&chain, async { panic!("it is loaded once") }).await.unwrap();
        assert_eq!(kept.1, "eu-west-1");
    }
}
