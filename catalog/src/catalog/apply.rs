//! What each command does to the state. Every function checks everything before it changes anything.

use std::sync::Arc;

use super::{Attempt, Catalog, Touched};
use crate::{
    AccessorId, Action, Actor, CaIntermediate, CaRoot, CatalogIndex, Command, Digest, Envelope, Instance, Intention,
    JoinToken, LoginChange, Membership, Mesh, MeshEntry, Outcome, Principal, Refusal, SourcePattern, Timestamp, Token,
    WatchKey,
};

impl Catalog {
    pub(super) fn carry_out(
        &mut self,
        index: CatalogIndex,
        envelope: &Envelope,
        digest: Digest,
        touched: &mut Touched,
    ) -> Attempt {
        // The form was checked before it was proposed. It is not checked again here: a release with stricter rules would
        // read an older log, or share one with an older server, and end with another state.
        let now = self.now(envelope);
        self.check_actor(envelope, now)?;
        match &envelope.command {
            Command::Backup { step } => self.take_backup_step(index, envelope, step, digest, touched),
            Command::Bootstrap { mesh } => self.bootstrap(mesh, touched),
            Command::InstallCa { root, intermediate } => self.install_ca(index, root, intermediate, touched),
            Command::Ca { change, not_before } => self.change_ca(index, now, change, *not_before, touched),
            Command::BootstrapAcl { token } => self.bootstrap_acl(index, token, touched),
            Command::Acl { change } => self.change_acl(index, envelope, change, touched),
            Command::WriteToken { token } => self.write_token(index, token, touched),
            Command::DeleteToken { accessor } => self.delete_token(accessor, touched),
            Command::CreateJoinToken { token } => self.create_join_token(index, token, touched),
            Command::DeleteJoinToken { accessor } => self.delete_join_token(accessor, touched),
            Command::Enrol { secret, key, node, platform } => {
                self.enrol(index, now, secret, key, node, *platform, touched)
            }
            Command::Login { change } => self.change_logins(index, self.login_time(envelope, now), change, touched),
            Command::Membership { change } => self.change_membership(index, envelope, change, touched),
            Command::Sessions { change } => self.change_sessions(index, now, change, touched),
            Command::Revoke { change } => self.change_revocations(index, now, change, touched),
            Command::RevokeAgent { agent } => self.revoke_agent(index, agent, touched),
            Command::OpenSession { agent, server } => self.open_session(index, agent, server, touched),
            Command::Register { node, instances, checks, skip_node_update, incarnation } => {
                if node.address.is_empty() && self.node(&node.name).is_none() {
                    return Err(Refusal::not_found("node", &node.name));
                }
                self.check_registration(node, instances, *incarnation)?;
                self.check_checks(&node.name, instances, checks)?;
                self.check_upstreams(&node.name, self.instances_on(&node.name), instances)?;
                if !*skip_node_update || self.node(&node.name).is_none() {
                    self.put_node(index, node, touched);
                }
                self.register_on(index, &node.name, instances, checks, touched);
                self.session_registers(index, &node.name, touched);
                Ok(Outcome::Done)
            }
            Command::Deregister { node, target, incarnation } => {
                self.deregister(index, node, target, *incarnation, touched)
            }
            Command::UpdateChecks { updates, incarnation } => self.update_checks(index, updates, *incarnation, touched),
            Command::WriteIntention { intention, mode } => {
                self.write_intention(index, intention, *mode, false, touched)
            }
            Command::DeleteIntention { key, compare } => self.delete_intention(key, *compare, None, false, touched),
            Command::Policy { change } => self.change_policy(index, envelope, change, touched),
            Command::Connector { change } => self.change_connectors(index, change, touched),
            Command::Config { change } => self.change_config(index, change, touched),
            Command::Time => Ok(Outcome::Done),
            Command::WriteMesh { entry, compare } => self.write_mesh(index, entry, *compare, touched),
            Command::DeleteMesh { compare } => self.delete_mesh(*compare, touched),
        }
    }

