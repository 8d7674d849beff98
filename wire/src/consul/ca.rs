//! The roots, as `connect/ca/roots` answers with them.

use ::catalog::{Catalog, CatalogIndex, Timestamp, TrustDomain};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use x509_parser::prelude::{FromDer, ParsedExtension, X509Certificate};

use crate::rfc3339;

/// Why the roots cannot be shown.
#[derive(Debug, thiserror::Error)]
pub enum CaRootsError {
    /// The mesh is not bootstrapped, or has no certificate authority yet.
    #[error("the mesh has no certificate authority yet: try again in a moment")]
    NotReady,
    /// A root of the catalog is not a certificate.
    #[error("the root {id} is not a certificate")]
    NotACertificate {
        /// The root's id.
        id: String,
    },
}

/// Answers `connect/ca/roots`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct CaRoots {
    /// The id of the root that signs.
    #[serde(rename = "ActiveRootID")]
    pub active_root_id: String,
    /// The authority of every identity.
    #[schema(value_type = String)]
    pub trust_domain: TrustDomain,
    /// The roots to trust, by id.
    pub roots: Vec<CaRoot>,
}

/// Shows a root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct CaRoot {
    /// The SHA-256 of the certificate, hexadecimal.
    #[serde(rename = "ID")]
    pub id: String,
    /// The subject's common name.
    pub name: String,
    /// The last eight bytes of the certificate's serial number: Consul's clients read 64 bits.
    pub serial_number: u64,
    /// The identifier of the root's key, hexadecimal with colons.
    #[serde(rename = "SigningKeyID")]
    pub signing_key_id: String,
    /// The cluster that the root belongs to.
    pub external_trust_domain: String,
    /// When it becomes valid.
    #[serde(with = "rfc3339::text")]
    #[schema(value_type = String)]
    pub not_before: Timestamp,
    /// When it expires.
    #[serde(with = "rfc3339::text")]
    #[schema(value_type = String)]
    pub not_after: Timestamp,
    /// The certificate, PEM.
    #[serde(rename = "RootCert")]
    pub root_certificate: String,
    /// The intermediates that it signed, PEM.
    #[serde(rename = "IntermediateCerts")]
    pub intermediate_certificates: Vec<String>,
    /// Whether it signs now.
    pub active: bool,
    /// Always `ec`: ECDSA.
    pub private_key_type: String,
    /// Always 256: the curve P-256.
    pub private_key_bits: u32,
    /// The index at which it was installed.
    #[schema(value_type = u64)]
    pub create_index: CatalogIndex,
    /// The index of the last change.
    #[schema(value_type = u64)]
    pub modify_index: CatalogIndex,
}

impl CaRoots {
    /// Shows the roots of the mesh's own trust domain.
    ///
    /// # Errors
    ///
    /// [`CaRootsError::NotReady`] before the mesh has a certificate authority.
    pub fn new(catalog: &Catalog) -> Result<Self, CaRootsError> {
        let (Some(mesh), Some(active)) = (catalog.mesh(), catalog.active_root()) else {
            return Err(CaRootsError::NotReady);
        };
        let roots = catalog.roots().filter(|root| !root.retired).map(|root| {
            let signed = catalog.intermediates().filter(|intermediate| intermediate.root_id == root.id);
            let intermediates = signed.map(|intermediate| intermediate.certificate_pem.clone()).collect();
            CaRoot::new(root, intermediates, &mesh.cluster_id)
        });
        Ok(Self {
            active_root_id: active.id.clone(),
            trust_domain: mesh.trust_domain.clone(),
            roots: roots.collect::<Result<_, _>>()?,
        })
    }

    /// Shows roots of which only the certificates are known, as an agent knows them: PEM, each with whether it signs.
    ///
    /// # Errors
    ///
    /// [`CaRootsError::NotReady`] if none of them signs, [`CaRootsError::NotACertificate`] for one that is none.
    pub fn of_certificates<'a>(
        trust_domain: &TrustDomain,
        cluster_id: &str,
        certificates: impl Iterator<Item = (&'a str, bool)>,
        index: CatalogIndex,
    ) -> Result<Self, CaRootsError> {
        let roots = certificates.map(|(pem, active)| CaRoot::of_certificate(pem, active, cluster_id, index));
        let mut roots: Vec<CaRoot> = roots.collect::<Result<_, _>>()?;
        roots.sort_by(|left, right| left.id.cmp(&right.id));
        let active = roots.iter().find(|root| root.active).ok_or(CaRootsError::NotReady)?;
        Ok(Self { active_root_id: active.id.clone(), trust_domain: trust_domain.clone(), roots })
    }
}

impl CaRoot {
    fn new(root: &::catalog::CaRoot, intermediates: Vec<String>, cluster_id: &str) -> Result<Self, CaRootsError> {
        let shown = Self::of_certificate(&root.certificate_pem, root.active, cluster_id, root.created)
            .map_err(|_| CaRootsError::NotACertificate { id: root.id.clone() })?;
        Ok(Self {
            id: root.id.clone(),
            not_before: root.not_before,
            not_after: root.not_after,
            intermediate_certificates: intermediates,
            modify_index: root.modified,
            ..shown
        })
    }

