//! The model of the mesh: services, intentions, identities, and the one answer to "may web call api?".
//!
//! Nothing here does I/O, reads a clock or draws randomness. Servers and agents run the same code, so that they decide
//! alike; time and every other fact of the outside world enter as values.

mod acl;
mod address;
mod agent_record;
mod audit;
mod audit_mode;
mod authorize;
mod backup;
mod ban;
mod ca;
mod catalog;
mod command;
mod config_entry;
mod connector;
mod explain;
pub mod http;
mod index;
mod intention;
mod key_exchange;
mod lifetime;
mod login;
mod membership;
mod mesh;
mod mtls_mode;
mod name;
mod network;
mod node;
mod origin;
mod outcome;
mod pattern;
mod permission;
mod policy_change;
mod protocol;
mod restraint;
mod revocation;
mod routing;
mod selector;
mod session;
mod snapshot;
mod spiffe;
mod stream;
mod time_window;
mod token;
mod token_provider;
mod traffic;
mod validate;

pub use acl::{
    Access, AclChange, AclPolicy, AclRole, Authority, Lack, Links, NamePattern, NameRule, NamespaceRules, Rules,
    ServiceRule,
};
pub use address::{AddressNumber, Allotment, NoAddressNumber};
pub use agent_record::{AgentId, AgentRecord, Attestation, KeyFingerprint};
pub use audit::{AuditFault, AuditHash, AuditHead, AuditLine, AuditVerifier, Digest};
pub use audit_mode::{AuditCause, AuditMode, RELAXATION_MAX, Relaxation, RelaxedScope};
pub use authorize::{Caller, Decision, Policy, Reason, Verdict, authorize};
pub use backup::{ArrivedBackup, BACKUP_BYTES_MAX, BACKUP_PIECE_BYTES_MAX, BackupStep};
pub use ban::{Ban, Banned};
pub use ca::{
    CaChange, CaConfig, CaIntermediate, CaRoot, CaRotation, CrossCertificate, DistrustedRoot, Resealed, RootsAck,
    RotationStep, SealedKind, SealedSecret, TrustBundle,
};
pub use catalog::{Applied, Catalog};
pub use command::{
    Actor, CheckUpdate, Command, DecodeError, DeregisterTarget, ENVELOPE_VERSION, Envelope, RequestId, WriteMode,
};
pub use config_entry::{
    ConfigChange, ConfigContent, ConfigEntries, ConfigEntry, ConfigKey, ProxyDefaults, ServiceDefaults,
};
pub use connector::{
    CONNECTOR_CHECK_PREFIX, CONNECTOR_LEASE_MAX, CONNECTOR_LEASE_MIN, CONNECTOR_WRITES_MAX, ConnectorChange,
    ConnectorLease, ConnectorNode, ConnectorProblem, ConnectorStatus, ConnectorWrite, ProblemKind, RefusedWrite,
};
pub use explain::{Candidate, CandidateOutcome, Explanation, explain};
pub use index::{CatalogIndex, Incarnation, Timestamp, WatchKey};
pub use intention::{Action, Effect, Guardrail, Intention, IntentionKey, IntentionOwner};
pub use key_exchange::KeyExchange;
pub use lifetime::Lifetime;
pub use login::{
    Admission, AuthConfig, AuthMethod, AwsIamConfig, AwsKind, AwsPattern, AwsPrincipal, BindKind, BindingRule,
    BindingRules, Bound, JwtAlgorithm, JwtConfig, JwtKeys, KubernetesConfig, LOGIN_TOKEN_TTL, LoginChange, LoginClaims,
    NameTemplate, NameTemplateError, Variable,
};
pub use membership::{
    Autopilot, MEMBERS_MAX, Member, MemberFacts, MemberRole, Membership, MembershipChange, RetiredMember, StateDigest,
    Witness,
};
pub use mesh::{Mesh, MeshEntry, ServerMember};
pub use mtls_mode::{MtlsMode, MtlsModes, PortMtlsMode};
pub use name::{
    AclName, AuthMethodName, BindingRuleId, CheckId, ConnectorName, InstanceId, InstanceKey, NameError, Namespace,
    NodeName, PolicyId, ProviderName, RoleId, ServerId, ServiceKey, ServiceName,
};
pub use network::{Gateway, NETWORK_BYTES_MAX, Reach, reach};
pub use node::{
    Check, CheckKey, CheckStatus, Instance, Node, Owner, Platform, TaggedAddress, UnknownWord, Upstream, Weights,
};
pub use origin::Origin;
pub use outcome::{Outcome, Refusal, RefusalKind, Restored};
pub use pattern::{PatternError, ServicePattern, SourcePattern};
pub use permission::{
    HeaderMatch, HeaderTest, HttpMatch, JwtProvider, JwtRequirement, PathMatch, Permission, VerifyClaim,
};
pub use policy_change::PolicyChange;
pub use protocol::Protocol;
pub use revocation::{FORGOTTEN_MAX, RevocationChange, RevokedService};
pub use routing::{
    AbortFault, Balance, Balancing, DelayFault, FailoverTarget, Fault, HashBy, HashPolicy, Hashing, HeaderEdits,
    IssuedCookie, Leg, Mirror, MirrorWay, QueryMatch, QueryTest, Redirect, RetryBudget, RetryOn, RetryRule,
    RouteAction, RouteDestination, RouteMatch, RouteRule, RoutedRequest, Routes, RoutingError, ServiceResolver,
    ServiceRouter, ServiceSplitter, Split, SplitEdits, Subset, Target, TargetKey, Turn,
};
pub use selector::{Selector, SelectorError, SelectorMismatch};
pub use session::{AGENT_CHECK, Presence, SESSIONS_ENDED_MAX, SESSIONS_MAX, SessionChange, SessionRef};
pub use snapshot::{SNAPSHOT_VERSION, SnapshotError};
pub use spiffe::{
    AskedFor, IdentityScheme, InstanceLabel, PathTemplate, Principal, SpiffeId, SpiffeIdError, TemplateError,
    TrustDomain,
};
pub use stream::{BrokenPromise, Endpoint, Event, Follower, Item, MeshItem, Topic};
pub use time_window::{TimeOfDay, TimeWindow, Weekday};
pub use token::{AccessorId, JoinToken, Rights, SecretHash, TemplatedPolicy, Token};
pub use token_provider::{TokenForwarding, TokenLocation, TokenProvider};
pub use traffic::{
    CallLimits, PassiveHealthCheck, Rate, RateLimit, RateLimits, RouteRate, RoutesOfRates, UpstreamConfig,
    UpstreamOverride, UpstreamSettings,
};
