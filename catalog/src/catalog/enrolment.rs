//! How join tokens become agent records, and how these live and end.

use std::{sync::Arc, time::Duration};

use super::{Attempt, Catalog, Touched};
use crate::{
    AgentId, AgentRecord, Attestation, Banned, CatalogIndex, DeregisterTarget, Incarnation, JoinToken, KeyFingerprint,
    NodeName, Outcome, Owner, Platform, Presence, Refusal, SecretHash, ServerId, Timestamp, WatchKey,
};

/// How long a join token is kept after its end, so that whoever comes with it is told what is wrong with it.
const SPENT_JOIN_TOKEN_KEPT: Duration = Duration::from_secs(24 * 3600);

/// How many indexes an agent's record holds beside its own.
const EARLIER_MAX: usize = 16;

impl Catalog {
    #[expect(clippy::too_many_arguments, reason = "they are the fields of one command")]
    pub(super) fn enrol(
        &mut self,
        index: CatalogIndex,
        now: Timestamp,
        secret: &SecretHash,
        key: &KeyFingerprint,
        node: &NodeName,
        platform: Platform,
        touched: &mut Touched,
    ) -> Attempt {
        let token = self.join_token_by_secret(secret).cloned().ok_or(Refusal::JoinTokenUnknown)?;
        if let Some(used_by) = &token.used_by {
            return self.enrol_again(&token, used_by, key, node);
        }
        if now >= token.expires_at {
            return Err(Refusal::JoinTokenExpired);
        }
        check_place(&token, node, platform)?;
        let previous = self.agent_on(node).cloned();
        if previous.as_ref().is_some_and(|previous| previous.key != *key) {
            if !token.replace_node {
                return Err(Refusal::NodeTaken { node: node.clone() });
            }
            self.check_takeover(&token, node, now)?;
        }
        if let Some(elsewhere) = self.agent_by_key(key).filter(|record| record.node != *node) {
            return Err(Refusal::exists("agent key", format!("of node {}", elsewhere.node)));
        }
        if self.is_past_first_release() {
            self.check_no_other_owner(node)?;
        }
        let enrolled = self.number_at(index);
        let id = AgentId::enrolled_at(enrolled);
        let mut record = AgentRecord {
            id: id.clone(),
            node: node.clone(),
            platform,
            key: key.clone(),
            services: token.services.clone(),
            gateway: token.gateway.clone(),
            attestation: Attestation::JoinToken(token.accessor.clone()),
            earlier: Vec::new(),
            enrolled,
            incarnation: None,
            server: None,
            presence: Default::default(),
            modified: index,
        };
        if let Some(previous) = previous {
            // Whoever held the name with another key is out; with the same key it is a change of entitlements, and what is no
            // longer granted must not live on in a certificate.
            let revoke = previous.key != *key || !record.keeps_all_of(&previous);
            self.end_record(&previous, index, revoke, touched);
            if !revoke && self.is_past_first_release() {
                let earlier = previous.earlier.iter().copied().chain([previous.enrolled]);
                self.hold_earlier(&mut record, earlier, index, touched);
            }
        }
        self.begin_record(&record, touched);
        self.lift_key(key, touched);
        let used = JoinToken { used_by: Some(key.clone()), record: Some(id.clone()), modified: index, ..token };
        self.join_tokens.put(Arc::new(used));
        touched.changed(WatchKey::JoinTokens);
        Ok(Outcome::Enrolled { record: Box::new(record) })
    }

    /// Refuses an agent the name of a node that somebody registered who is no agent: it would cut that owner's writes off, and
    /// answer for what is registered there.
    pub(super) fn check_no_other_owner(&self, node: &NodeName) -> Result<(), Refusal> {
        match self.node(node).map(|held| &held.owner) {
            None | Some(Owner::Agent(_)) => Ok(()),
            Some(owner @ (Owner::External | Owner::Connector(_))) => {
                Err(Refusal::NotOwner { node: node.clone(), owner: owner.clone() })
            }
        }
    }

    /// Judges a join token that takes a node over once more: since it was made, its maker may have lost the right, and the
    /// node may serve what the maker has no say over.
    fn check_takeover(&self, token: &JoinToken, node: &NodeName, now: Timestamp) -> Result<(), Refusal> {
        let Some(maker) = &token.maker else { return Ok(()) };
        let lacks = |lack: String| Refusal::TakeoverLacks { node: node.clone(), lack };
        let maker = self.token(maker).filter(|maker| maker.expires_at.is_none_or(|end| now < end));
        let maker = maker.ok_or_else(|| lacks("a live token".to_owned()))?;
        self.permits_takeover(&self.authority(maker), Some(node)).map_err(|lack| lacks(lack.to_string()))
    }

    /// Answers a retry: the same key on the same node gets the record that it got the first time.
    fn enrol_again(
        &self,
        token: &JoinToken,
        used_by: &KeyFingerprint,
        key: &KeyFingerprint,
        node: &NodeName,
    ) -> Attempt {
        if used_by != key {
            return Err(Refusal::JoinTokenUsed);
        }
        let record = token.record.as_ref().and_then(|id| self.agent_record(id));
        match record {
            Some(record) if record.node == *node => Ok(Outcome::Enrolled { record: Box::new(record.clone()) }),
            Some(record) => Err(Refusal::JoinTokenElsewhere {
                wanted: format!("node {}", record.node),
                found: format!("node {node}"),
            }),
            None => Err(Refusal::AgentUnknown { agent: node.to_string() }),
        }
    }

