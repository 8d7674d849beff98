//! What follows an outage: the mesh is asked about everybody who was admitted without it.

use std::time::Duration;

use catalog::{
    Actor, Admission, Catalog, CatalogIndex, Command, ENVELOPE_VERSION, Envelope, LoginChange, Outcome, ServerId,
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{Held, Outage, fresh_request_id};
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
async fn settle_all(outage: &Outage, consensus: &Consensus, server: &ServerId, metrics: &Metrics) -> bool {
    consensus.led().await;
    if consensus.read_index().await.is_err() {
        return false;
    }
    let waiting: Vec<Held> = outage.state().held.values().cloned().collect();
    for held in waiting {
        if let Err(error) = settle_one(&held, consensus, server).await {
            warn!(node = %held.record.node, error = %error, "cannot tell the mesh of an agent that was admitted without it");
            return false;
        }
        let mut state = outage.state();
        // Whoever came again meanwhile as something else is settled next.
        if state.held.get(&held.record.key).is_some_and(|now| now.record.id == held.record.id) {
            state.held.remove(&held.record.key);
        }
        state.what_if = None;
        drop(state);
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
        Ok(admission) => {
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

/// Asks the binding rules once more. Whoever is something else by now logs in again.
fn judged_anew(held: &Held, catalog: &Catalog) -> Result<Admission, String> {
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
    Ok(Admission {
        judged_at: bound.judged_at,
        services,
        gateway,
        nodes,
        provisional: Some(held.record.enrolled),
        ..held.admission.clone()
    })
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
    /// Ends the sessions that were opened without the mesh: their agents come back for real ones.
    fn end_sessions(&self) {
        let mut state = self.state();
        if state.has_sessions {
            state.has_sessions = false;
            std::mem::replace(&mut state.sessions, CancellationToken::new()).cancel();
        }
    }
}
