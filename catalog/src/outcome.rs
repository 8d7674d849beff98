//! What applying a command answers.

use serde::{Deserialize, Serialize};

use crate::{
    AccessorId, AgentId, AgentRecord, AuthMethodName, BindingRuleId, CatalogIndex, ConnectorName, Incarnation,
    IntentionKey, IntentionOwner, NodeName, Owner, RefusedWrite, RequestId, ServiceKey,
};

/// Is what applying a command answers; a repeat of the request gets the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It changed something, or there was nothing to change.
    Done,
    /// The agent is enrolled.
    Enrolled {
        /// Its record.
        record: Box<AgentRecord>,
    },
    /// The server is a member.
    MemberAdded {
        /// Its number in Raft.
        raft_id: u64,
    },
    /// The agent's session is open.
    SessionOpened {
        /// The agent's new incarnation.
        incarnation: Incarnation,
    },
    /// The connector runs in the process that asked.
    LeaseGranted {
        /// The number that its writes carry.
        term: Incarnation,
    },
    /// What a connector found is in the catalog.
    Written {
        /// What of it was refused; the rest is done.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        refused: Vec<RefusedWrite>,
    },
    /// The agent's record ended, with its certificates.
    AgentRevoked {
        /// The record.
        agent: AgentId,
        /// The node that it was of.
        node: NodeName,
    },
    /// A rotation of the root has begun.
    RotationBegun {
        /// The root that is to come.
        root: String,
        /// Whether the one before is distrusted then.
        distrusts_replaced: bool,
    },
    /// Certificates were revoked.
    Revoked {
        /// How many agents that hits.
        agents: u64,
    },
    /// A backup is in force.
    Restored {
        /// What became of what has changed since it was taken.
        restored: Restored,
    },
    /// Nothing changed.
    Refused(Refusal),
}

/// Counts what an operator may want to look at after a restore.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct Restored {
    /// Tokens that are in force again although they had been deleted.
    pub tokens_back: u64,
    /// Tokens that stayed out: whoever logged in for them is revoked, or their auth method was deleted.
    pub tokens_left_out: u64,
    /// Nodes that stayed out: an agent has enrolled under their name.
    pub nodes_left_out: u64,
    /// Nodes of connectors that are not there: they stay until such a connector runs, or is removed.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub nodes_forsaken: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// Sorts refusals by what the caller can do about them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalKind {
    /// What the command names is not there.
    NotFound,
    /// The state is not what the command expects.
    Conflict,
    /// The caller is not entitled to it.
    Forbidden,
    /// The command is malformed.
    Invalid,
}

