//! What a connector asks, and what it keeps, as they travel: forms of the API, which the log's own do not bind.

use catalog::{
    CatalogIndex, Check, CheckKey, ConnectorChange, ConnectorName, ConnectorNode, ConnectorProblem, ConnectorStatus,
    ConnectorWrite, Incarnation, Instance, InstanceKey, Node, NodeName, ProblemKind, RefusedWrite, TaggedAddress,
    Upstream, Weights,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    consul::{self, read_check, read_instance},
    decode::{DecodeError, Fields, Shape},
    rfc3339,
};

/// Asks for a change of a connector: its lease, or a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectorRequest(pub ConnectorChange);

impl Shape for ConnectorRequest {
    fn read(fields: &mut Fields) -> Result<Self, DecodeError> {
        let what = fields.text("Change")?;
        let name: ConnectorName = fields.required("Name")?;
        let change = match what.as_str() {
            "acquire" => ConnectorChange::Acquire {
                name,
                kind: fields.text("Platform")?,
                holder: fields.text("Holder")?,
                lasts_ms: read_lasts(fields)?,
            },
            "renew" => ConnectorChange::Renew {
                term: read_term(fields)?,
                lasts_ms: read_lasts(fields)?,
                status: fields.object("Status", read_status)?.map(Box::new),
                name,
            },
            "release" => ConnectorChange::Release { term: read_term(fields)?, name },
            "write" => ConnectorChange::Write {
                term: read_term(fields)?,
                shares: fields.parsed_list("Shares")?,
                writes: fields.objects("Writes", |write| read_write(write, &name))?,
                name,
            },
            "confirm" | "forget" => {
                let (method, end) = if what == "confirm" { ("PUT", "/confirm") } else { ("DELETE", "") };
                let reason = format!("that is an operator's to say: use {method} /v1/connector/{name}{end}");
                return Err(fields.refuse("Change", reason));
            }
            other => {
                let reason = format!("`{}`: use acquire, renew, release or write", other.escape_debug());
                return Err(fields.refuse("Change", reason));
            }
        };
        Ok(Self(change))
    }
}

fn read_term(fields: &mut Fields) -> Result<Incarnation, DecodeError> {
    let path = fields.path_to("Term");
    fields.number("Term")?.map(Incarnation).ok_or(DecodeError::Missing { path })
}

fn read_lasts(fields: &mut Fields) -> Result<u64, DecodeError> {
    let path = fields.path_to("Lasts");
    let lasts = fields.duration("Lasts")?.ok_or(DecodeError::Missing { path })?;
    Ok(u64::try_from(lasts.as_millis()).unwrap_or(u64::MAX))
}

fn read_status(fields: &mut Fields) -> Result<ConnectorStatus, DecodeError> {
    let synced_at = fields.text("SyncedAt")?;
    let synced_at = match synced_at.as_str() {
        "" => None,
        text => Some(rfc3339::parse(text).map_err(|error| fields.refuse("SyncedAt", error))?),
    };
    Ok(ConnectorStatus {
        synced_at,
        nodes: fields.number("Nodes")?.unwrap_or(0),
        problems: fields.objects("Problems", read_problem)?,
        problems_beyond: fields.number("ProblemsBeyond")?.unwrap_or(0),
    })
}

fn read_problem(fields: &mut Fields) -> Result<ConnectorProblem, DecodeError> {
    let kind: ProblemKind = fields.required("Kind")?;
    Ok(ConnectorProblem { kind, subject: fields.text("Subject")?, reason: fields.text("Reason")? })
}

fn read_write(fields: &mut Fields, connector: &ConnectorName) -> Result<ConnectorWrite, DecodeError> {
    let node: NodeName = fields.required("Node")?;
    match fields.text("Write")?.as_str() {
        "put" => Ok(ConnectorWrite::Put { node: Box::new(read_node(fields, node, connector)?) }),
        "remove" => Ok(ConnectorWrite::Remove { node }),
        "checks" => {
            let namespace = catalog::Namespace::default();
            let checks = fields.objects("Checks", |check| read_check(check, &node, &namespace))?;
            Ok(ConnectorWrite::Checks { node, checks })
        }
        other => Err(fields.refuse("Write", format!("`{}`: use put, remove or checks", other.escape_debug()))),
    }
}

