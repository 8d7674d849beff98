//! Config entries that shape the traffic of services: what they hold, and what they are found by.
//!
//! The `mesh` entry and intentions have forms of their own.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use imbl::OrdMap;
use serde::{Deserialize, Serialize};

use crate::{
    CatalogIndex, MtlsMode, MtlsModes, Namespace, PortMtlsMode, Protocol, ProviderName, RateLimits, ServiceKey,
    ServiceResolver, ServiceRouter, ServiceSplitter, TokenProvider, UpstreamConfig, UpstreamSettings,
};

/// Is one config entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConfigEntry {
    /// What it says.
    pub content: ConfigContent,
    /// Free facts about it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub meta: BTreeMap<String, String>,
    /// The index at which it was first written.
    #[serde(default)]
    pub created: CatalogIndex,
    /// The index of the last change.
    #[serde(default)]
    pub modified: CatalogIndex,
}

impl ConfigEntry {
    /// Makes an entry that nobody has written yet.
    #[must_use]
    pub fn new(content: ConfigContent) -> Self {
        Self { content, meta: BTreeMap::new(), created: CatalogIndex::default(), modified: CatalogIndex::default() }
    }

    /// Returns what the entry is found by.
    #[must_use]
    pub fn key(&self) -> ConfigKey {
        match &self.content {
            ConfigContent::ProxyDefaults(_) => ConfigKey::ProxyDefaults,
            ConfigContent::ServiceDefaults(defaults) => ConfigKey::ServiceDefaults(defaults.service.clone()),
            ConfigContent::ServiceRouter(router) => ConfigKey::ServiceRouter(router.service.clone()),
            ConfigContent::ServiceSplitter(splitter) => ConfigKey::ServiceSplitter(splitter.service.clone()),
            ConfigContent::ServiceResolver(resolver) => ConfigKey::ServiceResolver(resolver.service.clone()),
            ConfigContent::JwtProvider(provider) => ConfigKey::JwtProvider(provider.name.clone()),
        }
    }

    /// Returns the services that the entry sends calls to; perhaps its own among them.
    #[must_use]
    pub fn references(&self) -> Vec<&ServiceKey> {
        match &self.content {
            ConfigContent::ProxyDefaults(_) | ConfigContent::ServiceDefaults(_) | ConfigContent::JwtProvider(_) => {
                Vec::new()
            }
            ConfigContent::ServiceRouter(router) => {
                let mirrors = router.routes.iter().filter_map(|route| route.to.mirror.as_ref()?.service.as_ref());
                router.routes.iter().filter_map(|route| route.to.service.as_ref()).chain(mirrors).collect()
            }
            ConfigContent::ServiceSplitter(splitter) => {
                splitter.splits.iter().filter_map(|split| split.service.as_ref()).collect()
            }
            ConfigContent::ServiceResolver(resolver) => {
                let failover = resolver.failover.values().flatten().filter_map(|target| target.service.as_ref());
                failover.chain(resolver.redirect.iter().filter_map(|redirect| redirect.service.as_ref())).collect()
            }
        }
    }
}

/// Is what a config entry says, by kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum ConfigContent {
    /// What holds for every service that says nothing else.
    ProxyDefaults(ProxyDefaults),
    /// What holds for one service, whoever calls it.
    ServiceDefaults(ServiceDefaults),
    /// Where requests to a service go by what they say.
    ServiceRouter(ServiceRouter),
    /// Where they go by weight.
    ServiceSplitter(ServiceSplitter),
    /// What a service's name stands for.
    ServiceResolver(ServiceResolver),
    /// Who issues tokens that intentions ask for.
    JwtProvider(Box<TokenProvider>),
}

/// Is what holds for every service that says nothing else.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProxyDefaults {
    /// How bytes are read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    /// Whether instances of a caller's own zone come first where no resolver says otherwise.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub by_locality: bool,
    /// Whom they take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtls_mode: Option<MtlsMode>,
    /// Whom those of single namespaces take.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub namespace_modes: BTreeMap<Namespace, MtlsMode>,
}

/// Is what holds for one service, whoever calls it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceDefaults {
    /// The service.
    pub service: ServiceKey,
    /// How its bytes are read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    /// What holds of the calls that it makes.
    #[serde(default, skip_serializing_if = "UpstreamConfig::is_empty")]
    pub upstreams: UpstreamConfig,
    /// How many requests its instances take.
    #[serde(default, skip_serializing_if = "RateLimits::is_empty")]
    pub rate_limits: RateLimits,
    /// Whom it takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtls_mode: Option<MtlsMode>,
    /// Whom single ports of it take.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub port_modes: Vec<PortMtlsMode>,
    /// Whether it is outside the mesh: its instances that no agent stands before are called all the same, and nobody proves
    /// who answers there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub external: bool,
}

