//! Puts the agent, what it needs and what leads traffic to it into a pod.

use serde_json::{Map, Value, json};
use wire::defaults::{DNS_PORT, OUTBOUND_PORT};

use super::annotations::{PortWish, Wishes};
use super::settings::{AccessLog, Settings, Sidecar};
use super::{
    AGENT_CONTAINER, DATA_VOLUME, INJECTED, PROBES_ANNOTATION, REDIRECT_CONTAINER, Refusal, STATUS_ANNOTATION,
    TOKEN_VOLUME, probes,
};
use crate::kubernetes::cluster::node_name;

const DATA_PATH: &str = "/var/lib/weft";
const TOKEN_PATH: &str = "/run/weft/token";
/// Where the token is renewed; the kubelet does so at four fifths of it.
const TOKEN_LIFETIME_S: u32 = 3600;
/// What an agent keeps is small: keys, certificates, and what it last heard.
const DATA_SIZE: &str = "64Mi";
/// An agent may wait this long for a first server before its container is started anew.
const START_S: u32 = 300;

pub(super) fn add(
    pod: &mut Value,
    settings: &Settings,
    wishes: &Wishes,
    warnings: &mut Vec<String>,
) -> Result<(), Refusal> {
    let redirects = wishes.redirect.unwrap_or(settings.redirect_image.is_some());
    if redirects && settings.redirect_image.is_none() {
        return Err(Refusal::NoRedirectImage);
    }
    let spec = pod.get_mut("spec").and_then(Value::as_object_mut).ok_or(Refusal::NoPod)?;
    let ends = spec.get("restartPolicy").and_then(Value::as_str).is_some_and(|policy| policy != "Always");
    if ends && settings.sidecar == Sidecar::Plain {
        return Err(Refusal::NeverEnds);
    }
    let service = service(spec, wishes, redirects)?;
    // Without redirection the kubelet reaches the application as it always did.
    let rewritten = if redirects { probes::rewrite(spec, settings.health_port)? } else { probes::Rewritten::default() };
    warnings.extend(rewritten.warnings);
    let config = config(settings, wishes, service, rewritten.asked, redirects);
    let agent = agent(settings, wishes, &config);
    let redirect =
        settings.redirect_image.as_ref().filter(|_| redirects).map(|image| redirect(settings, wishes, image));
    place(spec, settings.sidecar, agent, redirect);
    list(spec, "volumes").extend(volumes(settings));
    let metadata = object(pod, "metadata");
    let annotations = metadata.entry("annotations").or_insert_with(|| json!({}));
    if !annotations.is_object() {
        *annotations = json!({});
    }
    annotations[STATUS_ANNOTATION] = json!(INJECTED);
    if !rewritten.originals.is_empty() {
        annotations[PROBES_ANNOTATION] = json!(Value::Object(rewritten.originals).to_string());
    }
    Ok(())
}

/// Puts the containers where they start in the right order: redirection and agent before everything else. Where the agent
/// cannot be started first, redirection comes after the pod's own preparations, which would find nobody behind it.
fn place(spec: &mut Map<String, Value>, sidecar: Sidecar, agent: Value, redirect: Option<Value>) {
    match sidecar {
        Sidecar::Native => {
            list(spec, "initContainers").splice(0..0, redirect.into_iter().chain([agent]));
        }
        Sidecar::Plain => {
            if let Some(redirect) = redirect {
                list(spec, "initContainers").push(redirect);
            }
            list(spec, "containers").insert(0, agent);
        }
    }
}

fn list<'a>(spec: &'a mut Map<String, Value>, name: &str) -> &'a mut Vec<Value> {
    let list = spec.entry(name).or_insert_with(|| json!([]));
    if !list.is_array() {
        *list = json!([]);
    }
    list.as_array_mut().expect("it is a list now")
}

fn object<'a>(within: &'a mut Value, name: &str) -> &'a mut Map<String, Value> {
    let object = within.as_object_mut().expect("it has a spec").entry(name).or_insert_with(|| json!({}));
    if !object.is_object() {
        *object = json!({});
    }
    object.as_object_mut().expect("it is an object now")
}

/// Writes text so that Kubernetes, which puts variables in place of `$(NAME)`, leaves it as it is.
fn literal(text: &str) -> String {
    text.replace('$', "$$")
}