    fn of_certificate(pem: &str, active: bool, cluster_id: &str, index: CatalogIndex) -> Result<Self, CaRootsError> {
        let unreadable = || CaRootsError::NotACertificate { id: "(without an id)".to_owned() };
        let der = crate::pki::pem::certificate(pem).map_err(|_| unreadable())?;
        let (_, certificate) = X509Certificate::from_der(&der).map_err(|_| unreadable())?;
        let name = certificate.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
        let serial = certificate.raw_serial();
        let low = serial[serial.len().saturating_sub(8)..].iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
        let validity = certificate.validity();
        Ok(Self {
            id: crate::crypto::sha256_hex(&der),
            name: name.unwrap_or("weft root").to_owned(),
            serial_number: low,
            signing_key_id: key_id(&certificate),
            external_trust_domain: cluster_id.to_owned(),
            not_before: crate::pki::from_seconds(validity.not_before.timestamp()),
            not_after: crate::pki::from_seconds(validity.not_after.timestamp()),
            root_certificate: pem.to_owned(),
            intermediate_certificates: Vec::new(),
            active,
            private_key_type: "ec".to_owned(),
            private_key_bits: 256,
            create_index: index,
            modify_index: index,
        })
    }
}

/// Returns the subject key identifier as Consul writes it; empty where the certificate has none.
fn key_id(certificate: &X509Certificate<'_>) -> String {
    let identifier = certificate.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(identifier) => Some(identifier.0),
        _ => None,
    });
    let bytes: Vec<String> = identifier.unwrap_or_default().iter().map(|byte| format!("{byte:02x}")).collect();
    bytes.join(":")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ::catalog::{Actor, CaIntermediate, Command, ENVELOPE_VERSION, Envelope, Mesh, PathTemplate, SealedSecret};

    use super::*;
    use crate::pki::LocalRoot;

    fn apply(catalog: &mut Catalog, index: u64, command: Command) {
        let envelope = Envelope {
            version: ENVELOPE_VERSION,
            request_id: format!("r{index}").parse().unwrap(),
            actor: Actor::Server("server-1".parse().unwrap()),
            source_address: None,
            proposed_at: Timestamp(0),
            command,
        };
        let applied = catalog.apply(CatalogIndex(index), &envelope, crate::crypto::sha256);
        assert_eq!(applied.outcome, ::catalog::Outcome::Done);
    }

    #[test]
    fn the_roots_are_shown_in_consuls_names() {
        let mut catalog = Catalog::default();
        assert!(matches!(CaRoots::new(&catalog), Err(CaRootsError::NotReady)));
        let trust_domain: TrustDomain = "mesh.test".parse().unwrap();
        apply(
            &mut catalog,
            1,
            Command::Bootstrap {
                mesh: Mesh {
                    cluster_id: "cluster-1".to_owned(),
                    datacenter: "dc1".to_owned(),
                    trust_domain: trust_domain.clone(),
                    template: PathTemplate::default(),
                    servers: Vec::new(),
                },
            },
        );
        let root = LocalRoot::create(&trust_domain, crate::crypto::now(), Duration::from_secs(3600)).unwrap();
        let intermediate = root.create_intermediate(crate::crypto::now(), Duration::from_secs(60)).unwrap();
        let sealed = SealedSecret { key_id: String::new(), nonce: String::new(), ciphertext: String::new() };
        apply(
            &mut catalog,
            2,
            Command::InstallCa {
                root: Box::new(::catalog::CaRoot {
                    id: root.id(),
                    certificate_pem: root.certificate_pem().to_owned(),
                    sealed_key: Some(sealed.clone()),
                    active: true,
                    cross: None,
                    replaced_at: None,
                    retired: false,
                    not_before: root.not_before(),
                    not_after: root.not_after(),
                    created: CatalogIndex::default(),
                    modified: CatalogIndex::default(),
                }),
                intermediate: Box::new(CaIntermediate {
                    id: intermediate.id(),
                    root_id: root.id(),
                    certificate_pem: intermediate.certificate_pem().to_owned(),
                    sealed_key: Some(sealed),
                    active: true,
                    not_before: intermediate.not_before(),
                    not_after: intermediate.not_after(),
                    created: CatalogIndex::default(),
                    modified: CatalogIndex::default(),
                }),
            },
        );
        let shown = serde_json::to_value(CaRoots::new(&catalog).unwrap()).unwrap();
        assert_eq!((&shown["ActiveRootID"], &shown["TrustDomain"]), (&root.id().into(), &"mesh.test".into()));
        let first = &shown["Roots"][0];
        for name in [
            "ID",
            "Name",
            "SerialNumber",
            "SigningKeyID",
            "ExternalTrustDomain",
            "NotBefore",
            "NotAfter",
            "RootCert",
            "IntermediateCerts",
            "Active",
            "PrivateKeyType",
            "PrivateKeyBits",
            "CreateIndex",
            "ModifyIndex",
        ] {
            assert!(first.get(name).is_some(), "{name}");
        }
        assert_eq!(first["RootCert"], root.certificate_pem());
        assert_eq!(first["IntermediateCerts"][0], intermediate.certificate_pem());
        assert!(first["SigningKeyID"].as_str().unwrap().contains(':'), "{}", first["SigningKeyID"]);
        assert!(first["NotAfter"].as_str().unwrap().ends_with('Z'));
    }
}
