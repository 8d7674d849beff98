//! Services as files and `agent/service/register` write them.

use std::collections::BTreeMap;

use catalog::{
    CatalogIndex, Instance, InstanceId, InstanceKey, Namespace, NodeName, ServiceKey, ServiceName, TaggedAddress,
    Upstream, Weights,
};

use super::upstream::{read_connect, read_proxy};
use super::{CheckDefinition, default_partition};
use crate::decode::{DecodeError, Fields, Shape, from_value};

/// One service beside an agent, as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceDefinition {
    /// The instance's id; the service's name where none was written.
    pub id: InstanceId,
    /// The service.
    pub name: ServiceName,
    /// The service's namespace.
    pub namespace: Namespace,
    /// Free labels.
    pub tags: Vec<String>,
    /// The address if it is not the node's.
    pub address: Option<String>,
    /// The port that the application listens on; 0 for none.
    pub port: u16,
    /// Further ports of the application, by name. Consul has no such field.
    pub ports: BTreeMap<String, u16>,
    /// Free facts.
    pub meta: BTreeMap<String, String>,
    /// How the instance counts beside others.
    pub weights: Weights,
    /// Further addresses by name.
    pub tagged_addresses: BTreeMap<String, TaggedAddress>,
    /// Whether others may override the tags.
    pub enable_tag_override: bool,
    /// The checks of the instance.
    pub checks: Vec<CheckDefinition>,
    /// The services that it calls; no two of them listen on one port.
    pub upstreams: Vec<Upstream>,
    /// Whether the kernel leads its connections to the agent: Consul's mode `transparent`.
    pub redirected: bool,
    /// Where it leads those that go out; none where the agent is to choose.
    pub outbound_port: Option<u16>,
    /// The user of the machine that it runs as, by name or number; none where anybody may call in its name. Consul has no
    /// such field.
    pub user: Option<String>,
    /// Whether the application wants to be told who calls by the PROXY protocol. Consul has no such field.
    pub proxy_protocol: bool,
    /// Where callers of the mesh are taken by a proxy of its own, or by the application itself, instead of by its agent;
    /// none where there is no such. Consul has no such field.
    pub mesh_port: Option<u16>,
    /// Where the application tells its own metrics, to be told with the agent's. Consul has no such field.
    pub metrics_url: Option<String>,
}

impl ServiceDefinition {
    /// Returns the service that is defined.
    pub fn service_key(&self) -> ServiceKey {
        ServiceKey::new(self.namespace.clone(), self.name.clone())
    }

    /// Returns the instance that `node` gets; `mesh_port` is that of the agent before it, unless it says one itself.
    pub fn instance(&self, node: &NodeName, mesh_port: Option<u16>) -> Instance {
        Instance {
            key: InstanceKey { node: node.clone(), namespace: self.namespace.clone(), id: self.id.clone() },
            service: self.name.clone(),
            address: self.address.clone(),
            port: self.port,
            ports: self.ports.clone(),
            mesh_port: self.mesh_port.or(mesh_port),
            tags: self.tags.clone(),
            meta: self.meta.clone(),
            tagged_addresses: self.tagged_addresses.clone(),
            weights: self.weights,
            enable_tag_override: self.enable_tag_override,
            upstreams: self.upstreams.clone(),
            bypassable: None,
            created: CatalogIndex::default(),
            modified: CatalogIndex::default(),
        }
    }

    /// Takes the fields that `agent/service/register` and the service of `catalog/register` share; `name` is what the
    /// service's name is called there.
    pub(super) fn read_shared(fields: &mut Fields, name: &str) -> Result<Self, DecodeError> {
        match fields.text("Kind")?.as_str() {
            "" | "typical" => {}
            kind => {
                let reason = format!(
                    "`{}` is not supported by weft, whose agent is the proxy; leave it out",
                    kind.escape_debug()
                );
                return Err(fields.refuse("Kind", reason));
            }
        }
        default_partition(fields, "Partition")?;
        let name: ServiceName = fields.required(name)?;
        let namespace: Namespace = fields.parsed("Namespace")?.unwrap_or_default();
        let id = match fields.parsed("ID")? {
            Some(id) => id,
            None => name.as_str().parse().map_err(|error| fields.refuse("ID", error))?,
        };
        let proxy = fields.object("Proxy", |proxy| read_proxy(proxy, &namespace))?.unwrap_or_default();
        let connect = fields.object("Connect", |connect| read_connect(connect, &namespace))?.unwrap_or_default();
        let proxy = proxy.and(connect, fields)?;
        let definition = Self {
            id,
            name,
            namespace,
            tags: fields.texts("Tags")?,
            address: Some(fields.text("Address")?).filter(|address| !address.is_empty()),
            port: fields.port("Port")?,
            ports: read_ports(fields)?,
            meta: fields.text_map("Meta")?,
            weights: fields.object("Weights", read_weights)?.unwrap_or_default(),
            tagged_addresses: fields.map("TaggedAddresses", |value, path| {
                let Address(address) = from_value(value, path)?;
                Ok(address)
            })?,
            enable_tag_override: fields.flag("EnableTagOverride")?.unwrap_or(false),
            checks: Vec::new(),
            redirected: proxy.redirected.unwrap_or(false),
            outbound_port: proxy.outbound_port,
            upstreams: proxy.upstreams,
            user: None,
            proxy_protocol: false,
            mesh_port: None,
            metrics_url: None,
        };
        fields.unsupported(&["SocketPath", "Locality", "Token", "PeerName", "Peer"])?;
        Ok(definition)
    }

