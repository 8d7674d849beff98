//! The machine's shell: it looks at regular times, and proposes what follows.

use std::time::Duration;

use catalog::{AgentRecord, Command, Outcome, ServerId, SessionChange};
use tokio::time::{Instant, MissedTickBehavior};
use tracing::{debug, info, warn};
use wire::crypto;

use super::{Periods, Seen, Sessions};
use crate::consensus::{Consensus, Role};
use crate::hub::shell::HubClient;
use crate::metrics::Metrics;

/// It looks at least this often, however long the periods are.
const LOOK_MAX: Duration = Duration::from_secs(2);
/// It looks at most this often.
const LOOK_MIN: Duration = Duration::from_millis(50);

/// Watches over sessions until the hub ends, which is when the server stops.
pub(crate) async fn watch(server: ServerId, periods: Periods, hub: HubClient, consensus: Consensus, metrics: Metrics) {
    let mut machine = Sessions::new(server, periods);
    let started = Instant::now();
    let mut looks = tokio::time::interval((periods.grace / 5).clamp(LOOK_MIN, LOOK_MAX));
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        let Ok(open) = hub.open_sessions().await else { return };
        let leads = consensus.status().role == Role::Leader;
        let heard = leads.then(|| consensus.servers_heard());
        let catalog = consensus.catalog();
        let seen = Seen { catalog: &catalog, open: &open, heard: heard.as_ref(), clock: crypto::now() };
        let was_holding = machine.is_holding();
        let commands = machine.step(&seen, started.elapsed());
        if machine.is_holding() && !was_holding {
            warn!("more than half of all agents are away: their nodes stay in the catalog until fewer are");
        }
        let is_away = |record: &&AgentRecord| record.presence.lost_at.is_some() && catalog.holds_node(record);
        let away = catalog.agent_records().filter(is_away).count();
        metrics.agents_away(away, machine.is_holding());
        for command in commands {
            carry_out(&consensus, &metrics, command).await;
        }
    }
}

async fn carry_out(consensus: &Consensus, metrics: &Metrics, command: Command) {
    let (said, count) = match &command {
        Command::Sessions { change: SessionChange::Lost { sessions } } => ("lost", sessions.len()),
        Command::Sessions { change: SessionChange::Reaped { sessions } } => ("reaped", sessions.len()),
        Command::Sessions { change: SessionChange::Ended { sessions } } => ("ended", sessions.len()),
        Command::Sessions { change: SessionChange::Unused { agents } } => ("unused", agents.len()),
        _ => ("forgotten", 0),
    };
    match consensus.propose_as_server(command).await.map(|committed| committed.outcome) {
        Ok(Outcome::Refused(refusal)) => warn!(error = %refusal, "sessions not reported"),
        Ok(_) => {
            metrics.sessions_reported(said, count);
            info!(count, reason = said, "sessions reported");
        }
        // Without a leader nobody can be told; what holds then is reported again.
        Err(error) => debug!(error = %error, "sessions not reported yet"),
    }
}
