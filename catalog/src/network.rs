//! Networks: which instances an agent reaches directly, which through a gateway, and which not at all.

use serde::{Deserialize, Serialize};

use crate::{Endpoint, NodeName};

/// How long the name of a network may be.
pub const NETWORK_BYTES_MAX: usize = 63;

/// Is a way into a network from outside: an agent that passes tunnels on by the service that they name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Gateway {
    /// The node that it stands on.
    pub node: NodeName,
    /// The network that it leads into.
    pub network: String,
    /// The IP address or host name that it is reached at.
    pub address: String,
    /// The port that it is reached at.
    pub port: u16,
}

/// Says how an instance is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reach<'a> {
    /// At its own address.
    Direct,
    /// Through any of these; never empty, in the order of their nodes.
    Through(Vec<&'a Gateway>),
    /// Not at all: nothing leads into its network.
    Unreachable,
}

/// Says how an agent in `own_network` reaches an instance, `gateways` being all that there are.
#[must_use]
pub fn reach<'a>(endpoint: &Endpoint, own_network: &str, gateways: &'a [Gateway]) -> Reach<'a> {
    if endpoint.network == own_network {
        return Reach::Direct;
    }
    let mut leading: Vec<&Gateway> = gateways.iter().filter(|gateway| gateway.network == endpoint.network).collect();
    leading.sort();
    if leading.is_empty() { Reach::Unreachable } else { Reach::Through(leading) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{CheckStatus, InstanceKey, Namespace, Platform, Weights};

    fn endpoint(network: &str) -> Endpoint {
        Endpoint {
            key: InstanceKey {
                node: "n1".parse().unwrap(),
                namespace: Namespace::default(),
                id: "web-1".parse().unwrap(),
            },
            address: "10.0.0.1".to_owned(),
            mesh_port: Some(20000),
            port: 80,
            ports: BTreeMap::new(),
            status: CheckStatus::Passing,
            zone: None,
            network: network.to_owned(),
            platform: Platform::Vm,
            weights: Weights::default(),
            meta: BTreeMap::new(),
            tags: Vec::new(),
            node_meta: BTreeMap::new(),
        }
    }

    fn gateway(node: &str, network: &str) -> Gateway {
        let (node, network) = (node.parse().unwrap(), network.to_owned());
        Gateway { node, network, address: "192.0.2.1".to_owned(), port: 20001 }
    }

    #[test]
    fn an_instance_is_reached_directly_in_ones_own_network_and_by_a_gateway_into_any_other() {
        let gateways = [gateway("g2", "aws"), gateway("g1", "aws"), gateway("g3", "office")];
        let names = |found: Reach<'_>| match found {
            Reach::Direct => vec!["direct".to_owned()],
            Reach::Through(through) => through.iter().map(|gateway| gateway.node.to_string()).collect(),
            Reach::Unreachable => Vec::new(),
        };
        let rows: [(&str, &str, &[&str]); 6] = [
            ("", "", &["direct"]),
            ("aws", "aws", &["direct"]),
            ("aws", "", &["g1", "g2"]),
            ("office", "aws", &["g3"]),
            ("", "aws", &[]),
            ("AWS", "", &[]),
        ];
        for (network, own, want) in rows {
            assert_eq!(names(reach(&endpoint(network), own, &gateways)), want, "{network:?} from {own:?}");
        }
        assert_eq!(reach(&endpoint("aws"), "", &[]), Reach::Unreachable);
    }
}