    /// Returns the time by which a command is judged: a clock that is behind those that proposed before keeps nothing alive
    /// that had ended. The first release believed every clock, and members of it may read this log, too.
    pub(super) fn now(&self, envelope: &Envelope) -> Timestamp {
        if self.is_past_first_release() { envelope.proposed_at.max(self.clock) } else { envelope.proposed_at }
    }

    /// Returns the time by which a login is judged. One that was admitted while nobody led keeps the time of its admission:
    /// its credential does not end by the wait for a leader.
    fn login_time(&self, envelope: &Envelope, now: Timestamp) -> Timestamp {
        match &envelope.command {
            Command::Login { change: LoginChange::Admit { .. } } => envelope.proposed_at,
            _ => now,
        }
    }

    /// Refuses what somebody asks whose rights ended while the command was on its way, perhaps through a server that had not
    /// heard of it.
    fn check_actor(&self, envelope: &Envelope, now: Timestamp) -> Result<(), Refusal> {
        let (is_live, who) = match &envelope.actor {
            Actor::Server(_) | Actor::Join | Actor::Login(_) | Actor::ClusterKey => return Ok(()),
            Actor::Token(accessor) => {
                let lives = |token: &Token| token.expires_at.is_none_or(|end| now < end);
                (self.token(accessor).is_some_and(lives), format!("token {accessor}"))
            }
            Actor::Agent(id) => (self.agent_record(id).is_some(), format!("agent {id}")),
        };
        if is_live { Ok(()) } else { Err(Refusal::ActorGone { who }) }
    }

    /// Refuses a rule on one of our own workloads under its SPIFFE ID: such a rule never matches, so that a deny would be
    /// none.
    pub(super) fn check_source(&self, field: String, source: &SourcePattern) -> Result<(), Refusal> {
        let (SourcePattern::Spiffe(id), Some(scheme)) = (source, self.scheme()) else { return Ok(()) };
        match scheme.classify(id) {
            Principal::Foreign(_) => Ok(()),
            Principal::Workload(service) => {
                Err(Refusal::invalid(field, format!("`{id}` is a service of this mesh: write `{service}`")))
            }
            Principal::Agent { .. } | Principal::Server(_) | Principal::Unknown(_) => {
                Err(Refusal::invalid(field, format!("`{id}` is of this mesh and no service: it calls nobody")))
            }
        }
    }

    fn bootstrap(&mut self, mesh: &Mesh, touched: &mut Touched) -> Attempt {
        if self.mesh.is_some() {
            return Err(Refusal::AlreadyBootstrapped);
        }
        self.mesh = Some(Arc::new(mesh.clone()));
        self.membership = Arc::new(Membership::founded_by(mesh));
        touched.changed(WatchKey::Mesh);
        Ok(Outcome::Done)
    }

    fn install_ca(
        &mut self,
        index: CatalogIndex,
        root: &CaRoot,
        intermediate: &CaIntermediate,
        touched: &mut Touched,
    ) -> Attempt {
        if !self.roots.is_empty() {
            return Err(Refusal::AlreadyBootstrapped);
        }
        let root = CaRoot { created: index, modified: index, ..root.clone() };
        let intermediate = CaIntermediate { created: index, modified: index, ..intermediate.clone() };
        self.roots.insert(root.id.clone(), Arc::new(root));
        self.intermediates.insert(intermediate.id.clone(), Arc::new(intermediate));
        touched.changed(WatchKey::Roots);
        Ok(Outcome::Done)
    }

    fn bootstrap_acl(&mut self, index: CatalogIndex, token: &Token, touched: &mut Touched) -> Attempt {
        if self.acl_bootstrapped {
            return Err(Refusal::AclBootstrapped);
        }
        let outcome = self.write_token(index, token, touched)?;
        self.acl_bootstrapped = true;
        Ok(outcome)
    }

    pub(super) fn write_token(&mut self, index: CatalogIndex, token: &Token, touched: &mut Touched) -> Attempt {
        if self.tokens.by_secret(&token.secret).is_some_and(|holder| holder.accessor != token.accessor) {
            return Err(Refusal::exists("token secret", "(hidden)"));
        }
        let created = self.tokens.get(&token.accessor).map_or(index, |previous| previous.created);
        self.tokens.put(Arc::new(Token { created, modified: index, ..token.clone() }));
        touched.changed(WatchKey::Tokens);
        Ok(Outcome::Done)
    }

