//! What `catalog/register` and `catalog/deregister` are sent.

use std::collections::BTreeMap;

use ::catalog::{
    CatalogIndex, Check, CheckId, CheckKey, CheckStatus, Command, DeregisterTarget, Instance, InstanceId, Namespace,
    Node, NodeName, Owner, Platform,
};

use super::{ServiceDefinition, default_partition};
use crate::decode::{DecodeError, Fields, Shape};

/// Registers a node that neither an agent nor a connector holds, and an instance and checks on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CatalogRegister {
    /// The datacenter that is meant; empty for the one that is asked.
    pub datacenter: String,
    node: Node,
    instance: Option<Instance>,
    checks: Vec<Check>,
    skip_node_update: bool,
}

impl Shape for CatalogRegister {
    fn read(fields: &mut Fields) -> Result<Self, DecodeError> {
        let name: NodeName = fields.required("Node")?;
        default_partition(fields, "Partition")?;
        let node = Node {
            id: Some(fields.text("ID")?).filter(|id| !id.is_empty()),
            address: fields.required("Address")?,
            platform: fields.parsed("Platform")?.unwrap_or(Platform::Vm),
            zone: fields.parsed("Zone")?,
            network: fields.text("Network")?,
            gateway_port: None,
            owner: Owner::External,
            incarnation: None,
            meta: fields.text_map("NodeMeta")?,
            tagged_addresses: text_map_without_empty(fields, "TaggedAddresses")?,
            created: CatalogIndex::default(),
            modified: CatalogIndex::default(),
            name: name.clone(),
        };
        let instance = fields.object("Service", |service| read_instance(service, &name))?;
        let namespace = instance.as_ref().map_or_else(Namespace::default, |it| it.key.namespace.clone());
        let mut checks = Vec::new();
        checks.extend(fields.object("Check", |check| read_check(check, &name, &namespace))?);
        checks.extend(fields.objects("Checks", |check| read_check(check, &name, &namespace))?);
        let request = Self {
            datacenter: fields.text("Datacenter")?,
            node,
            instance,
            checks,
            skip_node_update: fields.flag("SkipNodeUpdate")?.unwrap_or(false),
        };
        fields.unsupported(&["Locality", "PeerName", "EnterpriseMeta", "Namespace"])?;
        Ok(request)
    }
}

impl CatalogRegister {
    /// Returns the command that carries the request out.
    ///
    /// # Errors
    ///
    /// [`DecodeError::Value`] if two of the checks have one id.
    pub fn into_command(self) -> Result<Command, DecodeError> {
        let mut keys = std::collections::BTreeSet::new();
        if let Some(check) = self.checks.iter().find(|check| !keys.insert(&check.key)) {
            let reason = format!("the check `{}` stands twice; keep one of them", check.key.id);
            return Err(DecodeError::Value { path: "Checks".to_owned(), reason });
        }
        Ok(Command::Register {
            node: Box::new(self.node),
            instances: self.instance.into_iter().collect(),
            checks: self.checks,
            skip_node_update: self.skip_node_update,
            incarnation: None,
        })
    }
}

/// Takes addresses by name; Consul's clients send empty ones for those that a node does not have.
fn text_map_without_empty(fields: &mut Fields, name: &str) -> Result<BTreeMap<String, String>, DecodeError> {
    let mut map = fields.text_map(name)?;
    map.retain(|_, address| !address.is_empty());
    Ok(map)
}

pub(crate) fn read_instance(fields: &mut Fields, node: &NodeName) -> Result<Instance, DecodeError> {
    let definition = ServiceDefinition::read_shared(fields, "Service")?;
    let mesh_port = Some(fields.port("MeshPort")?).filter(|port| *port != 0);
    // What a client read it may send back.
    fields.ignored(&["CreateIndex", "ModifyIndex", "ContentHash", "Datacenter", "Bypassable"]);
    fields.unsupported(&["Check", "Checks"])?;
    Ok(definition.instance(node, mesh_port))
}

