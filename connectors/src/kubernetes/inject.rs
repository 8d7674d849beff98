//! The injector, pure: a pod goes in, the same pod with an agent beside its application comes out.
//!
//! [`inject`] takes out what an injector put in before, and then adds its own. So doing it twice is doing it once, a pod that
//! claims to have been injected gets nothing by it, and whoever injects anew with other settings gets these.

mod add;
mod annotations;
mod documents;
mod patch;
mod probes;
mod refusal;
mod settings;
mod strip;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use serde_json::{Map, Value};

pub use documents::{Documents, DocumentsError, inject_documents};
pub use patch::difference;
pub use refusal::Refusal;
pub use settings::{
    AGENT_UID, AccessLog, AccessLogError, HEALTH_PORT, MESH_PORT, Resources, Settings, SettingsError, Sidecar,
};

use super::cluster::{NODE_NAME_BYTES_MAX, node_name};
use annotations::Wishes;

/// The agent's container.
pub(crate) const AGENT_CONTAINER: &str = "weft-agent";
/// The init container that turns the pod's traffic to the agent.
const REDIRECT_CONTAINER: &str = "weft-redirect";
/// The volume that holds the agent's keys, in memory.
const DATA_VOLUME: &str = "weft-data";
/// The volume that holds the token which the agent logs in with.
const TOKEN_VOLUME: &str = "weft-token";
const OWN_CONTAINERS: [&str; 2] = [AGENT_CONTAINER, REDIRECT_CONTAINER];
const OWN_VOLUMES: [&str; 2] = [DATA_VOLUME, TOKEN_VOLUME];

/// Tells whoever looks at a pod that there is an agent in it.
const STATUS_ANNOTATION: &str = "weft.dev/inject-status";
/// What the status says then.
const INJECTED: &str = "injected";
/// Keeps the probes as they were written, to be put back when the pod is injected anew.
const PROBES_ANNOTATION: &str = "weft.dev/original-probes";
/// The label by which whoever administers a namespace grants its pods what leads past the mesh.
const MAY_BYPASS_LABEL: &str = "weft.dev/may-bypass";

/// Says whether a pod's own annotations may lead past the mesh: no agent, no redirection, ports that are left out.
///
/// Whoever may write pods must not decide that alone, so it is granted to a namespace, by a label on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Knobs {
    /// They are carried out.
    Granted,
    /// A pod that uses one is refused.
    Withheld,
}

/// Is what became of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It has an agent now.
    Injected {
        /// What whoever wrote it should know.
        warnings: Vec<String>,
    },
    /// It stays as it is.
    LeftAlone {
        /// Why.
        reason: String,
    },
}

/// Puts an agent into a pod, or into the template of one.
///
/// # Errors
///
/// [`Refusal`] says why it must not run in the mesh as it is; it is unchanged then.
pub fn inject(pod: &mut Value, settings: &Settings, knobs: Knobs) -> Result<Outcome, Refusal> {
    let mut changed = pod.clone();
    strip::strip(&mut changed);
    let wishes = Wishes::read(&changed)?;
    if let Some(annotation) = wishes.privileged.first().filter(|_| knobs == Knobs::Withheld) {
        return Err(Refusal::Knob { annotation: annotation.clone() });
    }
    if !wishes.inject {
        // What an injector put in before is taken out again.
        *pod = changed;
        return Ok(Outcome::LeftAlone { reason: "its annotation says so".to_owned() });
    }
    if let Some(reason) = unfit(&changed) {
        return match knobs {
            Knobs::Granted => Ok(Outcome::LeftAlone { reason: reason.to_owned() }),
            Knobs::Withheld => Err(Refusal::Unfit { reason }),
        };
    }
    refuse_what_is_reserved(&changed, settings)?;
    refuse_a_long_name(&changed, settings)?;
    let mut warnings = wishes.warnings.clone();
    warnings.extend(hints(&changed));
    add::add(&mut changed, settings, &wishes, &mut warnings)?;
    if has_own_containers(pod) && *pod != changed {
        warnings.push(
            "containers and volumes named weft-* are the injector's: what the pod said of them is replaced".to_owned(),
        );
    }
    *pod = changed;
    Ok(Outcome::Injected { warnings })
}

/// Refuses a container that somebody adds to a running pod and that would pass for the agent, or enter it where nobody
/// granted what leads past the mesh.
///
/// # Errors
///
/// [`Refusal`] names the container and what is reserved.
pub fn check_added_containers(pod: &Value, settings: &Settings, knobs: Knobs) -> Result<(), Refusal> {
    let own_uid = pod.pointer("/spec/securityContext/runAsUser").and_then(Value::as_u64);
    let added = pod.pointer("/spec/ephemeralContainers").and_then(Value::as_array).into_iter().flatten();
    for container in added {
        check_container(container, own_uid, settings)?;
        if knobs == Knobs::Withheld && container.get("targetContainerName").is_some_and(|name| name == AGENT_CONTAINER)
        {
            let name = container.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
            return Err(Refusal::EntersAgent { container: name });
        }
    }
    Ok(())
}

