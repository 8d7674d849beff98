//! The form of commands: everything about one that can be judged without the state.

pub(crate) mod acl;
mod ca;
mod config;
mod connector;
mod login;
mod membership;
mod policy;
mod session;

use std::collections::BTreeMap;

pub(crate) use login::check_address as check_https;

use crate::{
    Action, Check, Command, DeregisterTarget, Effect, Instance, Intention, JoinToken, Mesh, NETWORK_BYTES_MAX, Node,
    NodeName, Refusal, ServicePattern,
};

const META_MAX: usize = 64;
const META_TEXT_MAX: usize = 512;
const TAGS_MAX: usize = 64;
const OUTPUT_BYTES_MAX: usize = 4096;
const UPDATES_MAX: usize = 10_000;
const NAMED_MAX: usize = 64;
const UPSTREAMS_MAX: usize = 256;
const JOIN_SERVICES_MAX: usize = 256;
const PERMISSIONS_MAX: usize = 256;

impl Command {
    /// Checks the command's form; a server does so before it proposes it.
    ///
    /// # Errors
    /// [`Refusal::Invalid`] names the field, what is wrong with it and what to do.
    pub fn validate(&self) -> Result<(), Refusal> {
        match self {
            Self::Backup { step } => step.validate(),
            Self::Bootstrap { mesh } => check_mesh(mesh),
            Self::CreateJoinToken { token } => check_join_token(token),
            Self::Register { node, instances, checks, skip_node_update, .. } => {
                check_node(node, *skip_node_update)?;
                instances.iter().try_for_each(|instance| check_instance(node, instance))?;
                checks.iter().try_for_each(|check| {
                    connector::not_of_connector(&check.key.id)?;
                    check_check(&node.name, check)
                })
            }
            Self::UpdateChecks { updates, .. } => {
                let Some(first) = updates.first() else {
                    return Err(Refusal::invalid("updates", "there are none: name at least one check"));
                };
                if updates.len() > UPDATES_MAX {
                    return Err(Refusal::invalid(
                        "updates",
                        format!("there are more than {UPDATES_MAX}: send several batches"),
                    ));
                }
                if updates.iter().any(|update| update.key.node != first.key.node) {
                    return Err(Refusal::invalid("updates", "they are of several nodes: send one batch a node"));
                }
                updates.iter().try_for_each(|update| {
                    session::not_reserved(&update.key.id)?;
                    connector::not_of_connector(&update.key.id)?;
                    bounded("output", &update.output, OUTPUT_BYTES_MAX)
                })
            }
            Self::Membership { change } => membership::check(change),
            Self::Deregister { target: DeregisterTarget::Check { id, .. }, .. } => {
                session::not_reserved(id)?;
                connector::not_of_connector(id)
            }
            Self::WriteIntention { intention, .. } => check_intention(intention),
            Self::Acl { change } => acl::check(change),
            Self::BootstrapAcl { token } | Self::WriteToken { token } => acl::check_token(token),
            Self::Ca { change, .. } => ca::check(change),
            Self::Config { change } => config::check(change),
            Self::Connector { change } => connector::check(change),
            Self::Policy { change } => policy::check(change),
            Self::WriteMesh { entry, .. } => policy::check_mesh_entry(entry),
            Self::Login { change } => login::check(change),
            Self::Sessions { change } => session::check(change),
            Self::Revoke { change } => session::check_revocation(change),
            Self::Time
            | Self::InstallCa { .. }
            | Self::DeleteMesh { .. }
            | Self::DeleteToken { .. }
            | Self::DeleteJoinToken { .. }
            | Self::Enrol { .. }
            | Self::RevokeAgent { .. }
            | Self::OpenSession { .. }
            | Self::Deregister { target: DeregisterTarget::Node | DeregisterTarget::Instance { .. }, .. }
            | Self::DeleteIntention { .. } => Ok(()),
        }
    }
}

