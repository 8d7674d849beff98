use kube::runtime::watcher::Event;
use serde_json::{Value, json};

use super::*;

fn rules() -> SyncRules {
    SyncRules {
        connector: "k8s".parse().unwrap(),
        cluster: None,
        namespaces: BTreeSet::new(),
        except: ["kube-system".to_owned()].into(),
        by_default: true,
    }
}

fn held<K: serde::de::DeserializeOwned + kube::Resource + PartialEq>(objects: &[Value]) -> Mirror<K> {
    let mut mirror = Mirror::default();
    mirror.take(Event::Init);
    for (number, object) in (1u64..).zip(objects) {
        let mut object = object.clone();
        object["metadata"]["resourceVersion"] = json!(number.to_string());
        mirror.take(Event::InitApply(serde_json::from_value(object).unwrap()));
    }
    mirror.take(Event::InitDone);
    mirror
}

fn observed(services: &[Value], slices: &[Value], pods: &[Value]) -> Observed {
    Observed { services: held(services), slices: held(slices), pods: held(pods), ..Observed::default() }
}

fn service(name: &str, annotations: &Value) -> Value {
    json!({"metadata": {"name": name, "namespace": "shop", "annotations": annotations}, "spec": {"type": "ClusterIP"}})
}

fn endpoint(pod: &str, ready: Option<bool>) -> Value {
    json!({"addresses": ["10.0.0.1"], "conditions": {"ready": ready}, "zone": "a",
        "targetRef": {"kind": "Pod", "name": pod, "uid": format!("uid-{pod}")}})
}

fn slice(name: &str, service: &str, endpoints: &[Value]) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "shop", "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4", "endpoints": endpoints,
        "ports": [{"name": "metrics", "port": 9102}, {"name": "http", "port": 8080}, {"name": "dns", "port": 53, "protocol": "UDP"}],
    })
}

fn pod(name: &str) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "shop", "uid": format!("uid-{name}")},
        "spec": {"nodeName": "worker-1", "containers": [{"name": "app"}]},
        "status": {"phase": "Running", "podIP": "10.0.0.1", "conditions": [{"type": "Ready", "status": "True"}]},
    })
}

/// Writes what is seen as a line a node: its address, its instances with ports, its checks; or the checks on an agent's.
fn lines(sight: &Sight) -> Vec<String> {
    let line = |(name, wanted): (&NodeName, &Wanted)| match wanted {
        Wanted::Node(node) => {
            let instances = node.instances.iter().map(|one| format!("{}:{}", one.service_key(), one.port));
            let checks = node.checks.iter().map(|one| format!("{}={}", one.key.id, one.status));
            format!("{name} {} {}", node.node.address, instances.chain(checks).collect::<Vec<_>>().join(" "))
        }
        Wanted::Checks(checks) => {
            let checks = checks.iter().map(|one| format!("{}={} ({})", one.key.id, one.status, one.output));
            format!("{name} {}", checks.collect::<Vec<_>>().join(" "))
        }
    };
    sight.nodes.iter().map(line).collect()
}

