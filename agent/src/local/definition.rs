//! One service or check, as this agent carries it out.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use catalog::{
    CatalogIndex, Check, CheckId, CheckKey, CheckStatus, Command, Instance, InstanceId, InstanceKey, Namespace, Node,
    NodeName, Owner, Platform, Refusal, ServiceKey,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use serde_json::Value;
use wire::consul;
use wire::decode::from_value;
use wire::surroundings::Neighbour;

use super::LocalError;
use crate::checks::{HttpProbe, INTERVAL_MIN, Probe};
use crate::users;

/// The reason for a maintenance is a line for people.
const REASON_BYTES_MAX: usize = 512;

/// A service with everything that the agent needs to stand beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Definition {
    /// What the catalog is told; the mesh port is filled in when it is.
    pub(crate) instance: Instance,
    /// Where the application is dialled.
    pub(crate) local_address: IpAddr,
    /// The number of the user whose processes alone may call in its name by its upstreams' listeners; none where all may.
    pub(crate) user: Option<u32>,
    /// Whether its application is told who calls by the PROXY protocol.
    pub(crate) takes_proxy_header: bool,
    pub(crate) upstreams: Vec<LocalUpstream>,
    /// Whether the kernel leads its connections to the agent.
    pub(crate) redirected: bool,
    /// Where it leads those that go out; the agent chooses where nothing is said.
    pub(crate) outbound_port: Option<u16>,
    pub(crate) checks: Vec<CheckDefinition>,
    /// Where the application tells its own metrics.
    pub(crate) metrics_url: Option<Uri>,
}

/// A service that is called, and where the listener for it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LocalUpstream {
    pub(crate) destination: ServiceKey,
    /// As its definition says; none where it goes to the address that stands for the service.
    pub(crate) address: Option<SocketAddr>,
}

/// A check, and how it is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CheckDefinition {
    /// What the catalog is told; its status is the one until the check was first made.
    pub(crate) check: Check,
    pub(crate) probe: Probe,
}

impl Definition {
    /// Reads the body of a registration.
    pub(super) fn decode(node: &NodeName, body: Value) -> Result<Self, LocalError> {
        Self::new(node, from_value(body, "").map_err(|error| LocalError::Definition { reason: error.to_string() })?)
    }

    pub(super) fn new(node: &NodeName, service: consul::ServiceDefinition) -> Result<Self, LocalError> {
        let instance = service.instance(node, None);
        let field = |field, problem: String| LocalError::Field { id: service.id.to_string(), field, problem };
        let given: Option<IpAddr> = service.address.as_deref().and_then(|address| address.parse().ok());
        if given.is_some_and(|address| address.is_unspecified()) {
            return Err(field("Address", "nobody can be sent there; leave it out, or name an address".to_owned()));
        }
        let local_address = given.filter(IpAddr::is_loopback).unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let mut upstreams = Vec::with_capacity(instance.upstreams.len());
        for upstream in &instance.upstreams {
            let address = match &upstream.local_bind_address {
                None => IpAddr::V4(Ipv4Addr::LOCALHOST),
                Some(text) => {
                    text.parse().map_err(|_| field("LocalBindAddress", format!("`{text}` is not an IP address")))?
                }
            };
            let address = (upstream.local_bind_port != 0).then(|| SocketAddr::new(address, upstream.local_bind_port));
            upstreams.push(LocalUpstream { destination: upstream.destination.clone(), address });
        }
        let several = service.checks.len() > 1;
        let mut checks = Vec::with_capacity(service.checks.len());
        for (number, check) in service.checks.into_iter().enumerate() {
            let default = match several {
                true => format!("service:{}:{}", service.id, number + 1),
                false => format!("service:{}", service.id),
            };
            let check = CheckDefinition::new(node, check, &default, &format!("Service '{}' check", service.name))?;
            if checks.iter().any(|known: &CheckDefinition| known.check.key == check.check.key) {
                return Err(field("CheckID", format!("two checks have the id `{}`", check.check.key.id)));
            }
            checks.push(check);
        }
        let takes_proxy_header = service.proxy_protocol;
        let (redirected, outbound_port) = (service.redirected, service.outbound_port);
        let metrics_url = match &service.metrics_url {
            None => None,
            Some(url) => Some(own_url(url).map_err(|problem| field("MetricsURL", problem))?),
        };
        let user =
            service.user.as_deref().map(users::number_of).transpose().map_err(|problem| field("User", problem))?;
        let definition = Self {
            instance,
            local_address,
            user,
            takes_proxy_header,
            upstreams,
            redirected,
            outbound_port,
            checks,
            metrics_url,
        };
        let own = definition.checks.iter().map(|check| check.check.clone()).collect();
        acceptable(node, vec![definition.instance.clone()], own)?;
        Ok(definition)
    }
}

