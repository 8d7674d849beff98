//! Calls that leave the mesh: to instances that no agent stands before, of services whose entries say that they are outside.
//!
//! Nobody there knows who calls, and nobody proves who answers. So the rules for such a service are held to here, on the
//! caller's side, by the identity of the service that calls.

use std::sync::Arc;
use std::time::Duration;

use catalog::{AuditCause, Caller, Decision, Reason, ServiceKey, Timestamp, authorize};
use tokio::net::TcpStream;

use super::call_error::{CallError, ConnectError};
use super::endpoints::Chosen;
use super::tunnel::dial;
use super::{Call, Opened};
use crate::proxy::current::Current;
use crate::proxy::decide::Admission;
use crate::proxy::inbound::count;
use crate::proxy::refusal::Refusal;
use crate::proxy::room::Room;
use crate::proxy::snapshot::{Snapshot, Unfit};

/// Names a connection that has left the mesh: who calls whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Leaving {
    /// The local service that calls.
    pub(crate) owner: ServiceKey,
    /// The service that is called.
    pub(crate) destination: ServiceKey,
}

impl Leaving {
    /// Names the connection of a call to an instance.
    pub(crate) fn of(call: &Call, endpoint: &Chosen) -> Self {
        Self { owner: call.called.upstream.owner.clone(), destination: endpoint.service.clone() }
    }

    /// Decides whether the connection may stand, be it open already or not.
    pub(crate) fn decide(&self, snapshot: &Snapshot, now: Timestamp) -> Result<Admission, Refusal> {
        let undecidable = || Refusal::Undecidable { destination: self.destination.clone() };
        let own = snapshot.identities.get(&self.owner).ok_or_else(undecidable)?;
        if snapshot.revocations.cover_own(own) {
            return Err(Refusal::Unfit(Unfit::Revoked));
        }
        let policy = snapshot.external.get(&self.destination).ok_or_else(undecidable)?;
        let caller = Caller::from(snapshot.scheme.classify(own.id()));
        let verdict = authorize(policy, &caller, &self.destination, now);
        match verdict.decision {
            Decision::Allow => Ok(Admission { reason: verdict.reason, audit: None }),
            Decision::Deny if verdict.audit.is_some() => Ok(Admission { reason: verdict.reason, audit: verdict.audit }),
            Decision::Deny => Err(Refusal::Denied { reason: verdict.reason }),
            // Nobody reads requests in a stream of bytes.
            Decision::PerRequest => Err(undecidable()),
        }
    }
}

/// Opens a connection to an instance outside the mesh within so long, if the rules let the caller have it.
pub(super) async fn open(
    room: &Arc<Room>,
    call: &Call,
    endpoint: &Chosen,
    deadline: Duration,
) -> Result<Opened, CallError> {
    admit(room, &call.current, &Leaving::of(call, endpoint))?;
    let address = || endpoint.mesh_address.to_string();
    let connect = |source| CallError::Connect { address: address(), source: Arc::new(source) };
    let dialled: Result<TcpStream, ConnectError> = tokio::time::timeout(deadline, dial(room, &endpoint.mesh_address))
        .await
        .unwrap_or(Err(ConnectError::Timeout(deadline)));
    dialled.map(Opened::Outside).map_err(connect)
}

/// Decides and counts.
fn admit(room: &Room, current: &Current, leaving: &Leaving) -> Result<(), CallError> {
    let decided = leaving.decide(&current.snapshot, room.now());
    count(current, &leaving.destination, &decided, room.now());
    let Admission { reason, audit } = decided.map_err(CallError::Refused)?;
    if let Some(cause) = audit {
        note_audited(room, leaving, &reason, &cause);
    }
    Ok(())
}

fn note_audited(room: &Room, leaving: &Leaving, reason: &Reason, cause: &AuditCause) {
    room.metrics.audited(reason, cause);
    tracing::info!(
        direction = "outbound",
        service = %leaving.destination,
        source = %leaving.owner,
        intention = %reason,
        audited = cause.as_str(),
        reason = %cause,
        "connection out of the mesh let through although a rule denies it"
    );
}
