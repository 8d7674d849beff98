//! The certificate that the API shows over TLS, kept fresh: the mesh's own for the names that the operator gave, or the
//! operator's, read again from its files when these change.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use catalog::{Timestamp, WatchKey};
use tokio::time::Instant;
use tracing::{info, warn};
use wire::api_name::ApiName;
use wire::cluster_key::AuthorityError;
use wire::crypto::{self, SecretFileError, read_secret_file};
use wire::tls::{ApiCertificate, ApiCertificateError, RaftIdentity, group_api_config};

use super::listener::Tls;
use crate::ca::{CertificateAuthority, SignError};
use crate::config::CertificateFiles;
use crate::consensus::Consensus;
use crate::metrics::{Certificate, Metrics};
use ::catalog::Lifetime;

/// How long a certificate of the mesh's own lives.
const TTL: Duration = Duration::from_secs(7 * 24 * 3600);
/// How often files are looked at, and the longest that this server goes without looking at its own certificate.
const LOOK_INTERVAL: Duration = Duration::from_secs(60);
/// How soon a failed attempt is repeated.
const RETRY_INTERVAL: Duration = Duration::from_secs(10);
/// No file of a chain or a key is larger.
const FILE_BYTES_MAX: u64 = 256 * 1024;

/// Where the API's certificate comes from.
pub(crate) enum Source {
    /// The mesh's authority signs it for these names.
    Mesh { authority: CertificateAuthority, names: Vec<ApiName> },
    /// The operator's files hold it.
    Files(CertificateFiles),
}

/// Why there is no certificate, or no new one.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// The file of the chain cannot be read.
    #[error("cannot read the API's certificate `{}`", path.display())]
    Chain {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The file of the key cannot be read.
    #[error("cannot read the API's private key")]
    Key(#[source] SecretFileError),
    /// The server cannot show that it holds the cluster key.
    #[error("cannot serve the API over TLS")]
    Server(#[source] AuthorityError),
    /// The two cannot be used.
    #[error("cannot use the API's certificate `{}`", path.display())]
    Unusable {
        /// The file of the chain.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: ApiCertificateError,
    },
}

/// Shows certificates to new connections: the API's, and, to whoever knows servers by the cluster key, the server's own.
pub(crate) struct Window {
    pub(crate) tls: Tls,
    pub(crate) server: Arc<RaftIdentity>,
    pub(crate) metrics: Metrics,
}

/// Reads an operator's certificate and key.
pub(crate) fn read(files: &CertificateFiles) -> Result<(ApiCertificate, [u8; 32]), CertificateError> {
    let path = &files.certificate;
    let failed = |source| CertificateError::Chain { path: path.clone(), source };
    if std::fs::metadata(path).map_err(failed)?.len() > FILE_BYTES_MAX {
        return Err(failed(std::io::ErrorKind::FileTooLarge.into()));
    }
    let chain = std::fs::read_to_string(path).map_err(failed)?;
    let key = read_secret_file(&files.key, FILE_BYTES_MAX).map_err(CertificateError::Key)?;
    let content = crypto::sha256(&[chain.as_bytes(), key.expose().as_bytes()].concat());
    let certificate = ApiCertificate::from_pem(&chain, &key)
        .map_err(|source| CertificateError::Unusable { path: path.clone(), source })?;
    Ok((certificate, content))
}

/// Keeps what `window` shows up to date. Never returns.
///
/// A certificate that cannot be renewed is shown on: its end is told in the metrics and, near it, in the log.
pub(crate) async fn keep(source: Source, consensus: Consensus, window: Window) {
    match source {
        Source::Mesh { authority, names } => keep_own(&authority, &names, &consensus, &window).await,
        Source::Files(files) => keep_files(&files, &window).await,
    }
}

impl Window {
    fn show(&self, certificate: &ApiCertificate) {
        self.tls.store(Some(Arc::new(group_api_config(certificate, Arc::clone(&self.server)))));
        let lifetime = Lifetime { begin: certificate.not_before(), end: certificate.not_after() };
        self.metrics.certificate_expires(Certificate::Api, lifetime);
        let names: Vec<String> = certificate.names().iter().map(ToString::to_string).collect();
        info!(names = names.join(" "), not_after = certificate.not_after().0, "certificate of the API in use");
    }
}

async fn keep_own(authority: &CertificateAuthority, names: &[ApiName], consensus: &Consensus, window: &Window) {
    let keys = [WatchKey::Roots, WatchKey::Mesh];
    let mut renew_at = Timestamp::default();
    let mut made_at_index = None;
    loop {
        let catalog = consensus.catalog();
        let (index, now) = (catalog.index_of(&keys), crypto::now());
        let mut look_in = LOOK_INTERVAL;
        if now >= renew_at || made_at_index != Some(index) {
            match authority.api_certificate(&catalog, names, TTL, now) {
                Ok(certificate) => {
                    renew_at = now.saturating_add(certificate.not_after().since(now) / 2);
                    made_at_index = Some(index);
                    window.show(&certificate);
                }
                Err(SignError::NotReady) => {}
                Err(error) => {
                    warn!(error = wire::one_line(&error), "cannot make the certificate of the API");
                    look_in = RETRY_INTERVAL;
                }
            }
        }
        let deadline = Instant::now() + look_in;
        if consensus.changed(&keys, index, deadline).await.index_of(&keys) == index {
            // Where too many wait already it does not wait.
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
}

async fn keep_files(files: &CertificateFiles, window: &Window) {
    let mut shown = None;
    loop {
        let asked = files.clone();
        match tokio::task::spawn_blocking(move || read(&asked)).await {
            Ok(Ok((certificate, content))) => {
                if shown != Some(content) {
                    window.show(&certificate);
                    shown = Some(content);
                }
                let (now, end) = (crypto::now(), certificate.not_after());
                let life = end.since(certificate.not_before());
                if end.since(now) < life / 3 {
                    warn!(
                        left_s = end.since(now).as_secs(),
                        "the operator's certificate of the API ends soon; renew its files"
                    );
                }
            }
            Ok(Err(error)) => warn!(error = wire::one_line(&error), "the API's certificate was not read again"),
            Err(error) => warn!(error = %error, "the API's certificate was not read again"),
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}
