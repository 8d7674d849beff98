//! An authority of the operator's own: a root whose key stays elsewhere, and an intermediate under it that signs here.
//!
//! Whether the two are good for anything is found out by using them: a leaf is signed with what was given, and verified as
//! every peer will verify it.

use std::time::Duration;

use catalog::{CatalogIndex, SpiffeId, Timestamp, TrustBundle, TrustDomain};
use rustls_pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, GeneralSubtree};
use x509_parser::prelude::FromDer;

use super::pem::{self, PemError};
use super::{LeafKey, LeafRequest, LoadError, LocalSigner, Serial, SignError, Signer, from_seconds, parse_csr};
use crate::crypto::{self, Secret};
use crate::tls::{AnchorError, ExpectedPeer, PeerRejected, SpiffeVerifier, TrustAnchors};

/// An operator's root, of which only the certificate is here, and an intermediate under it with its key.
#[derive(Debug)]
pub struct OperatorsAuthority {
    /// The SHA-256 of the root's DER in hexadecimal: its id in the catalog.
    pub root_id: String,
    /// The root.
    pub root_pem: String,
    /// When the root becomes valid.
    pub root_not_before: Timestamp,
    /// When the root expires.
    pub root_not_after: Timestamp,
    /// What signs leaves.
    pub signer: LocalSigner,
}

