//! Requests and answers of the API paths that weft adds to Consul's.

mod addresses;
mod ca;

use std::time::Duration;

use catalog::{
    AccessorId, AgentId, CandidateOutcome, CatalogIndex, Decision, Effect, IntentionOwner, NodeName, Platform,
    ServerId, ServiceKey, Timestamp,
};
use data_encoding::HEXLOWER_PERMISSIVE;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use crate::acl::{TokenRequest, TokenView};
use crate::crypto::Secret;
use crate::decode::{DecodeError, Fields, Shape};
use crate::rfc3339;
pub use addresses::ServiceAddresses;

/// Answers `PUT /v1/snapshot`: what an operator may want to look at after a restore.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct RestoreAnswer {
    /// Tokens that are in force again although they had been deleted.
    pub tokens_back: u64,
    /// Tokens that stayed out: whoever logged in for them is revoked, or their auth method was deleted.
    pub tokens_left_out: u64,
    /// Nodes that stayed out: an agent has enrolled under their name.
    pub nodes_left_out: u64,
    /// Nodes of connectors that are not there: they stay until such a connector runs, or is removed.
    #[serde(default)]
    pub nodes_forsaken: u64,
}

mod audit;
mod callers;
mod connector;
mod connector_request;
mod explained_request;
mod proxy;
mod relaxation;
mod revocation;
mod rule_usage;
mod upstream;

pub use audit::{AUDIT_BASE_HEADER, AUDIT_HEAD_HEADER, AuditRecord, AuditTrail, ForgottenRecords};
pub use ca::{
    CaConfigurationLives, CaConfigurationRequest, CaConfigurationView, CaIntermediateRequest, CaReplacedRoot,
    CaRotateRequest, CaRotationStatus, CaRotationView, CertificateAge, RekeyView,
};
pub use callers::{CallerView, CallersView, WatchedView};
pub use connector::{ConnectorAnswer, ConnectorProblemView, ConnectorView};
pub use connector_request::{ConnectorNodeView, ConnectorRequest, RefusedWriteView};
pub use explained_request::{ExplainedRequest, WeighedRule};
pub use proxy::{
    ProxyCertificate, ProxyConfigView, ProxyEndpoint, ProxyEndpoints, ProxyInstance, ProxyListener, ProxyRoutes,
    ProxyRule, ProxyRules, ProxyTokenProvider, ProxyUpstream,
};
pub use relaxation::{RelaxRequest, RelaxationView};
pub use revocation::{RevocationView, Revoked};
pub use rule_usage::{RuleUsage, RuleUsageView};
pub use upstream::{UpstreamView, VariableTwice};

/// How long a join token is good for where nobody says otherwise.
pub const JOIN_TOKEN_TTL: Duration = Duration::from_secs(3600);
/// The longest that a join token may be good for: it is a secret on its way between machines.
pub const JOIN_TOKEN_TTL_MAX: Duration = Duration::from_secs(24 * 3600);
/// The longest that a token may be good for, if it ends at all.
pub const TOKEN_TTL_MAX: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// The shortest that any token may be good for.
pub const TTL_MIN: Duration = Duration::from_secs(1);

/// A lifetime that is too short or too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a lifetime of {ttl:?} is not between {TTL_MIN:?} and {longest:?}")]
pub struct TtlError {
    /// The lifetime asked for.
    pub ttl: Duration,
    /// The longest that may be asked for.
    pub longest: Duration,
}

pub(crate) fn end_of(ttl: Duration, longest: Duration, now: Timestamp) -> Result<Timestamp, TtlError> {
    if ttl < TTL_MIN || ttl > longest { Err(TtlError { ttl, longest }) } else { Ok(now.saturating_add(ttl)) }
}

/// Carries bytes as hexadecimal text; for `#[serde(with = "...")]`.
mod hexadecimal {
    use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&HEXLOWER.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer)?;
        HEXLOWER_PERMISSIVE.decode(text.as_bytes()).map_err(D::Error::custom)
    }
}

fn hexadecimal_field(fields: &mut Fields, name: &str) -> Result<Vec<u8>, DecodeError> {
    let text: String = fields.required(name)?;
    let refused = |_| fields.refuse(name, "it is not hexadecimal; send it as the server gave it");
    HEXLOWER_PERMISSIVE.decode(text.as_bytes()).map_err(refused)
}

/// Answers `GET /v1/acl/bootstrap`: random bytes, to be answered within a minute with a [`BootstrapProof`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct BootstrapChallenge {
    /// The bytes that only this server knows, hexadecimal on the wire.
    #[serde(with = "hexadecimal")]
    #[schema(value_type = String)]
    pub challenge: Vec<u8>,
    /// Whether the first token was made already, so that no proof makes another.
    #[serde(rename = "Done", default)]
    pub is_done: bool,
}