/// Reads a URL of an application beside the agent; anything else the agent would fetch for whoever may register a service.
fn own_url(text: &str) -> Result<Uri, String> {
    let wrong = || format!("`{}` is no URL of this machine: use `http://127.0.0.1:PORT/PATH`", wire::harmless(text));
    let url: Uri = text.parse().map_err(|_| wrong())?;
    let host = url.authority().filter(|authority| !authority.as_str().contains('@')).map(|authority| authority.host());
    let address = host.map(|host| host.trim_matches(['[', ']']).parse::<IpAddr>());
    let is_own = matches!(address, Some(Ok(address)) if address.is_loopback()) && url.scheme_str() == Some("http");
    is_own.then_some(url).ok_or_else(wrong)
}

impl CheckDefinition {
    /// Reads the body of a registration.
    pub(super) fn decode(node: &NodeName, body: Value) -> Result<Self, LocalError> {
        Self::alone(node, from_value(body, "").map_err(|error| LocalError::Definition { reason: error.to_string() })?)
    }

    /// Takes a check that stands apart from a service's definition.
    pub(super) fn alone(node: &NodeName, check: consul::CheckDefinition) -> Result<Self, LocalError> {
        if check.id.is_none() && check.name.is_empty() {
            return Err(LocalError::Definition { reason: "a check needs a `CheckID` or a `Name`".to_owned() });
        }
        let default = check.name.clone();
        let definition = Self::new(node, check, &default, &default)?;
        acceptable(node, Vec::new(), vec![definition.check.clone()])?;
        Ok(definition)
    }

    fn new(node: &NodeName, check: consul::CheckDefinition, id: &str, name: &str) -> Result<Self, LocalError> {
        let id: CheckId = match check.id {
            Some(id) => id,
            None => id.parse().map_err(|error: catalog::NameError| LocalError::Field {
                id: id.to_owned(),
                field: "CheckID",
                problem: error.to_string(),
            })?,
        };
        let probe = probe(&id, check.kind)?;
        probe.validate().map_err(|error| LocalError::Field {
            id: id.to_string(),
            field: "HTTP or TCP",
            problem: error.to_string(),
        })?;
        let name = if check.name.is_empty() { name.to_owned() } else { check.name };
        let check = Check {
            key: CheckKey { node: node.clone(), namespace: check.namespace, id },
            name,
            status: check.status,
            notes: check.notes,
            output: String::new(),
            instance: check.service_id,
            kind: probe.kind().to_owned(),
            created: CatalogIndex::default(),
            modified: CatalogIndex::default(),
        };
        Ok(Self { check, probe })
    }

    /// Returns the check that keeps a service in maintenance from being called.
    pub(super) fn maintenance(instance: &InstanceKey, reason: &str) -> Result<Self, LocalError> {
        let id = format!("_service_maintenance:{}", instance.id);
        // The longest ids of instances leave no room for more.
        let id: Result<CheckId, _> = id.parse().or_else(|_| {
            format!("_service_maintenance:{}", wire::crypto::sha256_hex(instance.id.as_str().as_bytes())).parse()
        });
        let id = id.map_err(|error: catalog::NameError| LocalError::Field {
            id: instance.id.to_string(),
            field: "ServiceID",
            problem: error.to_string(),
        })?;
        let key = CheckKey { node: instance.node.clone(), namespace: instance.namespace.clone(), id };
        Self::fixed_critical(key, "Service Maintenance Mode", Some(instance.id.clone()), reason)
    }

    /// Returns the check that keeps everything on a node in maintenance from being called.
    pub(super) fn node_maintenance(node: &NodeName, reason: &str) -> Result<Self, LocalError> {
        let id = "_node_maintenance".parse().expect("it is a check's id");
        let key = CheckKey { node: node.clone(), namespace: Namespace::default(), id };
        Self::fixed_critical(key, "Node Maintenance Mode", None, reason)
    }