pub(crate) fn read_check(
    fields: &mut Fields,
    node: &NodeName,
    service_namespace: &Namespace,
) -> Result<Check, DecodeError> {
    let named: Option<NodeName> = fields.parsed("Node")?;
    if named.as_ref().is_some_and(|named| named != node) {
        return Err(fields.refuse("Node", format!("the check is of another node than `{node}`; leave it out")));
    }
    default_partition(fields, "Partition")?;
    let name = fields.text("Name")?;
    let id: CheckId = match fields.parsed("CheckID")? {
        Some(id) => id,
        None => name
            .parse()
            .map_err(|error| fields.refuse("CheckID", format!("it is missing, and Name is none: {error}")))?,
    };
    let instance: Option<InstanceId> = fields.parsed("ServiceID")?;
    let default = if instance.is_some() { service_namespace.clone() } else { Namespace::default() };
    let check = Check {
        key: CheckKey { node: node.clone(), namespace: fields.parsed("Namespace")?.unwrap_or(default), id },
        name,
        status: fields.parsed("Status")?.unwrap_or(CheckStatus::Critical),
        notes: fields.text("Notes")?,
        output: fields.text("Output")?,
        instance,
        kind: fields.text("Type")?,
        created: CatalogIndex::default(),
        modified: CatalogIndex::default(),
    };
    // The instance says its service and tags itself.
    fields.ignored(&["ServiceName", "ServiceTags", "CreateIndex", "ModifyIndex"]);
    // Somebody else makes the check; a definition would ask the servers to.
    fields.unsupported(&["Definition", "Interval", "Timeout", "ExposedPort", "PeerName"])?;
    Ok(check)
}

/// Removes a node, or one instance or check of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CatalogDeregister {
    /// The datacenter that is meant; empty for the one that is asked.
    pub datacenter: String,
    node: NodeName,
    namespace: Namespace,
    service: Option<InstanceId>,
    check: Option<CheckId>,
}

impl Shape for CatalogDeregister {
    fn read(fields: &mut Fields) -> Result<Self, DecodeError> {
        default_partition(fields, "Partition")?;
        let request = Self {
            datacenter: fields.text("Datacenter")?,
            node: fields.required("Node")?,
            namespace: fields.parsed("Namespace")?.unwrap_or_default(),
            service: fields.parsed("ServiceID")?,
            check: fields.parsed("CheckID")?,
        };
        // Consul's clients send the node's address along.
        fields.ignored(&["Address"]);
        fields.unsupported(&["PeerName", "EnterpriseMeta"])?;
        Ok(request)
    }
}