fn node(sight: &Sight, name: &str) -> ConnectorNode {
    match &sight.nodes[&name.parse().unwrap()] {
        Wanted::Node(node) => (**node).clone(),
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn check(observed: &Observed, want: &[&str]) {
    let seen = sight(observed, &rules());
    assert_eq!(lines(&seen), want, "{seen:#?}");
}

#[test]
fn a_pod_that_backs_services_is_a_node_with_an_instance_of_each() {
    let services = [service("web", &json!({})), service("admin", &json!({"weft.dev/service-port": "metrics"}))];
    let slices = [
        slice("web-1", "web", &[endpoint("p1", Some(true)), endpoint("p2", Some(false)), endpoint("p3", None)]),
        // The same pod by its other address.
        slice("web-2", "web", &[endpoint("p1", Some(true))]),
        slice("admin-1", "admin", &[endpoint("p1", Some(true))]),
    ];
    let observed = observed(&services, &slices, &[pod("p1"), pod("p2"), pod("p3"), pod("idle")]);
    check(
        &observed,
        &[
            "p1.shop 10.0.0.1 shop/admin:9102 shop/web:8080 ready:admin=passing ready:web=passing",
            "p2.shop 10.0.0.1 shop/web:8080 ready:web=critical",
            "p3.shop 10.0.0.1 shop/web:8080 ready:web=passing",
        ],
    );
    let node = node(&sight(&observed, &rules()), "p1.shop");
    assert_eq!((node.node.platform, node.node.zone.as_deref()), (Platform::Kubernetes, Some("a")));
    assert_eq!((node.node.owner.to_string().as_str(), node.node.id.as_deref()), ("connector:k8s", Some("uid-p1")));
    assert_eq!(node.node.meta["kubernetes-node"], "worker-1");
    assert_eq!(node.instances[0].ports, BTreeMap::from([("http".to_owned(), 8080), ("metrics".to_owned(), 9102)]));
}

#[test]
fn a_pod_that_ends_is_gone_at_once_and_another_of_its_name_is_another() {
    let services = [service("web", &json!({}))];
    let slices = [slice("web-1", "web", &["p1", "p2", "p3", "p4"].map(|name| endpoint(name, Some(true))))];
    let mut pods = ["p1", "p2", "p3", "p4"].map(pod);
    pods[0]["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    pods[1]["status"]["phase"] = json!("Succeeded");
    pods[2]["metadata"]["uid"] = json!("another");
    check(&observed(&services, &slices, &pods), &["p4.shop 10.0.0.1 shop/web:8080 ready:web=passing"]);
    pods[3]["status"]["podIP"] = Value::Null;
    check(&observed(&services, &slices, &pods), &[]);
}

#[test]
fn an_agents_pod_gets_checks_and_no_node_of_the_connector() {
    let services = [service("web", &json!({}))];
    let with_agent = |name: &str, is_sidecar: bool| {
        let mut pod = pod(name);
        let place = if is_sidecar { "initContainers" } else { "containers" };
        pod["spec"][place] = json!([{"name": "weft-agent"}]);
        if is_sidecar {
            pod["spec"]["containers"] = json!([{"name": "app"}]);
        }
        pod
    };
    let slices = [slice("web-1", "web", &["p1", "p2", "p3", "p4"].map(|name| endpoint(name, Some(true))))];
    let mut pods = [with_agent("p1", true), with_agent("p2", false), with_agent("p3", true), with_agent("p4", true)];
    pods[1]["status"]["conditions"][0]["status"] = json!("False");
    pods[2]["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    pods[3]["status"]["phase"] = json!("Failed");
    check(
        &observed(&services, &slices, &pods),
        &[
            "p1.shop connector:k8s:ready=passing (the pod is ready)",
            "p2.shop connector:k8s:ready=critical (the pod is not ready)",
            "p3.shop connector:k8s:ready=critical (the pod is being ended)",
        ],
    );
}

#[test]
fn services_say_whether_and_how_they_are_taken() {
    let slices = [slice("web-1", "web", &[endpoint("p1", Some(true))])];
    let with = |annotations: Value| observed(&[service("web", &annotations)], &slices, &[pod("p1")]);
    check(&with(json!({"weft.dev/service-sync": "false"})), &[]);
    check(&with(json!({"consul.hashicorp.com/service-sync": "false"})), &[]);
    let renamed = json!({
        "weft.dev/service-name": "shop-web", "weft.dev/service-tags": "v1, blue", "weft.dev/service-meta-team": "a",
        "consul.hashicorp.com/service-name": "other",
    });
    check(&with(renamed.clone()), &["p1.shop 10.0.0.1 shop/shop-web:8080 ready:shop-web=passing"]);
    let instance = &node(&sight(&with(renamed), &rules()), "p1.shop").instances[0];
    assert_eq!((&*instance.tags, &*instance.meta["team"]), (&["v1".to_owned(), "blue".to_owned()][..], "a"));
    let misspelt = sight(&with(json!({"weft.dev/service-port": "htpt"})), &rules());
    assert!(misspelt.nodes.is_empty(), "nobody is sent to another port than the one that is meant");
    let reason = &misspelt.problems[0].reason;
    assert!(reason.contains("`htpt`") && reason.contains("http 8080"), "{reason}");
    let unfit = sight(&with(json!({"weft.dev/service-name": "../etc"})), &rules());
    assert!(unfit.nodes.is_empty());
    assert_eq!(unfit.problems[0].subject, "service shop/web");
    let only = SyncRules { namespaces: ["other".to_owned()].into(), ..rules() };
    assert!(sight(&with(json!({})), &only).nodes.is_empty());
    let asked = SyncRules { by_default: false, ..rules() };
    assert!(sight(&with(json!({})), &asked).nodes.is_empty());
    assert_eq!(sight(&with(json!({"weft.dev/service-sync": "true"})), &asked).nodes.len(), 1);
}

#[test]
fn long_names_of_pods_stay_apart() {
    let (one, other) = ("p".repeat(200), format!("{}q", "p".repeat(199)));
    let [one, other] = [one, other].map(|name| node_of_pod(&ObjectName::new("shop", &name), None).unwrap());
    assert_ne!(one, other);
    assert_eq!(one.as_str().len(), NODE_NAME_BYTES_MAX);
    let east = "east".parse().unwrap();
    assert_eq!(node_of_pod(&ObjectName::new("shop", "p1"), Some(&east)).unwrap().as_str(), "p1.shop.east");
}

#[test]
fn an_end_that_the_cluster_tells_of_is_told_from_one_that_is_found() {
    let mut observed = observed(&[], &[], &[pod("p1"), pod("p2"), pod("p3")]);
    let object = |name: &str, version: u64, is_ending: bool| {
        let mut pod = pod(name);
        pod["metadata"]["resourceVersion"] = json!(version.to_string());
        pod["metadata"]["deletionTimestamp"] = if is_ending { json!("2026-01-01T00:00:00Z") } else { Value::Null };
        serde_json::from_value::<Pod>(pod).unwrap()
    };
    let ended = |observed: &Observed| observed.ended(None).iter().map(ToString::to_string).collect::<Vec<_>>();
    observed.take_pod(Event::Apply(object("p1", 10, true)));
    assert_eq!(ended(&observed), ["p1.shop"]);
    observed.take_pod(Event::Delete(object("p1", 11, true)));
    assert_eq!(ended(&observed), ["p1.shop"]);
    observed.take_pod(Event::Init);
    observed.take_pod(Event::InitApply(object("p3", 3, false)));
    observed.take_pod(Event::InitDone);
    assert_eq!(ended(&observed), ["p1.shop"], "what a list lacks was not told of");
    observed.take_pod(Event::Delete(object("p3", 12, false)));
    assert_eq!(ended(&observed), ["p1.shop", "p3.shop"]);
    observed.take_pod(Event::Apply(object("p3", 13, false)));
    assert_eq!(ended(&observed), ["p1.shop"], "it is there again");
}
