//! What requests link tokens and roles to, looked up, and the right to look at what is linked.

use ::catalog::{AclName, AclPolicy, Catalog, Links, Namespace, PolicyId, Rights, RoleId};
use wire::acl::{AclLink, LinkTexts};

use crate::api::call::Call;
use crate::api::error::ApiError;
use crate::api::reads::Reading;

impl Call {
    /// Looks up what a request names. The policy that grants everything becomes a right of its own in `default`.
    pub(super) fn resolve(
        &self,
        catalog: &Catalog,
        texts: &LinkTexts,
        namespace: &Namespace,
    ) -> Result<(Rights, Links), ApiError> {
        let mut links = texts.named().map_err(|error| self.body_error(&error))?;
        for link in &texts.policies {
            links.policies.push(self.policy_id(catalog, link, namespace)?);
        }
        for link in &texts.roles {
            links.roles.push(self.role_id(catalog, link, namespace)?);
        }
        let mut rights = Rights::Rules;
        if *namespace == Namespace::default_namespace() && links.policies.iter().any(AclPolicy::is_global_management) {
            rights = Rights::Management;
            links.policies.retain(|id| !AclPolicy::is_global_management(id));
        }
        Ok((rights, links.sorted()))
    }

    fn policy_id(&self, catalog: &Catalog, link: &AclLink, namespace: &Namespace) -> Result<PolicyId, ApiError> {
        if !link.id.is_empty() {
            return link.id.parse().map_err(|error| self.body_error(&error));
        }
        let name: AclName = link.name.parse().map_err(|error| self.body_error(&error))?;
        let found = catalog.policy_by_name(namespace, &name).map(|policy| policy.id.clone());
        found.ok_or_else(|| self.body_error(&format_args!("`Policies`: no policy `{name}` in `{namespace}`")))
    }

    fn role_id(&self, catalog: &Catalog, link: &AclLink, namespace: &Namespace) -> Result<RoleId, ApiError> {
        if !link.id.is_empty() {
            return link.id.parse().map_err(|error| self.body_error(&error));
        }
        let name: AclName = link.name.parse().map_err(|error| self.body_error(&error))?;
        let found = catalog.role_by_name(namespace, &name).map(|role| role.id.clone());
        found.ok_or_else(|| self.body_error(&format_args!("`Roles`: no role `{name}` in `{namespace}`")))
    }

    /// Returns the namespace that a body names, or the query's.
    pub(super) fn body_namespace(&self, body: Option<Namespace>) -> Result<Namespace, ApiError> {
        body.map_or_else(|| self.namespace(), Ok)
    }

    /// Checks that every datacenter that a body limits something to is this one.
    pub(super) fn check_datacenters(&self, datacenters: &[String]) -> Result<(), ApiError> {
        datacenters.iter().try_for_each(|asked| self.check_body_datacenter(asked))
    }

    /// Returns the namespace whose objects a list is asked for; all of those that the caller may see where none is named.
    pub(super) fn listed_namespace(&self) -> Result<Option<Namespace>, ApiError> {
        match self.query.get("ns") {
            None | Some("*") => Ok(None),
            Some(_) => self.namespace().map(Some),
        }
    }

    /// Checks that the caller may look at tokens, policies and roles of a namespace. What is not there is judged as if it
    /// were of `default`.
    pub(super) fn may_read_acl(&self, reading: &Reading, namespace: Option<&Namespace>) -> Result<(), ApiError> {
        let default = Namespace::default_namespace();
        let namespace = namespace.unwrap_or(&default);
        if reading.authority.acl_read(namespace) {
            return Ok(());
        }
        Err(self.denied(format_args!("`acl = \"read\"` in the namespace {namespace}")))
    }
}