impl ServiceDefaults {
    /// Makes one that says nothing yet.
    #[must_use]
    pub fn new(service: ServiceKey) -> Self {
        let (upstreams, rate_limits) = (UpstreamConfig::default(), RateLimits::default());
        let port_modes = Vec::new();
        Self { service, protocol: None, upstreams, rate_limits, mtls_mode: None, port_modes, external: false }
    }
}

/// Names a config entry.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ConfigKey {
    /// The one entry of kind `proxy-defaults`.
    ProxyDefaults,
    /// The `service-defaults` of a service.
    ServiceDefaults(ServiceKey),
    /// Its `service-router`.
    ServiceRouter(ServiceKey),
    /// Its `service-splitter`.
    ServiceSplitter(ServiceKey),
    /// Its `service-resolver`.
    ServiceResolver(ServiceKey),
    /// A `jwt-provider`.
    JwtProvider(ProviderName),
}

impl ConfigKey {
    /// Returns the kind, as users write it.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::ProxyDefaults => "proxy-defaults",
            Self::ServiceDefaults(_) => "service-defaults",
            Self::ServiceRouter(_) => "service-router",
            Self::ServiceSplitter(_) => "service-splitter",
            Self::ServiceResolver(_) => "service-resolver",
            Self::JwtProvider(_) => "jwt-provider",
        }
    }

    /// Returns the keys of all entries that one service may have.
    #[must_use]
    pub fn all_of(service: &ServiceKey) -> [Self; 4] {
        [
            Self::ServiceDefaults(service.clone()),
            Self::ServiceRouter(service.clone()),
            Self::ServiceSplitter(service.clone()),
            Self::ServiceResolver(service.clone()),
        ]
    }

    /// Returns the service that the entry is of; none where it is of none or of all.
    #[must_use]
    pub fn service(&self) -> Option<&ServiceKey> {
        match self {
            Self::ProxyDefaults | Self::JwtProvider(_) => None,
            Self::ServiceDefaults(service)
            | Self::ServiceRouter(service)
            | Self::ServiceSplitter(service)
            | Self::ServiceResolver(service) => Some(service),
        }
    }
}

impl fmt::Display for ConfigKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ProxyDefaults => write!(f, "{}/global", self.kind()),
            Self::JwtProvider(name) => write!(f, "{}/{name}", self.kind()),
            Self::ServiceDefaults(service)
            | Self::ServiceRouter(service)
            | Self::ServiceSplitter(service)
            | Self::ServiceResolver(service) => write!(f, "{}/{service}", self.kind()),
        }
    }
}

/// Is one change of config entries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "kebab-case", deny_unknown_fields)]
pub enum ConfigChange {
    /// Writes an entry.
    Write {
        /// The entry.
        entry: Box<ConfigEntry>,
        /// Only if it was last changed at this index; 0 is "only if there is none".
        #[serde(default, skip_serializing_if = "Option::is_none")]
        compare: Option<CatalogIndex>,
    },
    /// Removes an entry.
    Delete {
        /// Which.
        key: ConfigKey,
        /// Only if it was last changed at this index.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        compare: Option<CatalogIndex>,
    },
}

impl ConfigChange {
    /// Returns what the change is of.
    #[must_use]
    pub fn key(&self) -> ConfigKey {
        match self {
            Self::Write { entry, .. } => entry.key(),
            Self::Delete { key, .. } => key.clone(),
        }
    }
}

/// Holds config entries, and answers what follows from several of them. Cloning costs a reference count.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConfigEntries {
    by_key: OrdMap<ConfigKey, Arc<ConfigEntry>>,
}

impl ConfigEntries {
    /// Returns an entry.
    #[must_use]
    pub fn get(&self, key: &ConfigKey) -> Option<&ConfigEntry> {
        self.by_key.get(key).map(|entry| &**entry)
    }

