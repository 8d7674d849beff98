//! What the first leader writes: the mesh's facts and its certificate authority.

use std::sync::Arc;
use std::time::Duration;

use catalog::{Actor, Command, ENVELOPE_VERSION, Envelope, Mesh, Outcome, RequestId, ServerId};
use tracing::{info, warn};
use wire::cluster_key::ClusterKeys;
use wire::crypto;
use wire::one_line;

use super::Consensus;
use super::status::Role;
use super::transport::jittered;
use crate::ca;

const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// Sees to it that the mesh has its facts and a certificate authority, whenever this server leads; ends once it has both.
///
/// Two leaders may both try: the request ids are the same, so that the log takes the first.
pub(crate) async fn run(consensus: Consensus, mesh: Arc<Mesh>, server: ServerId, cluster_keys: ClusterKeys) {
    let mut standing = consensus.shared.standing.subscribe();
    loop {
        if standing.wait_for(|standing| standing.role == Role::Leader).await.is_err() {
            return;
        }
        if consensus.read_index().await.is_ok() {
            let catalog = consensus.catalog();
            if catalog.mesh().is_none() {
                let command = Command::Bootstrap { mesh: Mesh::clone(&mesh) };
                propose(&consensus, &server, format!("bootstrap-{}", mesh.cluster_id), command).await;
                continue;
            }
            if catalog.active_root().is_some() {
                return;
            }
            match ca::new_authority(&cluster_keys, &mesh.cluster_id, &mesh.trust_domain, crypto::now()) {
                Ok(command) => {
                    propose(&consensus, &server, format!("install-ca-{}", mesh.cluster_id), command).await;
                    continue;
                }
                Err(error) => warn!(error = one_line(&error), "no certificate authority yet"),
            }
        }
        tokio::time::sleep(jittered(RETRY_PAUSE)).await;
    }
}

async fn propose(consensus: &Consensus, server: &ServerId, request_id: String, command: Command) {
    let request_id: RequestId = request_id.parse().expect("a cluster id is a UUID, and leaves room for a word");
    let envelope = Envelope {
        version: ENVELOPE_VERSION,
        request_id: request_id.clone(),
        actor: Actor::Server(server.clone()),
        source_address: None,
        proposed_at: crypto::now(),
        command,
    };
    match consensus.propose(envelope).await {
        Ok(committed) => match committed.outcome {
            Outcome::Refused(refusal) => warn!(request_id = request_id.as_str(), error = %refusal, "write refused"),
            _ => info!(request_id = request_id.as_str(), index = committed.index.0, "mesh established"),
        },
        Err(error) => {
            warn!(request_id = request_id.as_str(), error = %error, "write did not come through");
            tokio::time::sleep(jittered(RETRY_PAUSE)).await;
        }
    }
}
