//! What a command needs of whoever asks for it, so that no way to ask for it can forget to look.

use std::fmt;

use super::{AclChange, Authority};
use crate::{
    AccessorId, CaChange, Catalog, Check, CheckKey, Command, ConfigChange, ConnectorChange, ConnectorName,
    ConnectorWrite, DeregisterTarget, Instance, InstanceKey, JoinToken, LoginChange, Namespace, Node, NodeName,
    PolicyChange, ServiceKey, ServicePattern, SessionChange,
};

/// Names the right that somebody lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lack(String);

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn permits_policy(authority: &Authority, change: &PolicyChange) -> Result<(), Lack> {
    match change {
        PolicyChange::Relax { .. } | PolicyChange::EndRelaxation { .. } => {
            authority.need_mesh_write()?;
            authority.need_operator_write()
        }
        PolicyChange::TakeOver { intention, .. } => authority.need_intention_write(&intention.destination),
        PolicyChange::DeleteOwned { key, .. } => authority.need_intention_write(&key.destination),
        PolicyChange::WriteDestination { destination, intentions, .. } => {
            authority.need_intention_write(destination)?;
            intentions.iter().try_for_each(|one| authority.need_intention_write(&one.destination))
        }
        PolicyChange::DeleteDestination { destination, .. } => authority.need_intention_write(destination),
    }
}

/// What holds for every service bears on whether rules are enforced, as the `mesh` entry does.
fn permits_config(authority: &Authority, change: &ConfigChange) -> Result<(), Lack> {
    match change.key().service() {
        // Who sends calls somewhere must be able to see what is there.
        Some(service) => {
            authority.need_service_write(service)?;
            let ConfigChange::Write { entry, .. } = change else { return Ok(()) };
            entry.references().into_iter().try_for_each(|to| authority.need_service_read(to))
        }
        None => {
            authority.need_mesh_write()?;
            authority.need_operator_write()
        }
    }
}

fn permits_ca(authority: &Authority, change: &CaChange) -> Result<(), Lack> {
    match change {
        CaChange::StartRotation { root, .. } if root.sealed_key.is_some() => authority.need_operator_write(),
        CaChange::CancelRotation { .. } | CaChange::Configure { .. } | CaChange::Reseal { .. } => {
            authority.need_operator_write()
        }
        // Whoever brings in a key of their own, or cuts what lives under a root, holds everybody's identity. The
        // rest are steps that servers take.
        CaChange::StartRotation { .. }
        | CaChange::RenewIntermediate { .. }
        | CaChange::Distrust { .. }
        | CaChange::Acknowledge { .. }
        | CaChange::Activate { .. }
        | CaChange::Finish { .. }
        | CaChange::Retire { .. } => authority.need_management(),
    }
}

/// Demands a right.
fn need(is_granted: bool, what: impl FnOnce() -> String) -> Result<(), Lack> {
    if is_granted { Ok(()) } else { Err(Lack(what())) }
}

impl Authority {
    fn need_service_write(&self, service: &ServiceKey) -> Result<(), Lack> {
        need(self.service_write(service), || format!("`service:write` on {service}"))
    }

    fn need_service_read(&self, service: &ServiceKey) -> Result<(), Lack> {
        need(self.service_read(service), || format!("`service:read` on {service}"))
    }

    fn need_node_write(&self, node: &NodeName) -> Result<(), Lack> {
        need(self.node_write(node), || format!("`node:write` on {node}"))
    }

    fn need_intention_write(&self, destination: &ServicePattern) -> Result<(), Lack> {
        need(self.intention_write(destination), || format!("`intentions = \"write\"` on {destination}"))
    }

    fn need_acl_write(&self, namespace: &Namespace) -> Result<(), Lack> {
        need(self.acl_write(namespace), || {
            if *namespace == Namespace::default_namespace() {
                "`acl = \"write\"`".to_owned()
            } else {
                format!("`acl = \"write\"` in the namespace {namespace}")
            }
        })
    }

