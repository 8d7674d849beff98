//! Config entries that shape the traffic of services, as Consul writes them.

use std::{collections::BTreeMap, num::NonZeroU16, str::FromStr};

use ::catalog::{
    CatalogIndex, ConfigContent, ConfigKey, MtlsMode, Namespace, PortMtlsMode, Protocol, ProviderName, ProxyDefaults,
    RateLimits, ServiceDefaults, ServiceKey, ServiceName,
};
use serde::Serialize;

use super::balance_entry::read_locality;
use super::call_settings::{UpstreamConfigEntry, read_rate_limits, show_rate_limits};
use super::default_partition;
use super::route_entry::{ResolverEntry, RouterEntry, Shown, SplitterEntry};
use super::token_provider::{JWT_PROVIDER, TokenProviderEntry};
use crate::decode::{DecodeError, Fields};

/// The kind of the entry that holds for every service.
pub const PROXY_DEFAULTS: &str = "proxy-defaults";
/// The name of the one entry of that kind.
pub const GLOBAL: &str = "global";
/// The kind of entries that hold for one service.
pub const SERVICE_DEFAULTS: &str = "service-defaults";
/// The kind of entries that send requests by what they say.
pub const SERVICE_ROUTER: &str = "service-router";
/// The kind of entries that send requests by weight.
pub const SERVICE_SPLITTER: &str = "service-splitter";
/// The kind of entries that say what a service's name stands for.
pub const SERVICE_RESOLVER: &str = "service-resolver";

/// Writes or shows a config entry that shapes the traffic of services.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct TrafficEntry {
    /// The kind.
    pub kind: &'static str,
    /// The service's name, or `global`.
    pub name: String,
    /// The service's namespace; none for what holds everywhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<Namespace>,
    /// What it says.
    #[serde(flatten)]
    content: Content,
    /// Free facts about it.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub meta: BTreeMap<String, String>,
    /// The index at which it was first written.
    pub create_index: CatalogIndex,
    /// The index of the last change.
    pub modify_index: CatalogIndex,
}

/// What an entry says, by kind.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Content {
    ProxyDefaults(ProxyDefaultsContent),
    ServiceDefaults(ServiceDefaultsContent),
    Router(RouterEntry),
    Splitter(SplitterEntry),
    Resolver(Box<ResolverEntry>),
    TokenProvider(Box<TokenProviderEntry>),
}

impl Serialize for Content {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::ProxyDefaults(says) => says.serialize(serializer),
            Self::ServiceDefaults(says) => says.show().serialize(serializer),
            Self::Router(says) => says.show().serialize(serializer),
            Self::Splitter(says) => says.show().serialize(serializer),
            Self::Resolver(says) => says.show().serialize(serializer),
            Self::TokenProvider(says) => says.serialize(serializer),
        }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
struct ProxyDefaultsContent {
    config: ProxyConfig,
    #[serde(skip_serializing_if = "Option::is_none")]
    prioritize_by_locality: Option<LocalityMode>,
    #[serde(rename = "MutualTLSMode", skip_serializing_if = "Option::is_none")]
    mtls_mode: Option<MtlsMode>,
    #[serde(rename = "MutualTLSModeByNamespace", skip_serializing_if = "BTreeMap::is_empty")]
    namespace_modes: BTreeMap<Namespace, MtlsMode>,
}

/// Says whether instances of a caller's own zone come first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
struct LocalityMode {
    mode: &'static str,
}

