//! The form of what connectors write.

use std::{collections::BTreeSet, time::Duration};

use super::{META_TEXT_MAX, bounded, check_check, check_instance, check_node, few};
use crate::{
    CONNECTOR_CHECK_PREFIX, CONNECTOR_LEASE_MAX, CONNECTOR_LEASE_MIN, CONNECTOR_WRITES_MAX, CheckId, ConnectorChange,
    ConnectorName, ConnectorNode, ConnectorStatus, ConnectorWrite, Refusal,
};

const HOLDER_BYTES_MAX: usize = 128;
const PROBLEMS_MAX: usize = 64;
const SHARES_MAX: usize = 256;
/// How many instances, or checks, a node of a connector has at most: it is one task or pod, not a fleet.
const ON_NODE_MAX: usize = 256;

pub(super) fn check(change: &ConnectorChange) -> Result<(), Refusal> {
    match change {
        ConnectorChange::Acquire { kind, holder, lasts_ms, .. } => {
            for (field, text, what) in
                [("holder", holder, "the process that asks"), ("platform", kind, "what the connector looks at")]
            {
                if text.is_empty() {
                    return Err(Refusal::invalid(field, format!("it is empty: name {what}")));
                }
            }
            bounded("holder", holder, HOLDER_BYTES_MAX)?;
            bounded("platform", kind, HOLDER_BYTES_MAX)?;
            check_duration(*lasts_ms)
        }
        ConnectorChange::Renew { lasts_ms, status, .. } => {
            check_duration(*lasts_ms)?;
            status.as_deref().map_or(Ok(()), check_status)
        }
        ConnectorChange::Write { name, shares, writes, .. } => {
            few("shares", shares.len(), SHARES_MAX)?;
            few("writes", writes.len(), CONNECTOR_WRITES_MAX)?;
            let mut nodes = BTreeSet::new();
            if let Some(twice) = writes.iter().map(ConnectorWrite::node).find(|node| !nodes.insert(*node)) {
                return Err(Refusal::invalid("writes", format!("node `{twice}` stands twice")));
            }
            writes.iter().try_for_each(|write| check_write(name, write))
        }
        ConnectorChange::Release { .. } | ConnectorChange::Confirm { .. } | ConnectorChange::Forget { .. } => Ok(()),
    }
}

/// Refuses a check under an id that only connectors write.
pub(super) fn not_of_connector(id: &CheckId) -> Result<(), Refusal> {
    if id.as_str().starts_with(CONNECTOR_CHECK_PREFIX) {
        return Err(Refusal::invalid(
            format!("check `{id}`"),
            format!("ids that begin with `{CONNECTOR_CHECK_PREFIX}` are for connectors: choose another"),
        ));
    }
    Ok(())
}

fn check_duration(lasts_ms: u64) -> Result<(), Refusal> {
    if (CONNECTOR_LEASE_MIN..=CONNECTOR_LEASE_MAX).contains(&Duration::from_millis(lasts_ms)) {
        return Ok(());
    }
    Err(Refusal::invalid("lasts", format!("use {CONNECTOR_LEASE_MIN:?} to {CONNECTOR_LEASE_MAX:?}")))
}

fn check_status(status: &ConnectorStatus) -> Result<(), Refusal> {
    few("problems", status.problems.len(), PROBLEMS_MAX)?;
    status.problems.iter().try_for_each(|problem| {
        bounded("problems.subject", &problem.subject, META_TEXT_MAX)?;
        bounded("problems.reason", &problem.reason, META_TEXT_MAX)
    })
}

fn check_write(name: &ConnectorName, write: &ConnectorWrite) -> Result<(), Refusal> {
    match write {
        ConnectorWrite::Put { node } => check_put(name, node),
        ConnectorWrite::Remove { .. } => Ok(()),
        ConnectorWrite::Checks { node, checks } => {
            few("checks", checks.len(), ON_NODE_MAX)?;
            let prefix = name.check_prefix();
            checks.iter().try_for_each(|check| {
                if !check.key.id.as_str().starts_with(&prefix) {
                    let problem = format!("on the node of somebody else it has to begin with `{prefix}`");
                    return Err(Refusal::invalid(format!("check `{}`", check.key.id), problem));
                }
                check_check(node, check)
            })
        }
    }
}

fn check_put(name: &ConnectorName, put: &ConnectorNode) -> Result<(), Refusal> {
    let node = &put.node;
    if node.owner != name.owner() || node.incarnation.is_some() || node.gateway_port.is_some() {
        return Err(Refusal::invalid(
            format!("node `{}`", node.name),
            format!("a connector writes nodes of its own, which are no gateways: set the owner to `{}`", name.owner()),
        ));
    }
    check_node(node, false)?;
    few("instances", put.instances.len(), ON_NODE_MAX)?;
    few("checks", put.checks.len(), ON_NODE_MAX)?;
    let is_known = |key: &crate::InstanceKey| put.instances.iter().any(|instance| instance.key == *key);
    put.instances.iter().try_for_each(|instance| check_instance(node, instance))?;
    put.checks.iter().try_for_each(|check| {
        not_of_connector(&check.key.id)?;
        check_check(&node.name, check)?;
        match check.instance_key().filter(|key| !is_known(key)) {
            Some(key) => {
                let problem = format!("there is no {key} among the node's instances: write both together");
                Err(Refusal::invalid(format!("check `{}`", check.key.id), problem))
            }
            None => Ok(()),
        }
    })
}
