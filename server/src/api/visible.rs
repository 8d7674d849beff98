//! What of an answer the caller may see: everything else is left out, and a header says that something was.

use ::catalog::{Check, Instance, NodeName, ServiceKey};

use super::auth::Right;
use super::call::Call;
use super::error::ApiError;
use super::reads::Reading;

impl Reading {
    /// Reports whether the caller may see a node, and notes it where it may not.
    pub(super) fn shows_node(&self, node: &NodeName) -> bool {
        self.keeps(self.authority.node_read(node))
    }

    /// Reports whether the caller may see what is the operators' alone, and notes it where it may not.
    pub(super) fn shows_operators(&self) -> bool {
        self.keeps(self.authority.operator_read())
    }

    /// Reports whether the caller may find a service, and notes it where it may not.
    pub(super) fn shows_service(&self, service: &ServiceKey) -> bool {
        self.keeps(self.authority.service_read(service))
    }

    /// Reports whether the caller may see an instance together with its node, and notes it where it may not.
    pub(super) fn shows_instance(&self, instance: &Instance) -> bool {
        self.keeps(self.authority.instance_read(&instance.key.node, &instance.service_key()))
    }

    /// Reports whether the caller may see a check, of an instance or of a node, and notes it where it may not.
    pub(super) fn shows_check(&self, check: &Check) -> bool {
        let instance = check.instance_key().and_then(|key| self.catalog.instance(&key));
        match instance {
            Some(instance) => self.shows_instance(instance),
            None => self.shows_node(&check.key.node),
        }
    }
}

impl Call {
    /// Checks that the caller may see what this server says of itself, by the rule on the agent of its name.
    pub(super) fn may_read_server(&self) -> Result<(), ApiError> {
        debug_assert_eq!(self.caller.right(), Right::Judged);
        let server = self.state.server();
        // A server's name has a node's form; anything else would be readable by management alone.
        let name: Option<NodeName> = server.as_str().parse().ok();
        self.may(format_args!("`agent:read` on {server}"), |authority| match &name {
            Some(name) => authority.agent_read(name),
            None => authority.is_management(),
        })
    }
}