fn bounded(field: &str, text: &str, bytes_max: usize) -> Result<(), Refusal> {
    if text.len() > bytes_max {
        return Err(Refusal::invalid(field, format!("it is {} bytes long: use at most {bytes_max}", text.len())));
    }
    Ok(())
}

fn few(field: &str, count: usize, max: usize) -> Result<(), Refusal> {
    if count > max {
        return Err(Refusal::invalid(field, format!("there are {count}: use at most {max}")));
    }
    Ok(())
}

fn check_meta(field: &str, meta: &BTreeMap<String, String>) -> Result<(), Refusal> {
    if meta.len() > META_MAX {
        return Err(Refusal::invalid(field, format!("it has {} entries: use at most {META_MAX}", meta.len())));
    }
    meta.iter().try_for_each(|(key, value)| {
        if key.is_empty() {
            return Err(Refusal::invalid(field, "a key is empty"));
        }
        bounded(field, key, META_TEXT_MAX)?;
        bounded(&format!("{field}.{key}"), value, META_TEXT_MAX)
    })
}

/// Accepts IP addresses and host names; refuses what would end up as something else in a URL or a log line.
fn check_address(field: &str, address: &str) -> Result<(), Refusal> {
    let is_host = !address.is_empty()
        && address.len() <= 253
        && address.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'));
    if is_host || address.parse::<std::net::Ipv6Addr>().is_ok() {
        return Ok(());
    }
    Err(Refusal::invalid(field, format!("`{}` is neither an IP address nor a host name", address.escape_debug())))
}

fn check_mesh(mesh: &Mesh) -> Result<(), Refusal> {
    // The datacenter is one label of the server names in TLS.
    if mesh.datacenter.parse::<crate::Namespace>().is_err() {
        return Err(Refusal::invalid(
            "datacenter",
            format!("`{}` is not 1 to 63 of a-z, 0-9 and `-`", mesh.datacenter),
        ));
    }
    if mesh.cluster_id.is_empty() {
        return Err(Refusal::invalid("cluster_id", "it is empty"));
    }
    Ok(())
}

fn check_join_token(token: &JoinToken) -> Result<(), Refusal> {
    if token.services.is_empty() && token.gateway.is_none() {
        return Err(Refusal::invalid("services", "there are none: name at least one that the agent may serve"));
    }
    bounded("gateway", token.gateway.as_deref().unwrap_or_default(), NETWORK_BYTES_MAX)?;
    few("services", token.services.len(), JOIN_SERVICES_MAX)?;
    if !token.services.is_sorted_by(|a, b| a < b) {
        return Err(Refusal::invalid("services", "they must be sorted, each once"));
    }
    Ok(())
}

/// A node that keeps its fields may come without an address (Consul's `SkipNodeUpdate`).
fn check_node(node: &Node, keeps_fields: bool) -> Result<(), Refusal> {
    if !(keeps_fields && node.address.is_empty()) {
        check_address("address", &node.address)?;
    }
    for (field, text) in [("id", &node.id), ("zone", &node.zone)] {
        bounded(field, text.as_deref().unwrap_or_default(), META_TEXT_MAX)?;
    }
    few("tagged_addresses", node.tagged_addresses.len(), NAMED_MAX)?;
    node.tagged_addresses
        .iter()
        .try_for_each(|(name, address)| check_address(&format!("tagged_addresses.{name}"), address))?;
    bounded("network", &node.network, NETWORK_BYTES_MAX)?;
    if node.gateway_port == Some(0) {
        return Err(Refusal::invalid("gateway_port", "it is 0: use 1 to 65535, or leave it out"));
    }
    check_meta("node_meta", &node.meta)
}