/// Reads a node of the connector's own, with everything on it.
fn read_node(fields: &mut Fields, name: NodeName, connector: &ConnectorName) -> Result<ConnectorNode, DecodeError> {
    let namespace = catalog::Namespace::default();
    let read = ConnectorNode {
        instances: fields.objects("Services", |service| read_instance(service, &name))?,
        checks: fields.objects("Checks", |check| read_check(check, &name, &namespace))?,
        node: Node {
            id: Some(fields.text("ID")?).filter(|id| !id.is_empty()),
            address: fields.required("Address")?,
            platform: fields.required("Platform")?,
            zone: fields.parsed("Zone")?,
            network: fields.text("Network")?,
            gateway_port: None,
            owner: connector.owner(),
            incarnation: None,
            meta: fields.text_map("Meta")?,
            tagged_addresses: fields.text_map("TaggedAddresses")?,
            created: CatalogIndex::default(),
            modified: CatalogIndex::default(),
            name,
        },
    };
    // What a connector read it may send back; whose the node is, its own name says.
    fields.ignored(&["Owner", "Datacenter", "CreateIndex", "ModifyIndex"]);
    Ok(read)
}

impl Serialize for ConnectorRequest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        written(&self.0).serialize(serializer)
    }
}

fn written(change: &ConnectorChange) -> Value {
    let lasts = |lasts_ms: &u64| format!("{lasts_ms}ms");
    match change {
        ConnectorChange::Acquire { name, kind, holder, lasts_ms } => {
            json!({"Change": "acquire", "Name": name, "Platform": kind, "Holder": holder, "Lasts": lasts(lasts_ms)})
        }
        ConnectorChange::Renew { name, term, lasts_ms, status } => {
            let status = status.as_deref().map(status_written);
            json!({"Change": "renew", "Name": name, "Term": term, "Lasts": lasts(lasts_ms), "Status": status})
        }
        ConnectorChange::Release { name, term } => json!({"Change": "release", "Name": name, "Term": term}),
        ConnectorChange::Write { name, term, shares, writes } => {
            let shares: Vec<String> = shares.iter().map(ToString::to_string).collect();
            let writes: Vec<Value> = writes.iter().map(write_written).collect();
            json!({"Change": "write", "Name": name, "Term": term, "Shares": shares, "Writes": writes})
        }
        ConnectorChange::Confirm { name, .. } => json!({"Change": "confirm", "Name": name}),
        ConnectorChange::Forget { name } => json!({"Change": "forget", "Name": name}),
    }
}

fn status_written(status: &ConnectorStatus) -> Value {
    let problem = |one: &ConnectorProblem| json!({"Kind": one.kind, "Subject": one.subject, "Reason": one.reason});
    json!({
        "SyncedAt": status.synced_at.map(rfc3339::format),
        "Nodes": status.nodes,
        "Problems": status.problems.iter().map(problem).collect::<Vec<_>>(),
        "ProblemsBeyond": status.problems_beyond,
    })
}

fn write_written(write: &ConnectorWrite) -> Value {
    let mut value = match write {
        ConnectorWrite::Put { node } => json!(ConnectorNodeView::new(node, "")),
        ConnectorWrite::Remove { node } => json!({"Node": node}),
        ConnectorWrite::Checks { node, checks } => {
            let checks: Vec<_> = checks.iter().map(|check| consul::HealthCheck::of(check, None)).collect();
            json!({"Node": node, "Checks": checks})
        }
    };
    value["Write"] = match write {
        ConnectorWrite::Put { .. } => "put".into(),
        ConnectorWrite::Remove { .. } => "remove".into(),
        ConnectorWrite::Checks { .. } => "checks".into(),
    };
    value
}

/// Shows a node with what a connector keeps on it. Whoever reads it passes over what a later release adds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct ConnectorNodeView {
    /// The node.
    #[serde(flatten)]
    pub node: consul::Node,
    /// The instances on it, where it is the connector's own.
    pub services: Vec<consul::AgentService>,
    /// Its checks and those of its instances, or the connector's checks on somebody else's node.
    pub checks: Vec<consul::HealthCheck>,
}

impl ConnectorNodeView {
    /// Shows what a connector keeps.
    #[must_use]
    pub fn new(kept: &ConnectorNode, datacenter: &str) -> Self {
        let instance_of =
            |check: &Check| kept.instances.iter().find(|one| check.instance_key() == Some(one.key.clone()));
        Self {
            node: consul::Node::new(&kept.node, datacenter),
            services: kept.instances.iter().map(|one| consul::AgentService::new(one, datacenter)).collect(),
            checks: kept.checks.iter().map(|check| consul::HealthCheck::of(check, instance_of(check))).collect(),
        }
    }

