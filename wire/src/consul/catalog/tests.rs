//! The names that Consul's clients look for.

use ::catalog::{Catalog, Check, CheckKey, CheckStatus, InstanceKey, TaggedAddress, Weights};
use serde_json::{Value, json};

use super::super::HealthEntry;
use super::*;

fn node() -> ::catalog::Node {
    ::catalog::Node {
        name: "vm-1".parse().unwrap(),
        id: None,
        address: "10.0.0.5".to_owned(),
        platform: Platform::Vm,
        zone: Some("eu-1a".to_owned()),
        network: String::new(),
        gateway_port: None,
        owner: Owner::External,
        incarnation: None,
        meta: BTreeMap::from([("rack".to_owned(), "r1".to_owned())]),
        tagged_addresses: BTreeMap::from([("lan".to_owned(), "10.0.0.5".to_owned())]),
        created: CatalogIndex(2),
        modified: CatalogIndex(3),
    }
}

fn instance(namespace: &str) -> Instance {
    Instance {
        key: InstanceKey {
            node: "vm-1".parse().unwrap(),
            namespace: namespace.parse().unwrap(),
            id: "web-1".parse().unwrap(),
        },
        service: "web".parse().unwrap(),
        address: None,
        port: 8080,
        ports: BTreeMap::from([("admin".to_owned(), 9090)]),
        mesh_port: Some(20000),
        tags: vec!["v1".to_owned()],
        meta: BTreeMap::from([("version".to_owned(), "1".to_owned())]),
        tagged_addresses: BTreeMap::from([(
            "lan".to_owned(),
            TaggedAddress { address: "10.0.0.5".to_owned(), port: 8080 },
        )]),
        weights: Weights { passing: 10, warning: 1 },
        enable_tag_override: false,
        upstreams: vec![Upstream {
            destination: "shop/db".parse().unwrap(),
            local_bind_address: None,
            local_bind_port: 9191,
        }],
        bypassable: None,
        created: CatalogIndex(4),
        modified: CatalogIndex(5),
    }
}

fn check(instance: Option<&str>) -> Check {
    Check {
        key: CheckKey {
            node: "vm-1".parse().unwrap(),
            namespace: Namespace::default(),
            id: instance.unwrap_or("alive").parse().unwrap(),
        },
        name: "answers".to_owned(),
        status: CheckStatus::Warning,
        notes: String::new(),
        output: "429".to_owned(),
        instance: instance.map(|id| id.parse().unwrap()),
        kind: "http".to_owned(),
        created: CatalogIndex(4),
        modified: CatalogIndex(6),
    }
}

fn shown(value: impl Serialize) -> Value {
    serde_json::to_value(value).unwrap()
}

#[test]
fn a_service_is_shown_as_consul_shows_it() {
    assert_eq!(
        shown(CatalogService::new(&node(), &instance("default"), "dc1")),
        json!({
            "ID": "", "Node": "vm-1", "Address": "10.0.0.5", "Datacenter": "dc1",
            "TaggedAddresses": {"lan": "10.0.0.5"}, "NodeMeta": {"rack": "r1"},
            "ServiceID": "web-1", "ServiceName": "web", "ServiceAddress": "",
            "ServiceTaggedAddresses": {"lan": {"Address": "10.0.0.5", "Port": 8080}},
            "ServiceTags": ["v1"], "ServiceMeta": {"version": "1"}, "ServicePort": 8080,
            "ServiceWeights": {"Passing": 10, "Warning": 1}, "ServiceEnableTagOverride": false,
            "ServiceProxy": {"Upstreams": [{
                "DestinationType": "service", "DestinationNamespace": "shop", "DestinationName": "db",
                "LocalBindAddress": "", "LocalBindPort": 9191,
            }]},
            "Checks": [], "CreateIndex": 4, "ModifyIndex": 5,
            // What weft adds.
            "Platform": "vm", "Zone": "eu-1a", "Network": "", "Owner": "external", "Namespace": "default",
            "ServicePorts": {"admin": 9090}, "ServiceMeshPort": 20000, "ServiceBypassable": null,
        })
    );
}