/// Consul's free-form `Config`, of which one field is carried out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
struct ProxyConfig {
    #[serde(skip_serializing_if = "Option::is_none")]
    protocol: Option<Protocol>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct ServiceDefaultsContent {
    protocol: Option<Protocol>,
    upstreams: UpstreamConfigEntry,
    rate_limits: RateLimits,
    mtls_mode: Option<MtlsMode>,
    port_modes: Vec<PortMtlsMode>,
    external: bool,
}

impl ServiceDefaultsContent {
    fn show(&self) -> serde_json::Map<String, serde_json::Value> {
        let mut shown = Shown::default();
        shown.put("Protocol", self.protocol.map(|protocol| protocol.to_string()));
        self.upstreams.show(&mut shown);
        show_rate_limits(&self.rate_limits, &mut shown);
        shown.put("MutualTLSMode", self.mtls_mode.map(|mode| mode.to_string()));
        let by_port: serde_json::Map<String, serde_json::Value> =
            self.port_modes.iter().map(|one| (one.port.to_string(), one.mode.to_string().into())).collect();
        shown.put("MutualTLSModeByPort", by_port);
        shown.put("External", self.external);
        shown.into_map()
    }
}

impl TrafficEntry {
    /// Reads what follows the kind; none where it is a kind of another form.
    pub(super) fn read_rest(kind: &str, fields: &mut Fields) -> Result<Option<Self>, DecodeError> {
        match kind {
            PROXY_DEFAULTS => Self::read_global(fields).map(Some),
            SERVICE_DEFAULTS => {
                let content = |fields: &mut Fields| read_service_defaults(fields).map(Content::ServiceDefaults);
                Self::read_of_service(SERVICE_DEFAULTS, fields, content).map(Some)
            }
            SERVICE_ROUTER => {
                let content = |fields: &mut Fields| RouterEntry::read(fields).map(Content::Router);
                Self::read_of_service(SERVICE_ROUTER, fields, content).map(Some)
            }
            SERVICE_SPLITTER => {
                let content = |fields: &mut Fields| SplitterEntry::read(fields).map(Content::Splitter);
                Self::read_of_service(SERVICE_SPLITTER, fields, content).map(Some)
            }
            SERVICE_RESOLVER => {
                let content = |fields: &mut Fields| Ok(Content::Resolver(Box::new(ResolverEntry::read(fields)?)));
                Self::read_of_service(SERVICE_RESOLVER, fields, content).map(Some)
            }
            JWT_PROVIDER => Self::read_provider(fields).map(Some),
            _ => Ok(None),
        }
    }

    fn read_provider(fields: &mut Fields) -> Result<Self, DecodeError> {
        let name: ProviderName = fields.required("Name")?;
        if !matches!(fields.text("Namespace")?.as_str(), "" | "default") {
            return Err(fields.refuse("Namespace", "a provider is of the whole mesh; leave it out"));
        }
        let content = Content::TokenProvider(Box::new(TokenProviderEntry::read(name.clone(), fields)?));
        Self::read_ends(JWT_PROVIDER, name.to_string(), None, content, fields)
    }

    fn read_global(fields: &mut Fields) -> Result<Self, DecodeError> {
        match fields.text("Name")?.as_str() {
            "" | GLOBAL => {}
            _ => {
                let reason = "the one entry of kind `proxy-defaults` is named `global`; leave it out";
                return Err(fields.refuse("Name", reason));
            }
        }
        let config = fields.object("Config", |config| Ok(ProxyConfig { protocol: config.parsed("protocol")? }))?;
        let prioritize_by_locality =
            read_locality(fields)?.filter(|is_first| *is_first).map(|_| LocalityMode { mode: "failover" });
        let mtls_mode = fields.parsed("MutualTLSMode")?;
        let namespace_modes = read_modes(fields, "MutualTLSModeByNamespace")?.into_iter().collect();
        fields.unsupported(&[
            "Namespace",
            "Mode",
            "TransparentProxy",
            "MeshGateway",
            "Expose",
            "AccessLogs",
            "EnvoyExtensions",
            "FailoverPolicy",
        ])?;
        let config = config.unwrap_or_default();
        let content =
            Content::ProxyDefaults(ProxyDefaultsContent { config, prioritize_by_locality, mtls_mode, namespace_modes });
        Self::read_ends(PROXY_DEFAULTS, GLOBAL.to_owned(), None, content, fields)
    }