    /// Returns the check that says how something is that the platform runs beside the agent.
    pub(super) fn neighbour(node: &NodeName, neighbour: &Neighbour) -> Self {
        let id = format!("_platform:{}", neighbour.name);
        // Not every name of a platform is an id here.
        let hashed = || format!("_platform:{}", wire::crypto::sha256_hex(neighbour.name.as_bytes()));
        let id = id.parse().or_else(|_| hashed().parse()).expect("a hash is a check's id");
        let name = format!("Container {}", wire::harmless(&neighbour.name));
        Self::of_platform(node, id, name, neighbour.status, neighbour.output.clone())
    }

    /// Returns the check that keeps everything on a node from being called that the platform ends.
    pub(super) fn ending(node: &NodeName) -> Self {
        let id = "_platform_ending".parse().expect("it is a check's id");
        let output = "the platform has decided to stop this node".to_owned();
        Self::of_platform(node, id, "Node ending".to_owned(), CheckStatus::Critical, output)
    }

    fn of_platform(node: &NodeName, id: CheckId, name: String, status: CheckStatus, output: String) -> Self {
        let check = Check {
            key: CheckKey { node: node.clone(), namespace: Namespace::default(), id },
            name,
            status,
            notes: String::new(),
            output,
            instance: None,
            kind: "platform".to_owned(),
            created: CatalogIndex::default(),
            modified: CatalogIndex::default(),
        };
        Self { check, probe: Probe::Fixed }
    }

    fn fixed_critical(
        key: CheckKey,
        name: &str,
        instance: Option<InstanceId>,
        reason: &str,
    ) -> Result<Self, LocalError> {
        if reason.len() > REASON_BYTES_MAX {
            let problem = format!("it has {} bytes: use at most {REASON_BYTES_MAX}", reason.len());
            let id = instance.map_or_else(|| key.node.to_string(), |id| id.to_string());
            return Err(LocalError::Field { id, field: "reason", problem });
        }
        let check = Check {
            key,
            name: name.to_owned(),
            status: CheckStatus::Critical,
            notes: reason.to_owned(),
            output: String::new(),
            instance,
            kind: "maintenance".to_owned(),
            created: CatalogIndex::default(),
            modified: CatalogIndex::default(),
        };
        acceptable(&check.key.node, Vec::new(), vec![check.clone()])?;
        Ok(Self { check, probe: Probe::Fixed })
    }
}

fn probe(id: &CheckId, kind: consul::CheckKind) -> Result<Probe, LocalError> {
    let field = |field, problem: &str| LocalError::Field { id: id.to_string(), field, problem: problem.to_owned() };
    let often = |interval: std::time::Duration| {
        if interval < INTERVAL_MIN {
            Err(field("Interval", "at least 100ms lie between two checks"))
        } else {
            Ok(interval)
        }
    };
    match kind {
        consul::CheckKind::Ttl { ttl } => Ok(Probe::Ttl(ttl)),
        consul::CheckKind::Tcp { address, interval, timeout } => {
            Ok(Probe::Tcp { address, interval: often(interval)?, timeout })
        }
        consul::CheckKind::Http { url, method, header, body, interval, timeout } => {
            let mut headers = HeaderMap::new();
            for (name, values) in header {
                let name =
                    HeaderName::from_bytes(name.as_bytes()).map_err(|_| field("Header", "a name is malformed"))?;
                for value in values {
                    let value = HeaderValue::from_str(&value).map_err(|_| field("Header", "a value is malformed"))?;
                    headers.append(name.clone(), value);
                }
            }
            Ok(Probe::Http(Box::new(HttpProbe {
                url: url.parse().map_err(|_| field("HTTP", "it is not a URL"))?,
                method: Method::from_bytes(method.as_bytes()).map_err(|_| field("Method", "it is not a method"))?,
                headers,
                body,
                interval: often(interval)?,
                timeout,
            })))
        }
    }
}

/// Refuses now what every server would refuse later, by the same judgement.
fn acceptable(node: &NodeName, instances: Vec<Instance>, checks: Vec<Check>) -> Result<(), LocalError> {
    let node = Node {
        name: node.clone(),
        id: None,
        address: Ipv4Addr::LOCALHOST.to_string(),
        platform: Platform::Vm,
        zone: None,
        network: String::new(),
        gateway_port: None,
        owner: Owner::External,
        incarnation: None,
        meta: Default::default(),
        tagged_addresses: Default::default(),
        created: CatalogIndex::default(),
        modified: CatalogIndex::default(),
    };
    let command =
        Command::Register { node: Box::new(node), instances, checks, skip_node_update: false, incarnation: None };
    command.validate().map_err(|refusal: Refusal| LocalError::Definition { reason: refusal.to_string() })
}