impl CatalogDeregister {
    /// Returns the command that carries the request out.
    ///
    /// # Errors
    ///
    /// [`DecodeError::Value`] if it names both a service and a check, for then only one of them would go.
    pub fn into_command(self) -> Result<Command, DecodeError> {
        let namespace = self.namespace;
        let target = match (self.service, self.check) {
            (Some(id), None) => DeregisterTarget::Instance { namespace, id },
            (None, Some(id)) => DeregisterTarget::Check { namespace, id },
            (None, None) => DeregisterTarget::Node,
            (Some(_), Some(_)) => {
                let reason = "it stands beside ServiceID; send one request for each".to_owned();
                return Err(DecodeError::Value { path: "CheckID".to_owned(), reason });
            }
        };
        Ok(Command::Deregister { node: self.node, target, incarnation: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::from_json;

    fn command(body: &str) -> Result<Command, DecodeError> {
        from_json::<CatalogRegister>(body.as_bytes())?.into_command()
    }

    #[track_caller]
    fn refused(body: &str, want: &str) {
        let error = command(body).unwrap_err().to_string();
        assert!(error.contains(want), "{error}");
    }

    #[test]
    fn a_registration_as_consuls_clients_send_it_is_read() {
        let body = r#"{
            "ID": "", "Node": "db-1", "Address": "10.0.0.7", "TaggedAddresses": {"lan": "10.0.0.7", "wan": ""},
            "NodeMeta": {"external-node": "true"}, "Datacenter": "dc1", "SkipNodeUpdate": true, "Partition": "default",
            "Service": {"Kind": "", "ID": "db-a", "Service": "db", "Tags": null, "Meta": null, "Port": 5432, "Address": "",
                        "Weights": {"Passing": 1, "Warning": 1}, "EnableTagOverride": false, "CreateIndex": 4,
                        "Proxy": {"MeshGateway": {}, "Expose": {}}, "Connect": {}},
            "Check": {"Node": "db-1", "CheckID": "db-up", "Name": "db answers", "Status": "passing", "Output": "ok",
                      "ServiceID": "db-a", "ServiceName": "db", "ServiceTags": [], "Type": "", "ExposedPort": 0,
                      "Definition": {"HTTP": "", "Header": null, "TLSSkipVerify": false, "Interval": "0s",
                                     "Timeout": "0s", "DeregisterCriticalServiceAfter": "0s"}},
            "Checks": [{"Name": "node-alive"}]
        }"#;
        let command = command(body).unwrap();
        command.validate().unwrap();
        let Command::Register { node, instances, checks, skip_node_update, incarnation } = command else { panic!() };
        assert_eq!((node.name.as_str(), node.owner, node.platform), ("db-1", Owner::External, Platform::Vm));
        assert_eq!(node.tagged_addresses.len(), 1);
        assert!(skip_node_update && incarnation.is_none());
        assert_eq!((instances[0].port, instances[0].mesh_port), (5432, None));
        assert_eq!(checks[0].instance, Some("db-a".parse().unwrap()));
        assert_eq!((checks[1].key.id.as_str(), checks[1].status), ("node-alive", CheckStatus::Critical));
        assert_eq!(checks[1].instance, None);
    }

    #[test]
    fn an_instances_checks_are_of_its_namespace() {
        let body = r#"{"Node": "n", "Address": "10.0.0.7", "Service": {"Service": "db", "Namespace": "shop"},
            "Checks": [{"CheckID": "a", "ServiceID": "db"}, {"CheckID": "b"}]}"#;
        let Command::Register { checks, .. } = command(body).unwrap() else { panic!() };
        assert_eq!(checks[0].key.namespace.as_str(), "shop");
        assert_eq!(checks[1].key.namespace.as_str(), "default");
    }

    #[test]
    fn a7_what_is_wrong_is_named() {
        refused(r#"{"Address": "10.0.0.7"}"#, "`Node` is missing");
        refused(r#"{"Node": "n"}"#, "`Address` is missing");
        refused(r#"{"Node": "n", "Address": "a", "Foo": 1}"#, "unknown field `Foo`");
        refused(
            r#"{"Node": "n", "Address": "a", "Service": {"Service": "x", "Foo": 1}}"#,
            "unknown field `Service.Foo`",
        );
        refused(r#"{"Node": "n", "Address": "a", "Check": {"CheckID": "c", "Node": "m"}}"#, "`Check.Node`");
        refused(r#"{"Node": "n", "Address": "a", "Check": {"Name": "a b"}}"#, "`Check.CheckID`");
        refused(
            r#"{"Node": "n", "Address": "a", "Check": {"CheckID": "c", "Definition": {"HTTP": "http://x"}}}"#,
            "`Check.Definition.HTTP` is not supported",
        );
        refused(r#"{"Node": "n", "Address": "a", "Checks": [{"CheckID": "c"}, {"CheckID": "c"}]}"#, "stands twice");
    }

    #[test]
    fn a_deregistration_names_a_node_an_instance_or_a_check() {
        let target = |body: &str| match from_json::<CatalogDeregister>(body.as_bytes()).unwrap().into_command() {
            Ok(Command::Deregister { target, .. }) => Ok(target),
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err(error.to_string()),
        };
        let namespace = Namespace::default();
        assert_eq!(target(r#"{"Node": "n", "Datacenter": "dc1"}"#), Ok(DeregisterTarget::Node));
        assert_eq!(
            target(r#"{"Node": "n", "ServiceID": "a"}"#),
            Ok(DeregisterTarget::Instance { namespace: namespace.clone(), id: "a".parse().unwrap() })
        );
        assert_eq!(
            target(r#"{"Node": "n", "CheckID": "a"}"#),
            Ok(DeregisterTarget::Check { namespace, id: "a".parse().unwrap() })
        );
        assert!(target(r#"{"Node": "n", "CheckID": "a", "ServiceID": "b"}"#).unwrap_err().contains("`CheckID`"));
    }
}
