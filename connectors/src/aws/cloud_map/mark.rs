//! The marks on records in Cloud Map: in which mesh a record began, through which it came, and whose it is.

use std::collections::BTreeMap;

use catalog::ConnectorName;

/// The attribute that names the mesh in which the workload is registered.
pub(super) const ORIGIN: &str = "weft-origin";
/// The attribute that lists the meshes that passed the record on, its origin among them.
pub(super) const VIA: &str = "weft-via";
/// The attribute of a record, and the tag of a service, that names the mesh and the connector that keep it.
pub(super) const OWNER: &str = "weft-owner";
/// The attribute that names the instance within its mesh.
pub(super) const INSTANCE: &str = "weft-instance";
/// The tag by which ECS marks services that it keeps for Service Connect.
pub(super) const ECS_MANAGED: &str = "AmazonECSManaged";
/// What a node's meta calls whoever registered it outside the mesh, in Consul's words.
pub(super) const SOURCE: &str = "external-source";
/// The value of [`SOURCE`] for what came from Cloud Map.
pub(super) const CLOUD_MAP: &str = "aws-cloud-map";
/// How many meshes pass a record on at most.
pub(super) const HOPS_MAX: usize = 8;

/// Names a mesh and a connector of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// The mesh, by its trust domain.
    pub mesh: String,
    /// The connector.
    pub connector: ConnectorName,
}

impl Owner {
    pub(super) fn text(&self) -> String {
        format!("{}/{}", self.mesh, self.connector)
    }

    /// Derives the id of an exported instance from what it is: nobody's other record has it by chance.
    pub(super) fn instance_id(&self, instance: &str) -> String {
        let hash = wire::crypto::sha256_hex(format!("{}\n{instance}", self.text()).as_bytes());
        format!("weft-{}", &hash[..40])
    }

    /// Reports whether a record is this connector's: it says so, and its id follows from what it says. A mark alone is
    /// copied easily.
    pub(super) fn keeps(&self, id: &str, attributes: &BTreeMap<String, String>) -> bool {
        attributes.get(OWNER).is_some_and(|owner| *owner == self.text())
            && attributes.get(INSTANCE).is_some_and(|instance| self.instance_id(instance) == id)
    }
}

/// Returns the meshes that a record has been in.
pub(super) fn been_in(attributes: &BTreeMap<String, String>) -> Vec<&str> {
    let via = attributes.get(VIA).map(String::as_str).unwrap_or_default();
    let origin = attributes.get(ORIGIN).map(String::as_str);
    origin.into_iter().chain(via.split(',')).filter(|mesh| !mesh.is_empty()).collect()
}