impl BootstrapChallenge {
    /// Wraps the bytes of a challenge.
    pub fn new(challenge: &[u8], is_done: bool) -> Self {
        Self { challenge: challenge.to_vec(), is_done }
    }
}

/// Asks `PUT /v1/acl/bootstrap` for the first token: proves that the caller holds the cluster key, without sending it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct BootstrapProof {
    /// The bytes of the challenge that is answered.
    #[serde(with = "hexadecimal")]
    #[schema(value_type = String)]
    pub challenge: Vec<u8>,
    /// The MAC that the cluster key makes over the challenge.
    #[serde(with = "hexadecimal")]
    #[schema(value_type = String)]
    pub proof: Vec<u8>,
    /// What the token's secret is to be, for a caller that keeps it before it asks; drawn by the server where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub bootstrap_secret: Option<Secret>,
}

impl Shape for BootstrapProof {
    fn read(fields: &mut Fields) -> Result<Self, DecodeError> {
        let secret = fields.text("BootstrapSecret")?;
        let is_good = |text: &str| (32..=256).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
        if !secret.is_empty() && !is_good(&secret) {
            let reason = "it is no secret that nobody guesses: use 32 to 256 printable characters, drawn at random";
            return Err(fields.refuse("BootstrapSecret", reason));
        }
        Ok(Self {
            challenge: hexadecimal_field(fields, "Challenge")?,
            proof: hexadecimal_field(fields, "Proof")?,
            bootstrap_secret: (!secret.is_empty()).then(|| Secret::new(secret)),
        })
    }
}

/// Writes a duration as Consul's clients do: in nanoseconds.
pub(crate) fn nanoseconds<S: serde::Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    let nanoseconds = duration.map(|duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
    nanoseconds.serialize(serializer)
}

/// Asks `PUT /v1/join-token` for a token with which one agent may enrol, once.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct JoinTokenRequest {
    /// The services that the agent may stand before; at least one but for a gateway. On the wire `name` or
    /// `namespace/name`.
    #[serde(serialize_with = "service_texts")]
    #[schema(value_type = Vec<String>)]
    pub services: Vec<ServiceKey>,
    /// How long it is good for; [`JOIN_TOKEN_TTL`] where there is none.
    #[serde(rename = "TTL", skip_serializing_if = "Option::is_none", serialize_with = "nanoseconds")]
    #[schema(value_type = Option<u64>)]
    pub ttl: Option<Duration>,
    /// The only node that may use it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub node: Option<NodeName>,
    /// The only platform that may use it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub platform: Option<Platform>,
    /// Whether it may take over a node name that an agent with another key holds.
    pub replace_node: bool,
    /// Whether the agent may be a gateway.
    pub gateway: bool,
    /// The network that it may be a gateway into; empty is the default one, and means nothing where it is none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub network: String,
}

fn service_texts<S: serde::Serializer>(services: &[ServiceKey], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(services.iter().map(ToString::to_string))
}

impl JoinTokenRequest {
    /// Returns when the token ends.
    ///
    /// # Errors
    ///
    /// [`TtlError`] if the lifetime is shorter than [`TTL_MIN`] or longer than [`JOIN_TOKEN_TTL_MAX`].
    pub fn expires_at(&self, now: Timestamp) -> Result<Timestamp, TtlError> {
        end_of(self.ttl.unwrap_or(JOIN_TOKEN_TTL), JOIN_TOKEN_TTL_MAX, now)
    }
}

impl Shape for JoinTokenRequest {
    fn read(fields: &mut Fields) -> Result<Self, DecodeError> {
        let mut services: Vec<ServiceKey> = fields.parsed_list("Services")?;
        let gateway = fields.flag("Gateway")?.unwrap_or(false);
        if services.is_empty() && !gateway {
            return Err(fields.refuse("Services", "there are none; name at least one that the agent may serve"));
        }
        let network = fields.text("Network")?;
        if !network.is_empty() && !gateway {
            return Err(fields.refuse("Network", "only a gateway is let into a network by name; set `Gateway`"));
        }
        services.sort();
        services.dedup();
        Ok(Self {
            services,
            ttl: fields.duration("TTL")?,
            node: fields.parsed("Node")?,
            platform: fields.parsed("Platform")?,
            replace_node: fields.flag("ReplaceNode")?.unwrap_or(false),
            gateway,
            network,
        })
    }
}

