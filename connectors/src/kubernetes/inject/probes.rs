//! Probes that go to the agent instead of the application.
//!
//! The kubelet asks a pod at its address, where redirection hands every connection to the mesh listener, which wants a
//! certificate. So the agent is asked, at a port of its own, and asks the application on loopback.

use http::{HeaderName, HeaderValue, Uri};
use serde_json::{Map, Value, json};

use super::{Refusal, is_own};

/// Begins every path at which the agent asks an application.
const PATH: &str = "/app-health";
/// The longest name of a service that an agent asks by gRPC.
const GRPC_SERVICE_BYTES_MAX: usize = 4096;
/// How long a hook may take that says nothing of it.
const HOOK_TIMEOUT_S: u64 = 30;

/// What a container may be asked by its machine: where that stands, and how it is called here.
const ASKED: [(&str, &str); 5] = [
    ("/livenessProbe", "liveness"),
    ("/readinessProbe", "readiness"),
    ("/startupProbe", "startup"),
    ("/lifecycle/postStart", "post-start"),
    ("/lifecycle/preStop", "pre-stop"),
];
const HANDLERS: [&str; 3] = ["httpGet", "tcpSocket", "grpc"];

/// Is what became of a pod's probes.
#[derive(Debug, Default)]
pub(super) struct Rewritten {
    /// What the agent is to do when it is asked, as its settings have it.
    pub(super) asked: Vec<Value>,
    /// The handlers as they were, by container and place.
    pub(super) originals: Map<String, Value>,
    pub(super) warnings: Vec<String>,
}

/// Sends all probes of a pod's containers to the agent.
///
/// # Errors
/// [`Refusal::Probe`] for one that the agent would refuse, and so never be ready.
pub(super) fn rewrite(spec: &mut Map<String, Value>, health_port: u16) -> Result<Rewritten, Refusal> {
    let mut rewritten = Rewritten::default();
    for list in ["initContainers", "containers"] {
        let containers = spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten();
        for container in containers.filter(|container| !is_own(container)) {
            rewrite_container(container, health_port, &mut rewritten)?;
        }
    }
    Ok(rewritten)
}

fn rewrite_container(container: &mut Value, health_port: u16, rewritten: &mut Rewritten) -> Result<(), Refusal> {
    let Some(name) = container.get("name").and_then(Value::as_str).map(str::to_owned) else { return Ok(()) };
    let ports = container.get("ports").cloned().unwrap_or_default();
    for (place, called) in ASKED {
        let Some(probe) = container.pointer_mut(place).and_then(Value::as_object_mut) else { continue };
        let Some(kind) = HANDLERS.into_iter().find(|kind| probe.get(*kind).is_some_and(Value::is_object)) else {
            continue;
        };
        let timeout = probe.get("timeoutSeconds").and_then(Value::as_u64);
        let is_hook = place.starts_with("/lifecycle");
        let timeout = timeout.unwrap_or(if is_hook { HOOK_TIMEOUT_S } else { 1 });
        let path = format!("{name}/{called}");
        let refused = |problem| Refusal::Probe { container: name.clone(), probe: called, problem };
        let handler = probe.get(kind).unwrap_or(&Value::Null);
        let Some(asked) = asked(kind, handler, &ports, &path, timeout).map_err(refused)? else { continue };
        if kind == "httpGet" && asked.get("tcp").is_some() {
            rewritten.warnings.push(format!(
                "the {called} probe of container `{name}` asks by https: the agent only looks whether somebody listens"
            ));
        }
        let original = probe.remove(kind).unwrap_or_default();
        rewritten.originals.insert(format!("{name}{place}"), json!({ kind: original }));
        let replaced = json!({ "path": format!("{PATH}/{path}"), "port": health_port, "scheme": "HTTP" });
        probe.insert("httpGet".to_owned(), replaced);
        rewritten.asked.push(asked);
    }
    Ok(())
}

