//! What follows an outage: the mesh is asked about everybody who was admitted without it.

use std::time::Duration;

use catalog::{
    Actor, Admission, AgentRecord, Catalog, CatalogIndex, Command, ENVELOPE_VERSION, Envelope, LoginChange, Outcome,
    ServerId,
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use wire::crypto;

use super::journal::Entry;
use super::{Held, Outage, PROVISIONAL_LEAF_TTL, STANDING_IN_MAX, fresh_request_id};
use crate::consensus::{Consensus, ProposeError};
use crate::metrics::Metrics;

/// How long to wait where the mesh went away again in the middle.
const RETRY: Duration = Duration::from_secs(1);

/// Tells the mesh of everybody who was admitted without it, as soon as it can be asked. Never returns.
pub(crate) async fn settle(outage: &Outage, consensus: &Consensus, server: &ServerId, metrics: &Metrics) {
    loop {
        outage.pending.notified().await;
        // Agents that are admitted meanwhile leave a notification behind.
        while !settle_all(outage, consensus, server, metrics).await {
            tokio::time::sleep(RETRY).await;
        }
    }
}

/// Settles everybody who is held now; false where the mesh went away before that.
pub(super) async fn settle_all(outage: &Outage, consensus: &Consensus, server: &ServerId, metrics: &Metrics) -> bool {
    consensus.led().await;
    if consensus.read_index().await.is_err() {
        return false;
    }
    outage.drop_what_is_over(&consensus.catalog());
    metrics.agents_provisional(outage.len());
    // In the order of their admissions: whoever came to a node last is there now.
    let waiting = outage.state().in_order();
    for held in waiting {
        if let Err(error) = settle_one(&held, consensus, server).await {
            warn!(node = %held.record.node, error = %error, "cannot tell the mesh of an agent that was admitted without it");
            return false;
        }
        outage.is_settled(&held);
        metrics.agents_provisional(outage.len());
    }
    outage.end_sessions();
    true
}

/// Has the mesh decide about one agent; whoever does not hold is revoked.
async fn settle_one(held: &Held, consensus: &Consensus, server: &ServerId) -> Result<(), ProposeError> {
    let (node, agent) = (&held.record.node, &held.record.id);
    for &superseded in &held.superseded {
        revoke(held, superseded, consensus, server).await?;
    }
    let why = match judged_anew(held, &consensus.catalog()) {
        Ok(None) => return Ok(()),
        Ok(Some(admission)) => {
            let actor = Actor::Login(admission.method.clone());
            let change = LoginChange::Admit { admission: Box::new(admission) };
            // The time is that of the admission: the credential counted then.
            match propose(consensus, actor, change, held).await? {
                Outcome::Refused(refusal) => refusal.to_string(),
                _ => {
                    info!(%node, "agent admitted without a quorum; the mesh has agreed");
                    return Ok(());
                }
            }
        }
        Err(why) => why,
    };
    warn!(%node, %agent, reason = why, "agent admitted without a quorum; the mesh has not agreed, and it is revoked");
    revoke(held, held.record.enrolled, consensus, server).await
}

/// Has what was given to an agent under a number refused from now on.
async fn revoke(
    held: &Held,
    enrolled: CatalogIndex,
    consensus: &Consensus,
    server: &ServerId,
) -> Result<(), ProposeError> {
    let change = LoginChange::RevokeProvisional { enrolled };
    if let Outcome::Refused(refusal) = propose(consensus, Actor::Server(server.clone()), change, held).await? {
        warn!(node = %held.record.node, %enrolled, error = %refusal, "cannot revoke what an agent was given without a quorum");
    }
    Ok(())
}

/// Asks the binding rules once more. Whoever is something else by now logs in again; none where the mesh has decided already,
/// before this server ended and could note that.
fn judged_anew(held: &Held, catalog: &Catalog) -> Result<Option<Admission>, String> {
    let number = held.record.enrolled;
    let there = catalog.agent_by_key(&held.record.key);
    if catalog.is_revoked(number) || there.is_some_and(|record| record.earlier.contains(&number)) {
        return Ok(None);
    }
    if let Some(since) = catalog.agent_on(&held.record.node).or(there).filter(|since| came_since(since, held, catalog))
    {
        return Err(format!("an agent was admitted to node `{}` since", since.node));
    }
    let name = &held.admission.method;
    let method = catalog.auth_method(name).ok_or_else(|| format!("auth method `{name}` is gone"))?;
    if method.modified > held.admission.judged_at {
        return Err(format!("auth method `{name}` is another one now"));
    }
    let bound = catalog.bind(name, &held.claims).map_err(|refusal| refusal.to_string())?;
    let gateway = bound.gateway();
    let services: Vec<_> = bound.services.into_iter().collect();
    if services != held.record.services {
        return Err("its binding rules give it other services now".to_owned());
    }
    if gateway != held.record.gateway {
        return Err("its binding rules say something else of its being a gateway now".to_owned());
    }
    let nodes = bound.nodes.into_iter().collect();
    Ok(Some(Admission {
        judged_at: bound.judged_at,
        services,
        gateway,
        nodes,
        provisional: Some(number),
        ..held.admission.clone()
    }))
}

/// Reports whether the mesh itself admitted an agent after this server judged the other one, as something else: that one is
/// there by now. Of two that servers admitted alone, neither is known to be the later.
fn came_since(since: &AgentRecord, held: &Held, catalog: &Catalog) -> bool {
    let judged_at = catalog.number_at(held.admission.judged_at);
    let own = &held.record;
    let is_the_same = since.key == own.key
        && since.services == own.services
        && since.gateway == own.gateway
        && since.platform == own.platform
        && since.attestation == own.attestation;
    let is_of_the_mesh = since.enrolled > judged_at && since.earlier.iter().all(|number| *number > judged_at);
    is_of_the_mesh && !is_the_same
}

async fn propose(
    consensus: &Consensus,
    actor: Actor,
    change: LoginChange,
    held: &Held,
) -> Result<Outcome, ProposeError> {
    let envelope = Envelope {
        version: ENVELOPE_VERSION,
        request_id: fresh_request_id(),
        actor,
        source_address: Some(held.source.clone()),
        proposed_at: held.admitted_at,
        command: Command::Login { change },
    };
    Ok(consensus.propose(envelope).await?.outcome)
}

impl Outage {
    /// The mesh has decided about an agent.
    fn is_settled(&self, held: &Held) {
        let mut state = self.state();
        // Whoever came again meanwhile as something else is settled next.
        if state.held.get(&held.record.key).is_some_and(|now| now.record.id == held.record.id) {
            state.held.remove(&held.record.key);
        }
        state.what_if = None;
        self.note(&mut state, Entry::Settled(held.record.enrolled));
        drop(state);
        self.unwritten.notify_one();
    }

    /// Drops of those whom an earlier process admitted who is of another mesh, and of whom no certificate can be left by either
    /// clock.
    fn drop_what_is_over(&self, catalog: &Catalog) {
        let cluster_id = catalog.mesh().map(|mesh| mesh.cluster_id.as_str());
        let (clock, now) = (catalog.clock(), crypto::now());
        let is_over = |held: &Held| {
            let end = held.admitted_at.saturating_add(STANDING_IN_MAX + PROVISIONAL_LEAF_TTL);
            Some(held.cluster_id.as_str()) != cluster_id || (end < clock && end < now)
        };
        let over: Vec<Held> =
            self.state().held.values().filter(|held| held.is_recovered && is_over(held)).cloned().collect();
        over.iter().for_each(|held| self.is_settled(held));
    }

    /// Ends the sessions that were opened without the mesh: their agents come back for real ones.
    fn end_sessions(&self) {
        let mut state = self.state();
        if state.has_sessions {
            state.has_sessions = false;
            std::mem::replace(&mut state.sessions, CancellationToken::new()).cancel();
        }
    }
}
