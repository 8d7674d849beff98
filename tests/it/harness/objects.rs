//! Objects of a Kubernetes cluster, as tests put them there.

use serde_json::{Value, json};

use super::kubernetes::ApiServer;

/// Where the pods of tests are that nobody calls.
pub(crate) const NOWHERE: &str = "10.1.0.7";

/// Has a cluster know weft's resources, as far as the stand-in looks at their definitions.
pub(crate) fn define_resources(server: &ApiServer) {
    for kind in ["ServiceIntentions", "ServiceDefaults"] {
        let plural = kind.to_lowercase();
        server.put(json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": format!("{plural}.weft.dev")},
            "spec": {"group": "weft.dev", "names": {"plural": plural, "kind": kind}},
        }));
    }
}

/// Returns a namespace with these labels.
pub(crate) fn namespace(name: &str, labels: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
}

/// Returns a service account.
pub(crate) fn account(namespace: &str, name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": namespace}})
}

/// Returns a service.
pub(crate) fn service(namespace: &str, name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": namespace}, "spec": {}})
}

/// Returns a pod that runs and is ready, with one container of this name.
pub(crate) fn pod(namespace: &str, name: &str, container: &str, address: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": namespace},
        "spec": {"nodeName": "worker-1", "containers": [{"name": container}]},
        "status": {"phase": "Running", "podIP": address, "conditions": [{"type": "Ready", "status": "True"}]},
    })
}

/// Returns the endpoints of a service, by the pods behind it and whether each is ready.
pub(crate) fn slice(namespace: &str, service: &str, pods: &[(&str, bool)]) -> Value {
    let endpoints = pods.iter().map(|(pod, ready)| {
        json!({"addresses": [NOWHERE], "conditions": {"ready": ready}, "targetRef": {"kind": "Pod", "name": pod}})
    });
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {
            "name": format!("{service}-1"), "namespace": namespace, "labels": {"kubernetes.io/service-name": service},
        },
        "ports": [{"name": "http", "port": 8080}], "endpoints": endpoints.collect::<Vec<_>>(),
    })
}