    fn need_operator_write(&self) -> Result<(), Lack> {
        need(self.operator_write(), || "`operator = \"write\"`".to_owned())
    }

    fn need_mesh_write(&self) -> Result<(), Lack> {
        need(self.mesh_write(), || "`mesh = \"write\"`".to_owned())
    }

    fn need_management(&self) -> Result<(), Lack> {
        need(self.is_management(), || "a management token".to_owned())
    }
}

impl Catalog {
    /// Checks that whoever has `authority` may ask for a command.
    ///
    /// Where a command bears on several things, the right on one of them is not enough: it is refused whole.
    ///
    /// # Errors
    /// [`Lack`] names the first right that is missing.
    pub fn permits(&self, authority: &Authority, command: &Command) -> Result<(), Lack> {
        if authority.is_management() {
            return Ok(());
        }
        match command {
            Command::Acl { change } => self.permits_acl(authority, change),
            Command::DeleteToken { accessor } => self.permits_token(authority, accessor),
            Command::CreateJoinToken { token } => self.permits_join_token(authority, token),
            Command::DeleteJoinToken { accessor } => {
                let known = self.join_tokens.get(accessor);
                if known.is_some_and(|token| token.gateway.is_some()) {
                    authority.need_operator_write()?;
                }
                let unknown = || "a management token: the join token is not known".to_owned();
                need(known.is_some(), unknown)?;
                known.iter().flat_map(|token| &token.services).try_for_each(|service| authority.need_service_write(service))
            }
            Command::RevokeAgent { .. } | Command::Revoke { .. } => authority.need_operator_write(),
            Command::Register { node, instances, checks, skip_node_update, .. } => {
                self.permits_node(authority, node, *skip_node_update)?;
                instances.iter().try_for_each(|instance| self.permits_instance(authority, instance))?;
                checks.iter().try_for_each(|check| self.permits_check(authority, check, instances))
            }
            Command::Deregister { node, target, .. } => self.permits_deregistration(authority, node, target),
            Command::UpdateChecks { updates, .. } => {
                updates.iter().try_for_each(|update| self.permits_check_at(authority, &update.key))
            }
            Command::WriteIntention { intention, .. } => authority.need_intention_write(&intention.destination),
            Command::DeleteIntention { key, .. } => authority.need_intention_write(&key.destination),
            // All that the entry holds so far is the baseline of everybody's policy, which is the operator's.
            Command::WriteMesh { .. } | Command::DeleteMesh { .. } => {
                authority.need_mesh_write()?;
                authority.need_operator_write()
            }
            Command::Policy { change } => permits_policy(authority, change),
            Command::Connector { change } => self.permits_connector(authority, change),
            Command::Config { change } => permits_config(authority, change),
            Command::Login { change } => match change {
                LoginChange::WriteMethod { .. }
                | LoginChange::DeleteMethod { .. }
                | LoginChange::WriteRule { .. }
                | LoginChange::DeleteRule { .. } => authority.need_acl_write(&Namespace::default_namespace()),
                // Servers ask for these, in the name of whoever logged in.
                LoginChange::GrantToken { .. } | LoginChange::Admit { .. } | LoginChange::RevokeProvisional { .. } => {
                    authority.need_management()
                }
            },
            Command::Time => authority.need_management(),
            Command::Membership { .. }
            | Command::Sessions { change: SessionChange::Lost { .. } | SessionChange::Reaped { .. } } => {
                authority.need_operator_write()
            }
            Command::Ca { change, .. } => permits_ca(authority, change),
            // A backup holds everything, tokens included.
            Command::Backup { .. } => authority.need_management(),
            // Servers and agents ask for these, never the holder of a token.
            Command::Bootstrap { .. }
            // Nobody asks for it any more; it would put any token in the place of any other.
            | Command::WriteToken { .. }
            | Command::InstallCa { .. }
            | Command::BootstrapAcl { .. }
            | Command::Enrol { .. }
            | Command::Sessions { .. }
            | Command::OpenSession { .. } => authority.need_management(),
        }
    }

