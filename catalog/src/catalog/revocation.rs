//! How certificates are revoked, many at once, and how that is forgotten when none is left.

use std::sync::Arc;

use super::{Attempt, Catalog, Touched};
use crate::{
    AccessorId, AgentId, AgentRecord, Attestation, AuthMethodName, Banned, CatalogIndex, DeregisterTarget, Outcome,
    Refusal, RevocationChange, RevokedService, ServiceKey, Timestamp, WatchKey,
};

impl Catalog {
    pub(super) fn change_revocations(
        &mut self,
        index: CatalogIndex,
        now: Timestamp,
        change: &RevocationChange,
        touched: &mut Touched,
    ) -> Attempt {
        match change {
            RevocationChange::Service { service } => Ok(self.revoke_service(index, now, service, touched)),
            RevocationChange::JoinToken { accessor } => self.revoke_join_token(index, accessor, touched),
            RevocationChange::Login { method, subject } => {
                Ok(self.revoke_login(index, method, subject.as_deref(), touched))
            }
            RevocationChange::Lift { banned } => self.lift(banned, touched),
            RevocationChange::LiftAgent { named } => self.lift_agent(named, touched),
            RevocationChange::Forget { agents, services } => {
                self.forget_revocations(agents, services, touched);
                Ok(Outcome::Done)
            }
        }
    }

    /// Refuses the certificates of a service whose agents are enrolled now, and takes their instances of it away.
    fn revoke_service(
        &mut self,
        index: CatalogIndex,
        now: Timestamp,
        service: &ServiceKey,
        touched: &mut Touched,
    ) -> Outcome {
        // The number of a record that is enrolled at this very index would not be below it; there is none.
        let below = self.number_at(index);
        let revoked = RevokedService { service: service.clone(), below, revoked_at: now };
        self.revoked_services.insert(service.clone(), Arc::new(revoked));
        touched.changed(WatchKey::Revocations);
        let hit: Vec<AgentRecord> = self.agent_records().filter(|record| record.entitles(service)).cloned().collect();
        let instances: Vec<_> = hit
            .iter()
            .filter(|record| self.holds_node(record))
            .flat_map(|record| self.instances_on(&record.node))
            .filter(|instance| instance.service_key() == *service)
            .map(|instance| instance.key.clone())
            .collect();
        for key in instances {
            let target = DeregisterTarget::Instance { namespace: key.namespace, id: key.id };
            self.remove(index, &key.node, &target, touched);
        }
        Outcome::Revoked { agents: count(&hit) }
    }

    fn revoke_join_token(&mut self, index: CatalogIndex, accessor: &AccessorId, touched: &mut Touched) -> Attempt {
        let came_of_it =
            |record: &AgentRecord| matches!(&record.attestation, Attestation::JoinToken(by) if by == accessor);
        let hit = self.end_agents_where(index, came_of_it, touched);
        for record in &hit {
            self.ban(Banned::Key { key: record.key.clone() }, Some(record.node.clone()), touched);
        }
        let agents = count(&hit);
        if self.join_tokens.remove(accessor).is_some() {
            touched.changed(WatchKey::JoinTokens);
        } else if agents == 0 {
            return Err(Refusal::not_found("join token", accessor));
        }
        Ok(Outcome::Revoked { agents })
    }

    /// Ends what an auth method let in, agents and API tokens, and keeps whom it vouches for from coming back: their
    /// platform would go on vouching for them.
    fn revoke_login(
        &mut self,
        index: CatalogIndex,
        method: &AuthMethodName,
        subject: Option<&str>,
        touched: &mut Touched,
    ) -> Outcome {
        let is_hit =
            |by: &str, whom: Option<&str>| by == method.as_str() && subject.is_none_or(|subject| whom == Some(subject));
        let came_of_it = |record: &AgentRecord| match &record.attestation {
            Attestation::Login { method: by, subject: whom } => is_hit(by.as_str(), Some(whom)),
            Attestation::JoinToken(_) => false,
        };
        let hit = self.end_agents_where(index, came_of_it, touched);
        for token in self.tokens.of_login(method.as_str(), subject) {
            self.tokens.remove(&token.accessor);
            touched.changed(WatchKey::Tokens);
        }
        self.ban(Banned::Login { method: method.clone(), subject: subject.map(str::to_owned) }, None, touched);
        Outcome::Revoked { agents: count(&hit) }
    }

    fn end_agents_where(
        &mut self,
        index: CatalogIndex,
        accepts: impl Fn(&AgentRecord) -> bool,
        touched: &mut Touched,
    ) -> Vec<AgentRecord> {
        let hit: Vec<AgentRecord> = self.agent_records().filter(|record| accepts(record)).cloned().collect();
        for record in &hit {
            self.end_agent(index, record, touched);
        }
        hit
    }

    fn forget_revocations(&mut self, agents: &[AgentId], services: &[RevokedService], touched: &mut Touched) {
        let mut is_news = false;
        for agent in agents {
            is_news |= self.revoked.remove(agent).is_some();
            self.revoked_at.remove(agent);
        }
        for service in services {
            if self.revoked_services.get(&service.service).is_some_and(|held| **held == *service) {
                self.revoked_services.remove(&service.service);
                is_news = true;
            }
        }
        if is_news {
            touched.changed(WatchKey::Revocations);
        }
    }

    /// Reports whether certificates of a service are refused where their agent was enrolled at `enrolled`.
    #[must_use]
    pub fn is_service_revoked(&self, service: &ServiceKey, enrolled: CatalogIndex) -> bool {
        self.revoked_services.get(service).is_some_and(|revoked| enrolled < revoked.below)
    }

    /// Returns the revoked services.
    pub fn revoked_services(&self) -> impl Iterator<Item = &RevokedService> {
        self.revoked_services.values().map(|revoked| &**revoked)
    }

    /// Returns the revoked agents, and when each was; those of a release that did not note it have none.
    pub fn revoked_agents(&self) -> impl Iterator<Item = (&AgentId, Option<Timestamp>)> {
        self.revoked.keys().map(|id| (id, self.revoked_at.get(id).copied()))
    }
}

fn count(records: &[AgentRecord]) -> u64 {
    u64::try_from(records.len()).unwrap_or(u64::MAX)
}
