//! What a pod asks of the injector by its annotations: weft's own, and Consul's as other spellings of the same.

use std::collections::BTreeMap;
use std::net::IpAddr;

use catalog::{Namespace, ServiceName};
use serde_json::{Map, Value};

use super::{AccessLog, Refusal};
use crate::kubernetes::annotations::{CONSULS, OWN, Spelling, tags};

const INJECT: Spelling = Spelling("inject", Some("connect-inject"));
const SERVICE: Spelling = Spelling("service", Some("connect-service"));
const PORT: Spelling = Spelling("port", Some("connect-service-port"));
const UPSTREAMS: Spelling = Spelling("upstreams", Some("connect-service-upstreams"));
const TAGS: Spelling = Spelling("tags", Some("service-tags"));
const REDIRECT: Spelling = Spelling("redirect", Some("transparent-proxy"));
const INBOUND_PORTS: Spelling = Spelling("exclude-inbound-ports", Some("transparent-proxy-exclude-inbound-ports"));
const OUTBOUND_PORTS: Spelling = Spelling("exclude-outbound-ports", Some("transparent-proxy-exclude-outbound-ports"));
const OUTBOUND_CIDRS: Spelling = Spelling("exclude-outbound-cidrs", Some("transparent-proxy-exclude-outbound-cidrs"));
const UIDS: Spelling = Spelling("exclude-uids", Some("transparent-proxy-exclude-uids"));
const METRICS_PORT: Spelling = Spelling("metrics-port", Some("service-metrics-port"));
const METRICS_PATH: Spelling = Spelling("metrics-path", Some("service-metrics-path"));
const CPU_REQUEST: Spelling = Spelling("agent-cpu-request", Some("sidecar-proxy-cpu-request"));
const MEMORY_REQUEST: Spelling = Spelling("agent-memory-request", Some("sidecar-proxy-memory-request"));
const MEMORY_LIMIT: Spelling = Spelling("agent-memory-limit", Some("sidecar-proxy-memory-limit"));
const ACCESS_LOG: Spelling = Spelling("access-log", None);
const ALL: [Spelling; 16] = [
    INJECT,
    SERVICE,
    PORT,
    UPSTREAMS,
    TAGS,
    REDIRECT,
    INBOUND_PORTS,
    OUTBOUND_PORTS,
    OUTBOUND_CIDRS,
    UIDS,
    METRICS_PORT,
    METRICS_PATH,
    CPU_REQUEST,
    MEMORY_REQUEST,
    MEMORY_LIMIT,
    ACCESS_LOG,
];
/// Begins the names of annotations that are facts about the service.
const META: Spelling = Spelling("meta-", Some("service-meta-"));
/// What Consul's own injector leaves behind; there is nothing to carry out.
const CONSULS_MARKS: [&str; 4] =
    ["connect-inject-status", "connect-inject-managed-by", "transparent-proxy-status", "connect-k8s-version"];

/// Is the port that the application serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum PortWish {
    Number(u16),
    /// The name of a container's port.
    Named(String),
}

/// Is one service that the application calls at a port of its own loopback.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct UpstreamWish {
    pub(super) service: ServiceName,
    pub(super) namespace: Option<Namespace>,
    pub(super) port: u16,
}

/// Is everything that a pod asks for.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Wishes {
    pub(super) inject: bool,
    pub(super) service: Option<ServiceName>,
    pub(super) port: Option<PortWish>,
    pub(super) upstreams: Vec<UpstreamWish>,
    pub(super) tags: Vec<String>,
    pub(super) meta: BTreeMap<String, String>,
    /// Whether traffic is redirected; as the injector does it otherwise.
    pub(super) redirect: Option<bool>,
    pub(super) exclude_inbound_ports: Vec<u16>,
    pub(super) exclude_outbound_ports: Vec<u16>,
    pub(super) exclude_outbound_cidrs: Vec<String>,
    pub(super) exclude_uids: Vec<u32>,
    pub(super) metrics_port: Option<u16>,
    pub(super) metrics_path: Option<String>,
    pub(super) cpu_request: Option<String>,
    pub(super) memory_request: Option<String>,
    pub(super) memory_limit: Option<String>,
    pub(super) access_log: Option<AccessLog>,
    /// The annotations that lead past the mesh.
    pub(super) privileged: Vec<String>,
    pub(super) warnings: Vec<String>,
}

