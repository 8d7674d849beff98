//! What the port shows at the handshake, kept up to date: the server's own certificate and the roots that it trusts.

use std::sync::Arc;
use std::time::Duration;

use catalog::{Catalog, Timestamp, WatchKey};
use tokio::time::Instant;
use tracing::{info, warn};
use wire::crypto;
use wire::tls::TrustAnchors;

use super::AgentPort;
use super::expiry;
use crate::ca::SignError;
use catalog::Lifetime;

/// The longest that this server goes without looking at its certificate, however the wall clock jumps.
const LOOK_INTERVAL: Duration = Duration::from_secs(600);
/// How soon a failed attempt is repeated.
const RETRY_INTERVAL: Duration = Duration::from_secs(10);

/// Makes the port's certificate as soon as the mesh can sign one, and anew at the middle of its life and whenever the
/// certificate authority changes. Never returns.
pub(super) async fn keep(port: &AgentPort) {
    let keys = [WatchKey::Roots, WatchKey::Mesh];
    let mut shown = None;
    loop {
        let catalog = port.consensus.catalog();
        let index = catalog.index_of(&keys);
        let now = crypto::now();
        let look_in = match renew(port, &catalog, now) {
            Ok((lifetime, renew_at)) => {
                shown = Some(lifetime);
                info!(server = %port.server, index = index.0, "certificate of the port for agents made");
                renew_at.since(now).clamp(RETRY_INTERVAL, LOOK_INTERVAL.max(renew_at.since(now)))
            }
            Err(RenewError::Sign(SignError::NotReady)) => LOOK_INTERVAL,
            Err(error) => {
                warn!(server = %port.server, error = %error, "cannot make the certificate of the port for agents");
                RETRY_INTERVAL
            }
        };
        expiry::tell(port, &catalog, shown, now);
        wait(port, &keys, index, look_in).await;
    }
}

/// Waits until the certificate authority changes or `look_in` has passed by the wall clock, which may jump.
async fn wait(port: &AgentPort, keys: &[WatchKey], index: catalog::CatalogIndex, look_in: Duration) {
    let until = crypto::now().saturating_add(look_in);
    loop {
        let left = until.since(crypto::now());
        if left.is_zero() {
            return;
        }
        let deadline = Instant::now() + left.min(LOOK_INTERVAL);
        if port.consensus.changed(keys, index, deadline).await.index_of(keys) != index {
            return;
        }
        // Where too many wait already it does not wait.
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

#[derive(Debug, thiserror::Error)]
enum RenewError {
    #[error("{0}")]
    Sign(#[from] SignError),
    #[error("the mesh's roots cannot be used: {0}")]
    Anchors(#[from] wire::tls::AnchorError),
}

/// Makes a certificate, shows it to new connections, and returns its lifetime and when to make the next one.
fn renew(port: &AgentPort, catalog: &Catalog, now: Timestamp) -> Result<(Lifetime, Timestamp), RenewError> {
    let identity = port.authority.server_identity(catalog, &port.server, now)?;
    let anchors = TrustAnchors::from_bundles(&catalog.renewal_bundles())?;
    let config = wire::tls::agent_port_server_config(Arc::new(anchors), identity.tls.resolver());
    port.tls.store(Some(Arc::new(config)));
    Ok((Lifetime { begin: now, end: identity.tls.not_after() }, identity.renew_at))
}
