//! How an agent logs in: what its platform says of it becomes an agent record, and the record the first certificate.

use axum::body::Body;
use catalog::{Actor, Admission, AgentRecord, Command, LoginChange, Outcome, Refusal};
use http::{Response, StatusCode};
use tracing::{info, warn};
use wire::agent_protocol::{JoinResponse, LoginRequest, MeshName, Subject};
use wire::crypto;
use wire::pki::{Csr, parse_csr};

use crate::agent_port::{AgentPort, Call, PortError, Turn, fresh_request_id, json, read_unproven};
use crate::ca::SignError;
use crate::consensus::{ProposeError, ReadError};
use crate::enrol::mesh_item;
use crate::login::{LoginFailed, Verified};
use crate::outage::Applicant;

/// A login whose rules change in the middle is judged again, and not for ever.
const ATTEMPTS_MAX: usize = 3;

/// `POST /v1/login`: admits the sender by the word of its platform, and signs its first certificate.
///
/// The credential is checked before anything is written, so that nobody fills the log without one.
pub(crate) async fn log_in(call: Call) -> Result<Response<Body>, PortError> {
    let Call { port, connection, request, .. } = call;
    let request: LoginRequest = read_unproven(&port, "login request", request.into_body()).await?;
    let csr = parse_csr(&request.csr).map_err(|error| PortError::Sign(SignError::Csr(error)))?;
    let source = connection.source();
    let result = match admit(&port, source, &request, &csr).await {
        Err(PortError::Read(ReadError::NoLeader { .. }) | PortError::Propose(ProposeError::NoLeader { .. }))
            if port.stands_in() =>
        {
            admit_alone(&port, source, &request, &csr).await.map(|record| (record, true))
        }
        result => result,
    };
    let result = result.map_err(|error| match error {
        PortError::Refused(refusal) => PortError::Login(LoginFailed::Refused(refusal)),
        error => error,
    });
    port.metrics().login(match &result {
        Ok(_) => "granted",
        Err(error) if error.status().is_server_error() => "unavailable",
        Err(_) => "refused",
    });
    let (record, is_provisional) = result.inspect_err(|error| {
        if let PortError::Login(failed) = error {
            port.logins().note(&request.method, Some(source), failed);
        }
    })?;
    let leaf = port.sign_leaf(&record, &Subject::Agent, &request.csr).await?;
    let catalog = port.consensus().catalog();
    let response = JoinResponse {
        mesh: mesh_item(&catalog)?,
        roots_pem: catalog.roots().map(|root| root.certificate_pem.clone()).collect(),
        leaf,
        servers: port.addresses(),
        record,
        provisional: is_provisional,
    };
    let record = &response.record;
    info!(agent = %record.id, node = %record.node, platform = %record.platform, method = %request.method,
        src.addr = %source, provisional = is_provisional, "agent logged in");
    Ok(json(StatusCode::OK, &response))
}

/// `POST /v1/mesh`: says which mesh this is, for whoever has its platform sign for it.
pub(crate) async fn name_mesh(call: Call) -> Result<Response<Body>, PortError> {
    let catalog = call.port.consensus().catalog();
    let cluster_id = catalog.mesh().ok_or(PortError::NotReady)?.cluster_id.clone();
    Ok(json(StatusCode::OK, &MeshName { cluster_id }))
}

/// Admits the agent through the log; whether this server alone did is the second part of the answer.
async fn admit(
    port: &AgentPort,
    source: std::net::SocketAddr,
    request: &LoginRequest,
    csr: &Csr,
) -> Result<(AgentRecord, bool), PortError> {
    if port.stands_in() {
        return admit_alone(port, source, request, csr).await.map(|record| (record, true));
    }
    for _ in 0..ATTEMPTS_MAX {
        // The rules are asked as they are after everything that was committed before now.
        port.consensus().read_index().await?;
        let verified = verify(port, source, request, csr).await?;
        port.take_turn(Turn::Joining)?;
        let change = LoginChange::Admit { admission: Box::new(admission(&verified, request, csr)) };
        let (actor, command) = (Actor::Login(request.method.clone()), Command::Login { change });
        let committed = port.propose(source, actor, fresh_request_id()?, command).await?;
        match committed.outcome {
            Outcome::Enrolled { record } => return Ok((*record, false)),
            Outcome::Refused(Refusal::LoginRulesChanged { .. }) => {}
            Outcome::Refused(refusal) => return Err(PortError::Refused(refusal)),
            other => return Err(PortError::Internal { reason: format!("a login was answered with {other:?}") }),
        }
    }
    Err(PortError::Refused(Refusal::LoginRulesChanged { method: request.method.clone() }))
}

/// Admits the agent by what this server knows; the mesh is asked when it can be.
async fn admit_alone(
    port: &AgentPort,
    source: std::net::SocketAddr,
    request: &LoginRequest,
    csr: &Csr,
) -> Result<AgentRecord, PortError> {
    let verified = verify(port, source, request, csr).await?;
    port.take_turn(Turn::Joining)?;
    let admission = admission(&verified, request, csr);
    let applicant = Applicant { admission, claims: verified.claims, now: crypto::now(), source: source.to_string() };
    let record = port.admit_alone(applicant).await?;
    warn!(agent = %record.id, node = %record.node, method = %request.method, src.addr = %source,
        "agent admitted without a quorum; the mesh is asked when it can be");
    Ok(record)
}

async fn verify(
    port: &AgentPort,
    source: std::net::SocketAddr,
    request: &LoginRequest,
    csr: &Csr,
) -> Result<Verified, PortError> {
    let catalog = port.consensus().catalog();
    let key = csr.fingerprint();
    let verified = port.logins().verify_agent(&catalog, &request.method, &request.bearer, key, source.ip()).await;
    verified.map_err(|error| match error {
        LoginFailed::Busy { retry_after } => PortError::Busy { turn: Turn::Joining, retry_after },
        error => PortError::Login(error),
    })
}

fn admission(verified: &Verified, request: &LoginRequest, csr: &Csr) -> Admission {
    Admission {
        method: verified.method.clone(),
        subject: verified.claims.subject.clone(),
        judged_at: verified.bound.judged_at,
        services: verified.bound.services.iter().cloned().collect(),
        gateway: verified.bound.gateway(),
        nodes: verified.bound.nodes.iter().cloned().collect(),
        bearer: verified.bearer.clone(),
        provisional: None,
        bearer_ends: verified.ends,
        is_of_one_key: verified.is_of_one_key,
        key: csr.fingerprint().clone(),
        node: request.node.clone(),
        platform: request.platform,
    }
}