    fn read_of_service(
        kind: &'static str,
        fields: &mut Fields,
        content: impl FnOnce(&mut Fields) -> Result<Content, DecodeError>,
    ) -> Result<Self, DecodeError> {
        let name: ServiceName = fields.required("Name")?;
        let namespace = fields.parsed("Namespace")?;
        let content = content(fields)?;
        Self::read_ends(kind, name.to_string(), namespace, content, fields)
    }

    /// Reads what every entry has.
    fn read_ends(
        kind: &'static str,
        name: String,
        namespace: Option<Namespace>,
        content: Content,
        fields: &mut Fields,
    ) -> Result<Self, DecodeError> {
        default_partition(fields, "Partition")?;
        let meta = fields.text_map("Meta")?;
        fields.ignored(&["CreateIndex", "ModifyIndex", "Hash"]);
        let none = CatalogIndex::default();
        Ok(Self { kind, name, namespace, content, meta, create_index: none, modify_index: none })
    }

    /// Returns the entry as the catalog keeps it. A name without a namespace is of `current`.
    ///
    /// # Errors
    ///
    /// [`DecodeError::Value`] if a name is none.
    pub fn into_entry(self, current: &Namespace) -> Result<::catalog::ConfigEntry, DecodeError> {
        let named = |name: &str| -> Result<ServiceKey, DecodeError> {
            let name = name.parse().map_err(|error: ::catalog::NameError| DecodeError::Value {
                path: "Name".to_owned(),
                reason: error.to_string(),
            })?;
            Ok(ServiceKey::new(self.namespace.clone().unwrap_or_else(|| current.clone()), name))
        };
        let content = match self.content {
            Content::ProxyDefaults(says) => {
                let by_locality = says.prioritize_by_locality.is_some();
                ConfigContent::ProxyDefaults(ProxyDefaults {
                    protocol: says.config.protocol,
                    by_locality,
                    mtls_mode: says.mtls_mode,
                    namespace_modes: says.namespace_modes,
                })
            }
            Content::ServiceDefaults(says) => {
                let service = named(&self.name)?;
                let upstreams = says.upstreams.into_config(&service.namespace);
                let ServiceDefaultsContent { protocol, rate_limits, mtls_mode, port_modes, external, .. } = says;
                ConfigContent::ServiceDefaults(ServiceDefaults {
                    service,
                    protocol,
                    upstreams,
                    rate_limits,
                    mtls_mode,
                    port_modes,
                    external,
                })
            }
            Content::Router(says) => ConfigContent::ServiceRouter(says.into_router(named(&self.name)?)),
            Content::Splitter(says) => ConfigContent::ServiceSplitter(says.into_splitter(named(&self.name)?)),
            Content::Resolver(says) => ConfigContent::ServiceResolver(says.into_resolver(named(&self.name)?)),
            Content::TokenProvider(says) => ConfigContent::JwtProvider(Box::new(says.into_provider())),
        };
        Ok(::catalog::ConfigEntry { meta: self.meta, ..::catalog::ConfigEntry::new(content) })
    }

