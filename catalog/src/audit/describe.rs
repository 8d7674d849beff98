//! What an audit line says of each command: its kind, one line for people, and what was written where that is no secret.
//!
//! The texts are a form on disk: all servers must write the same, also while a release replaces an older one. A golden file
//! holds them still.

use serde::Serialize;

use crate::{
    AclPolicy, Actor, Admission, AgentId, AuthMethod, BackupStep, BindingRule, CaChange, Catalog, Command,
    ConfigChange, ConfigEntry, ConnectorChange, Effect, Intention, IntentionKey, IntentionOwner, KeyExchange,
    LoginChange, MembershipChange, MeshEntry, Namespace, Outcome, PolicyChange, Refusal, RevocationChange,
    SessionChange, WriteMode,
};

/// How long a summary is at most.
const SUMMARY_BYTES_MAX: usize = 512;
/// How long what was written is at most, as JSON; the summary stands alone for what is longer.
pub(super) const CONTENT_BYTES_MAX: usize = 4096;

/// Is what a command wrote.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum Content<'a> {
    Intention(&'a Intention),
    Intentions(&'a [Intention]),
    Mesh(&'a MeshEntry),
    Policy(&'a AclPolicy),
    Config(&'a ConfigEntry),
    AuthMethod(&'a AuthMethod),
    Agents(Vec<String>),
}

impl Content<'_> {
    /// Reports whether it is short enough to stand in a line.
    pub(crate) fn fits(&self) -> bool {
        serde_json::to_vec(self).is_ok_and(|bytes| bytes.len() <= CONTENT_BYTES_MAX)
    }
}

/// Is what a line says of a command.
#[derive(Debug)]
pub(crate) struct Description<'a> {
    pub(crate) kind: &'static str,
    pub(crate) summary: String,
    pub(crate) content: Option<Content<'a>>,
}

impl<'a> Description<'a> {
    /// Describes a command that bears on who may do what, or on the running of the mesh, by the state before it; none for
    /// what agents say of themselves all the time.
    pub(crate) fn of(command: &'a Command, before: &Catalog) -> Option<Self> {
        let (kind, summary) = match command {
            Command::Backup { step } => of_backup(step)?,
            Command::Bootstrap { mesh } => ("bootstrap", format!("trust domain {}", mesh.trust_domain)),
            Command::InstallCa { root, intermediate } => {
                ("install-ca", format!("root {}, intermediate {}", root.id, intermediate.id))
            }
            Command::Ca { change, .. } => of_ca(change)?,
            Command::BootstrapAcl { token } => ("bootstrap-acl", format!("token {}", token.accessor)),
            Command::Acl { change } => return super::acl::describe(change),
            Command::WriteToken { token } => {
                ("write-token", noted(format!("token {}", token.accessor), &token.description))
            }
            Command::DeleteToken { accessor } => ("delete-token", format!("token {accessor}")),
            Command::CreateJoinToken { token } => {
                let services = token.services.iter().map(ToString::to_string);
                let gateway = token.gateway.iter().map(|network| format!("a gateway into `{network}`"));
                let what: Vec<String> = services.chain(gateway).collect();
                ("create-join-token", format!("join token {} for {}", token.accessor, what.join(", ")))
            }
            Command::DeleteJoinToken { accessor } => ("delete-join-token", format!("join token {accessor}")),
            Command::Enrol { secret, key, node, platform } => {
                let token = before.join_token_by_secret(secret);
                let token = token.map_or("none that is there".to_owned(), |token| token.accessor.to_string());
                ("enrol", format!("node {node} ({platform}), key {key}, join token {token}"))
            }
            Command::Login { change } => {
                let (kind, summary) = of_login(change);
                let content = match change {
                    LoginChange::WriteMethod { method, .. } => Some(Content::AuthMethod(method)),
                    _ => None,
                };
                return Some(Self { kind, summary: bounded(summary), content });
            }
            Command::Membership { change } => ("membership", describe_membership(change)?),
            Command::Revoke { change } => of_revocation(change)?,
            Command::RevokeAgent { agent } => ("revoke-agent", agent_in(before, agent)),
            Command::Sessions { change } => return of_sessions(change, before),
            Command::WriteIntention { intention, mode } => return Some(Self::of_intention(intention, *mode)),
            Command::DeleteIntention { key, .. } => ("delete-intention", key.to_string()),
            Command::Policy { change } => return Some(Self::of_change(change)),
            Command::Config { change: ConfigChange::Write { entry, .. } } => {
                let content = Some(Content::Config(entry));
                return Some(Self { kind: "write-config", summary: bounded(entry.key().to_string()), content });
            }
            Command::Connector { change } => of_connector(change)?,
            Command::Config { change: ConfigChange::Delete { key, .. } } => ("delete-config", key.to_string()),
            Command::WriteMesh { entry, .. } => return Some(Self::of_mesh(entry)),
            Command::DeleteMesh { .. } => ("delete-mesh", "the mesh entry, back to its default".to_owned()),
            Command::OpenSession { .. }
            | Command::Register { .. }
            | Command::Deregister { .. }
            | Command::Time
            | Command::UpdateChecks { .. } => return None,
        };
        Some(Self { kind, summary: bounded(summary), content: None })
    }

    fn of_intention(intention: &'a Intention, mode: WriteMode) -> Self {
        let effect = match &intention.effect {
            Effect::Action(action) => action.to_string(),
            Effect::Permissions(permissions) => format!("{} permissions for", permissions.len()),
        };
        let IntentionKey { destination, source } = intention.key();
        let only = if mode == WriteMode::Create { " (only if new)" } else { "" };
        let summary = noted(format!("{effect} {source} => {destination}{only}"), &intention.description);
        Self { kind: "write-intention", summary: bounded(summary), content: Some(Content::Intention(intention)) }
    }

    fn of_change(change: &'a PolicyChange) -> Self {
        let in_name_of = |owner: &Option<IntentionOwner>| match owner {
            Some(owner) => format!(" of `{owner}`"),
            None => String::new(),
        };
        let (kind, summary) = match change {
            PolicyChange::Relax { scope, reason, lasts_ms } => {
                ("relax", format!("{scope} for {} s: {reason}", lasts_ms / 1000))
            }
            PolicyChange::EndRelaxation { scope } => ("end-relaxation", scope.to_string()),
            PolicyChange::TakeOver { intention, mode } => {
                return Self { kind: "take-over-intention", ..Self::of_intention(intention, *mode) };
            }
            PolicyChange::DeleteOwned { key, owner, take_over, .. } => {
                let kind = if *take_over { "take-over-intention" } else { "delete-intention" };
                (kind, format!("remove {key}{}", in_name_of(owner)))
            }
            PolicyChange::WriteDestination { destination, owner, intentions, .. } => {
                let summary = format!("{} intentions{} toward {destination}", intentions.len(), in_name_of(owner));
                let content = Some(Content::Intentions(intentions));
                return Self { kind: "write-service-intentions", summary: bounded(summary), content };
            }
            PolicyChange::DeleteDestination { destination, owner, .. } => {
                ("delete-service-intentions", format!("those{} toward {destination}", in_name_of(owner)))
            }
        };
        Self { kind, summary: bounded(summary), content: None }
    }

    fn of_mesh(entry: &'a MeshEntry) -> Self {
        let mut summary = format!("default {}, {} guardrails", entry.default_action, entry.guardrails.len());
        if entry.audit.mesh {
            summary += ", all in audit mode";
        } else if !entry.audit.namespaces.is_empty() {
            let namespaces: Vec<&str> = entry.audit.namespaces.iter().map(Namespace::as_str).collect();
            summary += &format!(", in audit mode: {}", namespaces.join(", "));
        }
        if entry.min_key_exchange != KeyExchange::default() {
            summary += &format!(", key exchange at least {}", entry.min_key_exchange);
        }
        Self { kind: "write-mesh", summary: bounded(summary), content: Some(Content::Mesh(entry)) }
    }
}

fn of_login(change: &LoginChange) -> (&'static str, String) {
    match change {
        LoginChange::WriteMethod { method, .. } => {
            let what = format!("auth method {} of type {}", method.name, method.config.kind());
            ("write-auth-method", noted(what, &method.description))
        }
        LoginChange::DeleteMethod { name } => ("delete-auth-method", format!("auth method {name}")),
        LoginChange::WriteRule { rule, .. } => {
            let which = if rule.selector.is_empty() { "everybody" } else { &rule.selector };
            let BindingRule { id, method, bind, name, .. } = &**rule;
            ("write-binding-rule", format!("rule {id} of {method}: {bind} {name} for {which}"))
        }
        LoginChange::DeleteRule { id } => ("delete-binding-rule", format!("rule {id}")),
        LoginChange::GrantToken { token, method, .. } => {
            ("login", noted(format!("token {} by {method}", token.accessor), &token.description))
        }
        LoginChange::Admit { admission } => {
            let Admission { method, subject, node, platform, key, .. } = &**admission;
            ("admit", format!("node {node} ({platform}), key {key}, by {method} as {subject}"))
        }
        LoginChange::RevokeProvisional { enrolled } => ("revoke-provisional", format!("agents admitted at {enrolled}")),
    }
}

/// Describes the steps of backups; none for the pieces that a restore comes in.
fn of_backup(step: &BackupStep) -> Option<(&'static str, String)> {
    Some(match step {
        BackupStep::Saved { index } => ("save-backup", format!("of index {index}")),
        BackupStep::Commit { upload, other_cluster, .. } => {
            let whose = if *other_cluster { "maybe of another cluster" } else { "of this cluster" };
            ("restore-backup", format!("restore {}, {whose}", upload.as_str()))
        }
        BackupStep::Begin { upload, bytes, sha256 } => {
            ("begin-restore", format!("restore {}, {bytes} bytes, SHA-256 {sha256}", upload.as_str()))
        }
        BackupStep::Piece { .. } | BackupStep::Abandon { .. } => return None,
    })
}

/// Describes who is kept out, and who no longer is.
fn of_revocation(change: &RevocationChange) -> Option<(&'static str, String)> {
    Some(match change {
        RevocationChange::Service { service } => ("revoke-service", format!("service {service}")),
        RevocationChange::JoinToken { accessor } => ("revoke-join-token", format!("join token {accessor}")),
        RevocationChange::Login { method, subject } => {
            let whom = subject.as_deref().unwrap_or("everybody");
            ("revoke-login", format!("agents by {method} as {whom}"))
        }
        RevocationChange::Lift { banned } => ("lift-ban", banned.to_string()),
        RevocationChange::LiftAgent { named } => ("lift-ban", format!("keys of agent `{named}`")),
        RevocationChange::Forget { .. } => return None,
    })
}

/// Names an agent with its node, where it is there.
fn agent_in(before: &Catalog, agent: &AgentId) -> String {
    match before.agent_record(agent) {
        Some(record) => format!("agent {agent} of node {}", record.node),
        None => format!("agent {agent}"),
    }
}

/// Describes the end of records that the servers found idle, with each of them; none for how sessions stand.
fn of_sessions<'a>(change: &SessionChange, before: &Catalog) -> Option<Description<'a>> {
    let (why, agents): (_, Vec<&AgentId>) = match change {
        SessionChange::Ended { sessions } => ("stayed away", sessions.iter().map(|session| &session.agent).collect()),
        SessionChange::Unused { agents } => ("never opened a session", agents.iter().collect()),
        SessionChange::Lost { .. } | SessionChange::Reaped { .. } | SessionChange::Drain { .. } => return None,
    };
    let agents: Vec<String> = agents.into_iter().map(|agent| agent_in(before, agent)).collect();
    let summary = format!("{why}: {}", agents.join(", "));
    // A line that names them all need not say it twice.
    if summary.len() <= SUMMARY_BYTES_MAX {
        return Some(Description { kind: "end-agents", summary, content: None });
    }
    let summary = format!("{why}: {} agents", agents.len());
    Some(Description { kind: "end-agents", summary, content: Some(Content::Agents(agents)) })
}

/// Describes a change of the list of servers; none for what servers say of themselves all the time.
fn describe_membership(change: &MembershipChange) -> Option<String> {
    Some(match change {
        MembershipChange::Add { id, facts, .. } => format!("add server {id} at {}", facts.raft_address),
        MembershipChange::Promote { raft_id } => format!("promote server number {raft_id}"),
        MembershipChange::Remove { raft_id } => format!("remove server number {raft_id}"),
        MembershipChange::Retire { raft_id } => format!("retire server number {raft_id}"),
        MembershipChange::SetAutopilot { .. } => "set the autopilot".to_owned(),
        MembershipChange::HandOver { to: Some(raft_id) } => format!("hand leadership to server number {raft_id}"),
        MembershipChange::HandOver { to: None } => "hand leadership to another server".to_owned(),
        MembershipChange::Describe { .. } | MembershipChange::Witness { .. } => return None,
    })
}

/// Describes who runs a connector, and its end; what it finds is its own to say all the time.
fn of_connector(change: &ConnectorChange) -> Option<(&'static str, String)> {
    Some(match change {
        ConnectorChange::Acquire { name, holder, .. } => ("acquire-connector", format!("connector {name} as {holder}")),
        ConnectorChange::Confirm { name, removals } => {
            ("confirm-removals", format!("connector {name} may remove {removals} nodes at once"))
        }
        ConnectorChange::Forget { name } => ("forget-connector", format!("connector {name}, with its nodes")),
        ConnectorChange::Renew { .. } | ConnectorChange::Release { .. } | ConnectorChange::Write { .. } => return None,
    })
}

/// Describes a change of the certificate authority; what agents acknowledge is theirs to say all the time.
fn of_ca(change: &CaChange) -> Option<(&'static str, String)> {
    Some(match change {
        CaChange::StartRotation { root, replaces, distrust_replaced, .. } => {
            let then = if *distrust_replaced { ", to be distrusted" } else { "" };
            ("start-ca-rotation", format!("root {} in place of {replaces}{then}", root.id))
        }
        CaChange::CancelRotation { root } => ("cancel-ca-rotation", format!("root {root}")),
        CaChange::Activate { root } => ("activate-root", format!("root {root}")),
        CaChange::Finish { root } => ("finish-ca-rotation", format!("root {root}")),
        CaChange::RenewIntermediate { intermediate, replaces } => {
            ("renew-intermediate", format!("intermediate {} in place of {replaces}", intermediate.id))
        }
        CaChange::Retire { root } => ("retire-root", format!("root {root}")),
        CaChange::Distrust { root } => ("distrust-root", format!("root {root}")),
        CaChange::Configure { .. } => ("configure-ca", "lives of certificates".to_owned()),
        CaChange::Reseal { secrets } => ("reseal", format!("{} secrets with another cluster key", secrets.len())),
        CaChange::Acknowledge { .. } => return None,
    })
}

pub(super) fn noted(what: String, note: &str) -> String {
    if note.is_empty() { what } else { format!("{what}: {note}") }
}

pub(crate) fn bounded(mut text: String) -> String {
    if text.len() > SUMMARY_BYTES_MAX {
        let end = (0..=SUMMARY_BYTES_MAX - 3).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
        text.push_str("...");
    }
    text
}

/// Says who asked, as lines have it.
pub(crate) fn actor(actor: &Actor) -> String {
    match actor {
        Actor::Server(id) => format!("server:{id}"),
        Actor::Token(accessor) => format!("token:{accessor}"),
        Actor::Agent(id) => format!("agent:{id}"),
        Actor::Join => "join".to_owned(),
        Actor::Login(method) => format!("login:{method}"),
        Actor::ClusterKey => "cluster-key".to_owned(),
    }
}

/// Names the refusal in an outcome by its kind alone: its text may be put better by a later release, and what it tells of
/// the state is no part of the trail.
pub(crate) fn refusal(outcome: &Outcome) -> Option<String> {
    let Outcome::Refused(refusal) = outcome else { return None };
    Some(name_of(refusal))
}

fn name_of(refusal: &Refusal) -> String {
    match serde_json::to_value(refusal) {
        Ok(serde_json::Value::String(name)) => name,
        Ok(serde_json::Value::Object(fields)) => fields.keys().next().cloned().unwrap_or_default(),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_named_by_its_kind() {
        assert_eq!(name_of(&Refusal::AlreadyBootstrapped), "already-bootstrapped");
        assert_eq!(name_of(&Refusal::not_found("token", "x")), "not-found");
    }

    #[test]
    fn a_long_summary_is_cut_between_characters() {
        let long = bounded("ä".repeat(400));
        assert!(long.len() <= SUMMARY_BYTES_MAX && long.ends_with("ä..."), "{long}");
        assert_eq!(bounded("short".to_owned()), "short");
    }
}