    fn check_upstreams(&self, fields: &Fields) -> Result<(), DecodeError> {
        let mut ports = std::collections::BTreeSet::new();
        let named = self.upstreams.iter().filter(|upstream| upstream.local_bind_port != 0);
        for upstream in named {
            let address = upstream.local_bind_address.as_deref().unwrap_or("127.0.0.1");
            if !ports.insert((address, upstream.local_bind_port)) {
                let reason =
                    format!("port {} is the listener of two of them; give each its own", upstream.local_bind_port);
                return Err(fields.refuse("Upstreams", reason));
            }
        }
        Ok(())
    }
}

impl Shape for ServiceDefinition {
    fn read(fields: &mut Fields) -> Result<Self, DecodeError> {
        let mut definition = Self::read_shared(fields, "Name")?;
        definition.metrics_url = Some(fields.text("MetricsURL")?).filter(|url| !url.is_empty());
        definition.checks.extend(fields.object("Check", CheckDefinition::read)?);
        definition.checks.extend(fields.objects("Checks", CheckDefinition::read)?);
        definition.check_upstreams(fields)?;
        definition.mesh_port = Some(fields.port("MeshPort")?).filter(|port| *port != 0);
        definition.user = Some(fields.text("User")?).filter(|user| !user.is_empty());
        definition.proxy_protocol = fields.flag("ProxyProtocol")?.unwrap_or(false);
        for check in &mut definition.checks {
            if check.service_id.as_ref().is_some_and(|id| *id != definition.id) {
                return Err(fields.refuse("Checks", "a check names another service in ServiceID; leave it out"));
            }
            check.service_id = Some(definition.id.clone());
            check.namespace = definition.namespace.clone();
        }
        Ok(definition)
    }
}

struct Address(TaggedAddress);

impl Shape for Address {
    fn read(fields: &mut Fields) -> Result<Self, DecodeError> {
        Ok(Self(TaggedAddress { address: fields.text("Address")?, port: fields.port("Port")? }))
    }
}

fn read_ports(fields: &mut Fields) -> Result<BTreeMap<String, u16>, DecodeError> {
    fields.map("Ports", |value, path| {
        let port = value.as_u64().and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0);
        let reason = || "it is not a port; use 1 to 65535".to_owned();
        port.ok_or_else(|| DecodeError::Value { path: path.to_owned(), reason: reason() })
    })
}

fn read_weights(fields: &mut Fields) -> Result<Weights, DecodeError> {
    let default = Weights::default();
    Ok(Weights {
        passing: fields.number("Passing")?.unwrap_or(default.passing),
        warning: fields.number("Warning")?.unwrap_or(default.warning),
    })
}

/// What a configuration file defines: services, and checks that stand apart from them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Definitions {
    /// The services, in the order in which they are written.
    pub services: Vec<ServiceDefinition>,
    /// The checks, in the order in which they are written.
    pub checks: Vec<CheckDefinition>,
}

