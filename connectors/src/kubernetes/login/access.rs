//! Asking an API server about tokens, as whoever a server's operator says.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ::catalog::{KubernetesConfig, Origin};
use http_body_util::{BodyExt, Limited};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use kube::{Client, Config};
use tokio::sync::Semaphore;
use wire::crypto::{Secret, read_projected_token};
use wire::login::LoginError;

/// No token is longer.
const TOKEN_BYTES_MAX: u64 = 16 * 1024;
/// No answer is longer.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// How many questions are under way at most: whoever makes tokens up makes no more than that.
const UNDER_WAY_MAX: usize = 64;
/// How long an API server may take to answer.
const TIMEOUT: Duration = Duration::from_secs(10);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Where a pod finds the authority of its own cluster.
const OWN_AUTHORITY: &str = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt";
const REVIEWS: &str = "/apis/authentication.k8s.io/v1/tokenreviews";

/// Says with whose token each API server is asked, and by which authority it is known, by its address. Both are each server's
/// own setting and no part of a method: a secret has no place in the catalog, and whoever writes methods must not have a
/// token sent where they like.
#[derive(Debug, Clone, Default)]
pub struct ReviewerTokens(BTreeMap<String, Access>);

/// Says how one API server is asked.
#[derive(Debug, Clone)]
struct Access {
    token: PathBuf,
    authority: Option<PathBuf>,
}

/// Why it is not clear which file is for which API server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReviewerTokensError {
    /// A text names no API server, or no file.
    #[error(
        "`{said}` does not say which file is for which API server: write https://HOST:PORT=FILE, with the Host of the auth method"
    )]
    Form {
        /// The text.
        said: String,
    },
    /// An API server has an authority and no token.
    #[error("the authority of `{host}` is named, and no token to ask it with: name both files, with the same address")]
    NoToken {
        /// The API server.
        host: String,
    },
}

impl ReviewerTokens {
    /// Reads which file with a token, and which with an authority, is for which API server: `HOST=FILE` each.
    ///
    /// # Errors
    ///
    /// [`ReviewerTokensError`] if one has another form, or an authority comes without a token.
    pub fn read(tokens: &[String], authorities: &[String]) -> Result<Self, ReviewerTokensError> {
        let read = |one: &String| match one.split_once('=') {
            Some((host, file)) if host.starts_with("https://") && !file.is_empty() => {
                Ok((normal(host), PathBuf::from(file)))
            }
            _ => Err(ReviewerTokensError::Form { said: one.clone() }),
        };
        let mut authorities = authorities.iter().map(read).collect::<Result<BTreeMap<String, PathBuf>, _>>()?;
        let mut known = Self::default();
        for one in tokens {
            let (host, token) = read(one)?;
            let authority = authorities.remove(&host);
            known.add(&host, token, authority);
        }
        match authorities.into_keys().next() {
            Some(host) => Err(ReviewerTokensError::NoToken { host }),
            None => Ok(known),
        }
    }

    /// Adds the file with the token for the API server at `host`, and the file with the authority of its certificate; that
    /// of the system counts where there is none.
    pub fn add(&mut self, host: &str, token: PathBuf, authority: Option<PathBuf>) {
        self.0.insert(normal(host), Access { token, authority });
    }
}

fn normal(host: &str) -> String {
    host.trim_end_matches('/').to_ascii_lowercase()
}

/// Has tokens reviewed by one API server.
pub(super) struct Reviewer {
    place: Place,
    client: Mutex<Option<Made>>,
    under_way: Semaphore,
}

/// Is a client, and the authority that it knows the API server by, as it was read.
struct Made {
    client: Client,
    authority: Option<Vec<u8>>,
}

#[derive(Debug, Clone)]
enum Place {
    /// The cluster that this process runs in, by its own account.
    Own,
    /// A cluster by its address.
    At { host: http::Uri, access: Access },
}

impl std::fmt::Debug for Reviewer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reviewer").field("place", &self.place).finish_non_exhaustive()
    }
}

impl Reviewer {
    /// Gets ready to ask; nobody is asked yet.
    pub(super) fn new(config: &KubernetesConfig, tokens: &ReviewerTokens) -> Result<Self, LoginError> {
        let (client, under_way) = (Mutex::default(), Semaphore::new(UNDER_WAY_MAX));
        let Some(host) = &config.host else { return Ok(Self { place: Place::Own, client, under_way }) };
        let wrong = |error: &dyn std::fmt::Display| LoginError::unavailable(format!("Host `{host}`: {error}"));
        let access = tokens.0.get(&normal(host)).ok_or_else(|| {
            wrong(&"this server has no token to ask it with: give every server --kubernetes-token-file HOST=FILE")
        })?;
        if !Origin::read(host).is_some_and(|origin| origin.is_tls) {
            return Err(wrong(&"it is no https://HOST or https://HOST:PORT"));
        }
        let host: http::Uri = host.parse().map_err(|error: http::uri::InvalidUri| wrong(&error))?;
        if let Some(path) = &access.authority {
            let certificates =
                std::fs::read(path).map_err(|error| error.to_string()).and_then(|pem| certificates(&pem));
            certificates.map_err(|error| wrong(&format!("{}: {error}", path.display())))?;
        }
        Ok(Self { place: Place::At { host, access: access.clone() }, client, under_way })
    }