    /// Returns what an entry of a kind is found by; none where it is a kind of another form.
    ///
    /// # Errors
    ///
    /// Why `name` is none of its kind.
    pub fn key(kind: &str, name: &str, namespace: &Namespace) -> Result<Option<ConfigKey>, String> {
        let service = || -> Result<ServiceKey, String> {
            let name = name.parse().map_err(|error: ::catalog::NameError| error.to_string())?;
            Ok(ServiceKey::new(namespace.clone(), name))
        };
        match kind {
            PROXY_DEFAULTS if name == GLOBAL => Ok(Some(ConfigKey::ProxyDefaults)),
            PROXY_DEFAULTS => Err(format!("the one entry of this kind is named `{GLOBAL}`")),
            SERVICE_DEFAULTS => Ok(Some(ConfigKey::ServiceDefaults(service()?))),
            SERVICE_ROUTER => Ok(Some(ConfigKey::ServiceRouter(service()?))),
            SERVICE_SPLITTER => Ok(Some(ConfigKey::ServiceSplitter(service()?))),
            SERVICE_RESOLVER => Ok(Some(ConfigKey::ServiceResolver(service()?))),
            JWT_PROVIDER => {
                let name = name.parse().map_err(|error: ::catalog::NameError| error.to_string())?;
                Ok(Some(ConfigKey::JwtProvider(name)))
            }
            _ => Ok(None),
        }
    }
}

impl From<&::catalog::ConfigEntry> for TrafficEntry {
    fn from(entry: &::catalog::ConfigEntry) -> Self {
        let key = entry.key();
        let content = match &entry.content {
            ConfigContent::ProxyDefaults(says) => {
                let config = ProxyConfig { protocol: says.protocol };
                let prioritize_by_locality = says.by_locality.then_some(LocalityMode { mode: "failover" });
                Content::ProxyDefaults(ProxyDefaultsContent {
                    config,
                    prioritize_by_locality,
                    mtls_mode: says.mtls_mode,
                    namespace_modes: says.namespace_modes.clone(),
                })
            }
            ConfigContent::ServiceDefaults(says) => Content::ServiceDefaults(ServiceDefaultsContent {
                protocol: says.protocol,
                upstreams: UpstreamConfigEntry::of(&says.upstreams),
                rate_limits: says.rate_limits.clone(),
                mtls_mode: says.mtls_mode,
                port_modes: says.port_modes.clone(),
                external: says.external,
            }),
            ConfigContent::ServiceRouter(says) => Content::Router(RouterEntry::of(says)),
            ConfigContent::ServiceSplitter(says) => Content::Splitter(SplitterEntry::of(says)),
            ConfigContent::ServiceResolver(says) => Content::Resolver(Box::new(ResolverEntry::of(says))),
            ConfigContent::JwtProvider(says) => Content::TokenProvider(Box::new(TokenProviderEntry::of(says))),
        };
        Self {
            kind: key.kind(),
            name: match &key {
                ConfigKey::JwtProvider(name) => name.to_string(),
                key => key.service().map_or_else(|| GLOBAL.to_owned(), |service| service.name.to_string()),
            },
            namespace: key.service().map(|service| service.namespace.clone()),
            content,
            meta: entry.meta.clone(),
            create_index: entry.created,
            modify_index: entry.modified,
        }
    }
}

/// Reads an object that says a mode of each of its names, in the order of these.
fn read_modes<K: FromStr<Err: std::fmt::Display> + Ord>(
    fields: &mut Fields,
    name: &str,
) -> Result<Vec<(K, MtlsMode)>, DecodeError> {
    let named = fields.text_map(name)?;
    let refuse = |key: &str, reason: String| DecodeError::Value { path: format!("{name}.{key}"), reason };
    let read = |(key, mode): (String, String)| {
        let of = key.parse().map_err(|error: K::Err| refuse(&key, error.to_string()))?;
        let mode = mode.parse().map_err(|error: ::catalog::UnknownWord| refuse(&key, error.to_string()))?;
        Ok((of, mode))
    };
    let told = named.len();
    let modes: BTreeMap<K, MtlsMode> = named.into_iter().map(read).collect::<Result<_, DecodeError>>()?;
    if modes.len() < told {
        return Err(fields.refuse(name, "a name stands there twice"));
    }
    Ok(modes.into_iter().collect())
}

fn read_service_defaults(fields: &mut Fields) -> Result<ServiceDefaultsContent, DecodeError> {
    let says = ServiceDefaultsContent {
        protocol: fields.parsed("Protocol")?,
        upstreams: UpstreamConfigEntry::read(fields)?,
        rate_limits: read_rate_limits(fields)?,
        mtls_mode: fields.parsed("MutualTLSMode")?,
        port_modes: read_modes::<NonZeroU16>(fields, "MutualTLSModeByPort")?
            .into_iter()
            .map(|(port, mode)| PortMtlsMode { port: port.get(), mode })
            .collect(),
        external: fields.flag("External")?.unwrap_or_default(),
    };
    fields.unsupported(&[
        "Mode",
        "TransparentProxy",
        "MeshGateway",
        "Expose",
        "ExternalSNI",
        "Destination",
        "MaxInboundConnections",
        "LocalConnectTimeoutMs",
        "LocalRequestTimeoutMs",
        "BalanceInboundConnections",
        "EnvoyExtensions",
    ])?;
    Ok(says)
}

#[cfg(test)]
mod tests {
    use super::super::ConfigEntry;
    use super::*;
    use crate::decode::{Format, from_json, from_value};

