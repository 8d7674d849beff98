//! Config entries that shape the traffic of services: what they hold, and what they are found by.
//!
//! The `mesh` entry and intentions have forms of their own.

use std::{collections::BTreeMap, fmt, sync::Arc};

use imbl::OrdMap;
use serde::{Deserialize, Serialize};

use crate::{CatalogIndex, Protocol, ServiceKey};

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
}

/// Is what holds for every service that says nothing else.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProxyDefaults {
    /// How bytes are read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
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
}

/// Names a config entry.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ConfigKey {
    /// The one entry of kind `proxy-defaults`.
    ProxyDefaults,
    /// The `service-defaults` of a service.
    ServiceDefaults(ServiceKey),
}

impl ConfigKey {
    /// Returns the kind, as users write it.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::ProxyDefaults => "proxy-defaults",
            Self::ServiceDefaults(_) => "service-defaults",
        }
    }

    /// Returns the service that the entry is of; none where it is of all.
    #[must_use]
    pub fn service(&self) -> Option<&ServiceKey> {
        match self {
            Self::ProxyDefaults => None,
            Self::ServiceDefaults(service) => Some(service),
        }
    }
}

impl fmt::Display for ConfigKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.service() {
            None => write!(f, "{}/global", self.kind()),
            Some(service) => write!(f, "{}/{service}", self.kind()),
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

    /// Returns how the bytes of a service are read: as it says itself, else as all do, else as nobody looks into them.
    #[must_use]
    pub fn protocol_of(&self, service: &ServiceKey) -> Protocol {
        let own = self.get(&ConfigKey::ServiceDefaults(service.clone())).and_then(|entry| match &entry.content {
            ConfigContent::ServiceDefaults(defaults) => defaults.protocol,
            ConfigContent::ProxyDefaults(_) => None,
        });
        let of_all = || match &self.get(&ConfigKey::ProxyDefaults)?.content {
            ConfigContent::ProxyDefaults(defaults) => defaults.protocol,
            ConfigContent::ServiceDefaults(_) => None,
        };
        own.or_else(of_all).unwrap_or_default()
    }

    /// Returns the entries that say how calls to a service go.
    pub fn bearing_on(&self, service: &ServiceKey) -> impl Iterator<Item = &Arc<ConfigEntry>> {
        let keys = [ConfigKey::ProxyDefaults, ConfigKey::ServiceDefaults(service.clone())];
        keys.into_iter().filter_map(|key| self.by_key.get(&key))
    }
}

impl FromIterator<Arc<ConfigEntry>> for ConfigEntries {
    fn from_iter<T: IntoIterator<Item = Arc<ConfigEntry>>>(entries: T) -> Self {
        Self { by_key: entries.into_iter().map(|entry| (entry.key(), entry)).collect() }
    }
}