/// Returns the definition of the service that the pod serves.
fn service(spec: &Map<String, Value>, wishes: &Wishes, redirects: bool) -> Result<Value, Refusal> {
    let name = match &wishes.service {
        Some(name) => name.clone(),
        None => match spec.get("serviceAccountName").and_then(Value::as_str) {
            None | Some("" | "default") => return Err(Refusal::NoService),
            Some(account) => {
                account.parse().map_err(|_| Refusal::AccountIsNoService { account: account.to_owned() })?
            }
        },
    };
    let containers = spec.get("containers").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let carried = |port: &&Value| port.get("protocol").and_then(Value::as_str).is_none_or(|it| it == "TCP");
    let all: Vec<Value> = containers
        .iter()
        .flat_map(|container| container.get("ports").and_then(Value::as_array).into_iter().flatten())
        .filter(carried)
        .cloned()
        .collect();
    let ports = Value::Array(all.clone());
    let main = match &wishes.port {
        Some(PortWish::Number(port)) => *port,
        Some(PortWish::Named(name)) => probes::number(&json!(name), &ports).ok_or_else(|| Refusal::Annotation {
            annotation: "weft.dev/port".to_owned(),
            value: name.clone(),
            problem: "no container has a port of that name".to_owned(),
        })?,
        None => all.iter().find_map(|port| probes::number(port.get("containerPort")?, &Value::Null)).unwrap_or(0),
    };
    let mut named = Map::new();
    for port in &all {
        let number = port.get("containerPort").and_then(|it| probes::number(it, &Value::Null));
        if let (Some(name), Some(number)) = (port.get("name").and_then(Value::as_str), number)
            && number != main
        {
            named.insert(literal(name), json!(number));
        }
    }
    let upstreams: Vec<Value> = wishes
        .upstreams
        .iter()
        .map(|upstream| {
            let namespace = upstream.namespace.as_ref().map_or("$(POD_NAMESPACE)", |namespace| namespace.as_str());
            json!({
                "destination_name": upstream.service, "destination_namespace": namespace, "local_bind_port": upstream.port
            })
        })
        .collect();
    let mut meta: Map<String, Value> =
        wishes.meta.iter().map(|(name, value)| (literal(name), json!(literal(value)))).collect();
    meta.insert("pod".to_owned(), json!("$(POD_NAME)"));
    let mut service = json!({
        "name": name,
        "namespace": "$(POD_NAMESPACE)",
        "port": main,
        "meta": meta,
        "connect": { "sidecar_service": { "proxy": { "upstreams": upstreams } } },
    });
    if redirects {
        let proxy = &mut service["connect"]["sidecar_service"]["proxy"];
        proxy["mode"] = json!("transparent");
        proxy["transparent_proxy"] = json!({ "outbound_listener_port": OUTBOUND_PORT });
    }
    if !named.is_empty() {
        service["ports"] = Value::Object(named);
    }
    if !wishes.tags.is_empty() {
        service["tags"] = wishes.tags.iter().map(|tag| literal(tag)).collect();
    }
    if let Some(port) = wishes.metrics_port {
        let path = wishes.metrics_path.as_deref().unwrap_or("/metrics");
        service["metrics_url"] = json!(literal(&format!("http://127.0.0.1:{port}{path}")));
    }
    Ok(service)
}

/// Returns the agent's settings, in the form of its files. Kubernetes puts the pod's own names in.
fn config(settings: &Settings, wishes: &Wishes, service: Value, asked: Vec<Value>, redirects: bool) -> String {
    let mut config = json!({
        "node": node_name("$(POD_NAME)", "$(POD_NAMESPACE)", settings.cluster_name.as_ref()),
        "platform": "kubernetes",
        "bind": "$(POD_IP)",
        "servers": settings.servers.iter().map(|server| literal(server)).collect::<Vec<_>>(),
        "auth_method": settings.auth_method,
        "bearer_token_file": format!("{TOKEN_PATH}/token"),
        "root_fingerprints": settings.root_fingerprints,
        "data_dir": format!("{DATA_PATH}/agent"),
        "mesh_port": settings.mesh_port,
        "health_port": settings.health_port,
        "dns_namespace": "$(POD_NAMESPACE)",
        "service": service,
    });
    if redirects && !settings.cluster_dns.is_empty() {
        config["dns_port"] = json!(DNS_PORT);
        config["dns_recursors"] = json!(settings.cluster_dns);
    }
    if let AccessLog::Share(share) = wishes.access_log.unwrap_or(settings.access_log) {
        config["access_log"] = json!("-");
        config["access_log_sample"] = json!(share);
    }
    if !asked.is_empty() {
        let escaped: Vec<Value> = asked.into_iter().map(escaped).collect();
        config["application_probes"] = Value::Array(escaped);
    }
    config.to_string()
}

/// Escapes all texts of a document that a pod's author wrote.
fn escaped(value: Value) -> Value {
    match value {
        Value::String(text) => Value::String(literal(&text)),
        Value::Array(list) => list.into_iter().map(escaped).collect(),
        Value::Object(members) => members.into_iter().map(|(name, value)| (literal(&name), escaped(value))).collect(),
        other => other,
    }
}