/// Says why a committed command changed nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
pub enum Refusal {
    /// The mesh's facts are fixed already.
    #[error("the mesh was bootstrapped already")]
    AlreadyBootstrapped,
    /// The first token was made already.
    #[error("the ACL was bootstrapped already: use a management token, or make a new one with it")]
    AclBootstrapped,
    /// A login's token would change what is not of that login.
    #[error("token {accessor} is not of your login: change it with a token that an operator made")]
    NotOfLogin {
        /// The token that was to be changed.
        accessor: AccessorId,
    },
    /// A name is taken.
    #[error("{what} `{name}` exists already: choose another, or replace it")]
    Exists {
        /// What kind of thing.
        what: String,
        /// Its name.
        name: String,
    },
    /// A name is not there.
    #[error("no {what} `{name}`")]
    NotFound {
        /// What kind of thing.
        what: String,
        /// The name that was asked for.
        name: String,
    },
    /// Another request had this id.
    #[error("request id `{}` was used for something else: draw a new one", request_id.as_str())]
    RequestIdReused {
        /// The id.
        request_id: RequestId,
    },
    /// Whoever asked may no longer do so.
    #[error("whoever asked for this ({who}) has no rights any more: the token or agent record has ended")]
    ActorGone {
        /// Who.
        who: String,
    },
    /// The intention changed since it was read.
    #[error("intention {key} was changed at index {modified}, not {expected}: read it again")]
    IntentionChanged {
        /// The intention.
        key: IntentionKey,
        /// When it was changed last; 0 if it is not there.
        modified: CatalogIndex,
        /// When the caller thought it was.
        expected: CatalogIndex,
    },
    /// The intention belongs to somebody else.
    #[error(
        "intention {key} belongs to `{owner}`: write it in that name with `--owner {owner}`, or take it over with `--take-over`"
    )]
    IntentionOwned {
        /// The intention.
        key: IntentionKey,
        /// Whose it is.
        owner: IntentionOwner,
    },
    /// The config entry changed since it was read.
    #[error("config entry `{name}` was changed at index {modified}, not {expected}: read it again")]
    EntryChanged {
        /// The entry.
        name: String,
        /// When it was changed last; 0 if it is not there.
        modified: CatalogIndex,
        /// When the caller thought it was.
        expected: CatalogIndex,
    },
    /// An operator keeps them out.
    #[error("{who} was revoked: an operator lets them in again with `weft revoke lift`")]
    Banned {
        /// Whom.
        who: String,
    },
    /// The agent's record does not say that it is a gateway there.
    #[error(
        "node `{node}` is not entitled to be a gateway into network `{network}`: make a join token with `--gateway`, or a \
         binding rule of type `gateway`"
    )]
    NoGateway {
        /// The node.
        node: NodeName,
        /// The network that it is in.
        network: String,
    },
    /// Somebody else's backup is being restored.
    #[error("another restore is under way, or was broken off within the last ten minutes: try again later")]
    RestoreUnderWay,
    /// The CA is not where the step expects it to be.
    #[error("the certificate authority has moved on: {problem}")]
    CaMovedOn {
        /// What is otherwise than expected.
        problem: String,
    },
    /// The mesh's clock has not come that far.
    #[error("it is too early for this by the mesh's clock, by {left_s} s")]
    TooEarly {
        /// How long it is to wait, in seconds.
        left_s: u64,
    },
    /// No join token has this secret.
    #[error("the join token is unknown: make a new one with `weft join-token create`")]
    JoinTokenUnknown,
    /// The join token's time is over.
    #[error("the join token has expired: make a new one with `weft join-token create`")]
    JoinTokenExpired,
    /// Another key used the join token.
    #[error("the join token was used already, by another key: make a new one with `weft join-token create`")]
    JoinTokenUsed,
    /// The join token is for another node or platform.
    #[error("the join token is for {wanted}, not {found}")]
    JoinTokenElsewhere {
        /// What it is for.
        wanted: String,
        /// Who came with it.
        found: String,
    },
    /// The node name has a live record with another key.
    #[error("node `{node}` is enrolled with another key: use another name, or make a join token with `--replace-node`")]
    NodeTaken {
        /// The node.
        node: NodeName,
    },
    /// Whoever made the join token may not take the node over now.
    #[error(
        "the join token may not take over node `{node}` any more: whoever made it lacks {lack}; make a new one with `weft join-token create`"
    )]
    TakeoverLacks {
        /// The node.
        node: NodeName,
        /// What is lacking.
        lack: String,
    },
    /// No binding rule is for whoever logged in.
    #[error("no binding rule of auth method `{method}` is for `{subject}`: ask an operator for one")]
    LoginUnbound {
        /// The method.
        method: AuthMethodName,
        /// Who logged in.
        subject: String,
    },
    /// Whoever logged in is nothing that an agent can stand before.
    #[error(
        "no binding rule of auth method `{method}` gives `{subject}` a service: an agent needs one of bind type service"
    )]
    LoginNoService {
        /// The method.
        method: AuthMethodName,
        /// Who logged in.
        subject: String,
    },
    /// A rule makes a name of a login that is none.
    #[error(
        "binding rule {rule} makes no {bind} name of this login by `{name}`: a claim is missing or no part of a name"
    )]
    LoginName {
        /// The rule.
        rule: BindingRuleId,
        /// What it binds.
        bind: String,
        /// Its template.
        name: String,
    },
    /// The rules changed while the login was on its way.
    #[error("auth method `{method}` or its rules changed during the login: log in again")]
    LoginRulesChanged {
        /// The method.
        method: AuthMethodName,
    },
    /// Somebody has as many tokens by logging in as they may have at once.
    #[error("`{subject}` of auth method `{method}` has {most} live tokens by login: log out of one, or let one end")]
    TooManyLogins {
        /// The method.
        method: AuthMethodName,
        /// Who logs in.
        subject: String,
        /// How many they may have.
        most: usize,
    },
    /// The login's rules are for another node.
    #[error("the login is for an agent on node {wanted}, not `{found}`")]
    LoginElsewhere {
        /// The nodes that it is for.
        wanted: String,
        /// Who came with it.
        found: NodeName,
    },
    /// Another key used the credential.
    #[error("the credential was used already, by another key: log in with a new one")]
    BearerUsed,
    /// The credential's time is over.
    #[error("the credential has expired: log in with a new one")]
    BearerExpired,
    /// More credentials are in use than are remembered.
    #[error("too many credentials are in use to remember another: have the platform issue ones that end sooner")]
    TooManyBearers,
    /// One identity has as many credentials in use as are remembered of one.
    #[error(
        "`{subject}` of auth method `{method}` has {most} credentials in use: have the platform issue ones that end sooner"
    )]
    TooManyBearersOf {
        /// The method.
        method: AuthMethodName,
        /// Who logs in.
        subject: String,
        /// How many are remembered.
        most: usize,
    },
    /// The agent has no live record.
    #[error("agent `{agent}` has no record, or it was revoked: enrol it again with a new join token")]
    AgentUnknown {
        /// The agent.
        agent: String,
    },
    /// The write came from an older session.
    #[error("the write is of incarnation {found} of node `{node}`, whose current one is {current}")]
    StaleIncarnation {
        /// The node.
        node: NodeName,
        /// What the write carried; 0 for none.
        found: Incarnation,
        /// What is current; 0 for none.
        current: Incarnation,
    },
    /// The session said that its agent is shutting down.
    #[error(
        "node `{node}` is shutting down in session {incarnation}, which registers nothing any more: start the agent again"
    )]
    Draining {
        /// The node.
        node: NodeName,
        /// The session.
        incarnation: Incarnation,
    },
    /// The connector runs in another process.
    #[error("connector `{connector}` runs as `{holder}`, for another {left_s} s: stop that process first, or wait")]
    LeaseHeld {
        /// The connector.
        connector: ConnectorName,
        /// Who runs it.
        holder: String,
        /// How long the lease lasts, in seconds.
        left_s: u64,
    },
    /// The connector runs in another process by now.
    #[error(
        "connector `{connector}` is not run by whoever asks as term {found} any more (the current one is {current}): acquire its lease anew"
    )]
    LeaseOver {
        /// The connector.
        connector: ConnectorName,
        /// What the write carried.
        found: Incarnation,
        /// What is current; 0 for none.
        current: Incarnation,
    },
    /// The service is served by others.
    #[error("service `{service}` is served by {owner} already: tell the connector to share it, or rename one of them")]
    ServedByOthers {
        /// The service.
        service: ServiceKey,
        /// Who serves it.
        owner: Owner,
    },
    /// The node is somebody else's.
    #[error("node `{node}` belongs to {owner}, and only its owner writes it")]
    NotOwner {
        /// The node.
        node: NodeName,
        /// Whose it is.
        owner: Owner,
    },
    /// The list of servers cannot change like this.
    #[error("the servers stay as they are: {problem}")]
    Membership {
        /// Why, and what to do.
        problem: String,
    },
    /// The service was revoked since the agent was enrolled.
    #[error(
        "service `{service}` was revoked after the agent on node `{node}` was enrolled: enrol it again with a new join token"
    )]
    ServiceRevoked {
        /// The agent's node.
        node: NodeName,
        /// The service.
        service: ServiceKey,
    },
    /// The agent's record does not list the service.
    #[error(
        "the agent on node `{node}` is not entitled to service `{service}`: enrol it with a join token that names it"
    )]
    NotEntitled {
        /// The agent's node.
        node: NodeName,
        /// The service.
        service: ServiceKey,
    },
    /// The command's form is wrong.
    #[error("{field}: {problem}")]
    Invalid {
        /// Which part.
        field: String,
        /// What is wrong with it, and what to do.
        problem: String,
    },
}

