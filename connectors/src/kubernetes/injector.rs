//! The injector of a cluster: a webhook that the API server asks about every new pod of the namespaces that are labelled.
//!
//! It is a program of its own beside the connector, for it needs other rights: one secret and one webhook configuration, by
//! their names, and nothing else.

mod authority;
mod keep;
mod review;
mod serve;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use kube::Api;
use rustls::ServerConfig;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};
use wire::api_name::ApiName;
use wire::tls::api_server_config;

use super::cluster::{self, ClusterError};
use super::inject::Settings;
use authority::{Authority, Task};
use keep::Place;
use serve::{Shared, serve};

pub use serve::{INJECT_MAY_BYPASS_PATH, INJECT_PATH};

/// How often the cluster is looked at: what somebody overwrote there keeps pods from being made for no longer.
const PERIOD: Duration = Duration::from_secs(10);

/// So often without a pause, for writes that somebody else's overtook; to begin with takes three.
const LOOKS_MAX: u32 = 6;

/// Tells an injector where it is.
#[derive(Debug, Clone)]
pub struct InjectorConfig {
    /// Where it listens.
    pub listen: SocketAddr,
    /// The namespace of its service and of its secret.
    pub namespace: String,
    /// The service by which the API server calls it.
    pub service: String,
    /// The secret that holds its authority; it must exist, and may be empty.
    pub secret: String,
    /// The webhook configuration that it tells its authority; it must exist.
    pub configuration: String,
}

/// Why an injector cannot run.
#[derive(Debug, thiserror::Error)]
pub enum InjectorError {
    /// Its name cannot stand in a certificate.
    #[error("service `{service}` in namespace `{namespace}` cannot be called by name")]
    Name {
        /// The service.
        service: String,
        /// Its namespace.
        namespace: String,
    },
    /// There is no cluster to talk to.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

/// Is a running injector; dropping it stops it.
#[derive(Debug)]
pub struct Injector {
    address: SocketAddr,
    stopping: CancellationToken,
    serving: AbortOnDropHandle<()>,
    _keeping: AbortOnDropHandle<()>,
}

impl Injector {
    /// Starts to listen; questions are answered once the API server knows the injector's authority and `settings` are there.
    ///
    /// # Errors
    ///
    /// [`InjectorError`] says what is wrong with where it is.
    pub async fn start(
        config: InjectorConfig,
        settings: watch::Receiver<Option<Arc<Settings>>>,
    ) -> Result<Self, InjectorError> {
        let (client, _) = cluster::client().await?;
        Self::with_client(client, config, settings).await
    }

    async fn with_client(
        client: kube::Client,
        config: InjectorConfig,
        settings: watch::Receiver<Option<Arc<Settings>>>,
    ) -> Result<Self, InjectorError> {
        let name = || InjectorError::Name { service: config.service.clone(), namespace: config.namespace.clone() };
        let host: ApiName = format!("{}.{}.svc", config.service, config.namespace).parse().map_err(|_| name())?;
        let configurations: Api<MutatingWebhookConfiguration> = Api::all(client.clone());
        let secrets = Api::namespaced(client, &config.namespace);
        let place = Place { secrets, secret: config.secret, configurations, configuration: config.configuration };
        let failed = |source| InjectorError::Listen { address: config.listen, source };
        let listener = TcpListener::bind(config.listen).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let (show, shown) = watch::channel(None);
        let stopping = CancellationToken::new();
        let serving =
            AbortOnDropHandle::new(tokio::spawn(serve(listener, Shared::new(shown, settings), stopping.clone())));
        let keeping = AbortOnDropHandle::new(tokio::spawn(keep(place, Authority::new(vec![host]), show)));
        info!(listen = %address, "injector started");
        Ok(Self { address, stopping, serving, _keeping: keeping })
    }

    /// Returns where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes no more questions, and answers those that are there.
    pub async fn drain(self) {
        self.stopping.cancel();
        // A task that panicked has nothing left to finish.
        let _ended = self.serving.await;
    }
}

/// Looks at the cluster again and again, and does what there is to do.
async fn keep(place: Place, mut authority: Authority, show: watch::Sender<Option<Arc<ServerConfig>>>) {
    let (mut failed_with, mut looks) = (String::new(), 0);
    loop {
        match once(&place, &mut authority, &show).await {
            Ok(true) if looks < LOOKS_MAX => {
                looks += 1;
                continue;
            }
            Ok(true) => {}
            Ok(false) => failed_with.clear(),
            Err(error) => {
                let error = wire::one_line(&*error).to_string();
                // Once for each reason, for it may last.
                if error != failed_with {
                    warn!(error, "the injector's certificate is not kept; what is shown goes on being shown");
                    failed_with = error;
                }
            }
        }
        looks = 0;
        tokio::time::sleep(PERIOD).await;
    }
}

/// Looks once; whether another look is due at once.
async fn once(
    place: &Place,
    authority: &mut Authority,
    show: &watch::Sender<Option<Arc<ServerConfig>>>,
) -> Result<bool, Box<dyn std::error::Error + Send + Sync>> {
    let look = place.look().await?;
    let Some(task) = authority.step(&look.seen(), wire::crypto::now())? else { return Ok(false) };
    match &task {
        Task::Show(certificate) => {
            info!(until = certificate.not_after().to_string(), "new certificate for the API server");
            show.send_replace(Some(Arc::new(api_server_config(certificate))));
        }
        Task::Keep(_) | Task::Tell(_) => {
            let is_written = place.write(look, &task).await?;
            let what = if matches!(task, Task::Keep(_)) { "root" } else { "bundle" };
            info!(what, is_written, "injector's authority written");
        }
    }
    Ok(true)
}