impl Wishes {
    pub(super) fn read(pod: &Value) -> Result<Self, Refusal> {
        let none = Map::new();
        let written = pod.pointer("/metadata/annotations").and_then(Value::as_object).unwrap_or(&none);
        let annotations = Annotations(written);
        let inject = annotations.flag(&INJECT)?.unwrap_or(true);
        let redirect = annotations.flag(&REDIRECT)?;
        let excluding = [INBOUND_PORTS, OUTBOUND_PORTS, OUTBOUND_CIDRS, UIDS];
        let mut privileged: Vec<String> =
            excluding.iter().filter_map(|it| annotations.get(it)).map(|found| found.name).collect();
        let off = [(&INJECT, inject), (&REDIRECT, redirect.unwrap_or(true))];
        privileged.extend(off.iter().filter(|(_, on)| !on).filter_map(|(it, _)| Some(annotations.get(it)?.name)));
        Ok(Self {
            inject,
            service: annotations.one(&SERVICE, |text| text.parse().map_err(|error| format!("{error}")))?,
            port: annotations.one(&PORT, port_wish)?,
            upstreams: annotations.list(&UPSTREAMS, upstream)?,
            tags: annotations.get(&TAGS).map_or_else(Vec::new, |found| tags(found.value)),
            meta: annotations.meta(),
            redirect,
            exclude_inbound_ports: annotations.list(&INBOUND_PORTS, port)?,
            exclude_outbound_ports: annotations.list(&OUTBOUND_PORTS, port)?,
            exclude_outbound_cidrs: annotations.list(&OUTBOUND_CIDRS, cidr)?,
            exclude_uids: annotations.list(&UIDS, uid)?,
            metrics_port: annotations.one(&METRICS_PORT, port)?,
            metrics_path: annotations.one(&METRICS_PATH, path)?,
            cpu_request: annotations.one(&CPU_REQUEST, quantity)?,
            memory_request: annotations.one(&MEMORY_REQUEST, quantity)?,
            memory_limit: annotations.one(&MEMORY_LIMIT, quantity)?,
            access_log: annotations.one(&ACCESS_LOG, |text| text.parse().map_err(|error| format!("{error}")))?,
            privileged,
            warnings: annotations.unknown(),
        })
    }
}

/// Is one annotation as it was found.
struct Found<'a> {
    name: String,
    value: &'a str,
}

impl Found<'_> {
    fn refused(self, problem: String) -> Refusal {
        Refusal::Annotation { annotation: self.name, value: self.value.chars().take(256).collect(), problem }
    }
}

struct Annotations<'a>(&'a Map<String, Value>);

impl Annotations<'_> {
    /// Finds a wish under weft's name, else under Consul's.
    fn get(&self, spelling: &Spelling) -> Option<Found<'_>> {
        spelling.find(|name| self.0.get(name)?.as_str()).map(|(name, value)| Found { name, value })
    }

    fn one<T>(&self, spelling: &Spelling, read: impl Fn(&str) -> Result<T, String>) -> Result<Option<T>, Refusal> {
        let Some(found) = self.get(spelling) else { return Ok(None) };
        match found.value.trim() {
            "" => Ok(None),
            text => read(text).map(Some).map_err(|problem| found.refused(problem)),
        }
    }

    fn list<T>(&self, spelling: &Spelling, read: impl Fn(&str) -> Result<T, String>) -> Result<Vec<T>, Refusal> {
        let each = |text: &str| text.split(',').map(str::trim).filter(|it| !it.is_empty()).map(&read).collect();
        Ok(self.one(spelling, each)?.unwrap_or_default())
    }

    fn flag(&self, spelling: &Spelling) -> Result<Option<bool>, Refusal> {
        self.one(spelling, |text| match text {
            "true" | "enabled" => Ok(true),
            "false" | "disabled" => Ok(false),
            _ => Err("use true or false".to_owned()),
        })
    }

    /// Returns the facts about the service.
    fn meta(&self) -> BTreeMap<String, String> {
        META.begun(self.0.iter().filter_map(|(name, value)| Some((name.as_str(), value.as_str()?))))
    }

    /// Tells of annotations that look like wishes and are none.
    fn unknown(&self) -> Vec<String> {
        let known = |name: &str| {
            if let Some(rest) = name.strip_prefix(OWN) {
                return rest.starts_with(META.0) || ALL.iter().any(|it| it.0 == rest);
            }
            let Some(rest) = name.strip_prefix(CONSULS) else { return true };
            let is_wish = ALL.iter().any(|it| it.1 == Some(rest));
            is_wish || CONSULS_MARKS.contains(&rest) || META.1.is_some_and(|begun| rest.starts_with(begun))
        };
        let unknown = self.0.keys().filter(|name| !known(name));
        unknown.map(|name| format!("annotation `{name}` is not carried out: weft has no such")).collect()
    }
}