fn agent(settings: &Settings, wishes: &Wishes, config: &str) -> Value {
    let field = |path: &str| json!({ "fieldRef": { "apiVersion": "v1", "fieldPath": path } });
    let asked = |path: &str| json!({ "path": path, "port": settings.health_port, "scheme": "HTTP" });
    let own = |wish: &Option<String>, default: &String| wish.clone().unwrap_or_else(|| default.clone());
    let resources = &settings.resources;
    let mut env = vec![
        json!({ "name": "POD_NAME", "valueFrom": field("metadata.name") }),
        json!({ "name": "POD_NAMESPACE", "valueFrom": field("metadata.namespace") }),
        json!({ "name": "POD_IP", "valueFrom": field("status.podIP") }),
        // There from Kubernetes 1.35 on; empty, and so unsaid, before.
        json!({ "name": "WEFT_ZONE", "valueFrom": field("metadata.labels['topology.kubernetes.io/zone']") }),
        json!({ "name": "WEFT_CONFIG", "value": config }),
    ];
    if !settings.log.is_empty() {
        env.push(json!({ "name": "WEFT_LOG", "value": literal(&settings.log) }));
    }
    let mut agent = json!({
        "name": AGENT_CONTAINER,
        "image": settings.image,
        "args": ["agent"],
        "env": env,
        "ports": [
            { "name": "weft-mesh", "containerPort": settings.mesh_port, "protocol": "TCP" },
            { "name": "weft-health", "containerPort": settings.health_port, "protocol": "TCP" },
        ],
        "readinessProbe": { "httpGet": asked("/ready"), "periodSeconds": 2, "failureThreshold": 3, "timeoutSeconds": 2 },
        "livenessProbe": { "httpGet": asked("/live"), "periodSeconds": 10, "failureThreshold": 6, "timeoutSeconds": 5 },
        "resources": {
            "requests": {
                "cpu": own(&wishes.cpu_request, &resources.cpu_request),
                "memory": own(&wishes.memory_request, &resources.memory_request),
            },
            // No limit on CPU: an agent that is throttled delays every call.
            "limits": { "memory": own(&wishes.memory_limit, &resources.memory_limit) },
        },
        "securityContext": {
            "runAsUser": settings.agent_uid,
            "runAsGroup": settings.agent_uid,
            "runAsNonRoot": true,
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": { "drop": ["ALL"] },
            "seccompProfile": { "type": "RuntimeDefault" },
        },
        "volumeMounts": [
            { "name": DATA_VOLUME, "mountPath": DATA_PATH },
            { "name": TOKEN_VOLUME, "mountPath": TOKEN_PATH, "readOnly": true },
        ],
    });
    let ready =
        json!({ "httpGet": asked("/ready"), "periodSeconds": 1, "failureThreshold": START_S, "timeoutSeconds": 2 });
    if settings.sidecar == Sidecar::Native {
        // The application starts when this one has succeeded.
        agent["restartPolicy"] = json!("Always");
        agent["startupProbe"] = ready;
    }
    pull_policy(&mut agent, settings);
    agent
}

fn redirect(settings: &Settings, wishes: &Wishes, image: &str) -> Value {
    let mut arguments: Vec<String> =
        ["redirect", "apply", "--all", "--agent-uid"].into_iter().map(str::to_owned).collect();
    arguments.push(settings.agent_uid.to_string());
    let mut say = |flag: &str, value: String| arguments.extend([flag.to_owned(), value]);
    say("--mesh-port", settings.mesh_port.to_string());
    say("--outbound-port", OUTBOUND_PORT.to_string());
    if !settings.cluster_dns.is_empty() {
        say("--dns-port", DNS_PORT.to_string());
    }
    say("--exclude-inbound-port", settings.health_port.to_string());
    wishes.exclude_inbound_ports.iter().for_each(|port| say("--exclude-inbound-port", port.to_string()));
    wishes.exclude_outbound_ports.iter().for_each(|port| say("--exclude-outbound-port", port.to_string()));
    wishes.exclude_outbound_cidrs.iter().for_each(|range| say("--exclude-outbound-cidr", range.clone()));
    wishes.exclude_uids.iter().for_each(|uid| say("--exclude-uid", uid.to_string()));
    let mut redirect = json!({
        "name": REDIRECT_CONTAINER,
        "image": image,
        "command": ["/usr/bin/weft"],
        "args": arguments,
        "resources": { "requests": { "cpu": "10m", "memory": "16Mi" }, "limits": { "memory": "64Mi" } },
        // The one place with more rights than the application, and it has ended before that starts.
        "securityContext": {
            "runAsUser": 0,
            "runAsGroup": 0,
            "runAsNonRoot": false,
            "privileged": false,
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": { "drop": ["ALL"], "add": ["NET_ADMIN"] },
            "seccompProfile": { "type": "RuntimeDefault" },
        },
    });
    pull_policy(&mut redirect, settings);
    redirect
}

fn pull_policy(container: &mut Value, settings: &Settings) {
    if !settings.image_pull_policy.is_empty() {
        container["imagePullPolicy"] = json!(settings.image_pull_policy);
    }
}

fn volumes(settings: &Settings) -> [Value; 2] {
    let token = json!({
        "audience": settings.audience, "expirationSeconds": TOKEN_LIFETIME_S, "path": "token"
    });
    [
        json!({ "name": DATA_VOLUME, "emptyDir": { "medium": "Memory", "sizeLimit": DATA_SIZE } }),
        json!({ "name": TOKEN_VOLUME, "projected": { "sources": [{ "serviceAccountToken": token }] } }),
    ]
}