#[test]
fn an_instance_in_the_mesh_has_its_services_virtual_address_unless_it_says_another() {
    let number = ::catalog::AddressNumber::new(5);
    let shown = |instance: &Instance, number| {
        let of_catalog = CatalogService::new(&node(), instance, "dc1").with_virtual(instance, number);
        let of_health = AgentService::new(instance, "dc1").with_virtual(instance, number);
        assert_eq!(of_catalog.service_tagged_addresses, of_health.tagged_addresses);
        of_health.tagged_addresses.get("consul-virtual").map(|one| (one.address.clone(), one.port))
    };
    let mut instance = instance("default");
    assert_eq!(shown(&instance, number), Some(("240.0.0.5".to_owned(), 8080)));
    assert_eq!(shown(&instance, None), None);
    let own = ::catalog::TaggedAddress { address: "10.9.9.9".to_owned(), port: 1 };
    instance.tagged_addresses.insert("consul-virtual".to_owned(), own);
    assert_eq!(shown(&instance, number), Some(("10.9.9.9".to_owned(), 1)));
    instance.tagged_addresses.clear();
    instance.mesh_port = None;
    assert_eq!(shown(&instance, number), None, "nobody calls it by the mesh");
}

#[test]
fn a_node_is_shown_as_consul_shows_it() {
    assert_eq!(
        shown(Node::new(&node(), "dc1")),
        json!({
            "ID": "", "Node": "vm-1", "Address": "10.0.0.5", "Datacenter": "dc1",
            "TaggedAddresses": {"lan": "10.0.0.5"}, "Meta": {"rack": "r1"}, "CreateIndex": 2, "ModifyIndex": 3,
            "Platform": "vm", "Zone": "eu-1a", "Network": "", "Owner": "external",
        })
    );
}

#[test]
fn a_healthy_instance_is_shown_with_node_and_checks() {
    let (of_node, of_instance) = (check(None), check(Some("web-1")));
    let entry = HealthEntry::new(&node(), &instance("default"), &[&of_node, &of_instance], "dc1");
    assert_eq!(entry.status(), CheckStatus::Warning);
    let shown = shown(&entry);
    assert_eq!(shown["Node"]["Node"], "vm-1");
    assert_eq!(shown["Service"]["ID"], "web-1");
    assert_eq!(shown["Service"]["Service"], "web");
    assert_eq!(shown["Service"]["Weights"], json!({"Passing": 10, "Warning": 1}));
    assert_eq!(shown["Checks"][0]["ServiceName"], "");
    assert_eq!(
        shown["Checks"][1],
        json!({
            "Node": "vm-1", "CheckID": "web-1", "Name": "answers", "Status": "warning", "Notes": "", "Output": "429",
            "ServiceID": "web-1", "ServiceName": "web", "ServiceTags": ["v1"], "Type": "http", "Namespace": "default",
            "CreateIndex": 4, "ModifyIndex": 6,
        })
    );
    assert_eq!(serde_json::from_value::<HealthEntry>(shown).unwrap(), entry);
}

#[test]
fn equal_ids_of_two_namespaces_do_not_hide_each_other() {
    let (own, other) = (instance("default"), instance("shop"));
    let services = NodeServices::new(&node(), [&own, &other], "dc1");
    assert_eq!(services.services.keys().collect::<Vec<_>>(), ["shop/web-1", "web-1"]);
    assert_eq!(NodeServiceList::new(&node(), [&own, &other], "dc1").services.len(), 2);
}

#[test]
fn a_check_of_an_instance_that_is_gone_still_shows() {
    let shown = super::super::HealthCheck::new(&check(Some("web-1")), &Catalog::default());
    assert_eq!((shown.service_id.as_str(), shown.service_name.as_str()), ("web-1", ""));
}
