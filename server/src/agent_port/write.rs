//! `POST /v1/write`: what an agent says of its own node.

use axum::body::Body;
use catalog::{Actor, AgentRecord, Command, Instance, Outcome, Owner};
use http::{Response, StatusCode};
use tracing::warn;
use wire::agent_protocol::{AgentWrite, WriteRequest, WriteResponse};

use super::refusal::PortError;
use super::route::{Call, json};
use super::stream::HELD;

/// Proposes the agent's write, once however often it is sent, and answers what the state machine made of it.
///
/// An agent writes at a pace of its own, with few writes under way: a faulty one takes neither the room before Raft nor the
/// remembered answers of others.
pub(super) async fn write(call: Call) -> Result<Response<Body>, PortError> {
    let record = call.agent()?.clone();
    let Call { port, connection, request, .. } = call;
    port.take_turn_at_writing(&record.id)?;
    let request: WriteRequest = super::read_json("write request", request.into_body()).await?;
    if request.command.incarnation() == HELD {
        return Err(PortError::SessionHeld);
    }
    let request_id = super::request_id_of(&record.id, &request.request_id)?;
    let command = own_command(&record, request.command)?;
    let _under_way = port.room_for_write(&record.node)?;
    let committed = port.propose(connection.source(), Actor::Agent(record.id.clone()), request_id, command).await?;
    if let Outcome::Refused(refusal) = &committed.outcome {
        // An answer, not an error: the agent learns from it what to write next. It is counted like every refusal.
        let refused = PortError::Refused(refusal.clone());
        port.metrics.agent_port_refused(refused.label());
        let error = wire::harmless(&refused.to_string());
        warn!(agent = %record.id, node = %record.node, reason = refused.label(), error, "write of an agent refused");
    }
    Ok(json(StatusCode::OK, &WriteResponse { index: committed.index, outcome: committed.outcome }))
}

/// Turns a write into a command about the agent's own node, in its own name, for services that its record names.
///
/// Whether its session is still the current one only the state machine can tell.
fn own_command(record: &AgentRecord, write: AgentWrite) -> Result<Command, PortError> {
    if let AgentWrite::UpdateChecks { updates, .. } = &write
        && let Some(foreign) = updates.iter().find(|update| update.key.node != record.node)
    {
        return Err(PortError::ForeignNode { own: record.node.clone(), node: foreign.key.node.clone() });
    }
    if let Some(node) = write.node().filter(|node| **node != record.node) {
        return Err(PortError::ForeignNode { own: record.node.clone(), node: node.clone() });
    }
    if let AgentWrite::Drain { agent, .. } = &write
        && *agent != record.id
    {
        return Err(PortError::RecordGone { node: record.node.clone() });
    }
    let mut command = write.into_command();
    if let Command::Register { node, instances, incarnation, .. } = &mut command {
        if let Some(service) = instances.iter().map(Instance::service_key).find(|service| !record.entitles(service)) {
            return Err(PortError::NotEntitled { node: record.node.clone(), service });
        }
        // What the record says of the node is not the agent's to choose.
        node.owner = Owner::Agent(record.id.clone());
        node.platform = record.platform;
        node.incarnation = *incarnation;
    }
    Ok(command)
}