    fn permits_join_token(&self, authority: &Authority, token: &JoinToken) -> Result<(), Lack> {
        // The agent that came of it would be the operator's in name, and outlive the login.
        need(!authority.is_by_login(), || {
            "a token that an operator made: one that came of a login makes no join tokens".to_owned()
        })?;
        token.services.iter().try_for_each(|service| authority.need_service_write(service))?;
        if token.gateway.is_some() {
            authority.need_operator_write()?;
        }
        if token.replace_node {
            self.permits_takeover(authority, token.node.as_ref())?;
        }
        match &token.node {
            Some(node) => authority.need_node_write(node),
            None => need(authority.every_node_write(), || {
                "`node:write` on every node, or a join token that names its node".to_owned()
            }),
        }
    }

    /// Running a connector is a matter of the mesh; what it writes needs the right on each node and service besides.
    fn permits_connector(&self, authority: &Authority, change: &ConnectorChange) -> Result<(), Lack> {
        authority.need_mesh_write()?;
        match change {
            ConnectorChange::Forget { .. } | ConnectorChange::Confirm { .. } => authority.need_operator_write(),
            ConnectorChange::Write { name, writes, .. } => {
                writes.iter().try_for_each(|write| self.permits_connector_write(authority, name, write))
            }
            ConnectorChange::Acquire { .. } | ConnectorChange::Renew { .. } | ConnectorChange::Release { .. } => Ok(()),
        }
    }

    fn permits_connector_write(
        &self,
        authority: &Authority,
        name: &ConnectorName,
        write: &ConnectorWrite,
    ) -> Result<(), Lack> {
        match write {
            ConnectorWrite::Put { node } => {
                authority.need_node_write(&node.node.name)?;
                let held = self.instances_on(&node.node.name).chain(&node.instances);
                held.map(Instance::service_key).try_for_each(|service| authority.need_service_write(&service))
            }
            ConnectorWrite::Remove { node } => self.permits_deregistration(authority, node, &DeregisterTarget::Node),
            ConnectorWrite::Checks { node, checks } => {
                authority.need_node_write(node)?;
                // Those that are not said again go, and what they bore on is well then.
                let prefix = name.check_prefix();
                let mut held = self.checks_on(node).filter(|check| check.key.id.as_str().starts_with(&prefix));
                held.try_for_each(|check| self.permits_check_at(authority, &check.key))?;
                checks.iter().try_for_each(|check| match check.instance_key().and_then(|key| self.instance(&key)) {
                    Some(instance) => authority.need_service_write(&instance.service_key()),
                    None => Ok(()),
                })
            }
        }
    }

    fn permits_acl(&self, authority: &Authority, change: &AclChange) -> Result<(), Lack> {
        let of_policy = |id| self.policy(id).map(|policy| policy.namespace.clone()).unwrap_or_default();
        let of_role = |id| self.role(id).map(|role| role.namespace.clone()).unwrap_or_default();
        match change {
            AclChange::CreateToken { token } => authority.need_acl_write(&token.namespace),
            AclChange::UpdateToken { accessor, .. } => self.permits_token(authority, accessor),
            AclChange::CreatePolicy { policy } => authority.need_acl_write(&policy.namespace),
            AclChange::UpdatePolicy { policy } => authority.need_acl_write(&of_policy(&policy.id)),
            AclChange::DeletePolicy { id } => authority.need_acl_write(&of_policy(id)),
            AclChange::CreateRole { role } => authority.need_acl_write(&role.namespace),
            AclChange::UpdateRole { role } => authority.need_acl_write(&of_role(&role.id)),
            AclChange::DeleteRole { id } => authority.need_acl_write(&of_role(id)),
            AclChange::ReapTokens => authority.need_management(),
        }
    }