impl Shape for Definitions {
    fn read(fields: &mut Fields) -> Result<Self, DecodeError> {
        let mut definitions = Self::default();
        for name in ["Service", "Services"] {
            definitions.services.extend(fields.objects(name, ServiceDefinition::read)?);
        }
        for name in ["Check", "Checks"] {
            definitions.checks.extend(fields.objects(name, CheckDefinition::read)?);
        }
        Ok(definitions)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::decode::{Format, from_json};

    fn from_hcl(text: &str) -> Result<Definitions, DecodeError> {
        from_value(Format::Hcl.read(text.as_bytes()).unwrap(), "")
    }

    #[track_caller]
    fn refused(value: Value, want: &str) {
        let error = from_value::<ServiceDefinition>(value, "").unwrap_err().to_string();
        assert!(error.contains(want), "{error}");
    }

    #[test]
    fn a_registration_as_consuls_clients_send_it_is_read() {
        let body = br#"{
            "ID": "web-1", "Name": "web", "Tags": ["v1"], "Address": "10.0.0.5", "Port": 8080,
            "TaggedAddresses": {"lan": {"Address": "10.0.0.5", "Port": 1}}, "EnableTagOverride": false,
            "Meta": {"k": "v"}, "Weights": {"Passing": 10, "Warning": 1},
            "Check": {"CheckID": "", "Name": "", "HTTP": "http://127.0.0.1:8080/", "Method": "GET", "Header": {},
                      "Body": "", "Interval": "10s", "Timeout": "1s", "TTL": "", "TCP": "", "GRPC": "",
                      "GRPCUseTLS": false, "TLSSkipVerify": false, "ScriptArgs": [], "AliasNode": "",
                      "AliasService": "", "Status": "critical", "Notes": "", "DeregisterCriticalServiceAfter": ""},
            "Checks": null, "Kind": "", "Namespace": "default",
            "Proxy": {"DestinationServiceName": "", "DestinationServiceID": "", "LocalServiceAddress": "",
                      "LocalServicePort": 0, "Config": {},
                      "Upstreams": [{"DestinationType": "service", "DestinationName": "db", "Datacenter": "",
                                     "LocalBindAddress": "", "LocalBindPort": 9191, "Config": {}, "MeshGateway": {}}],
                      "MeshGateway": {"Mode": ""}, "Expose": {}},
            "Connect": {"Native": false, "SidecarService": {}}
        }"#;
        let service = from_json::<ServiceDefinition>(body).unwrap();
        assert_eq!((service.id.as_str(), service.name.as_str(), service.port), ("web-1", "web", 8080));
        assert_eq!(service.address.as_deref(), Some("10.0.0.5"));
        assert_eq!(service.weights, Weights { passing: 10, warning: 1 });
        assert_eq!(service.upstreams.len(), 1);
        assert_eq!(service.upstreams[0].destination, "db".parse().unwrap());
        assert_eq!(service.upstreams[0].local_bind_port, 9191);
        assert_eq!(service.checks[0].service_id, Some("web-1".parse().unwrap()));
        let instance = service.instance(&"vm-1".parse().unwrap(), Some(20000));
        assert_eq!((instance.mesh_port, instance.tagged_addresses["lan"].port), (Some(20000), 1));
    }

    #[test]
    fn a_consul_file_with_a_sidecar_is_read() {
        let definitions = from_hcl(
            r#"
            service {
              name      = "web"
              namespace = "shop"
              port      = 8080
              ports     { admin = 9090 }
              connect { sidecar_service { proxy { upstreams = [
                { destination_name = "db", local_bind_port = 5432 },
                { destination_name = "cache", destination_namespace = "infra", local_bind_port = 6379,
                  local_bind_address = "127.0.0.2" },
              ] } } }
              check { id = "alive", http = "http://127.0.0.1:8080/", interval = "10s" }
              checks = [{ ttl = "30s" }]
            }
            service { name = "api" }
            check { id = "disk", ttl = "1m" }
            "#,
        )
        .unwrap();
        let web = &definitions.services[0];
        assert_eq!((web.id.as_str(), web.service_key().to_string().as_str()), ("web", "shop/web"));
        assert_eq!(web.ports["admin"], 9090);
        let calls: Vec<String> = web.upstreams.iter().map(|upstream| upstream.destination.to_string()).collect();
        assert_eq!(calls, ["shop/db", "infra/cache"]);
        assert_eq!(web.upstreams[1].local_bind_address.as_deref(), Some("127.0.0.2"));
        assert_eq!(web.checks.len(), 2);
        assert_eq!(web.checks[1].namespace.as_str(), "shop");
        assert_eq!((definitions.services.len(), definitions.checks.len()), (2, 1));
        assert_eq!(definitions.checks[0].service_id, None);
    }