    fn traffic(entry: Result<ConfigEntry, DecodeError>) -> Result<TrafficEntry, DecodeError> {
        entry.map(|entry| match entry {
            ConfigEntry::Traffic(entry) => *entry,
            other => panic!("{other:?}"),
        })
    }

    fn json(body: &str) -> Result<TrafficEntry, DecodeError> {
        traffic(from_json(body.as_bytes()))
    }

    #[track_caller]
    fn refused(body: &str, want: &str) {
        let error = json(body).unwrap_err().to_string();
        assert!(error.contains(want), "{error}");
    }

    #[test]
    fn an_entry_is_read_from_hcl_and_what_is_shown_is_read_again() {
        let current: Namespace = "shop".parse().unwrap();
        for text in [
            "kind = \"service-defaults\"\nname = \"api\"\nprotocol = \"grpc\"\nmeta { team = \"api\" }\n",
            r#"kind = "service-defaults"
               name = "web"
               protocol = "http"
               upstream_config {
                 defaults { limits { max_connections = 100 }, passive_health_check {} }
                 overrides = [{ name = "db", limits { max_pending_requests = 5, max_concurrent_requests = 10 } },
                   { name = "api", namespace = "pay", passive_health_check { interval = "10s", max_failures = 3,
                     enforcing_consecutive_5xx = 50, max_ejection_percent = 0, base_ejection_time = "500ms" } }]
               }
               rate_limits {
                 instance_level { requests_per_second = 100, requests_max_burst = 200,
                   routes = [{ path_prefix = "/slow", requests_per_second = 2 }] }
                 source_level { routes = [{ path_exact = "/login", requests_per_second = 1 }] }
               }"#,
            r#"kind = "service-router"
               name = "api"
               routes = [{ destination { mirror { service = "next", service_subset = "v2", percent = 12.5 },
                 fault { delay { duration = "100ms", percent = 10 }, abort { status = 503 } } } }]"#,
            "Kind = \"service-defaults\"\nName = \"api\"\nNamespace = \"pay\"\nMaxInboundConnections = 0\n",
            "kind = \"service-defaults\"\nname = \"legacy\"\nexternal = true\n",
            "kind = \"service-defaults\"\nname = \"api\"\nmutual_tls_mode_by_port = { \"8080\" = \"permissive\", \"90\" = \"strict\" }\n",
            "kind = \"proxy-defaults\"\nmutual_tls_mode_by_namespace = { shop = \"permissive\", pay-in = \"strict\" }\n",
            "kind = \"service-defaults\"\nname = \"web\"\nupstream_config { defaults { connect_timeout_ms = 700 } }\n",
            "kind = \"service-resolver\"\nname = \"api\"\nconnect_timeout = \"15s\"\n",
            r#"kind = "service-router"
               name = "api"
               routes = [{ match { http { path_prefix = "/V2", case_insensitive = true } } }]"#,
            r#"kind = "service-splitter"
               name = "api"
               splits = [{ weight = 90 }, { weight = 10, service_subset = "v2", request_headers { set = { "X-Part" = "v2" } },
                 response_headers { add = { "X-Part" = "v2" }, remove = ["x-old"] } }]"#,
            "Kind = \"proxy-defaults\"\nName = \"global\"\nConfig { protocol = \"http\" }\n",
            "Kind = \"proxy-defaults\"\nExpose {}\nPrioritizeByLocality { Mode = \"failover\" }\n",
            r#"kind = "service-router"
               name = "api"
               routes = [
                 { match { http { path_prefix = "/v2", methods = ["get"],
                     header = [{ name = "X-Canary", exact = "true" }], query_param = [{ name = "debug", present = true }] } }
                   destination { service = "api-next", prefix_rewrite = "/", request_timeout = "1500ms", num_retries = 2,
                     retry_on_connect_failure = true, retry_on = ["5xx"], retry_on_status_codes = [429],
                     request_headers { set = { "X-Up" = "a" }, remove = ["x-down"] } } },
                 { match { http { path_regex = "/a.*" } }, destination { service = "db", namespace = "pay", service_subset = "v1" } }
               ]"#,
            r#"kind = "service-splitter"
               name = "api"
               splits = [{ weight = 99.5 }, { weight = 0.5, service = "api-next", service_subset = "v2" }]"#,
            r#"kind = "service-resolver"
               name = "api"
               default_subset = "v1"
               subsets = { v1 = { filter = "Service.Meta.version == v1" }, v2 = { only_passing = true } }
               failover = { v1 = { service_subset = "v2" }, "*" = { targets = [{ service = "old" }, { service = "older", namespace = "pay" }] } }
               request_timeout = "2s"
               load_balancer { policy = "round_robin" }"#,
            "kind = \"service-resolver\"\nname = \"www\"\nredirect { service = \"api\" }\n",
            r#"kind = "service-resolver"
               name = "cache"
               prioritize_by_locality { mode = "none" }
               load_balancer { policy = "ring_hash", ring_hash_config { minimum_ring_size = 64, maximum_ring_size = 256 }
                 hash_policies = [{ field = "header", field_value = "X-User", terminal = true }, { field = "query_parameter", field_value = "q" },
                   { field = "cookie", field_value = "s", cookie_config { ttl = "1h", path = "/" } }, { source_ip = true }] }"#,
            r#"kind = "service-resolver"
               name = "cache"
               load_balancer { policy = "least_request", least_request_config { choice_count = 3 } }"#,
        ] {
            let entry = traffic(from_value(Format::Hcl.read(text.as_bytes()).unwrap(), "")).unwrap();
            let kept = entry.into_entry(&current).unwrap();
            let shown = serde_json::to_vec(&TrafficEntry::from(&kept)).unwrap();
            let again = json(std::str::from_utf8(&shown).unwrap()).unwrap().into_entry(&current).unwrap();
            assert_eq!(again, kept, "{text}");
        }
    }