/// Shows a join token. Its text is there once: in the answer to its creation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct JoinTokenView {
    /// The join token's public name.
    #[serde(rename = "AccessorID")]
    #[schema(value_type = String)]
    pub accessor: AccessorId,
    /// What the agent is given: the CA's fingerprint and the secret in one text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub token: Option<Secret>,
    /// The services that the agent may stand before, as `namespace/name`.
    pub services: Vec<String>,
    /// Whether the agent may be a gateway.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub gateway: bool,
    /// The network that it may be a gateway into; empty is the default one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub network: String,
    /// The only node that may use it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub node: Option<NodeName>,
    /// The only platform that may use it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub platform: Option<Platform>,
    /// Whether it may take over a node name that an agent with another key holds.
    pub replace_node: bool,
    /// When it ends.
    #[serde(rename = "ExpirationTime", with = "rfc3339::text")]
    #[schema(value_type = String)]
    pub expires_at: Timestamp,
    /// Whether an agent has enrolled with it.
    pub used: bool,
    /// The agent that enrolled with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub agent: Option<AgentId>,
    /// The index at which it was made.
    #[schema(value_type = u64)]
    pub create_index: CatalogIndex,
    /// The index of the last change.
    #[schema(value_type = u64)]
    pub modify_index: CatalogIndex,
}

impl JoinTokenView {
    /// Shows `token`, with its text where that has just been made.
    pub fn new(token: &catalog::JoinToken, text: Option<Secret>) -> Self {
        Self {
            accessor: token.accessor.clone(),
            token: text,
            services: token.services.iter().map(ToString::to_string).collect(),
            gateway: token.gateway.is_some(),
            network: token.gateway.clone().unwrap_or_default(),
            node: token.node.clone(),
            platform: token.platform,
            replace_node: token.replace_node,
            expires_at: token.expires_at,
            used: token.used_by.is_some(),
            agent: token.record.clone(),
            create_index: token.created,
            modify_index: token.modified,
        }
    }
}

/// Answers `GET /v1/connect/intentions/explain`: what is decided, by which rule, and what became of every other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct Explanation {
    /// The service that calls, as `namespace/name`.
    pub source: String,
    /// The service that is called, as `namespace/name`.
    pub destination: String,
    /// What may happen: `allow`, `deny` or `per-request`.
    #[schema(value_type = String)]
    pub decision: Decision,
    /// The rule that decided, in words.
    pub reason: String,
    /// Whether a denial is only logged and counted.
    pub audited: bool,
    /// Why it is, in words; empty where it is not.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub audited_by: String,
    /// The intentions that speak of the destination, in the order in which they are tried.
    pub candidates: Vec<ExplainedIntention>,
    /// The guardrails whose destination covers the one that is called.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<Object>)]
    pub guardrails: Vec<ExplainedGuardrail>,
    /// The relaxations in force that concern the destination.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<Object>)]
    pub relaxations: Vec<RelaxationView>,
    /// What is decided of the request that was described; none where none was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub request: Option<ExplainedRequest>,
}

/// Shows a guardrail, and whether it speaks of the caller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ExplainedGuardrail {
    /// Its name.
    pub name: String,
    /// Who must not call, as it is written.
    pub source: String,
    /// Who must not be called, as it is written.
    pub destination: String,
    /// Whether it speaks of the caller, and so decides.
    pub matches: bool,
}

/// Shows what became of one intention.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct ExplainedIntention {
    /// Who calls, as it is written.
    pub source: String,
    /// The services that are called, as they are written.
    pub destination: String,
    /// `allow`, `deny` or `permissions`.
    pub action: String,
    /// Its precedence, 9 to 1.
    pub precedence: u8,
    /// Whose it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub owner: Option<IntentionOwner>,
    /// What became of it.
    #[schema(value_type = String)]
    pub outcome: CandidateOutcome,
}

impl Explanation {
    /// Shows an explanation of the call from `source` to `destination`.
    pub fn new(source: &ServiceKey, destination: &ServiceKey, explanation: &catalog::Explanation) -> Self {
        let candidates = explanation.candidates.iter().map(|candidate| ExplainedIntention {
            source: candidate.intention.source.to_string(),
            destination: candidate.intention.destination.to_string(),
            action: effect_text(&candidate.intention.effect).to_owned(),
            precedence: candidate.intention.precedence(),
            owner: candidate.intention.owner.clone(),
            outcome: candidate.outcome,
        });
        Self {
            source: source.to_string(),
            destination: destination.to_string(),
            decision: explanation.verdict.decision,
            reason: explanation.verdict.reason.to_string(),
            audited: explanation.verdict.audit.is_some(),
            audited_by: explanation.verdict.audit.as_ref().map(ToString::to_string).unwrap_or_default(),
            candidates: candidates.collect(),
            guardrails: explanation
                .guardrails
                .iter()
                .map(|(guardrail, matches)| ExplainedGuardrail {
                    name: guardrail.name.clone(),
                    source: guardrail.source.to_string(),
                    destination: guardrail.destination.to_string(),
                    matches: *matches,
                })
                .collect(),
            relaxations: explanation.relaxations.iter().map(RelaxationView::from).collect(),
            request: None,
        }
    }
}