fn port(text: &str) -> Result<u16, String> {
    text.parse().ok().filter(|port| *port != 0).ok_or_else(|| format!("`{text}` is no port: use 1 to 65535"))
}

fn port_wish(text: &str) -> Result<PortWish, String> {
    if text.contains(',') {
        return Err(
            "a pod serves one port by its service's name: name it, the others are known by their own names".to_owned()
        );
    }
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        port(text).map(PortWish::Number)
    } else {
        Ok(PortWish::Named(text.to_owned()))
    }
}

fn uid(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| format!("`{text}` is no user: use its number"))
}

/// Reads an address range, or one address.
fn cidr(text: &str) -> Result<String, String> {
    let (address, length) = text.split_once('/').unwrap_or((text, ""));
    let longest = match address.parse::<IpAddr>() {
        Ok(IpAddr::V4(_)) => 32,
        Ok(IpAddr::V6(_)) => 128,
        Err(_) => return Err(format!("`{text}` is no range of addresses: use 10.0.0.0/8, for example")),
    };
    let fits = length.is_empty() && !text.contains('/') || length.parse::<u8>().is_ok_and(|length| length <= longest);
    fits.then(|| text.to_owned())
        .ok_or_else(|| format!("`{text}` is no range of addresses: its length is 0 to {longest}"))
}

fn path(text: &str) -> Result<String, String> {
    let is_path = text.starts_with('/') && text.bytes().all(|byte| byte.is_ascii_graphic());
    is_path.then(|| text.to_owned()).ok_or_else(|| "it is no path: begin it with `/`".to_owned())
}

/// Reads an amount as Kubernetes writes it.
fn quantity(text: &str) -> Result<String, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = text.get(digits.len()..).unwrap_or_default();
    let is_number = digits.parse::<f64>().is_ok_and(|number| number.is_finite() && number > 0.0);
    let has_unit = ["", "m", "k", "M", "G", "T", "Ki", "Mi", "Gi", "Ti"].contains(&unit);
    (is_number && has_unit)
        .then(|| text.to_owned())
        .ok_or_else(|| format!("`{text}` is no amount: use 100m or 64Mi, for example"))
}

