//! Agents that their platform vouches for: they log in instead of joining with a token, their records end while they stay
//! away, and they log in again once they hear of it.

use std::time::Duration;

use catalog::{
    Admission, AuthConfig, AuthMethod, AuthMethodName, CatalogIndex, Command, JwtAlgorithm, JwtConfig, JwtKeys,
    KeyFingerprint, LoginChange, Namespace, Platform, SecretHash, Timestamp,
};

use super::agents::{node_name, services_of};
use super::mesh::Mesh;
use super::streams::StreamEvent;

/// Says whether a platform vouches for an agent, where any logs in; the others join with tokens.
pub(super) fn is_vouched_for(agent: u64) -> bool {
    agent.is_multiple_of(2)
}

fn name() -> AuthMethodName {
    "platform".parse().expect("it is a method's name")
}

/// Makes the method by which agents log in. Whoever checks credentials is not part of this: all of them count.
pub(super) fn write_method() -> Command {
    let config = JwtConfig {
        issuer: "https://platform.test".to_owned(),
        audiences: vec!["mesh.test".to_owned()],
        algorithms: vec![JwtAlgorithm::ES256],
        keys: JwtKeys::Pem(Vec::new()),
        claims: Default::default(),
        list_claims: Default::default(),
        clock_skew: Duration::ZERO,
    };
    let method = AuthMethod {
        name: name(),
        display_name: String::new(),
        description: String::new(),
        namespace: Namespace::default(),
        token_ttl: Duration::from_secs(3600),
        config: AuthConfig::Jwt(Box::new(config)),
        rules_modified: CatalogIndex(0),
        created: CatalogIndex(0),
        modified: CatalogIndex(0),
    };
    Command::Login { change: LoginChange::WriteMethod { method: Box::new(method), replace: false } }
}

/// Lets an agent in under a new key; the platform says which node it is on, so that it takes over what was there.
pub(super) fn log_in(agent: u64, number: u64) -> Command {
    let node = node_name(agent);
    let admission = Admission {
        method: name(),
        subject: node.to_string(),
        // No rule changes that it could have been judged by.
        judged_at: CatalogIndex(u64::MAX),
        services: services_of(agent),
        gateway: None,
        nodes: vec![node.clone()],
        provisional: None,
        bearer: SecretHash(format!("{number:064x}")),
        bearer_ends: Timestamp(u64::MAX),
        is_of_one_key: true,
        key: KeyFingerprint(format!("{number:064x}")),
        node,
        platform: Platform::Vm,
    };
    Command::Login { change: LoginChange::Admit { admission: Box::new(admission) } }
}

impl Mesh {
    /// An agent hears that it has no record any more. Who is about to get another one waits for that.
    pub(super) fn agent_is_unknown(&mut self, id: u64) {
        if !is_vouched_for(id) || self.agent(id).is_replaced {
            return;
        }
        self.agent(id).is_replaced = true;
        *self.summary.steps.entry("an agent logs in again").or_default() += 1;
        self.streams.operator.enrol(id);
        self.plan_stream(Duration::ZERO, StreamEvent::Operator);
    }

    /// Says whether an agent may be refused what it registers: it is about to be replaced, or its record has ended.
    pub(super) fn is_without_record(&self, id: u64) -> bool {
        let agent = &self.streams.agents[&id];
        let record = agent.record.as_ref().filter(|_| self.plan.logs_in);
        agent.is_replaced
            || record.zip(self.streams.newest()).is_some_and(|(record, newest)| newest.agent_record(record).is_none())
    }
}