    /// Returns what a connector compares with what it sees.
    #[must_use]
    pub fn into_node(self) -> ConnectorNode {
        let name = self.node.name.clone();
        ConnectorNode {
            instances: self.services.into_iter().map(|service| instance(service, &name)).collect(),
            checks: self.checks.into_iter().filter_map(check).collect(),
            node: Node {
                id: Some(self.node.id).filter(|id| !id.is_empty()),
                name,
                address: self.node.address,
                platform: self.node.platform,
                zone: Some(self.node.zone).filter(|zone| !zone.is_empty()),
                network: self.node.network,
                gateway_port: None,
                owner: self.node.owner,
                incarnation: None,
                meta: self.node.meta,
                tagged_addresses: self.node.tagged_addresses,
                created: self.node.create_index,
                modified: self.node.modify_index,
            },
        }
    }
}

fn instance(view: consul::AgentService, node: &NodeName) -> Instance {
    let upstream = |view: consul::ServiceUpstream| Upstream {
        destination: catalog::ServiceKey::new(view.destination_namespace, view.destination_name),
        local_bind_address: Some(view.local_bind_address).filter(|address| !address.is_empty()),
        local_bind_port: view.local_bind_port,
    };
    let address = |view: consul::ServiceAddress| TaggedAddress { address: view.address, port: view.port };
    Instance {
        key: InstanceKey { node: node.clone(), namespace: view.namespace, id: view.id },
        service: view.service,
        address: Some(view.address).filter(|address| !address.is_empty()),
        port: view.port,
        ports: view.ports,
        mesh_port: view.mesh_port,
        tags: view.tags,
        meta: view.meta,
        tagged_addresses: view.tagged_addresses.into_iter().map(|(name, view)| (name, address(view))).collect(),
        weights: Weights { passing: view.weights.passing, warning: view.weights.warning },
        enable_tag_override: view.enable_tag_override,
        upstreams: view.proxy.upstreams.into_iter().map(upstream).collect(),
        bypassable: view.bypassable,
        created: view.create_index,
        modified: view.modify_index,
    }
}

/// Returns a check; none of an instance whose id is none.
fn check(view: consul::HealthCheck) -> Option<Check> {
    Some(Check {
        key: CheckKey { node: view.node, namespace: view.namespace, id: view.check_id },
        name: view.name,
        status: view.status,
        notes: view.notes,
        output: view.output,
        instance: match view.service_id.as_str() {
            "" => None,
            id => Some(id.parse().ok()?),
        },
        kind: view.kind,
        created: view.create_index,
        modified: view.modify_index,
    })
}

/// Shows a write that was refused, and why; the rest is done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct RefusedWriteView {
    /// The node.
    #[schema(value_type = String)]
    pub node: NodeName,
    /// Why, and what to do.
    pub reason: String,
    /// Whether it is because the node, or the service, is somebody else's.
    #[serde(default)]
    pub conflict: bool,
}

impl From<RefusedWrite> for RefusedWriteView {
    fn from(refused: RefusedWrite) -> Self {
        Self { node: refused.node, reason: refused.reason, conflict: refused.conflict }
    }
}