/// Returns why no agent can stand beside this pod's application, if so.
fn unfit(pod: &Value) -> Option<&'static str> {
    if pod.pointer("/spec/hostNetwork").and_then(Value::as_bool) == Some(true) {
        return Some(
            "it uses the network of its machine, whose traffic an agent in the pod can neither take nor answer for",
        );
    }
    if pod.pointer("/spec/os/name").and_then(Value::as_str) == Some("windows") {
        return Some("it runs on Windows, for which there is no agent");
    }
    None
}

/// Refuses what would let an application pass for the agent, or read its keys.
fn refuse_what_is_reserved(pod: &Value, settings: &Settings) -> Result<(), Refusal> {
    let spec = pod.get("spec").and_then(Value::as_object).ok_or(Refusal::NoPod)?;
    if spec.get("containers").and_then(Value::as_array).is_none_or(Vec::is_empty) {
        return Err(Refusal::NoPod);
    }
    let own_uid = spec.get("securityContext").and_then(|context| context.get("runAsUser")).and_then(Value::as_u64);
    for container in containers(spec) {
        check_container(container, own_uid, settings)?;
    }
    Ok(())
}

/// Refuses a pod whose node could not be called as the pod is, as far as its name is known: a template has none yet.
fn refuse_a_long_name(pod: &Value, settings: &Settings) -> Result<(), Refusal> {
    let said = |field: &str| pod.pointer(&format!("/metadata/{field}")).and_then(Value::as_str);
    // The API server makes a name of it by a few characters more.
    let generated = || said("generateName").map(|begun| format!("{begun:.58}xxxxx"));
    let (Some(name), Some(namespace)) = (said("name").map(str::to_owned).or_else(generated), said("namespace")) else {
        return Ok(());
    };
    let node = node_name(&name, namespace, settings.cluster_name.as_ref());
    if node.len() > NODE_NAME_BYTES_MAX {
        return Err(Refusal::LongName { bytes: node.len(), node });
    }
    Ok(())
}

fn check_container(container: &Value, of_pod: Option<u64>, settings: &Settings) -> Result<(), Refusal> {
    let name = container.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
    let own = container.pointer("/securityContext/runAsUser").and_then(Value::as_u64);
    if own.or(of_pod) == Some(u64::from(settings.agent_uid)) {
        return Err(Refusal::ReservedUid { container: name, uid: settings.agent_uid });
    }
    let mounts = container.get("volumeMounts").and_then(Value::as_array).into_iter().flatten();
    for volume in mounts.filter_map(|mount| mount.get("name")?.as_str()) {
        if OWN_VOLUMES.contains(&volume) {
            return Err(Refusal::ReservedVolume { container: name, volume: volume.to_owned() });
        }
    }
    Ok(())
}

/// Lists what is not wrong, but weakens what the agent does.
fn hints(pod: &Value) -> Vec<String> {
    let mut hints = Vec::new();
    if pod.pointer("/spec/shareProcessNamespace").and_then(Value::as_bool) == Some(true) {
        hints.push("shareProcessNamespace lets the application's root see into the agent's process".to_owned());
    }
    let spec = pod.get("spec").and_then(Value::as_object);
    for container in spec.into_iter().flat_map(containers) {
        let name = container.get("name").and_then(Value::as_str).unwrap_or_default();
        let added = container.pointer("/securityContext/capabilities/add").and_then(Value::as_array);
        let may_reroute = added.is_some_and(|list| list.iter().any(|it| it == "NET_ADMIN" || it == "ALL"));
        let is_privileged = container.pointer("/securityContext/privileged").and_then(Value::as_bool) == Some(true);
        if may_reroute || is_privileged {
            hints.push(format!(
                "container `{name}` may change the pod's network, and so lead its traffic past the agent"
            ));
        }
    }
    hints
}

/// Returns all containers of a pod's spec that it starts by itself.
fn containers(spec: &Map<String, Value>) -> impl Iterator<Item = &Value> {
    ["initContainers", "containers"].into_iter().filter_map(|list| spec.get(list)?.as_array()).flatten()
}

fn has_own_containers(pod: &Value) -> bool {
    let spec = pod.get("spec").and_then(Value::as_object);
    spec.into_iter().flat_map(containers).any(is_own)
}

fn is_own(container: &Value) -> bool {
    container.get("name").and_then(Value::as_str).is_some_and(|name| OWN_CONTAINERS.contains(&name))
}
