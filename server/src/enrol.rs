//! How an agent joins: a join token and a key become an agent record, and the record the first certificate.

use axum::body::Body;
use catalog::{
    Actor, Catalog, Command, Item, JoinToken, KeyFingerprint, MeshItem, Outcome, Refusal, SecretHash, Timestamp, Topic,
};
use http::{Response, StatusCode};
use tracing::info;
use wire::agent_protocol::{JoinRequest, JoinResponse, Subject};
use wire::crypto;
use wire::pki::parse_csr;

use crate::agent_port::{AgentPort, Call, PortError, Turn, fresh_request_id, json, read_unproven};
use crate::ca::SignError;

/// `POST /v1/join`: enrols the sender and signs its first certificate.
///
/// The state machine decides, so that a token counts once however many servers it is shown to; a retry with the same key
/// is answered with the same record. Who has no token that counts takes nobody's turn.
pub(crate) async fn join(call: Call) -> Result<Response<Body>, PortError> {
    let Call { port, connection, request, .. } = call;
    let request: JoinRequest = read_unproven(&port, "join request", request.into_body()).await?;
    let csr = parse_csr(&request.csr).map_err(|error| PortError::Sign(SignError::Csr(error)))?;
    let secret = crypto::secret_hash(&request.secret);
    check_token(&port, &secret, csr.fingerprint()).await?;
    port.take_turn(Turn::Joining)?;
    let command = Command::Enrol {
        secret,
        key: csr.fingerprint().clone(),
        node: request.node.clone(),
        platform: request.platform,
    };
    let committed = port.propose(connection.source(), Actor::Join, fresh_request_id()?, command).await?;
    let record = match committed.outcome {
        Outcome::Enrolled { record } => *record,
        Outcome::Refused(refusal) => return Err(PortError::Refused(refusal)),
        other => return Err(PortError::Internal { reason: format!("enrolling was answered with {other:?}") }),
    };
    let leaf = port.sign_leaf(&record, &Subject::Agent, &request.csr).await?;
    let catalog = port.consensus().catalog();
    let response = JoinResponse {
        mesh: mesh_item(&catalog)?,
        roots_pem: catalog.trust_bundles().into_iter().flat_map(|bundle| bundle.roots_pem).collect(),
        leaf,
        servers: port.addresses(),
        record,
        provisional: false,
    };
    let record = &response.record;
    info!(agent = %record.id, node = %record.node, platform = %record.platform, src.addr = %connection.source(),
        index = committed.index.0, "agent enrolled");
    Ok(json(StatusCode::OK, &response))
}

/// Refuses a token that cannot count before anything is written to the log: whoever can reach the port could fill it.
///
/// What passes here is judged again when the command is applied.
async fn check_token(port: &AgentPort, secret: &SecretHash, key: &KeyFingerprint) -> Result<(), PortError> {
    let now = crypto::now();
    if judge(&port.consensus().catalog(), secret, key, now).is_ok() {
        return Ok(());
    }
    // The token may have been made a moment ago through another server.
    port.consensus().read_index().await?;
    judge(&port.consensus().catalog(), secret, key, now).map_err(PortError::Refused)
}

/// Judges a token by itself; where it counts for another node, and what else the state holds, is for the state machine.
fn judge(catalog: &Catalog, secret: &SecretHash, key: &KeyFingerprint, now: Timestamp) -> Result<(), Refusal> {
    match catalog.join_token_by_secret(secret) {
        None => Err(Refusal::JoinTokenUnknown),
        Some(JoinToken { used_by: Some(used_by), .. }) if used_by != key => Err(Refusal::JoinTokenUsed),
        Some(JoinToken { used_by: Some(_), .. }) => Ok(()),
        Some(token) if now >= token.expires_at => Err(Refusal::JoinTokenExpired),
        Some(_) => Ok(()),
    }
}

/// Returns the mesh as agents are told of it.
pub(crate) fn mesh_item(catalog: &Catalog) -> Result<MeshItem, PortError> {
    match catalog.view(&Topic::Mesh).into_values().next() {
        Some(Item::Mesh(mesh)) => Ok(*mesh),
        Some(_) | None => Err(PortError::NotReady),
    }
}