fn effect_text(effect: &Effect) -> &'static str {
    match effect {
        Effect::Action(action) => action.as_str(),
        Effect::Permissions(_) => "permissions",
    }
}

/// Says what part a server plays in Raft.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RaftRole {
    /// It orders all writes.
    Leader,
    /// It repeats what a leader orders.
    Follower,
    /// It asks for votes.
    Candidate,
    /// It asks whether it would get votes.
    PreCandidate,
}

impl RaftRole {
    /// Returns the role as people write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Leader => "leader",
            Self::Follower => "follower",
            Self::Candidate => "candidate",
            Self::PreCandidate => "pre-candidate",
        }
    }
}

/// Answers `GET /v1/status/raft`: how one server sees Raft.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct RaftStatusView {
    /// The server that answers.
    #[schema(value_type = String)]
    pub server: ServerId,
    /// What part it plays.
    pub role: RaftRole,
    /// The leader, if it knows one.
    #[schema(value_type = Option<String>)]
    pub leader: Option<ServerId>,
    /// Raft's term.
    pub term: u64,
    /// The last log entry that it has applied.
    #[schema(value_type = u64)]
    pub applied_index: CatalogIndex,
    /// Milliseconds since it last heard the leader; none if it never has since it started, 0 on the leader.
    pub last_contact_ms: Option<u64>,
    /// The servers that vote, in the order of their numbers.
    pub members: Vec<RaftMemberView>,
}

/// Shows one server that votes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct RaftMemberView {
    /// The server's name.
    #[serde(rename = "ID")]
    #[schema(value_type = String)]
    pub id: ServerId,
    /// Its number in Raft.
    #[serde(rename = "RaftID")]
    pub raft_id: u64,
    /// Its address for Raft.
    pub address: String,
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::decode::{from_json, from_value};

    #[test]
    fn what_a_client_writes_is_what_a_server_reads() {
        let request = JoinTokenRequest {
            services: vec!["api".parse().unwrap(), "shop/web".parse().unwrap()],
            ttl: Some(Duration::from_secs(90)),
            node: Some("vm-1".parse().unwrap()),
            platform: Some(Platform::Ecs),
            replace_node: true,
            gateway: true,
            network: "aws".to_owned(),
        };
        assert_eq!(from_value::<JoinTokenRequest>(serde_json::to_value(&request).unwrap(), "").unwrap(), request);
        let proof = BootstrapProof { challenge: vec![1, 255], proof: vec![2], bootstrap_secret: None };
        assert_eq!(from_value::<BootstrapProof>(serde_json::to_value(&proof).unwrap(), "").unwrap(), proof);
    }

    #[test]
    fn a_join_token_names_services_and_ends_within_a_day() {
        let error = from_json::<JoinTokenRequest>(b"{}").unwrap_err().to_string();
        assert_eq!(error, "`Services`: there are none; name at least one that the agent may serve");
        let error = from_json::<JoinTokenRequest>(br#"{"Services": ["web"], "Network": "aws"}"#).unwrap_err();
        assert_eq!(error.to_string(), "`Network`: only a gateway is let into a network by name; set `Gateway`");
        let read = |text: &str| from_json::<JoinTokenRequest>(text.as_bytes()).unwrap();
        assert!(read(r#"{"Gateway": true}"#).services.is_empty(), "a gateway stands before no service");
        let request = read(r#"{"services": ["web", "default/web", "api"], "ttl": "2h"}"#);
        assert_eq!(request.services, ["api".parse().unwrap(), "web".parse().unwrap()]);
        assert_eq!(request.expires_at(Timestamp(5)), Ok(Timestamp(7_200_005)));
        assert_eq!(read(r#"{"Services": ["web"]}"#).expires_at(Timestamp(0)), Ok(Timestamp(3_600_000)));
        read(r#"{"Services": ["web"], "TTL": "25h"}"#).expires_at(Timestamp(0)).unwrap_err();
        read(r#"{"Services": ["web"], "TTL": "1ms"}"#).expires_at(Timestamp(0)).unwrap_err();
    }
}