    #[test]
    fn an_entry_is_shown_as_consul_shows_it() {
        let current = Namespace::default_namespace();
        let entry = json(r#"{"Kind": "service-defaults", "Name": "api", "Protocol": "http"}"#).unwrap();
        let shown = serde_json::to_value(TrafficEntry::from(&entry.into_entry(&current).unwrap())).unwrap();
        let want = serde_json::json!({"Kind": "service-defaults", "Name": "api", "Namespace": "default",
            "Protocol": "http", "CreateIndex": 0, "ModifyIndex": 0});
        assert_eq!(shown, want);
        let entry = json(r#"{"Kind": "proxy-defaults", "Config": {"Protocol": "http"}}"#).unwrap();
        let shown = serde_json::to_value(TrafficEntry::from(&entry.into_entry(&current).unwrap())).unwrap();
        assert_eq!((&shown["Name"], &shown["Config"]["protocol"]), (&"global".into(), &"http".into()));
        assert_eq!(shown.get("Namespace"), None);
    }

    #[test]
    fn f1_what_nothing_carries_out_is_refused_by_name() {
        let defaults = |more: &str| format!(r#"{{"Kind": "service-defaults", "Name": "api", {more}}}"#);
        refused(&defaults(r#""UpstreamConfig": {"Defaults": {"EnvoyClusterJSON": "x"}}"#), "`UpstreamConfig.Defaults");
        refused(&defaults(r#""MaxInboundConnections": 5"#), "`MaxInboundConnections` is not supported");
        refused(&defaults(r#""Mode": "transparent""#), "`Mode` is not supported");
        refused(&defaults(r#""Protocol": "HTTP/3""#), "`HTTP/3` is no protocol");
        refused(&defaults(r#""Protocols": "http""#), "unknown field `Protocols`");
        refused(r#"{"Kind": "service-defaults", "Name": "*"}"#, "invalid service name");
        refused(r#"{"Kind": "service-defaults"}"#, "`Name` is missing");
        let route = |more: &str| format!(r#"{{"Kind": "service-router", "Name": "api", "Routes": [{{{more}}}]}}"#);
        refused(&route(r#""Match": {"HTTP": {"PathExact": "/a", "PathPrefix": "/b"}}"#), "use one of PathExact");
        refused(&route(r#""Match": {"HTTP": {"Header": [{"Name": "a"}]}}"#), "set exactly one of the tests");
        refused(&route(r#""Destination": {"IdleTimeout": "5s"}"#), "`Routes[0].Destination.IdleTimeout`");
        refused(&route(r#""Destination": {"RetryOn": ["cancelled"]}"#), "use connect-failure, reset");
        refused(&route(r#""Destination": {"Namespace": "shop"}"#), "it is of no service");
        let of = |kind: &str, more: &str| format!(r#"{{"Kind": "service-{kind}", "Name": "api", {more}}}"#);
        refused(&of("splitter", r#""Splits": [{"Weight": 33.333}]"#), "at most two decimals");
        refused(
            &of("splitter", r#""Splits": [{"Weight": 100, "RequestHeaders": {"Append": {"a": "b"}}}]"#),
            "RequestHeaders",
        );
        refused(
            &of("resolver", r#""LoadBalancer": {"Policy": "maglev"}"#),
            "use least_request, round_robin, random or",
        );
        let hashed = |policy: &str| {
            of("resolver", &format!(r#""LoadBalancer": {{"Policy": "ring_hash", "HashPolicies": [{policy}]}}"#))
        };
        refused(&hashed(r#"{"Field": "path", "FieldValue": "a"}"#), "use header, cookie or query_parameter");
        refused(&hashed(r#"{"SourceIP": true, "FieldValue": "a"}"#), "it stands alone");
        refused(
            &hashed(r#"{"Field": "header", "FieldValue": "a", "CookieConfig": {"Session": true}}"#),
            "a cookie only",
        );
        refused(&of("resolver", r#""PrioritizeByLocality": {"Mode": "all"}"#), "use failover or none");
        refused(&of("resolver", r#""Redirect": {"Service": "b", "Datacenter": "dc2"}"#), "`Redirect.Datacenter`");
        refused(r#"{"Kind": "proxy-defaults", "Name": "web"}"#, "is named `global`");
        let by_port =
            |said: &str| format!(r#"{{"Kind": "service-defaults", "Name": "api", "MutualTLSModeByPort": {said}}}"#);
        refused(&by_port(r#"{"0": "strict"}"#), "`MutualTLSModeByPort.0`");
        refused(&by_port(r#"{"80": "lax"}"#), "`MutualTLSModeByPort.80`");
        refused(&by_port(r#"{"80": "strict", "080": "strict"}"#), "`MutualTLSModeByPort`: a name stands there twice");
        refused(r#"{"Kind": "proxy-defaults", "Config": {"connect_timeout_ms": 5}}"#, "`Config.connect_timeout_ms`");
    }
}