    /// Returns all entries, by kind and name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<ConfigEntry>> {
        self.by_key.values()
    }

    /// Puts an entry in the place of the one that is there under its key.
    pub fn insert(&mut self, entry: Arc<ConfigEntry>) {
        self.by_key.insert(entry.key(), entry);
    }

    /// Takes an entry out.
    pub fn remove(&mut self, key: &ConfigKey) {
        self.by_key.remove(key);
    }

    /// Returns what holds for a service, whoever calls it.
    fn defaults_of(&self, service: &ServiceKey) -> Option<&ServiceDefaults> {
        match &self.get(&ConfigKey::ServiceDefaults(service.clone()))?.content {
            ConfigContent::ServiceDefaults(defaults) => Some(defaults),
            _ => None,
        }
    }

    /// Returns what holds of the calls from one service to another.
    #[must_use]
    pub fn settings_of(&self, source: &ServiceKey, destination: &ServiceKey) -> UpstreamSettings {
        self.defaults_of(source).map(|defaults| defaults.upstreams.of(destination)).unwrap_or_default()
    }

    /// Returns how many requests the instances of a service take.
    #[must_use]
    pub fn rate_limits_of(&self, service: &ServiceKey) -> Option<&RateLimits> {
        self.defaults_of(service).map(|defaults| &defaults.rate_limits).filter(|limits| !limits.is_empty())
    }

    /// Reports whether a service is outside the mesh, so that instances without an agent are called.
    #[must_use]
    pub fn is_external(&self, service: &ServiceKey) -> bool {
        self.defaults_of(service).is_some_and(|defaults| defaults.external)
    }

    /// Returns how the bytes of a service are read: as it says itself, else as all do, else as nobody looks into them. Nobody
    /// looks into what leaves the mesh.
    #[must_use]
    pub fn protocol_of(&self, service: &ServiceKey) -> Protocol {
        if self.is_external(service) {
            return Protocol::Tcp;
        }
        let own = self.defaults_of(service).and_then(|defaults| defaults.protocol);
        let of_all = || match &self.get(&ConfigKey::ProxyDefaults)?.content {
            ConfigContent::ProxyDefaults(defaults) => defaults.protocol,
            _ => None,
        };
        own.or_else(of_all).unwrap_or_default()
    }

    /// Returns whom a service takes, where the `mesh` entry leaves the choice: as its port says, else as it says itself, else
    /// as its namespace does, else as all do.
    #[must_use]
    pub fn mtls_modes_of(&self, service: &ServiceKey) -> MtlsModes {
        let own = self.defaults_of(service);
        let of_all = || match &self.get(&ConfigKey::ProxyDefaults)?.content {
            ConfigContent::ProxyDefaults(defaults) => {
                defaults.namespace_modes.get(&service.namespace).copied().or(defaults.mtls_mode)
            }
            _ => None,
        };
        let of_service = own.and_then(|defaults| defaults.mtls_mode).or_else(of_all).unwrap_or_default();
        MtlsModes::new(of_service, own.map(|defaults| defaults.port_modes.clone()).unwrap_or_default())
    }

    /// Returns the provider of tokens that intentions name so.
    #[must_use]
    pub fn provider(&self, name: &str) -> Option<&Arc<ConfigEntry>> {
        self.by_key.get(&ConfigKey::JwtProvider(name.parse().ok()?))
    }

    /// Returns the entries that say how calls to a service go: what holds for all, its own, and those of every service
    /// that these lead to.
    pub fn bearing_on(&self, service: &ServiceKey) -> impl Iterator<Item = &Arc<ConfigEntry>> {
        let global = std::iter::once(ConfigKey::ProxyDefaults);
        let keys = global.chain(self.reached_from(service).into_iter().flat_map(|reached| ConfigKey::all_of(&reached)));
        keys.filter_map(|key| self.by_key.get(&key))
    }

    /// Returns the services that calls to one may lead to, itself among them.
    fn reached_from(&self, service: &ServiceKey) -> BTreeSet<ServiceKey> {
        closure(service, |next| {
            let entries = ConfigKey::all_of(next).into_iter().filter_map(|key| self.by_key.get(&key));
            entries.flat_map(|entry| entry.references()).cloned().collect()
        })
    }

    /// Returns the services whose calls may lead to one, itself among them.
    #[must_use]
    pub fn leading_to(&self, service: &ServiceKey) -> BTreeSet<ServiceKey> {
        let mut backwards: BTreeMap<&ServiceKey, Vec<ServiceKey>> = BTreeMap::new();
        for entry in self.by_key.values() {
            let key = entry.key();
            for to in entry.references() {
                backwards.entry(to).or_default().extend(key.service().cloned());
            }
        }
        closure(service, |next| backwards.get(next).cloned().unwrap_or_default())
    }

    /// Returns the services that have an entry of their own.
    pub(crate) fn services(&self) -> BTreeSet<ServiceKey> {
        self.by_key.keys().filter_map(|key| key.service().cloned()).collect()
    }
}

/// Returns everything that `next` leads to from a service, and the service.
fn closure(from: &ServiceKey, next: impl Fn(&ServiceKey) -> Vec<ServiceKey>) -> BTreeSet<ServiceKey> {
    let mut found = BTreeSet::from([from.clone()]);
    let mut open = vec![from.clone()];
    while let Some(service) = open.pop() {
        open.extend(next(&service).into_iter().filter(|one| found.insert(one.clone())));
    }
    found
}

impl FromIterator<Arc<ConfigEntry>> for ConfigEntries {
    fn from_iter<T: IntoIterator<Item = Arc<ConfigEntry>>>(entries: T) -> Self {
        Self { by_key: entries.into_iter().map(|entry| (entry.key(), entry)).collect() }
    }
}
