//! The addresses that stand for a service.

use std::net::{Ipv4Addr, Ipv6Addr};

use catalog::{AddressNumber, Namespace, ServiceKey, ServiceName};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Answers `catalog/addresses/:service`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct ServiceAddresses {
    /// The service.
    #[schema(value_type = String)]
    pub service: ServiceName,
    /// Its namespace.
    #[schema(value_type = String)]
    pub namespace: Namespace,
    /// Its number, which the addresses follow from.
    #[schema(value_type = u64)]
    pub number: AddressNumber,
    /// The virtual address: what goes there is taken on its way by the caller's agent.
    #[serde(rename = "VirtualIPv4")]
    #[schema(value_type = String)]
    pub virtual_v4: Ipv4Addr,
    /// The same in IPv6.
    #[serde(rename = "VirtualIPv6")]
    #[schema(value_type = String)]
    pub virtual_v6: Ipv6Addr,
    /// Where an agent listens for calls to it, where nothing can be redirected.
    #[schema(value_type = String)]
    pub loopback: Ipv4Addr,
}

impl ServiceAddresses {
    /// Writes the addresses of a service.
    #[must_use]
    pub fn new(service: ServiceKey, number: AddressNumber) -> Self {
        Self {
            service: service.name,
            namespace: service.namespace,
            number,
            virtual_v4: number.virtual_v4(),
            virtual_v6: number.virtual_v6(),
            loopback: number.loopback(),
        }
    }
}
