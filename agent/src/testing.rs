//! What tests of several modules need: a certificate authority and the identities that it gives out.

pub(crate) mod agent;
pub(crate) mod server;

use std::time::Duration;

use catalog::{
    AccessorId, Action, AgentId, AgentRecord, Attestation, CatalogIndex, IdentityScheme, MeshItem, PathTemplate,
    Platform, SecretHash, ServiceKey, SpiffeId, Timestamp,
};
use wire::agent_protocol::{Leaf, Subject};
use wire::pki::{LeafKey, LeafRequest, LocalRoot, LocalSigner, Serial, Signer, parse_csr};

use crate::leaf::{HeldLeaf, named};
use crate::state::Identity;

pub(crate) const HOUR: Duration = Duration::from_secs(3600);

/// A mesh's authority.
#[derive(Debug)]
pub(crate) struct TestMesh {
    pub(crate) root: LocalRoot,
    pub(crate) signer: LocalSigner,
    pub(crate) item: MeshItem,
}

impl TestMesh {
    pub(crate) fn new() -> Self {
        wire::crypto::install_provider();
        let trust_domain = "mesh.test".parse().unwrap();
        let now = wire::crypto::now();
        let root = LocalRoot::create(&trust_domain, now, HOUR * 48).unwrap();
        let signer = root.create_intermediate(now, HOUR * 36).unwrap();
        let item = MeshItem {
            cluster_id: "cluster-1".to_owned(),
            trust_domain,
            template: PathTemplate::default(),
            datacenter: "dc1".to_owned(),
            default_action: Action::Deny,
            guardrails: Vec::new(),
            audit: Default::default(),
            min_key_exchange: catalog::KeyExchange::default(),
            mesh_destinations_only: false,
            allows_permissive: false,
            relaxations: Vec::new(),
        };
        Self { root, signer, item }
    }

    pub(crate) fn scheme(&self) -> IdentityScheme {
        self.item.scheme()
    }

    pub(crate) fn roots_pem(&self) -> Vec<String> {
        vec![self.root.certificate_pem().to_owned()]
    }

    /// Signs a request as if it were `now`.
    pub(crate) fn sign(&self, csr: &[u8], id: &SpiffeId, now: Timestamp, ttl: Duration) -> Leaf {
        let csr = parse_csr(csr).unwrap();
        let serial = Serial::draw(CatalogIndex(4));
        let leaf = self.signer.sign_leaf(&LeafRequest { csr: &csr, id, platform: None, serial, now, ttl }).unwrap();
        Leaf {
            chain_pem: vec![leaf.certificate_pem, self.signer.certificate_pem().to_owned()],
            not_after: leaf.not_after,
        }
    }

    /// Returns the identity of an agent on the node `vm-1`.
    pub(crate) fn identity(&self, key: &LeafKey, services: &[&str]) -> Identity {
        let mut services: Vec<ServiceKey> = services.iter().map(|service| service.parse().unwrap()).collect();
        services.sort();
        let record = AgentRecord {
            id: AgentId::enrolled_at(CatalogIndex(4)),
            node: "vm-1".parse().unwrap(),
            platform: Platform::Vm,
            key: key.fingerprint(),
            services,
            attestation: Attestation::JoinToken(accessor()),
            earlier: Vec::new(),
            gateway: None,
            enrolled: CatalogIndex(4),
            incarnation: None,
            server: None,
            presence: Default::default(),
            modified: CatalogIndex(4),
        };
        let id = self.scheme().agent(record.platform, &record.node);
        let now = wire::crypto::now();
        let leaf = HeldLeaf::new(key, &self.sign(&key.csr_der(None), &id, now, HOUR), &id, now).unwrap();
        Identity {
            record,
            mesh: self.item.clone(),
            roots_pem: self.roots_pem(),
            leaf: leaf.stored().clone(),
            servers: Vec::new(),
            joined_with: SecretHash("0".repeat(64)),
        }
    }

    /// Returns a leaf that was obtained at `now` and lives for `ttl`.
    pub(crate) fn leaf(&self, subject: &Subject, identity: &Identity, now: Timestamp, ttl: Duration) -> HeldLeaf {
        let key = LeafKey::generate();
        let id = named(subject, identity);
        HeldLeaf::new(&key, &self.sign(&key.csr_der(Some(&id)), &id, now, ttl), &id, now).unwrap()
    }
}

pub(crate) fn accessor() -> AccessorId {
    "00000000-0000-4000-8000-000000000001".parse().unwrap()
}