/// Returns what the agent does in place of the kubelet; nothing where the kubelet would not have asked this pod.
///
/// # Errors
/// What is wrong with it, where the agent would not take it.
fn asked(
    kind: &str,
    handler: &Value,
    ports: &Value,
    path: &str,
    timeout_s: u64,
) -> Result<Option<Value>, &'static str> {
    if handler.get("host").and_then(Value::as_str).is_some_and(|host| !host.is_empty()) {
        return Ok(None);
    }
    let Some(port) = handler.get("port").and_then(|port| number(port, ports)) else { return Ok(None) };
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-./".contains(&byte);
    if !path.bytes().all(is_plain) {
        return Err("its container's name may hold letters, digits and hyphens only");
    }
    let timeout = format!("{timeout_s}s");
    if kind == "grpc" {
        let service = handler.get("service").and_then(Value::as_str).unwrap_or_default();
        if service.len() > GRPC_SERVICE_BYTES_MAX {
            return Err("its service's name is longer than 4096 bytes");
        }
        let address = format!("127.0.0.1:{port}");
        return Ok(Some(json!({ "path": path, "grpc": address, "grpc_service": service, "timeout": timeout })));
    }
    let is_http = kind == "httpGet" && !handler.get("scheme").is_some_and(|scheme| scheme == "HTTPS");
    if !is_http {
        return Ok(Some(json!({ "path": path, "tcp": format!("127.0.0.1:{port}"), "timeout": timeout })));
    }
    let target = handler.get("path").and_then(Value::as_str).filter(|path| !path.is_empty()).unwrap_or("/");
    let slash = if target.starts_with('/') { "" } else { "/" };
    let url = format!("http://127.0.0.1:{port}{slash}{}", encoded(target));
    if url.parse::<Uri>().is_err() {
        return Err("its path is no path of a URL");
    }
    let mut headers = Map::new();
    for header in handler.get("httpHeaders").and_then(Value::as_array).into_iter().flatten() {
        let text = |field: &str| header.get(field).and_then(Value::as_str).unwrap_or_default();
        let (name, value) = (text("name"), text("value"));
        if HeaderName::from_bytes(name.as_bytes()).is_err() {
            return Err("the name of one of its headers is none");
        }
        if HeaderValue::from_bytes(value.as_bytes()).is_err() {
            return Err("the value of one of its headers holds what no header may");
        }
        let values = headers.entry(name).or_insert_with(|| json!([])).as_array_mut();
        values.into_iter().for_each(|values| values.push(json!(value)));
    }
    Ok(Some(json!({ "path": path, "http": url, "header": headers, "timeout": timeout })))
}

/// Writes what no URL holds as itself by its number, as a kubelet does.
fn encoded(path: &str) -> String {
    let mut written = String::new();
    for byte in path.bytes() {
        if byte.is_ascii_graphic() && !b"\"<>\\^`{|}".contains(&byte) {
            written.push(char::from(byte));
        } else {
            written.push_str(&format!("%{byte:02X}"));
        }
    }
    written
}

/// Returns a port that is written as a number, or by the name that the container gives it.
pub(super) fn number(port: &Value, ports: &Value) -> Option<u16> {
    let number = |value: &Value| value.as_u64().and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0);
    let Some(name) = port.as_str() else { return number(port) };
    if let Ok(port) = name.parse() {
        return Some(port);
    }
    let named = ports.as_array()?.iter().find(|port| port.get("name").is_some_and(|it| it == name))?;
    number(named.get("containerPort")?)
}

/// Puts probes back as they were.
pub(super) fn restore(pod: &mut Value, originals: Map<String, Value>) {
    let Some(spec) = pod.get_mut("spec").and_then(Value::as_object_mut) else { return };
    for list in ["initContainers", "containers"] {
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            let Some(name) = container.get("name").and_then(Value::as_str).map(str::to_owned) else { continue };
            for (place, _) in ASKED {
                if let Some(original) = originals.get(&format!("{name}{place}"))
                    && let Some(probe) = container.pointer_mut(place).and_then(Value::as_object_mut)
                {
                    restore_probe(probe, original);
                }
            }
        }
    }
}

/// Puts one back, where it is still the injector's own.
fn restore_probe(probe: &mut Map<String, Value>, original: &Value) {
    let path = probe.get("httpGet").and_then(|get| get.get("path")).and_then(Value::as_str);
    if !path.is_some_and(|path| path.starts_with(PATH)) {
        return;
    }
    let Some((kind, handler)) = original.as_object().and_then(|it| it.iter().next()) else { return };
    if HANDLERS.contains(&kind.as_str()) {
        probe.remove("httpGet");
        probe.insert(kind.clone(), handler.clone());
    }
}