    #[test]
    fn a_json_file_holds_one_service_or_several() {
        let one = from_json::<Definitions>(br#"{"service": {"name": "web"}}"#).unwrap();
        let several = from_json::<Definitions>(br#"{"services": [{"name": "web"}, {"name": "api"}]}"#).unwrap();
        assert_eq!((one.services.len(), several.services.len()), (1, 2));
        assert_eq!(one.services[0], several.services[0]);
    }

    #[test]
    fn f1_a_wrong_field_is_named_with_its_path() {
        let error = from_hcl("service { name = \"web\"\n proxy { foo = 1 } }").unwrap_err().to_string();
        assert_eq!(error, "unknown field `service.proxy.foo`; check its spelling or remove it");
        let error = from_hcl("service { name = \"web\", port = 70000 }").unwrap_err().to_string();
        assert_eq!(error, "`service.port`: 70000 is not a port; use 1 to 65535");
        let error = from_hcl("services = [{ name = \"a\" }, { name = \"b\", checks = [{ ttl = \"1hh\" }] }]");
        let error = error.unwrap_err().to_string();
        assert!(error.starts_with("`services[1].checks[0].ttl`: `1hh`"), "{error}");
    }

    #[test]
    fn f1_a_port_that_nothing_leads_to_and_two_modes_that_disagree_are_refused() {
        let service = |own: Value, sidecar: Value| json!({"Name": "web", "Proxy": own, "Connect": {"SidecarService": {"Proxy": sidecar}}});
        let port = |port: u16| json!({"Mode": "transparent", "TransparentProxy": {"OutboundListenerPort": port}});
        let read = |own, sidecar| from_value::<ServiceDefinition>(service(own, sidecar), "").unwrap();
        for (own, sidecar) in
            [(json!({}), port(15001)), (port(15001), json!({})), (port(15001), json!({"Mode": "transparent"}))]
        {
            let definition = read(own, sidecar);
            assert_eq!((definition.redirected, definition.outbound_port), (true, Some(15001)));
        }
        assert!(!read(json!({"Mode": "direct"}), json!({})).redirected);
        let without_mode = json!({"TransparentProxy": {"OutboundListenerPort": 15001}});
        refused(
            service(without_mode.clone(), json!({})),
            "`Proxy.TransparentProxy.OutboundListenerPort`: nothing leads",
        );
        refused(service(without_mode, json!({"Mode": "direct"})), "nothing leads connections there");
        refused(service(json!({"Mode": "direct"}), json!({"Mode": "transparent"})), "`Proxy.Mode`: Connect.Sidecar");
        refused(service(port(15001), port(15002)), "OutboundListenerPort`: Connect.SidecarService.Proxy says another");
    }

    #[test]
    fn what_weft_does_not_carry_out_is_refused_by_name() {
        refused(
            json!({"Name": "web", "Connect": {"Native": true}}),
            "`Connect.Native` is not supported by weft; remove it",
        );
        refused(json!({"Name": "web", "Kind": "connect-proxy"}), "`Kind`: `connect-proxy` is not supported by weft");
        refused(json!({"Name": "web", "Partition": "blue"}), "`Partition` is not supported");
        refused(json!({"Name": "web", "Proxy": {"Config": {"protocol": "http"}}}), "`Proxy.Config.protocol` is not");
        refused(
            json!({"Name": "web", "Connect": {"SidecarService": {"Port": 20001}}}),
            "`Connect.SidecarService.Port` is not supported",
        );
        refused(
            json!({"Name": "web", "Proxy": {"Upstreams": [{"DestinationName": "db", "LocalBindPort": 1, "Datacenter": "dc2"}]}}),
            "`Proxy.Upstreams[0].Datacenter` is not supported",
        );
        refused(
            json!({"Name": "web", "Proxy": {"Upstreams": [{"DestinationType": "prepared_query", "DestinationName": "q"}]}}),
            "DestinationType` is not supported",
        );
    }

    #[test]
    fn h12_names_out_of_their_charset_are_refused() {
        refused(json!({"Name": "Web"}), "`Name`: invalid service name `Web`");
        refused(json!({"Name": "web.v1"}), "invalid service name");
        refused(json!({"Name": "web", "ID": "a b"}), "`ID`: invalid instance id");
        refused(json!({"Name": "web", "Namespace": "*"}), "invalid namespace");
        refused(json!({}), "`Name` is missing");
    }

    #[test]
    fn upstreams_listen_on_loopback_and_on_ports_of_their_own() {
        let proxy = |upstreams: Value| json!({"Name": "web", "Proxy": {"Upstreams": upstreams}});
        refused(
            proxy(json!([{"DestinationName": "db", "LocalBindAddress": "127.0.0.2"}])),
            "`Proxy.Upstreams[0].LocalBindPort` is missing",
        );
        refused(
            proxy(json!([{"DestinationName": "db", "LocalBindPort": 1, "LocalBindAddress": "0.0.0.0"}])),
            "not a loopback address",
        );
        refused(
            proxy(json!([{"DestinationName": "a", "LocalBindPort": 1}, {"DestinationName": "b", "LocalBindPort": 1}])),
            "port 1 is the listener of two of them",
        );
    }
}