    fn delete_token(&mut self, accessor: &AccessorId, touched: &mut Touched) -> Attempt {
        let token = self.tokens.get(accessor).cloned().ok_or_else(|| Refusal::not_found("token", accessor))?;
        self.check_not_last_management(&token, "deletes it")?;
        self.tokens.remove(accessor);
        touched.changed(WatchKey::Tokens);
        Ok(Outcome::Done)
    }

    fn create_join_token(&mut self, index: CatalogIndex, token: &JoinToken, touched: &mut Touched) -> Attempt {
        if self.join_tokens.get(&token.accessor).is_some() || self.join_tokens.by_secret(&token.secret).is_some() {
            return Err(Refusal::exists("join token", &token.accessor));
        }
        self.forget_spent_join_tokens();
        let token = JoinToken { used_by: None, record: None, created: index, modified: index, ..token.clone() };
        self.join_tokens.put(Arc::new(token));
        touched.changed(WatchKey::JoinTokens);
        Ok(Outcome::Done)
    }

    fn delete_join_token(&mut self, accessor: &AccessorId, touched: &mut Touched) -> Attempt {
        self.join_tokens.remove(accessor).ok_or_else(|| Refusal::not_found("join token", accessor))?;
        touched.changed(WatchKey::JoinTokens);
        Ok(Outcome::Done)
    }

    fn write_mesh(
        &mut self,
        index: CatalogIndex,
        entry: &MeshEntry,
        compare: Option<CatalogIndex>,
        touched: &mut Touched,
    ) -> Attempt {
        let created = self.mesh_entry.created;
        self.check_mesh_unchanged(compare)?;
        for guardrail in &entry.guardrails {
            self.check_source(format!("guardrail `{}`: source", guardrail.name), &guardrail.source)?;
        }
        if entry.default_action == Action::Allow {
            let needs_deny = |intention: &&Intention| intention.has_jwt();
            let named: Vec<String> =
                self.intentions().filter(needs_deny).map(|intention| intention.key().to_string()).collect();
            if !named.is_empty() {
                return Err(Refusal::invalid(
                    "default_intention_policy",
                    format!("allow would switch off the JWT conditions of {}: change these first", named.join(", ")),
                ));
            }
        }
        let created = if created == CatalogIndex::default() { index } else { created };
        self.adopt_mesh(MeshEntry { created, modified: index, ..entry.clone() }, touched);
        Ok(Outcome::Done)
    }

    fn delete_mesh(&mut self, compare: Option<CatalogIndex>, touched: &mut Touched) -> Attempt {
        self.check_mesh_unchanged(compare)?;
        if *self.mesh_entry != MeshEntry::default() {
            self.adopt_mesh(MeshEntry::default(), touched);
        }
        Ok(Outcome::Done)
    }

    /// Puts an entry in place, and wakes whoever calls a service of which other instances are told from now on.
    fn adopt_mesh(&mut self, entry: MeshEntry, touched: &mut Touched) {
        let before = std::mem::replace(&mut self.mesh_entry, Arc::new(entry));
        touched.changed(WatchKey::Mesh);
        let refused = [&before.refuses_bypassable, &self.mesh_entry.refuses_bypassable];
        for namespace in refused[0].symmetric_difference(refused[1]) {
            for service in self.by_service.keys().filter(|service| service.namespace == *namespace) {
                if self.instances_of(service).any(Instance::is_bypassable) {
                    touched.changed(WatchKey::Service(service.clone()));
                }
            }
        }
    }

    fn check_mesh_unchanged(&self, compare: Option<CatalogIndex>) -> Result<(), Refusal> {
        let modified = self.mesh_entry.modified;
        match compare.filter(|expected| *expected != modified) {
            Some(expected) => Err(Refusal::EntryChanged { name: "mesh".to_owned(), modified, expected }),
            None => Ok(()),
        }
    }
}