/// Why an operator's certificates cannot be the mesh's authority.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OperatorsAuthorityError {
    /// The root is not PEM.
    #[error("cannot read the root")]
    RootPem(#[source] PemError),
    /// A certificate cannot be read.
    #[error("the {what} is not X.509 in DER")]
    Malformed {
        /// Which certificate.
        what: &'static str,
    },
    /// There is more than one certificate.
    #[error("there are {found} certificates in place of one {what}: give the {what} alone")]
    Several {
        /// Which certificate.
        what: &'static str,
        /// How many there are.
        found: usize,
    },
    /// No SPIFFE ID can be verified under name constraints on URIs.
    #[error(
        "the {what} has name constraints on URIs, under which no SPIFFE ID can be verified: have it issued without, the mesh keeps to its trust domain by itself"
    )]
    UriConstraints {
        /// Which certificate.
        what: &'static str,
    },
    /// The root says that nothing stands between it and leaves.
    #[error("the root admits no intermediates (its path length is 0)")]
    Shallow,
    /// The root cannot be one.
    #[error("the root cannot be trusted")]
    Root(#[source] AnchorError),
    /// The intermediate or its key cannot be used.
    #[error("the intermediate cannot sign")]
    Signer(#[source] LoadError),
    /// The intermediate ends too soon.
    #[error("the intermediate ends in {left_s} s, and must live for {least_s} s at least: have a new one issued")]
    EndsSoon {
        /// How long it lives on, in seconds.
        left_s: u64,
        /// How long it must, in seconds.
        least_s: u64,
    },
    /// The intermediate did not sign a leaf.
    #[error("the intermediate does not sign")]
    Sign(#[source] SignError),
    /// A leaf that the intermediate signed would be refused by every peer.
    #[error("a leaf under this intermediate and root is refused")]
    Refused(#[source] PeerRejected),
}

impl OperatorsAuthority {
    /// Reads a root, an intermediate that it signed and the intermediate's key from PEM, and tries them out.
    ///
    /// # Errors
    ///
    /// [`OperatorsAuthorityError`] names what is wrong with which of them.
    pub fn read(
        root_pem: &str,
        intermediate_pem: &str,
        key_pem: &Secret,
        trust_domain: &TrustDomain,
        now: Timestamp,
        life_min: Duration,
    ) -> Result<Self, OperatorsAuthorityError> {
        let root_der = only("root", root_pem)?;
        let (_, root) =
            X509Certificate::from_der(&root_der).map_err(|_| OperatorsAuthorityError::Malformed { what: "root" })?;
        refuse_uri_constraints("root", &root)?;
        let constraints = root.basic_constraints();
        if constraints.is_ok_and(|found| found.is_some_and(|found| found.value.path_len_constraint == Some(0))) {
            return Err(OperatorsAuthorityError::Shallow);
        }
        let intermediate_der = only("intermediate", intermediate_pem)?;
        let (_, intermediate) = X509Certificate::from_der(&intermediate_der)
            .map_err(|_| OperatorsAuthorityError::Malformed { what: "intermediate" })?;
        refuse_uri_constraints("intermediate", &intermediate)?;
        let root_text = pem::encode_certificate(&root_der);
        let bundle = TrustBundle { trust_domain: trust_domain.clone(), roots_pem: vec![root_text.clone()] };
        let anchors = TrustAnchors::from_bundles(&[bundle]).map_err(OperatorsAuthorityError::Root)?;
        let signer = LocalSigner::load_operators(intermediate_pem, key_pem, trust_domain)
            .map_err(OperatorsAuthorityError::Signer)?;
        let left = Signer::not_after(&signer).since(now);
        if left < life_min {
            let (left_s, least_s) = (left.as_secs(), life_min.as_secs());
            return Err(OperatorsAuthorityError::EndsSoon { left_s, least_s });
        }
        try_out(&signer, anchors, trust_domain, now)?;
        Ok(Self {
            root_id: crypto::sha256_hex(&root_der),
            root_pem: root_text,
            root_not_before: from_seconds(root.validity().not_before.timestamp()),
            root_not_after: from_seconds(root.validity().not_after.timestamp()),
            signer,
        })
    }
}

fn only(what: &'static str, text: &str) -> Result<CertificateDer<'static>, OperatorsAuthorityError> {
    let mut found = pem::certificates(text).map_err(OperatorsAuthorityError::RootPem)?;
    match (found.pop(), found.len()) {
        (Some(one), 0) => Ok(one),
        (_, others) => Err(OperatorsAuthorityError::Several { what, found: others + 1 }),
    }
}

fn refuse_uri_constraints(
    what: &'static str,
    certificate: &X509Certificate<'_>,
) -> Result<(), OperatorsAuthorityError> {
    let constraints = certificate.name_constraints().map_err(|_| OperatorsAuthorityError::Malformed { what })?;
    let on_uris = |subtrees: &Option<Vec<GeneralSubtree<'_>>>| {
        subtrees.iter().flatten().any(|subtree| matches!(subtree.base, GeneralName::URI(_)))
    };
    match constraints.map(|extension| extension.value) {
        Some(found) if on_uris(&found.permitted_subtrees) || on_uris(&found.excluded_subtrees) => {
            Err(OperatorsAuthorityError::UriConstraints { what })
        }
        _ => Ok(()),
    }
}

/// Signs a leaf and verifies it for both ends of a connection.
fn try_out(
    signer: &LocalSigner,
    anchors: TrustAnchors,
    trust_domain: &TrustDomain,
    now: Timestamp,
) -> Result<(), OperatorsAuthorityError> {
    let failed = |error| OperatorsAuthorityError::Sign(SignError::Csr(error));
    let csr = parse_csr(&LeafKey::generate().csr_der(None)).map_err(failed)?;
    let id: SpiffeId = format!("spiffe://{trust_domain}/trial").parse().expect("a trust domain and a plain word");
    let (serial, ttl) = (Serial::draw(CatalogIndex(0)), Duration::from_secs(60));
    let request = LeafRequest { csr: &csr, id: &id, platform: None, serial, now, ttl };
    let leaf = signer.sign_leaf(&request).map_err(OperatorsAuthorityError::Sign)?;
    let read = |text: &str| pem::certificate(text).expect("what was just written is PEM");
    let chain = [read(&leaf.certificate_pem), read(Signer::certificate_pem(signer))];
    let verifier = SpiffeVerifier::new(std::sync::Arc::new(anchors), ExpectedPeer::Exactly(id));
    verifier.verify_client(&chain, now).map_err(OperatorsAuthorityError::Refused)?;
    verifier.verify_server(&chain, now).map_err(OperatorsAuthorityError::Refused)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use rcgen::{
        BasicConstraints, CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
        KeyUsagePurpose,
    };

    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    /// A root and an intermediate as a company's own PKI makes them: with names of its own and no SPIFFE ID.
    struct Pki {
        root_pem: String,
        intermediate_pem: String,
        key: Secret,
    }

    fn authority(name: &str) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::OrganizationName, "Example Inc.");
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params
    }

    fn pki(change: impl FnOnce(&mut CertificateParams, &mut CertificateParams)) -> Pki {
        let (mut root, mut intermediate) = (authority("Example Root"), authority("Example Mesh CA"));
        change(&mut root, &mut intermediate);
        let (root_key, key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let root_pem = root.self_signed(&root_key).unwrap().pem();
        let intermediate_pem = intermediate.signed_by(&key, &Issuer::from_params(&root, &root_key)).unwrap().pem();
        Pki { root_pem, intermediate_pem, key: Secret::new(key.serialize_pem()) }
    }

    fn read(pki: &Pki) -> Result<OperatorsAuthority, OperatorsAuthorityError> {
        let domain = "mesh.test".parse().unwrap();
        OperatorsAuthority::read(&pki.root_pem, &pki.intermediate_pem, &pki.key, &domain, crypto::now(), DAY)
    }

    #[test]
    fn a_companys_own_intermediate_signs_leaves_of_the_mesh() {
        let read = read(&pki(|_, _| ())).unwrap();
        assert_eq!(read.signer.trust_domain().as_str(), "mesh.test");
        assert_eq!(read.root_id.len(), 64);
    }

    #[test]
    fn name_constraints_on_uris_are_refused_clearly() {
        // permittedSubtrees: uniformResourceIdentifier "mesh.test".
        let on_uris = [b"\x30\x0f\xa0\x0d\x30\x0b\x86\x09".as_slice(), b"mesh.test"].concat();
        let constrained = || CustomExtension::from_oid_content(&[2, 5, 29, 30], on_uris.clone());
        for pki in [
            pki(|root, _| root.custom_extensions = vec![constrained()]),
            pki(|_, intermediate| intermediate.custom_extensions = vec![constrained()]),
        ] {
            let error = read(&pki).unwrap_err();
            assert!(matches!(error, OperatorsAuthorityError::UriConstraints { .. }), "{error}");
            assert!(error.to_string().contains("have it issued without"), "{error}");
        }
    }

    #[test]
    fn what_no_peer_would_accept_is_refused_before_anybody_is_told_of_it() {
        let good = pki(|_, _| ());
        let other = pki(|_, _| ());
        let mixed = Pki { root_pem: other.root_pem.clone(), ..pki(|_, _| ()) };
        assert!(matches!(read(&mixed), Err(OperatorsAuthorityError::Refused(_))));
        let other_key = Pki { key: other.key.clone(), ..pki(|_, _| ()) };
        assert!(matches!(read(&other_key), Err(OperatorsAuthorityError::Signer(LoadError::OtherKey))));
        let no_authority = pki(|_, intermediate| intermediate.is_ca = IsCa::NoCa);
        assert!(matches!(read(&no_authority), Err(OperatorsAuthorityError::Signer(_))));
        let for_mail = pki(|_, intermediate| {
            intermediate.extended_key_usages = vec![ExtendedKeyUsagePurpose::EmailProtection];
        });
        assert!(matches!(read(&for_mail), Err(OperatorsAuthorityError::Refused(_))));
        let shallow = pki(|root, _| root.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)));
        assert!(matches!(read(&shallow), Err(OperatorsAuthorityError::Shallow)));
        let ending = pki(|_, intermediate| {
            intermediate.not_after = super::super::instant::to_date(crypto::now().saturating_add(DAY / 2));
        });
        assert!(matches!(read(&ending), Err(OperatorsAuthorityError::EndsSoon { .. })));
        let both = Pki { intermediate_pem: format!("{}{}", good.intermediate_pem, good.root_pem), ..good };
        assert!(matches!(read(&both), Err(OperatorsAuthorityError::Several { .. })));
        let elsewhere = pki(|_, intermediate| {
            let uri = "spiffe://other.test".try_into().unwrap();
            intermediate.subject_alt_names = vec![rcgen::SanType::URI(uri)];
        });
        assert!(matches!(read(&elsewhere), Err(OperatorsAuthorityError::Signer(LoadError::OtherTrustDomain { .. }))));
    }
}
