//! Config entries: documents whose kind says what they hold.

use super::service_intentions::{SERVICE_INTENTIONS, ServiceIntentions};
use super::token_provider::JWT_PROVIDER;
use super::traffic_entry::{
    PROXY_DEFAULTS, SERVICE_DEFAULTS, SERVICE_RESOLVER, SERVICE_ROUTER, SERVICE_SPLITTER, TrafficEntry,
};
use super::{MeshConfigEntry, mesh_entry::MESH};
use crate::decode::{DecodeError, Fields, Shape};

/// The kinds that something carries out.
pub const CONFIG_KINDS: [&str; 8] = [
    JWT_PROVIDER,
    MESH,
    PROXY_DEFAULTS,
    SERVICE_DEFAULTS,
    SERVICE_INTENTIONS,
    SERVICE_RESOLVER,
    SERVICE_ROUTER,
    SERVICE_SPLITTER,
];

/// Writes a config entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConfigEntry {
    /// Of kind `mesh`.
    Mesh(MeshConfigEntry),
    /// Of kind `service-intentions`.
    ServiceIntentions(ServiceIntentions),
    /// Of a kind that shapes the traffic of services.
    Traffic(Box<TrafficEntry>),
}

impl Shape for ConfigEntry {
    fn read(fields: &mut Fields) -> Result<Self, DecodeError> {
        // The kind decides what everything else means, so it comes first.
        let kind: String = fields.required("Kind")?;
        match kind.as_str() {
            MESH => MeshConfigEntry::read_rest(fields).map(Self::Mesh),
            SERVICE_INTENTIONS => ServiceIntentions::read_rest(fields).map(Self::ServiceIntentions),
            other => {
                if let Some(entry) = TrafficEntry::read_rest(other, fields)? {
                    return Ok(Self::Traffic(Box::new(entry)));
                }
                let reason = format!(
                    "weft carries out no entries of kind `{}` yet; those there are: {}",
                    kind.escape_debug(),
                    CONFIG_KINDS.join(", ")
                );
                Err(fields.refuse("Kind", reason))
            }
        }
    }
}
