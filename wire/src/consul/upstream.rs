//! Upstreams, as they stand in a service's `Proxy` and in its `Connect.SidecarService.Proxy`.

use std::net::IpAddr;

use catalog::{Namespace, ServiceKey, ServiceName, Upstream};

use super::default_partition;
use crate::decode::{DecodeError, Fields};

/// Is what a `Proxy` says of a service.
#[derive(Debug, Clone, Default)]
pub(super) struct ProxyOf {
    /// The services that it calls by listeners of their own.
    pub(super) upstreams: Vec<Upstream>,
    /// Whether the kernel leads its connections to the agent; none where nothing is said of that.
    pub(super) redirected: Option<bool>,
    /// Where it leads those that go out.
    pub(super) outbound_port: Option<u16>,
}

impl ProxyOf {
    /// Takes together what a service's own `Proxy` and its sidecar's say of it.
    pub(super) fn and(self, sidecar: Self, fields: &Fields) -> Result<Self, DecodeError> {
        let proxy = "Connect.SidecarService.Proxy";
        if self.redirected.zip(sidecar.redirected).is_some_and(|(own, its)| own != its) {
            return Err(fields.refuse("Proxy.Mode", format!("{proxy} says another one: leave one of them out")));
        }
        if self.outbound_port.zip(sidecar.outbound_port).is_some_and(|(own, its)| own != its) {
            let problem = format!("{proxy} says another one: leave one of them out");
            return Err(fields.refuse("Proxy.TransparentProxy.OutboundListenerPort", problem));
        }
        let together = Self {
            redirected: self.redirected.or(sidecar.redirected),
            outbound_port: self.outbound_port.or(sidecar.outbound_port),
            upstreams: [self.upstreams, sidecar.upstreams].concat(),
        };
        if together.outbound_port.is_some() && together.redirected != Some(true) {
            let problem = "nothing leads connections there: set Mode to transparent, or leave it out";
            return Err(fields.refuse("Proxy.TransparentProxy.OutboundListenerPort", problem));
        }
        Ok(together)
    }
}

/// Reads a `Proxy`, of which weft carries out the upstreams and the mode; `namespace` is the service's own.
pub(super) fn read_proxy(fields: &mut Fields, namespace: &Namespace) -> Result<ProxyOf, DecodeError> {
    let redirected = match fields.text("Mode")?.as_str() {
        "" => None,
        "direct" => Some(false),
        "transparent" => Some(true),
        mode => return Err(fields.refuse("Mode", format!("`{}`: use direct or transparent", mode.escape_debug()))),
    };
    let outbound_port = fields.object("TransparentProxy", |proxy| {
        let port = proxy.port("OutboundListenerPort")?;
        proxy.unsupported(&["DialedDirectly"])?;
        Ok(Some(port).filter(|port| *port != 0))
    })?;
    let upstreams = fields.objects("Upstreams", |upstream| read_upstream(upstream, namespace))?;
    fields.unsupported(&[
        "DestinationServiceName",
        "DestinationServiceID",
        "LocalServiceAddress",
        "LocalServicePort",
        "LocalServiceSocketPath",
        "Config",
        "MeshGateway",
        "Expose",
        "EnvoyExtensions",
        "AccessLogs",
        "MutualTLSMode",
    ])?;
    Ok(ProxyOf { upstreams, redirected, outbound_port: outbound_port.flatten() })
}

/// Reads a `Connect`; an empty `SidecarService` says only that the service is in the mesh, which every one is.
pub(super) fn read_connect(fields: &mut Fields, namespace: &Namespace) -> Result<ProxyOf, DecodeError> {
    let sidecar = fields.object("SidecarService", |sidecar| {
        let upstreams = sidecar.object("Proxy", |proxy| read_proxy(proxy, namespace))?;
        sidecar.unsupported(&[
            "ID",
            "Name",
            "Tags",
            "Meta",
            "Address",
            "Port",
            "TaggedAddresses",
            "EnableTagOverride",
            "Weights",
            "Check",
            "Checks",
            "Kind",
            "Connect",
            "Namespace",
            "Partition",
            "Locality",
            "SocketPath",
            "Token",
        ])?;
        Ok(upstreams)
    })?;
    fields.unsupported(&["Native", "PeerMeta"])?;
    Ok(sidecar.flatten().unwrap_or_default())
}

fn read_upstream(fields: &mut Fields, namespace: &Namespace) -> Result<Upstream, DecodeError> {
    match fields.text("DestinationType")?.as_str() {
        "" | "service" => {}
        _ => return Err(DecodeError::Unsupported { path: fields.path_to("DestinationType") }),
    }
    default_partition(fields, "DestinationPartition")?;
    let name: ServiceName = fields.required("DestinationName")?;
    let namespace = fields.parsed("DestinationNamespace")?.unwrap_or_else(|| namespace.clone());
    let local_bind_address: Option<IpAddr> = fields.parsed("LocalBindAddress")?;
    if local_bind_address.is_some_and(|address| !address.is_loopback()) {
        // Whoever reaches the listener calls in the service's name.
        return Err(fields.refuse("LocalBindAddress", "it is not a loopback address; leave it out, or use 127.0.0.1"));
    }
    let local_bind_port = fields.port("LocalBindPort")?;
    // Without either, the listener is where the mesh has a place for the service.
    if local_bind_port == 0 && local_bind_address.is_some() {
        return Err(DecodeError::Missing { path: fields.path_to("LocalBindPort") });
    }
    fields.unsupported(&[
        "DestinationPeer",
        "Datacenter",
        "LocalBindSocketPath",
        "LocalBindSocketMode",
        "Config",
        "MeshGateway",
        "CentrallyConfigured",
        "IngressHosts",
    ])?;
    Ok(Upstream {
        destination: ServiceKey::new(namespace, name),
        local_bind_address: local_bind_address.map(|address| address.to_string()),
        local_bind_port,
    })
}