    /// Asks whose a token is.
    ///
    /// # Errors
    /// [`LoginError::Unavailable`] if there is no answer of use.
    pub(super) async fn review(&self, token: &Secret, audiences: &[String]) -> Result<TokenReviewStatus, LoginError> {
        let failed = |error: &dyn std::error::Error| {
            LoginError::unavailable(format!("asking the API server about a token: {}", wire::one_line(error)))
        };
        let _turn = self
            .under_way
            .try_acquire()
            .map_err(|_| LoginError::unavailable(format!("{UNDER_WAY_MAX} tokens are being asked about already")))?;
        let review = TokenReview {
            spec: TokenReviewSpec { token: Some(token.expose().to_owned()), audiences: Some(audiences.to_vec()) },
            ..TokenReview::default()
        };
        let body = serde_json::to_vec(&review).map_err(|error| failed(&error))?;
        let mut request = http::Request::post(REVIEWS).header(http::header::CONTENT_TYPE, "application/json");
        if let Place::At { access, .. } = &self.place {
            request = request.header(http::header::AUTHORIZATION, own_token(access.token.clone()).await?);
        }
        let request = request.body(body.into()).map_err(|error| failed(&error))?;
        let client = self.client(self.place.authority().await?)?;
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
        // What is wrong with it stays untold: it repeats the token.
        let review: TokenReview = serde_json::from_slice(&body).map_err(|error| {
            let (line, column) = (error.line(), error.column());
            LoginError::unavailable(format!("the API server's answer is no TokenReview (line {line}, column {column})"))
        })?;
        Ok(review.status.unwrap_or_default())
    }

    /// Returns a client that knows the API server by this authority. It is made when it is needed first, in the runtime that
    /// it lives in, and anew when the authority is another.
    fn client(&self, authority: Option<Vec<u8>>) -> Result<Client, LoginError> {
        let mut held = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(made) = held.as_ref().filter(|made| made.authority == authority) {
            return Ok(made.client.clone());
        }
        let failed = |reason: String| LoginError::unavailable(format!("preparing to ask the API server: {reason}"));
        let mut config = match &self.place {
            Place::Own => Config::incluster().map_err(|error| failed(wire::one_line(&error)))?,
            Place::At { host, .. } => {
                let mut config = Config::new(host.clone());
                config.root_cert = authority.as_deref().map(certificates).transpose().map_err(failed)?;
                config
            }
        };
        (config.connect_timeout, config.read_timeout) = (Some(CONNECT_TIMEOUT), Some(TIMEOUT));
        wire::crypto::install_provider();
        let client = Client::try_from(config).map_err(|error| failed(wire::one_line(&error)))?;
        *held = Some(Made { client: client.clone(), authority });
        Ok(client)
    }
}

impl Place {
    /// Reads the authority of the API server's certificate, as it is now: a cluster replaces its own from time to time.
    async fn authority(&self) -> Result<Option<Vec<u8>>, LoginError> {
        let file = match self {
            Self::Own => Some(Path::new(OWN_AUTHORITY)),
            Self::At { access, .. } => access.authority.as_deref(),
        };
        let Some(file) = file else { return Ok(None) };
        let failed = |reason: String| {
            LoginError::unavailable(format!("the authority of the API server: {}: {reason}", file.display()))
        };
        let path = file.to_owned();
        let read = tokio::task::spawn_blocking(move || std::fs::read(path)).await;
        match read.map_err(|stopped| failed(stopped.to_string()))? {
            Ok(pem) => Ok(Some(pem)),
            // This is no pod then, and whoever makes the client says so.
            Err(error) if matches!(self, Self::Own) && error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed(error.to_string())),
        }
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
fn certificates(pem: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    use rustls::pki_types::{CertificateDer, pem::PemObject};
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let found = found.map_err(|error| error.to_string())?;
    if found.is_empty() {
        return Err("it holds no certificate".to_owned());
    }
    Ok(found.into_iter().map(|certificate| certificate.to_vec()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(tokens: &[&str], authorities: &[&str]) -> Result<ReviewerTokens, ReviewerTokensError> {
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        ReviewerTokens::read(&owned(tokens), &owned(authorities))
    }

    #[test]
    fn each_api_server_has_its_token_and_maybe_its_authority() {
        let known = read(&["https://10.0.0.1:6443=/a", "https://EAST/=/b"], &["https://east=/ca"]).unwrap();
        let access = |host: &str| known.0.get(host).map(|access| (access.token.clone(), access.authority.clone()));
        assert_eq!(access("https://10.0.0.1:6443"), Some((PathBuf::from("/a"), None)));
        assert_eq!(access("https://east"), Some((PathBuf::from("/b"), Some(PathBuf::from("/ca")))));
    }

    #[test]
    fn what_names_no_api_server_or_no_file_is_refused() {
        for said in ["/a", "https://east=", "http://east=/a", "=/a"] {
            assert_eq!(read(&[said], &[]).unwrap_err(), ReviewerTokensError::Form { said: said.to_owned() });
        }
        let alone = read(&["https://east=/a"], &["https://west=/ca"]).unwrap_err();
        assert_eq!(alone, ReviewerTokensError::NoToken { host: "https://west".to_owned() });
    }
}