/// Reads `service:port`, `service.namespace:port`, or Consul's labelled `service.svc.namespace.ns:port`.
fn upstream(text: &str) -> Result<UpstreamWish, String> {
    let parts: Vec<&str> = text.split(':').collect();
    let [name, number] = parts.as_slice() else {
        return Err(format!(
            "`{text}` is no upstream: use SERVICE:PORT or SERVICE.NAMESPACE:PORT; weft has neither prepared \
             queries nor other datacenters in this place"
        ));
    };
    let labels: Vec<&str> = name.split('.').collect();
    let (service, namespace) = match labels.as_slice() {
        [service] | [service, "svc"] => (*service, None),
        [service, "svc", namespace, "ns"] | [service, namespace] => (*service, Some(*namespace)),
        _ => return Err(format!("`{name}` names more than a service and its namespace, which is all that weft knows")),
    };
    Ok(UpstreamWish {
        service: service.parse().map_err(|error| format!("{error}"))?,
        namespace: namespace.map(str::parse).transpose().map_err(|error| format!("{error}"))?,
        port: port(number)?,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(annotations: Value) -> Result<Wishes, Refusal> {
        Wishes::read(&json!({ "metadata": { "annotations": annotations } }))
    }

    #[track_caller]
    fn refused(name: &str, value: &str, want: &str) {
        let error = read(json!({ name: value })).unwrap_err().to_string();
        assert!(error.contains(want) && error.contains(name), "{error}");
    }

    #[test]
    fn consuls_spelling_is_another_one_of_the_same_wish() {
        let own = json!({
            "weft.dev/service": "web", "weft.dev/port": "http", "weft.dev/upstreams": "api:9191,db.data:5432",
            "weft.dev/tags": "v1,a\\,b", "weft.dev/meta-team": "shop", "weft.dev/exclude-outbound-cidrs": "10.0.0.0/8",
            "weft.dev/redirect": "true", "weft.dev/exclude-uids": "100, 101",
        });
        let consuls = json!({
            "consul.hashicorp.com/connect-service": "web", "consul.hashicorp.com/connect-service-port": "http",
            "consul.hashicorp.com/connect-service-upstreams": "api.svc:9191,db.svc.data.ns:5432",
            "consul.hashicorp.com/service-tags": "v1,a\\,b", "consul.hashicorp.com/service-meta-team": "shop",
            "consul.hashicorp.com/transparent-proxy-exclude-outbound-cidrs": "10.0.0.0/8",
            "consul.hashicorp.com/transparent-proxy": "true", "consul.hashicorp.com/transparent-proxy-exclude-uids": "100, 101",
            "consul.hashicorp.com/connect-inject": "true", "consul.hashicorp.com/connect-inject-status": "injected",
        });
        let (own, consuls) = (read(own).unwrap(), read(consuls).unwrap());
        assert_eq!(
            Wishes { privileged: Vec::new(), ..own.clone() },
            Wishes { privileged: Vec::new(), ..consuls.clone() }
        );
        assert_eq!(own.upstreams[1].namespace, Some("data".parse().unwrap()));
        assert_eq!((own.upstreams[0].port, own.tags[1].as_str()), (9191, "a,b"));
        assert_eq!((own.port, own.exclude_uids), (Some(PortWish::Named("http".to_owned())), vec![100, 101]));
        assert_eq!((own.privileged.len(), consuls.privileged.len()), (2, 2));
        let both = json!({ "weft.dev/service": "web", "consul.hashicorp.com/connect-service": "other" });
        assert_eq!(read(both).unwrap().service, Some("web".parse().unwrap()));
    }

    #[test]
    fn what_leads_past_the_mesh_is_told_apart() {
        let privileged = |name: &str, value: &str| read(json!({ name: value })).unwrap().privileged;
        assert!(privileged("weft.dev/inject", "true").is_empty());
        assert!(privileged("weft.dev/redirect", "true").is_empty());
        for (name, value) in [
            ("weft.dev/inject", "false"),
            ("consul.hashicorp.com/connect-inject", "false"),
            ("weft.dev/redirect", "false"),
            ("weft.dev/exclude-inbound-ports", "9090"),
            ("weft.dev/exclude-outbound-ports", "3306"),
            ("weft.dev/exclude-outbound-cidrs", "::/0"),
            ("consul.hashicorp.com/transparent-proxy-exclude-uids", "0"),
        ] {
            assert_eq!(privileged(name, value), [name]);
        }
    }

    #[test]
    fn f1_a_wish_that_is_not_understood_is_refused_by_name() {
        refused("weft.dev/inject", "yes please", "use true or false");
        refused("weft.dev/service", "Web", "service name");
        refused("consul.hashicorp.com/connect-service", "web,web-admin", "service name");
        refused("weft.dev/port", "0", "1 to 65535");
        refused("weft.dev/port", "80,81", "one port");
        refused("weft.dev/upstreams", "api", "SERVICE:PORT");
        refused("weft.dev/upstreams", "api:9191:dc2", "SERVICE:PORT");
        refused("weft.dev/upstreams", "prepared_query:near:9191", "prepared");
        refused("weft.dev/upstreams", "api.svc.east.peer:9191", "more than a service");
        refused("weft.dev/upstreams", "api:70000", "1 to 65535");
        refused("weft.dev/exclude-outbound-cidrs", "10.0.0.0/33", "0 to 32");
        refused("weft.dev/exclude-outbound-cidrs", "10.0.0.0/", "0 to 32");
        refused("weft.dev/exclude-outbound-cidrs", "ten", "10.0.0.0/8");
        refused("weft.dev/exclude-uids", "root", "number");
        refused("weft.dev/metrics-path", "metrics", "begin it");
        refused("weft.dev/agent-memory-limit", "64 MB", "64Mi");
        refused("weft.dev/agent-cpu-request", "-1", "100m");
        for text in ["true", "off", "2", "-0.1", "NaN"] {
            refused("weft.dev/access-log", text, "write none, failed, all");
        }
        let wishes =
            read(json!({ "weft.dev/injekt": "true", "consul.hashicorp.com/envoy-extra-args": "-l", "app": "x" }));
        let warnings = wishes.unwrap().warnings;
        assert_eq!(warnings.len(), 2, "{warnings:?}");
        assert!(warnings.iter().any(|it| it.contains("weft.dev/injekt")), "{warnings:?}");
    }
}
