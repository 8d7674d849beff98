//! A pod and an injector's settings, for tests of several modules.

use serde_json::{Value, json};

use super::{AGENT_UID, AccessLog, HEALTH_PORT, MESH_PORT, Resources, Settings, Sidecar};

/// Returns the settings of an injector that redirects.
pub(crate) fn settings() -> Settings {
    Settings {
        cluster_name: None,
        image: "registry.example/weft:1".to_owned(),
        image_pull_policy: String::new(),
        redirect_image: Some("registry.example/weft-redirect:1".to_owned()),
        cluster_dns: vec!["10.96.0.10:53".parse().unwrap()],
        servers: vec!["weft-agents.weft.svc:8300".to_owned()],
        auth_method: "kubernetes".parse().unwrap(),
        root_fingerprints: vec!["ab".repeat(32)],
        audience: "weft".to_owned(),
        agent_uid: AGENT_UID,
        mesh_port: MESH_PORT,
        health_port: HEALTH_PORT,
        resources: Resources::default(),
        sidecar: Sidecar::Native,
        log: String::new(),
        access_log: AccessLog::None,
    }
}

/// Returns a pod with every kind of probe, and with what nobody knows.
pub(crate) fn pod() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "web-1", "namespace": "shop" },
        "spec": {
            "serviceAccountName": "web",
            "futureField": { "kept": true },
            "initContainers": [{ "name": "migrate", "image": "migrate" }],
            "containers": [{
                "name": "app", "image": "app", "unknown": [1, 2],
                "ports": [
                    { "name": "http", "containerPort": 8080 }, { "name": "grpc", "containerPort": 9000, "protocol": "TCP" },
                    { "name": "dns", "containerPort": 53, "protocol": "UDP" },
                ],
                "readinessProbe": {
                    "httpGet": { "path": "/ready?full=$(x)", "port": "http", "httpHeaders": [{ "name": "X-A", "value": "b" }] },
                    "periodSeconds": 3, "timeoutSeconds": 2
                },
                "livenessProbe": { "tcpSocket": { "port": 8080 } },
                "startupProbe": { "grpc": { "port": 9000, "service": "ready" }, "failureThreshold": 30 },
                "lifecycle": { "preStop": { "exec": { "command": ["sleep", "5"] } } },
            }],
        }
    })
}