    /// What is not there is judged as if it were of `default`: only who may write there learns that it is not.
    fn permits_token(&self, authority: &Authority, accessor: &AccessorId) -> Result<(), Lack> {
        let namespace = self.token(accessor).map(|token| token.namespace.clone()).unwrap_or_default();
        authority.need_acl_write(&namespace)
    }

    /// Whoever takes over a node cuts the agent that is there, and all that it serves.
    pub(crate) fn permits_takeover(&self, authority: &Authority, node: Option<&NodeName>) -> Result<(), Lack> {
        let Some(node) = node.filter(|_| !authority.operator_write()) else { return authority.need_operator_write() };
        let entitled = self.agent_on(node).into_iter().flat_map(|record| &record.services);
        entitled.cloned().chain(self.instances_on(node).map(Instance::service_key)).try_for_each(|service| {
            need(authority.service_write(&service), || {
                format!("`operator = \"write\"`, or `service:write` on {service}, which the node has now")
            })
        })
    }

    /// A node that is there and stays as it is needs no right on it.
    fn permits_node(&self, authority: &Authority, node: &Node, keeps_fields: bool) -> Result<(), Lack> {
        let stays = self.node(&node.name).is_some_and(|held| {
            keeps_fields
                || *held
                    == Node {
                        owner: held.owner.clone(),
                        incarnation: held.incarnation,
                        created: held.created,
                        modified: held.modified,
                        ..node.clone()
                    }
        });
        if stays { Ok(()) } else { authority.need_node_write(&node.name) }
    }

    /// An id that serves something else now needs the right on that too.
    fn permits_instance(&self, authority: &Authority, instance: &Instance) -> Result<(), Lack> {
        authority.need_service_write(&instance.service_key())?;
        self.instance(&instance.key).map_or(Ok(()), |held| authority.need_service_write(&held.service_key()))
    }

    fn permits_check(&self, authority: &Authority, check: &Check, beside: &[Instance]) -> Result<(), Lack> {
        if self.check(&check.key).is_some() {
            self.permits_check_at(authority, &check.key)?;
        }
        let Some(key) = check.instance_key() else { return authority.need_node_write(&check.key.node) };
        let service = beside.iter().find(|instance| instance.key == key).or_else(|| self.instance(&key));
        // Without an instance there is nothing to judge by; the state machine refuses it later.
        service.map_or_else(|| authority.need_management(), |of| authority.need_service_write(&of.service_key()))
    }

    /// Judges a check that is there by what it bears on, its instance or its node.
    fn permits_check_at(&self, authority: &Authority, key: &CheckKey) -> Result<(), Lack> {
        let instance = self.check(key).and_then(Check::instance_key);
        match instance.and_then(|instance| self.instance(&instance)) {
            Some(instance) => authority.need_service_write(&instance.service_key()),
            None => authority.need_node_write(&key.node),
        }
    }

    /// A node takes everything on it with it, so that all of these rights are needed.
    fn permits_deregistration(
        &self,
        authority: &Authority,
        node: &NodeName,
        target: &DeregisterTarget,
    ) -> Result<(), Lack> {
        match target {
            DeregisterTarget::Node => {
                authority.need_node_write(node)?;
                self.instances_on(node).try_for_each(|instance| authority.need_service_write(&instance.service_key()))
            }
            DeregisterTarget::Instance { namespace, id } => {
                let key = InstanceKey { node: node.clone(), namespace: namespace.clone(), id: id.clone() };
                match self.instance(&key) {
                    Some(instance) => authority.need_service_write(&instance.service_key()),
                    None => authority.need_node_write(node),
                }
            }
            DeregisterTarget::Check { namespace, id } => {
                let key = CheckKey { node: node.clone(), namespace: namespace.clone(), id: id.clone() };
                self.permits_check_at(authority, &key)
            }
        }
    }
}
