//! Asking an API server about tokens, as whoever a server's operator says.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ::catalog::KubernetesConfig;
use http_body_util::{BodyExt, Limited};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use kube::{Client, Config};
use wire::crypto::{Secret, read_projected_token};
use wire::login::LoginError;

/// No token is longer.
const TOKEN_BYTES_MAX: u64 = 16 * 1024;
/// No answer is longer.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// How long an API server may take to answer.
const TIMEOUT: Duration = Duration::from_secs(10);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const REVIEWS: &str = "/apis/authentication.k8s.io/v1/tokenreviews";

/// Says with whose token each API server is asked, by its address. It is each server's own setting and no part of a
/// method, for a secret has no place in the catalog, and whoever writes methods must not have a token sent where they like.
#[derive(Debug, Clone, Default)]
pub struct ReviewerTokens(BTreeMap<String, PathBuf>);

impl FromIterator<(String, PathBuf)> for ReviewerTokens {
    fn from_iter<I: IntoIterator<Item = (String, PathBuf)>>(files: I) -> Self {
        Self(files.into_iter().map(|(host, file)| (normal(&host), file)).collect())
    }
}

fn normal(host: &str) -> String {
    host.trim_end_matches('/').to_ascii_lowercase()
}

/// Has tokens reviewed by one API server.
pub(super) struct Reviewer {
    place: Place,
    client: Mutex<Option<Client>>,
}

#[derive(Debug, Clone)]
enum Place {
    /// The cluster that this process runs in, by its own account.
    Own,
    /// A cluster by its address.
    At { host: http::Uri, roots: Option<Vec<Vec<u8>>>, token_file: PathBuf },
}

impl std::fmt::Debug for Reviewer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reviewer").field("place", &self.place).finish_non_exhaustive()
    }
}

impl Reviewer {
    /// Gets ready to ask; nobody is asked yet.
    pub(super) fn new(config: &KubernetesConfig, tokens: &ReviewerTokens) -> Result<Self, LoginError> {
        let client = Mutex::default();
        let Some(host) = &config.host else { return Ok(Self { place: Place::Own, client }) };
        let wrong = |error: &dyn std::fmt::Display| LoginError::unavailable(format!("Host `{host}`: {error}"));
        let token_file = tokens.0.get(&normal(host)).ok_or_else(|| {
            wrong(&"this server has no token to ask it with: give every server --kubernetes-token-file HOST=FILE")
        })?;
        let host: http::Uri = host.parse().map_err(|error: http::uri::InvalidUri| wrong(&error))?;
        let roots = config.ca_pem.as_deref().map(certificates).transpose().map_err(|error| wrong(&error))?;
        Ok(Self { place: Place::At { host, roots, token_file: token_file.clone() }, client })
    }

    /// Asks whose a token is.
    ///
    /// # Errors
    /// [`LoginError::Unavailable`] if there is no answer of use.
    pub(super) async fn review(&self, token: &Secret, audiences: &[String]) -> Result<TokenReviewStatus, LoginError> {
        let failed = |error: &dyn std::error::Error| {
            LoginError::unavailable(format!("asking the API server about a token: {}", wire::one_line(error)))
        };
        let review = TokenReview {
            spec: TokenReviewSpec {
                token: Some(token.expose().trim().to_owned()),
                audiences: Some(audiences.to_vec()),
            },
            ..TokenReview::default()
        };
        let body = serde_json::to_vec(&review).map_err(|error| failed(&error))?;
        let mut request = http::Request::post(REVIEWS).header(http::header::CONTENT_TYPE, "application/json");
        if let Place::At { token_file, .. } = &self.place {
            request = request.header(http::header::AUTHORIZATION, own_token(token_file.clone()).await?);
        }
        let request = request.body(body.into()).map_err(|error| failed(&error))?;
        let client = self.client()?;
        let answering = async {
            let response = client.send(request).await.map_err(|error| failed(&error))?;
            let status = response.status();
            let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
            let body = body.map_err(|error| failed(&*error))?.to_bytes();
            Ok((status, body))
        };
        let answer = tokio::time::timeout(TIMEOUT, answering).await;
        let (status, body) = answer
            .map_err(|_| LoginError::unavailable(format!("the API server did not answer within {TIMEOUT:?}")))??;
        match status {
            status if status.is_success() => {}
            http::StatusCode::UNAUTHORIZED | http::StatusCode::FORBIDDEN => {
                return Err(LoginError::unavailable(format!(
                    "the API server lets this server review no tokens ({status}): bind its account to the cluster role `system:auth-delegator`"
                )));
            }
            status => return Err(LoginError::unavailable(format!("the API server answered {status}"))),
        }
        let review: TokenReview = serde_json::from_slice(&body).map_err(|error| failed(&error))?;
        Ok(review.status.unwrap_or_default())
    }

    /// Returns the client; it is made when it is needed first, in the runtime that it lives in.
    fn client(&self) -> Result<Client, LoginError> {
        let mut held = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = &*held {
            return Ok(client.clone());
        }
        let failed = |error: &dyn std::error::Error| {
            LoginError::unavailable(format!("preparing to ask the API server: {}", wire::one_line(error)))
        };
        let mut config = match &self.place {
            Place::Own => Config::incluster().map_err(|error| failed(&error))?,
            Place::At { host, roots, .. } => {
                let mut config = Config::new(host.clone());
                config.root_cert.clone_from(roots);
                config
            }
        };
        (config.connect_timeout, config.read_timeout) = (Some(CONNECT_TIMEOUT), Some(TIMEOUT));
        wire::crypto::install_provider();
        let client = Client::try_from(config).map_err(|error| failed(&error))?;
        *held = Some(client.clone());
        Ok(client)
    }
}

/// Reads the token to ask with, as it is now: whoever gave it may replace it.
async fn own_token(file: PathBuf) -> Result<http::HeaderValue, LoginError> {
    let failed = |reason: String| LoginError::unavailable(format!("the token to ask the API server with: {reason}"));
    let read = tokio::task::spawn_blocking(move || read_projected_token(&file, TOKEN_BYTES_MAX)).await;
    let token = read.map_err(|stopped| failed(stopped.to_string()))?.map_err(|error| failed(wire::one_line(&error)))?;
    let header = http::HeaderValue::try_from(format!("Bearer {}", token.expose().trim()));
    let mut header = header.map_err(|_| failed("its file holds something else".to_owned()))?;
    header.set_sensitive(true);
    Ok(header)
}

/// Reads certificates, PEM; at least one.
fn certificates(pem: &str) -> Result<Vec<Vec<u8>>, String> {
    use rustls::pki_types::{CertificateDer, pem::PemObject};
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    let found = found.map_err(|error| format!("CACert: {error}"))?;
    if found.is_empty() {
        return Err("CACert holds no certificate".to_owned());
    }
    Ok(found.into_iter().map(|certificate| certificate.to_vec()).collect())
}