    pub(super) fn open_session(
        &mut self,
        index: CatalogIndex,
        agent: &AgentId,
        server: &ServerId,
        touched: &mut Touched,
    ) -> Attempt {
        let record =
            self.agent_record(agent).ok_or_else(|| Refusal::AgentUnknown { agent: agent.to_string() })?.clone();
        let opened = Incarnation(self.number_at(index).0);
        // What the agent said about shutting down holds until it registers something again.
        let presence = Presence { lost_at: None, ..record.presence.clone() };
        let (incarnation, server) = (Some(opened), Some(server.clone()));
        let record = AgentRecord { incarnation, server, presence, modified: index, ..record };
        let node = record.node.clone();
        self.agents.insert(agent.clone(), Arc::new(record));
        touched.changed(WatchKey::Agent(agent.clone()));
        touched.changed(WatchKey::Agents);
        self.show_presence(index, &node, touched);
        Ok(Outcome::SessionOpened { incarnation: opened })
    }

    /// Ends an agent, and keeps its key out: where it came by a login, it would log in again at once.
    pub(super) fn revoke_agent(&mut self, index: CatalogIndex, agent: &AgentId, touched: &mut Touched) -> Attempt {
        let record =
            self.agent_record(agent).ok_or_else(|| Refusal::AgentUnknown { agent: agent.to_string() })?.clone();
        self.end_agent(index, &record, touched);
        self.ban(Banned::Key { key: record.key }, Some(record.node.clone()), touched);
        // A server of the first release would keep another answer.
        match self.is_past_first_release() {
            true => Ok(Outcome::AgentRevoked { agent: record.id, node: record.node }),
            false => Ok(Outcome::Done),
        }
    }

    /// Ends a record, revokes its certificates and takes its node out of the catalog.
    pub(super) fn end_agent(&mut self, index: CatalogIndex, record: &AgentRecord, touched: &mut Touched) {
        self.end_record(record, index, true, touched);
        if self.holds_node(record) {
            self.remove(index, &record.node, &DeregisterTarget::Node, touched);
        }
    }

    pub(super) fn begin_record(&mut self, record: &AgentRecord, touched: &mut Touched) {
        self.agents.insert(record.id.clone(), Arc::new(record.clone()));
        self.agents_by_node.insert(record.node.clone(), record.id.clone());
        self.agents_by_key.insert(record.key.clone(), record.id.clone());
        touched.changed(WatchKey::Agents);
        touched.changed(WatchKey::Agent(record.id.clone()));
        touch_ways_in(record, touched);
    }

    pub(super) fn end_record(
        &mut self,
        record: &AgentRecord,
        index: CatalogIndex,
        revoke: bool,
        touched: &mut Touched,
    ) {
        self.agents.remove(&record.id);
        self.agents_by_node.remove(&record.node);
        self.agents_by_key.remove(&record.key);
        if revoke {
            for enrolled in record.earlier.iter().copied().chain([record.enrolled]) {
                self.revoke_serials(enrolled, index, touched);
            }
        }
        touched.changed(WatchKey::Agents);
        touched.gone(WatchKey::Agent(record.id.clone()));
        touch_ways_in(record, touched);
    }

    /// Notes what else stands in serials of an agent's certificates. Beyond a few, the oldest are revoked at once: nothing may
    /// be left that a revocation of the agent does not reach.
    pub(super) fn hold_earlier(
        &mut self,
        record: &mut AgentRecord,
        earlier: impl Iterator<Item = CatalogIndex>,
        index: CatalogIndex,
        touched: &mut Touched,
    ) {
        for enrolled in earlier {
            if !record.earlier.contains(&enrolled) && enrolled != record.enrolled {
                record.earlier.push(enrolled);
            }
        }
        while record.earlier.len() > EARLIER_MAX {
            let oldest = record.earlier.remove(0);
            self.revoke_serials(oldest, index, touched);
        }
    }

    /// Has every certificate refused that carries an index in its serial.
    pub(super) fn revoke_serials(&mut self, enrolled: CatalogIndex, index: CatalogIndex, touched: &mut Touched) {
        let id = AgentId::enrolled_at(enrolled);
        self.revoked.insert(id.clone(), index);
        if self.is_past_first_release() {
            self.revoked_at.insert(id, self.clock);
        }
        touched.changed(WatchKey::Revocations);
    }

    /// Drops join tokens whose time is long over; records that came of them stay.
    pub(super) fn forget_spent_join_tokens(&mut self) {
        while let Some((end, accessor)) = self.join_tokens.first_to_end().cloned() {
            if self.clock.since(end) <= SPENT_JOIN_TOKEN_KEPT {
                return;
            }
            self.join_tokens.remove(&accessor);
        }
    }
}

/// A gateway is one by its record: with this it begins and ends.
fn touch_ways_in(record: &AgentRecord, touched: &mut Touched) {
    if record.gateway.is_some() {
        touched.changed(WatchKey::Gateways);
    }
}

fn check_place(token: &JoinToken, node: &NodeName, platform: Platform) -> Result<(), Refusal> {
    if let Some(wanted) = token.node.as_ref().filter(|wanted| *wanted != node) {
        return Err(Refusal::JoinTokenElsewhere { wanted: format!("node {wanted}"), found: format!("node {node}") });
    }
    if let Some(wanted) = token.platform.filter(|wanted| *wanted != platform) {
        return Err(Refusal::JoinTokenElsewhere {
            wanted: format!("platform {wanted}"),
            found: format!("platform {platform}"),
        });
    }
    Ok(())
}