impl Refusal {
    /// Returns what sort of refusal it is.
    #[must_use]
    pub fn kind(&self) -> RefusalKind {
        match self {
            Self::NotFound { .. } => RefusalKind::NotFound,
            Self::AlreadyBootstrapped
            | Self::Exists { .. }
            | Self::RestoreUnderWay
            | Self::RequestIdReused { .. }
            | Self::IntentionChanged { .. }
            | Self::IntentionOwned { .. }
            | Self::EntryChanged { .. }
            | Self::LoginRulesChanged { .. }
            | Self::TooManyBearers
            | Self::TooManyBearersOf { .. }
            | Self::TooManyLogins { .. }
            | Self::Membership { .. }
            | Self::CaMovedOn { .. }
            | Self::TooEarly { .. }
            | Self::NodeTaken { .. }
            | Self::LeaseHeld { .. }
            | Self::LeaseOver { .. }
            | Self::ServedByOthers { .. }
            | Self::Draining { .. }
            | Self::StaleIncarnation { .. } => RefusalKind::Conflict,
            Self::AclBootstrapped
            | Self::JoinTokenUnknown
            | Self::JoinTokenExpired
            | Self::JoinTokenUsed
            | Self::JoinTokenElsewhere { .. }
            | Self::TakeoverLacks { .. }
            | Self::NotOfLogin { .. }
            | Self::LoginUnbound { .. }
            | Self::LoginNoService { .. }
            | Self::LoginName { .. }
            | Self::LoginElsewhere { .. }
            | Self::BearerUsed
            | Self::BearerExpired
            | Self::ActorGone { .. }
            | Self::AgentUnknown { .. }
            | Self::NotOwner { .. }
            | Self::ServiceRevoked { .. }
            | Self::Banned { .. }
            | Self::NoGateway { .. }
            | Self::NotEntitled { .. } => RefusalKind::Forbidden,
            Self::Invalid { .. } => RefusalKind::Invalid,
        }
    }

    pub(crate) fn invalid(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Invalid { field: field.into(), problem: problem.into() }
    }

    pub(crate) fn membership(problem: impl Into<String>) -> Self {
        Self::Membership { problem: problem.into() }
    }

    pub(crate) fn not_found(what: &str, name: impl ToString) -> Self {
        Self::NotFound { what: what.to_owned(), name: name.to_string() }
    }

    pub(crate) fn exists(what: &str, name: impl ToString) -> Self {
        Self::Exists { what: what.to_owned(), name: name.to_string() }
    }
}