impl From<RefusedWriteView> for RefusedWrite {
    fn from(view: RefusedWriteView) -> Self {
        Self { node: view.node, reason: view.reason, conflict: view.conflict }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use catalog::{CheckStatus, Platform, Timestamp};

    use super::*;
    use crate::decode::from_json;

    fn node() -> ConnectorNode {
        let name: NodeName = "pod-1".parse().unwrap();
        let key = InstanceKey { node: name.clone(), namespace: "shop".parse().unwrap(), id: "api-1".parse().unwrap() };
        let address = |port| TaggedAddress { address: "192.0.2.7".to_owned(), port };
        let upstream = Upstream {
            destination: "infra/db".parse().unwrap(),
            local_bind_address: Some("127.0.0.2".to_owned()),
            local_bind_port: 5432,
        };
        ConnectorNode {
            instances: vec![Instance {
                key: key.clone(),
                service: "api".parse().unwrap(),
                address: Some("10.0.0.8".to_owned()),
                port: 80,
                ports: BTreeMap::from([("admin".to_owned(), 9090)]),
                mesh_port: Some(20_000),
                tags: vec!["v1".to_owned()],
                meta: BTreeMap::from([("team".to_owned(), "a".to_owned())]),
                tagged_addresses: BTreeMap::from([("lan".to_owned(), address(8080))]),
                weights: Weights { passing: 10, warning: 2 },
                enable_tag_override: true,
                upstreams: vec![upstream],
                bypassable: None,
                created: CatalogIndex::default(),
                modified: CatalogIndex::default(),
            }],
            checks: [Some(key.id), None]
                .map(|instance| Check {
                    key: CheckKey {
                        node: name.clone(),
                        namespace: key.namespace.clone(),
                        id: if instance.is_some() { "ready" } else { "up" }.parse().unwrap(),
                    },
                    name: "readiness".to_owned(),
                    status: CheckStatus::Warning,
                    notes: "by the kubelet".to_owned(),
                    output: "503".to_owned(),
                    instance,
                    kind: "http".to_owned(),
                    created: CatalogIndex::default(),
                    modified: CatalogIndex::default(),
                })
                .to_vec(),
            node: Node {
                name,
                id: Some("uid-1".to_owned()),
                address: "10.0.0.7".to_owned(),
                platform: Platform::Kubernetes,
                zone: Some("z1".to_owned()),
                network: "pods".to_owned(),
                gateway_port: None,
                owner: catalog::Owner::Connector("k8s".to_owned()),
                incarnation: None,
                meta: BTreeMap::from([("weft-scope".to_owned(), "c1".to_owned())]),
                tagged_addresses: BTreeMap::from([("wan".to_owned(), "192.0.2.1".to_owned())]),
                created: CatalogIndex::default(),
                modified: CatalogIndex::default(),
            },
        }
    }

    #[test]
    fn whatever_a_connector_asks_arrives_as_it_was_meant() {
        let (name, term) = (|| "k8s".parse().unwrap(), Incarnation(7));
        let problem =
            ConnectorProblem { kind: ProblemKind::Held, subject: "12 nodes".to_owned(), reason: "too many".to_owned() };
        let status = ConnectorStatus {
            synced_at: Some(Timestamp(1_700_000_000_123)),
            nodes: 3,
            problems: vec![problem],
            problems_beyond: 2,
        };
        let checks = node().checks;
        let (kind, holder) = ("kubernetes".to_owned(), "p1".to_owned());
        for change in [
            ConnectorChange::Acquire { name: name(), kind, holder, lasts_ms: 30_500 },
            ConnectorChange::Renew { name: name(), term, lasts_ms: 30_000, status: None },
            ConnectorChange::Renew { name: name(), term, lasts_ms: 30_000, status: Some(Box::new(status)) },
            ConnectorChange::Release { name: name(), term },
            ConnectorChange::Write {
                name: name(),
                term,
                shares: vec!["shop/*".parse().unwrap()],
                writes: vec![
                    ConnectorWrite::Put { node: Box::new(node()) },
                    ConnectorWrite::Remove { node: "gone".parse().unwrap() },
                    ConnectorWrite::Checks { node: "pod-1".parse().unwrap(), checks },
                ],
            },
        ] {
            let sent = serde_json::to_vec(&ConnectorRequest(change.clone())).unwrap();
            assert_eq!(from_json::<ConnectorRequest>(&sent).unwrap().0, change, "{}", String::from_utf8_lossy(&sent));
        }
        let lower = br#"{"change": "release", "name": "k8s", "term": 7}"#;
        assert_eq!(from_json::<ConnectorRequest>(lower).unwrap().0, ConnectorChange::Release { name: name(), term });
    }

    #[test]
    fn what_a_connector_keeps_is_shown_as_it_wrote_it_and_with_more_than_it_knows() {
        let mut shown = serde_json::to_value(ConnectorNodeView::new(&node(), "dc1")).unwrap();
        shown["Later"] = 1.into();
        shown["Services"][0]["Later"] = 1.into();
        shown["Checks"][0]["Later"] = 1.into();
        assert_eq!(shown["Checks"][0]["ServiceName"], "api", "{shown}");
        let read: ConnectorNodeView = serde_json::from_value(shown).unwrap();
        assert_eq!(read.into_node(), node());
    }

    #[test]
    fn what_no_connector_asks_is_refused_by_name() {
        for (body, want) in [
            (r#"{"Change": "dance", "Name": "k8s"}"#, "`Change`: `dance`: use acquire"),
            (r#"{"Change": "acquire"}"#, "`Name`"),
            (r#"{"Change": "release", "Name": "k8s"}"#, "`Term`"),
            (r#"{"Change": "forget", "Name": "k8s"}"#, "use DELETE /v1/connector/k8s"),
            (r#"{"Change": "confirm", "Name": "k8s"}"#, "use PUT /v1/connector/k8s/confirm"),
            (r#"{"Change": "release", "Name": "k8s", "Term": 7, "Lasts": "3s"}"#, "`Lasts`"),
            (
                r#"{"Change": "write", "Name": "k8s", "Term": 7, "Writes": [{"Write": "burn", "Node": "n"}]}"#,
                "`Writes[0].Write`: `burn`",
            ),
        ] {
            let error = from_json::<ConnectorRequest>(body.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(want), "{error}");
        }
    }
}