fn check_instance(node: &Node, instance: &Instance) -> Result<(), Refusal> {
    let field = |name: &str| format!("service `{}`: {name}", instance.key.id);
    if instance.key.node != node.name {
        return Err(Refusal::invalid(field("node"), format!("it is `{}`, not `{}`", instance.key.node, node.name)));
    }
    if let Some(address) = &instance.address {
        check_address(&field("address"), address)?;
    }
    few(&field("tagged_addresses"), instance.tagged_addresses.len(), NAMED_MAX)?;
    few(&field("ports"), instance.ports.len(), NAMED_MAX)?;
    few(&field("upstreams"), instance.upstreams.len(), UPSTREAMS_MAX)?;
    for upstream in &instance.upstreams {
        let address = upstream.local_bind_address.as_deref().unwrap_or("127.0.0.1");
        check_address(&field("upstreams.local_bind_address"), address)?;
    }
    for (name, tagged) in &instance.tagged_addresses {
        check_address(&field(&format!("tagged_addresses.{name}")), &tagged.address)?;
    }
    if instance.tags.len() > TAGS_MAX {
        return Err(Refusal::invalid(field("tags"), format!("there are more than {TAGS_MAX}")));
    }
    instance.tags.iter().try_for_each(|tag| bounded(&field("tags"), tag, META_TEXT_MAX))?;
    check_meta(&field("meta"), &instance.meta)?;
    for (name, port) in &instance.ports {
        if name.parse::<crate::ServiceName>().is_err() {
            return Err(Refusal::invalid(
                field("ports"),
                format!("`{}` is not 1 to 63 of a-z, 0-9 and `-`", name.escape_debug()),
            ));
        }
        if *port == 0 {
            return Err(Refusal::invalid(field(&format!("ports.{name}")), "it is 0: use 1 to 65535"));
        }
    }
    if instance.mesh_port == Some(0) {
        return Err(Refusal::invalid(field("mesh_port"), "it is 0: use 1 to 65535, or leave it out"));
    }
    Ok(())
}

fn check_check(node: &NodeName, check: &Check) -> Result<(), Refusal> {
    let field = |name: &str| format!("check `{}`: {name}", check.key.id);
    if check.key.node != *node {
        return Err(Refusal::invalid(field("node"), format!("it is `{}`, not `{node}`", check.key.node)));
    }
    session::not_reserved(&check.key.id)?;
    bounded(&field("name"), &check.name, META_TEXT_MAX)?;
    bounded(&field("kind"), &check.kind, META_TEXT_MAX)?;
    bounded(&field("notes"), &check.notes, OUTPUT_BYTES_MAX)?;
    bounded(&field("output"), &check.output, OUTPUT_BYTES_MAX)
}

fn check_intention(intention: &Intention) -> Result<(), Refusal> {
    let field = |name: &str| format!("intention {}: {name}", intention.key());
    bounded(&field("description"), &intention.description, META_TEXT_MAX)?;
    check_meta(&field("meta"), &intention.meta)?;
    let is_deny = intention.effect == Effect::Action(Action::Deny);
    if intention.jwt.is_some() && is_deny {
        return Err(Refusal::invalid(field("jwt"), "a JWT condition on a deny means nothing: put it on an allow"));
    }
    if let Some(jwt) = &intention.jwt {
        crate::http::check_jwt(jwt).map_err(|problem| Refusal::invalid(field("jwt"), problem.to_string()))?;
        if !matches!(intention.destination, ServicePattern::Exact(_)) {
            return Err(Refusal::invalid(field("jwt"), "a JWT condition needs one destination: name the service"));
        }
    }
    if intention.expires_at.is_some() && is_deny {
        return Err(Refusal::invalid(field("expires_at"), "a deny does not end by itself: delete it when it should"));
    }
    let Effect::Permissions(permissions) = &intention.effect else { return Ok(()) };
    if !matches!(intention.destination, ServicePattern::Exact(_)) {
        return Err(Refusal::invalid(field("permissions"), "they need one destination: name the service"));
    }
    if permissions.is_empty() {
        return Err(Refusal::invalid(field("permissions"), "there are none: name at least one, or an action"));
    }
    few(&field("permissions"), permissions.len(), PERMISSIONS_MAX)?;
    permissions.iter().enumerate().try_for_each(|(at, permission)| {
        crate::http::check_permission(permission)
            .map_err(|problem| Refusal::invalid(field(&format!("permissions[{at}]")), problem.to_string()))
    })
}
