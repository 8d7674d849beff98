//! What agents tell of what they see, as soft state: the last report of each agent whose session is here.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use catalog::{AgentId, Catalog, ServerId};
use wire::report::{AgentReport, PAIRS_MAX, RULES_MAX, Seen, SeenBuilder};

/// Rules and pairs that are held of all agents together: some tens of megabytes.
const ROWS_MAX: usize = 400_000;
/// Rules, and pairs, that one server tells of at once.
pub(crate) const ROWS_TOLD_MAX: usize = 10_000;
/// Services that one agent may say it watches.
const WATCHED_MAX: usize = 1_000;

/// Says why a report was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotTaken {
    /// It tells of more than an agent may.
    #[error("it tells of more than {RULES_MAX} rules, {PAIRS_MAX} pairs or {WATCHED_MAX} services")]
    TooLong,
    /// It tells of a service that is none of the agent's.
    #[error("it tells of a service that the agent does not stand before")]
    Foreign,
    /// There is no room for it.
    #[error("this server holds as much as it may of what agents saw")]
    Full,
}

/// Holds the last report of each agent.
#[derive(Debug, Default)]
pub(crate) struct Reports {
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    by_agent: BTreeMap<AgentId, AgentReport>,
    rows: usize,
}

impl Reports {
    /// Takes what an agent tells; it stands for all that it told before.
    ///
    /// # Errors
    /// [`NotTaken`]; what the agent told before stays.
    pub(crate) fn take(
        &self,
        catalog: &Catalog,
        server: &ServerId,
        agent: &AgentId,
        report: AgentReport,
    ) -> Result<(), NotTaken> {
        let pairs = report.pairs.len() + report.outside.len();
        let is_short = report.rules.len() <= RULES_MAX && pairs <= PAIRS_MAX && report.watched.len() <= WATCHED_MAX;
        if !is_short {
            return Err(NotTaken::TooLong);
        }
        // An agent speaks of its own services alone: it could whitewash the rules of others.
        let is_own = catalog.agent_record(agent).is_some_and(|record| {
            let rules = report.rules.iter().map(|rule| Some(&rule.destination));
            let pairs = report.pairs.iter().chain(&report.outside).map(|used| used.pair.seen_by());
            let mut told_of = report.watched.iter().map(Some).chain(rules).chain(pairs);
            told_of.all(|service| service.is_some_and(|service| record.entitles(service)))
        });
        if !is_own {
            return Err(NotTaken::Foreign);
        }
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.rows_with(agent, &report) > ROWS_MAX {
            held.forget_those_elsewhere(catalog, server);
        }
        let rows = held.rows_with(agent, &report);
        if rows > ROWS_MAX {
            return Err(NotTaken::Full);
        }
        held.rows = rows;
        held.by_agent.insert(agent.clone(), report);
        Ok(())
    }

    /// Joins what the agents tell whose sessions are here.
    pub(crate) fn seen(&self, catalog: &Catalog, server: &ServerId) -> Seen {
        let mut joined = SeenBuilder::default();
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.forget_those_elsewhere(catalog, server);
        held.by_agent.values().for_each(|report| joined.add(report));
        drop(held);
        joined.finish(ROWS_TOLD_MAX)
    }
}

impl Held {
    /// Returns how many rows are held once an agent has told this.
    fn rows_with(&self, agent: &AgentId, report: &AgentReport) -> usize {
        self.rows - self.by_agent.get(agent).map_or(0, rows) + rows(report)
    }

    /// Forgets agents whose record has ended, or whose session is another server's: they tell that one.
    fn forget_those_elsewhere(&mut self, catalog: &Catalog, server: &ServerId) {
        let is_here =
            |agent: &AgentId| catalog.agent_record(agent).is_some_and(|record| record.server.as_ref() == Some(server));
        self.by_agent.retain(|agent, _| is_here(agent));
        self.rows = self.by_agent.values().map(rows).sum();
    }
}

fn rows(report: &AgentReport) -> usize {
    report.rules.len() + report.pairs.len() + report.outside.len() + report.watched.len()
}

#[cfg(test)]
mod tests {
    use catalog::{KeyExchange, ServiceKey, Timestamp};
    use wire::report::{Link, Pair, PairSource, PairUse, RuleName, RuleUse};

    use super::*;
    use crate::agent_port::tests::rig::{Enrolled, Rig};

    fn service(name: &str) -> ServiceKey {
        name.parse().unwrap()
    }

    fn report(destination: &str, opened: u64) -> AgentReport {
        let (source, link) = (PairSource::Service(service("web")), KeyExchange::Hybrid.into());
        let pair = Pair { destination: service(destination), source, link };
        let (rule, last) = (RuleName::Default, Timestamp(7));
        AgentReport {
            since: Timestamp(5),
            watched: vec![service(destination)],
            rules: vec![RuleUse { destination: service(destination), rule, allowed: 0, denied: 2, last }],
            pairs: vec![PairUse { pair, opened, last }],
            outside: Vec::new(),
            left_out: 0,
        }
    }

    async fn tell(rig: &Rig, agent: &Enrolled, report: &AgentReport) -> http::StatusCode {
        rig.connect_as(&agent.identity).await.post("/v1/report", report).await.0
    }

    #[tokio::test]
    async fn the_last_report_of_an_agent_counts_for_as_long_as_its_session_is_here() {
        let rig = Rig::start().await;
        let agent = rig.enrol("n1", &["api"]).await;
        let (session, _) = rig.connect_as(&agent.identity).await.session().await;
        for opened in [1, 4] {
            assert_eq!(tell(&rig, &agent, &report("api", opened)).await, http::StatusCode::OK);
        }
        let told = rig.consensus().seen_by_all().await;
        assert_eq!((told.seen.pairs[0].opened, told.silent), (4, Vec::new()));
        assert_eq!((told.seen.rules[0].denied, told.seen.watched[0].agents), (2, 1));
        drop(session);
        let catalog::Attestation::JoinToken(accessor) = agent.record.attestation.clone() else { panic!("no token") };
        let revoke = catalog::RevocationChange::JoinToken { accessor };
        rig.write(catalog::Command::Revoke { change: revoke }).await;
        assert_eq!(rig.consensus().seen_by_all().await.seen, Seen::default());
    }

    #[tokio::test]
    async fn an_agent_tells_of_its_own_services_alone_and_within_bounds() {
        let rig = Rig::start().await;
        let agent = rig.enrol("n1", &["api"]).await;
        let (_session, _) = rig.connect_as(&agent.identity).await.session().await;
        assert_eq!(tell(&rig, &agent, &report("db", 1)).await, http::StatusCode::BAD_REQUEST);
        let mut long = report("api", 1);
        long.pairs = vec![long.pairs[0].clone(); PAIRS_MAX + 1];
        assert_eq!(tell(&rig, &agent, &long).await, http::StatusCode::BAD_REQUEST);
        let outside = |source: &str| {
            let source = PairSource::Service(service(source));
            let pair = Pair { destination: service("legacy"), source, link: Link::Outside };
            AgentReport { outside: vec![PairUse { pair, opened: 1, last: Timestamp(7) }], ..report("api", 1) }
        };
        assert_eq!(tell(&rig, &agent, &outside("db")).await, http::StatusCode::BAD_REQUEST);
        assert_eq!(rig.consensus().seen_by_all().await.seen, Seen::default());
        // Who calls out of the mesh is seen by the caller's agent, and by no other.
        assert_eq!(tell(&rig, &agent, &outside("api")).await, http::StatusCode::OK);
        assert_eq!(rig.consensus().seen_by_all().await.seen.outside, outside("api").outside);
    }
}
