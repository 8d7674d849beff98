//! The certificate authority: how it signs leaves from agent records and nothing else; how it is founded and rotated.

pub(crate) mod acks;
mod api;
pub mod duty;
mod found;
mod rekey;
mod steward;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use catalog::{
    AgentRecord, CaRoot, Catalog, CatalogIndex, NodeName, Platform, ServerId, ServiceKey, SpiffeId, Timestamp,
};
use http::StatusCode;
use wire::agent_protocol::{Leaf, Subject};
use wire::cluster_key::{ClusterKeys, SealError};
use wire::pki::{Csr, CsrError, LeafKey, LeafRequest, LoadError, LocalSigner, Serial, SignedLeaf, Signer, parse_csr};
use wire::tls::{ApiCertificateError, TlsIdentity, TlsIdentityError};

pub(crate) use duty::{agents_waited_for, deadline, patience_of_retirement};
#[cfg(test)]
pub(crate) use found::renewed_intermediate;
pub(crate) use found::{
    AuthorityError, INTERMEDIATE_TTL, ROOT_TTL, SealedPart, can_be_opened, new_authority, operators, rotation,
};
pub(crate) use rekey::{resealed, sealing};
pub(crate) use steward::{Stewardship, run as steward};

/// Why a leaf was not signed.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// The request is malformed, unproved, or asks for what no leaf has.
    #[error("cannot sign the certificate request")]
    Csr(#[source] CsrError),
    /// The record does not name the service.
    #[error(
        "the agent on node `{node}` is not entitled to service `{service}`: enrol it with a join token that names it"
    )]
    NotEntitled {
        /// The agent's node.
        node: NodeName,
        /// The service.
        service: ServiceKey,
    },
    /// The service was revoked since the agent was enrolled.
    #[error(
        "service `{service}` was revoked after the agent on node `{node}` was enrolled: enrol it again with a new join token"
    )]
    ServiceRevoked {
        /// The agent's node.
        node: NodeName,
        /// The service.
        service: ServiceKey,
    },
    /// An agent's own certificate is for the key that it enrolled with.
    #[error("the certificate request of node `{node}` is for another key than it enrolled with: enrol again")]
    OtherKey {
        /// The agent's node.
        node: NodeName,
    },
    /// The mesh has no certificate authority yet.
    #[error("the mesh has no certificate authority yet: try again in a moment")]
    NotReady,
    /// The key of the intermediate cannot be unsealed.
    #[error("this server cannot open the key of the mesh's intermediate: give it the mesh's cluster key")]
    Sealed(#[source] SealError),
    /// What was unsealed is not the intermediate's key.
    #[error("the mesh's intermediate `{id}` cannot be used")]
    Unusable {
        /// The intermediate.
        id: String,
        /// What is wrong with it.
        #[source]
        source: LoadError,
    },
    /// What was unsealed is no text.
    #[error("the sealed key of the mesh's intermediate `{id}` is not PEM")]
    NotText {
        /// The intermediate.
        id: String,
    },
    /// The intermediate came without a key.
    #[error("the mesh's intermediate `{id}` has no key here: set another one")]
    NoKey {
        /// The intermediate.
        id: String,
    },
    /// The intermediate has expired, or its key failed.
    #[error("the mesh's intermediate did not sign")]
    Signer(#[source] wire::pki::SignError),
    /// The server's own certificate cannot be used.
    #[error("this server's own certificate cannot be used")]
    Identity(#[source] TlsIdentityError),
    /// The API's certificate cannot be used.
    #[error("the certificate of this server's API cannot be used")]
    Api(#[source] ApiCertificateError),
}

impl SignError {
    /// Returns the metric label of the reason, from a closed set.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            SignError::Csr(CsrError::Mismatch { .. }) => "csr_other_identity",
            SignError::Csr(_) => "csr_refused",
            SignError::NotEntitled { .. } => "not_entitled",
            SignError::ServiceRevoked { .. } => "service_revoked",
            SignError::OtherKey { .. } => "csr_other_key",
            SignError::NotReady => "not_ready",
            SignError::Sealed(_)
            | SignError::Unusable { .. }
            | SignError::NotText { .. }
            | SignError::NoKey { .. }
            | SignError::Signer(_)
            | SignError::Identity(_)
            | SignError::Api(_) => "signer_unusable",
        }
    }

    /// Returns the status that answers it.
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            SignError::Csr(CsrError::Mismatch { .. })
            | SignError::NotEntitled { .. }
            | SignError::ServiceRevoked { .. }
            | SignError::OtherKey { .. } => StatusCode::FORBIDDEN,
            SignError::Csr(_) => StatusCode::BAD_REQUEST,
            // Another server may well be able to.
            SignError::NotReady
            | SignError::Sealed(_)
            | SignError::Unusable { .. }
            | SignError::NotText { .. }
            | SignError::NoKey { .. }
            | SignError::Signer(_)
            | SignError::Identity(_)
            | SignError::Api(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

/// Returns the identity that an agent's record entitles it to under the name that it asks for.
///
/// # Errors
///
/// [`SignError::NotEntitled`] for a service that the record does not name, [`SignError::ServiceRevoked`] for one that was
/// revoked since.
pub fn entitled(catalog: &Catalog, record: &AgentRecord, subject: &Subject) -> Result<SpiffeId, SignError> {
    let scheme = catalog.scheme().ok_or(SignError::NotReady)?;
    Ok(match subject {
        Subject::Agent => scheme.agent(record.platform, &record.node),
        Subject::Service(service) if catalog.is_service_revoked(service, record.enrolled) => {
            return Err(SignError::ServiceRevoked { node: record.node.clone(), service: service.clone() });
        }
        Subject::Service(service) if record.entitles(service) => scheme.workload(service),
        Subject::Service(service) => {
            return Err(SignError::NotEntitled { node: record.node.clone(), service: service.clone() });
        }
    })
}

/// Signs with the catalog's active intermediate, whose key it keeps open.
#[derive(Debug)]
pub(crate) struct CertificateAuthority {
    cluster_keys: ClusterKeys,
    leaf_ttl: Duration,
    /// The intermediate that was opened last, by its id.
    opened: Mutex<Option<(String, Arc<LocalSigner>)>>,
}

/// A server's own identity on the port for agents, and when to make the next one.
#[derive(Debug)]
pub(crate) struct ServerIdentity {
    /// The certificate with its key; the chain ends in the root, by which an agent that joins recognises the mesh.
    pub(crate) tls: TlsIdentity,
    /// The middle of the certificate's life.
    pub(crate) renew_at: Timestamp,
}

impl CertificateAuthority {
    /// Returns an authority that opens the catalog's keys with `cluster_keys` and signs leaves that live `leaf_ttl`.
    pub(crate) fn new(cluster_keys: ClusterKeys, leaf_ttl: Duration) -> CertificateAuthority {
        CertificateAuthority { cluster_keys, leaf_ttl, opened: Mutex::new(None) }
    }

    /// Signs a leaf for what `record` entitles its agent to. The names in the request give it nothing.
    ///
    /// `catalog` and `record` must be as recent as the caller wants the decision to be.
    ///
    /// # Errors
    ///
    /// [`SignError::NotEntitled`] for a service that the record does not name, [`SignError::Csr`] for a bad request.
    pub(crate) fn sign(
        &self,
        catalog: &Catalog,
        record: &AgentRecord,
        subject: &Subject,
        csr_der: &[u8],
        now: Timestamp,
    ) -> Result<Leaf, SignError> {
        self.sign_briefly(catalog, record, subject, csr_der, now, self.leaf_ttl(catalog))
    }

    /// Signs a leaf as [`CertificateAuthority::sign`] does, for `ttl` at most.
    ///
    /// # Errors
    ///
    /// As there.
    pub(crate) fn sign_briefly(
        &self,
        catalog: &Catalog,
        record: &AgentRecord,
        subject: &Subject,
        csr_der: &[u8],
        now: Timestamp,
        ttl: Duration,
    ) -> Result<Leaf, SignError> {
        let id = entitled(catalog, record, subject)?;
        let csr = parse_csr(csr_der).map_err(SignError::Csr)?;
        if *subject == Subject::Agent && *csr.fingerprint() != record.key {
            return Err(SignError::OtherKey { node: record.node.clone() });
        }
        let signer = self.signer(catalog)?;
        let of_record = (record.enrolled, Some(record.platform));
        let signed = self.sign_with(&*signer, &csr, &id, of_record, (now, ttl.min(self.leaf_ttl(catalog))))?;
        let own = [signed.certificate_pem, LocalSigner::certificate_pem(&signer).to_owned()];
        // Until the old root leaves the bundle, there may be somebody who has only that one.
        let crossed = active_cross(catalog).filter(|(_, by)| !by.retired).map(|(cross, _)| cross);
        Ok(Leaf { chain_pem: own.into_iter().chain(crossed).collect(), not_after: signed.not_after })
    }

    /// Makes a server's own identity, with a key of its own that is never stored.
    ///
    /// # Errors
    ///
    /// [`SignError::NotReady`] before the mesh has a certificate authority.
    pub(crate) fn server_identity(
        &self,
        catalog: &Catalog,
        server: &ServerId,
        now: Timestamp,
    ) -> Result<ServerIdentity, SignError> {
        let scheme = catalog.scheme().ok_or(SignError::NotReady)?;
        let intermediate = catalog.active_intermediate().ok_or(SignError::NotReady)?;
        let root = catalog.roots().find(|root| root.id == intermediate.root_id).ok_or(SignError::NotReady)?;
        let key = LeafKey::generate();
        let csr = parse_csr(&key.csr_der(None)).map_err(SignError::Csr)?;
        let signer = self.signer(catalog)?;
        // Servers have no agent record; no record was ever enrolled at the intermediate's own index.
        let life = (now, self.leaf_ttl(catalog));
        let signed = self.sign_with(&*signer, &csr, &scheme.server(server), (intermediate.created, None), life)?;
        let renew_at = Timestamp(now.0 + signed.not_after.0.saturating_sub(now.0) / 2);
        let mut chain = vec![signed.certificate_pem, intermediate.certificate_pem.clone()];
        // Whoever joins recognises the mesh by a root that is sent; join tokens and agents that were away for long may
        // know the one before only.
        if let Some((cross, by)) = active_cross(catalog) {
            chain.extend([cross, by.certificate_pem.clone()]);
        }
        chain.push(root.certificate_pem.clone());
        let tls = TlsIdentity::new(&chain, &key).map_err(SignError::Identity)?;
        Ok(ServerIdentity { tls, renew_at })
    }

    /// Returns how long leaves live: as set for all servers, or as this one was told.
    pub(crate) fn leaf_ttl(&self, catalog: &Catalog) -> Duration {
        catalog.ca_config().leaf_ttl().unwrap_or(self.leaf_ttl)
    }

    fn sign_with(
        &self,
        signer: &dyn Signer,
        csr: &Csr,
        id: &SpiffeId,
        (index, platform): (CatalogIndex, Option<Platform>),
        (now, ttl): (Timestamp, Duration),
    ) -> Result<SignedLeaf, SignError> {
        let request = LeafRequest { csr, id, platform, serial: Serial::draw(index), now, ttl };
        signer.sign_leaf(&request).map_err(|error| match error {
            wire::pki::SignError::Csr(error) => SignError::Csr(error),
            error => SignError::Signer(error),
        })
    }

    /// Opens the catalog's active intermediate, or returns it as opened before.
    fn signer(&self, catalog: &Catalog) -> Result<Arc<LocalSigner>, SignError> {
        let intermediate = catalog.active_intermediate().ok_or(SignError::NotReady)?;
        let mesh = catalog.mesh().ok_or(SignError::NotReady)?;
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((id, signer)) = &*opened
            && *id == intermediate.id
        {
            return Ok(Arc::clone(signer));
        }
        let id = || intermediate.id.clone();
        let sealed = intermediate.sealed_key.as_ref().ok_or_else(|| SignError::NoKey { id: id() })?;
        let context = found::INTERMEDIATE.context(&mesh.cluster_id, &intermediate.id);
        let key_pem = self.cluster_keys.open(&context, sealed).map_err(SignError::Sealed)?;
        let key_pem = found::text(&key_pem).ok_or_else(|| SignError::NotText { id: id() })?;
        let is_operators = catalog.root(&intermediate.root_id).is_some_and(|root| root.sealed_key.is_none());
        let signer = if is_operators {
            LocalSigner::load_operators(&intermediate.certificate_pem, &key_pem, &mesh.trust_domain)
        } else {
            LocalSigner::load(&intermediate.certificate_pem, &key_pem)
        };
        let signer = signer.map_err(|source| SignError::Unusable { id: id(), source })?;
        let signer = Arc::new(signer);
        *opened = Some((intermediate.id.clone(), Arc::clone(&signer)));
        Ok(signer)
    }
}

/// Returns the active root as the root before it certified it, and that root, if it is not distrusted.
fn active_cross(catalog: &Catalog) -> Option<(String, &CaRoot)> {
    let cross = catalog.active_root()?.cross.as_ref()?;
    Some((cross.certificate_pem.clone(), catalog.root(&cross.signed_by)?))
}
