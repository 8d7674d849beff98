//! The roots that peers are recognised by, each for its own trust domain only.

use std::collections::BTreeMap;

use catalog::{SpiffeIdError, TrustBundle, TrustDomain};
use rustls_pki_types::{CertificateDer, TrustAnchor};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, GeneralSubtree};
use x509_parser::prelude::FromDer;

use crate::pki::{PemError, pem};

/// The roots of every trusted trust domain. A root vouches for identities of its own domain and for no other.
#[derive(Debug, Clone, Default)]
pub struct TrustAnchors(BTreeMap<TrustDomain, Vec<TrustAnchor<'static>>>);

/// Why a certificate cannot be a trusted root.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AnchorError {
    /// The text is not PEM.
    #[error("cannot read a root certificate")]
    Pem(#[source] PemError),
    /// The certificate cannot be read.
    #[error("cannot read a root certificate: it is not X.509 in DER")]
    Malformed,
    /// The certificate is not a certificate authority's.
    #[error("the root `{subject}` is not the certificate of a certificate authority")]
    NotAuthority {
        /// The certificate's subject.
        subject: String,
    },
    /// The certificate constrains URIs.
    #[error(
        "the root `{subject}` has name constraints on URIs, under which no SPIFFE ID can be verified; use a root without"
    )]
    UriConstraints {
        /// The certificate's subject.
        subject: String,
    },
    /// The certificate does not say which trust domain it is for.
    #[error("the root `{subject}` does not name its trust domain by a SPIFFE ID")]
    NoTrustDomain {
        /// The certificate's subject.
        subject: String,
    },
    /// The certificate's trust domain is malformed.
    #[error("the root `{subject}` names a malformed trust domain")]
    TrustDomain {
        /// The certificate's subject.
        subject: String,
        /// What is wrong with it.
        #[source]
        source: SpiffeIdError,
    },
}

impl TrustAnchors {
    /// Reads roots that name their trust domain themselves, by the URI `spiffe://<trust domain>`, as those of weft do.
    ///
    /// # Errors
    ///
    /// [`AnchorError`] for the first one that cannot be a root.
    pub fn from_pem(roots_pem: &[String]) -> Result<Self, AnchorError> {
        let mut anchors = Self::default();
        for root in roots_pem {
            for der in pem::certificates(root).map_err(AnchorError::Pem)? {
                anchors.add(None, &der)?;
            }
        }
        Ok(anchors)
    }

    /// Reads bundles, where it is the bundle and not the certificate that says which trust domain a root is for.
    ///
    /// # Errors
    ///
    /// [`AnchorError`] for the first certificate that cannot be a root.
    pub fn from_bundles(bundles: &[TrustBundle]) -> Result<Self, AnchorError> {
        let mut anchors = Self::default();
        for bundle in bundles {
            for root in &bundle.roots_pem {
                for der in pem::certificates(root).map_err(AnchorError::Pem)? {
                    anchors.add(Some(&bundle.trust_domain), &der)?;
                }
            }
        }
        Ok(anchors)
    }

    /// Reads one root for the trust domain that it names itself, or for `otherwise` where it names none.
    pub(super) fn from_pinned(root: &CertificateDer<'_>, otherwise: &TrustDomain) -> Result<Self, AnchorError> {
        let mut anchors = Self::default();
        match anchors.add(None, root) {
            Err(AnchorError::NoTrustDomain { .. }) => anchors.add(Some(otherwise), root)?,
            added => added?,
        }
        Ok(anchors)
    }

    /// Checks that every certificate can be a root, of whatever trust domain.
    ///
    /// # Errors
    ///
    /// [`AnchorError`] for the first one that cannot.
    pub fn check(roots_pem: &[String]) -> Result<(), AnchorError> {
        for root in roots_pem {
            for der in pem::certificates(root).map_err(AnchorError::Pem)? {
                match Self::default().add(None, &der) {
                    Ok(()) | Err(AnchorError::NoTrustDomain { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    /// Reads the roots of one trust domain, whatever they name themselves.
    ///
    /// # Errors
    ///
    /// [`AnchorError`] for the first certificate that cannot be a root.
    pub fn of_domain(trust_domain: &TrustDomain, roots_pem: Vec<String>) -> Result<Self, AnchorError> {
        Self::from_bundles(&[TrustBundle { trust_domain: trust_domain.clone(), roots_pem }])
    }

    /// Tells whether there is no root at all.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Lists the trust domains that have a root.
    pub fn trust_domains(&self) -> impl Iterator<Item = &TrustDomain> {
        self.0.keys()
    }

    /// Returns the roots that may vouch for identities of `trust_domain`.
    pub(super) fn of(&self, trust_domain: &TrustDomain) -> &[TrustAnchor<'static>] {
        self.0.get(trust_domain).map_or(&[], Vec::as_slice)
    }

    fn add(&mut self, trust_domain: Option<&TrustDomain>, der: &CertificateDer<'_>) -> Result<(), AnchorError> {
        let (rest, certificate) = X509Certificate::from_der(der).map_err(|_| AnchorError::Malformed)?;
        let subject = certificate.subject().to_string();
        if !rest.is_empty() {
            return Err(AnchorError::Malformed);
        }
        if !certificate.is_ca() {
            return Err(AnchorError::NotAuthority { subject });
        }
        if constrains_uris(&certificate)? {
            return Err(AnchorError::UriConstraints { subject });
        }
        let trust_domain = match trust_domain {
            Some(trust_domain) => trust_domain.clone(),
            None => own_trust_domain(&certificate, subject)?,
        };
        let anchor = webpki::anchor_from_trusted_cert(der).map_err(|_| AnchorError::Malformed)?;
        let anchors = self.0.entry(trust_domain).or_default();
        let anchor = anchor.to_owned();
        if !anchors.contains(&anchor) {
            anchors.push(anchor);
        }
        Ok(())
    }
}

fn own_trust_domain(certificate: &X509Certificate<'_>, subject: String) -> Result<TrustDomain, AnchorError> {
    let names = certificate.subject_alternative_name().map_err(|_| AnchorError::Malformed)?;
    let names = names.as_ref().map_or(&[][..], |names| names.value.general_names.as_slice());
    let [GeneralName::URI(uri)] = names else { return Err(AnchorError::NoTrustDomain { subject }) };
    match uri.strip_prefix("spiffe://") {
        Some(domain) => domain.parse().map_err(|source| AnchorError::TrustDomain { subject, source }),
        None => Err(AnchorError::NoTrustDomain { subject }),
    }
}

fn constrains_uris(certificate: &X509Certificate<'_>) -> Result<bool, AnchorError> {
    let Some(constraints) = certificate.name_constraints().map_err(|_| AnchorError::Malformed)? else {
        return Ok(false);
    };
    let on_uris = |subtrees: &Option<Vec<GeneralSubtree<'_>>>| {
        subtrees.iter().flatten().any(|subtree| matches!(subtree.base, GeneralName::URI(_)))
    };
    Ok(on_uris(&constraints.value.permitted_subtrees) || on_uris(&constraints.value.excluded_subtrees))
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, CustomExtension, IsCa, KeyPair, SanType};

    use super::*;
    use crate::tls::testing::Mesh;

    fn root(change: impl FnOnce(&mut CertificateParams)) -> String {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
        params.subject_alt_names = vec![SanType::URI("spiffe://mesh.test".try_into().unwrap())];
        change(&mut params);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().pem()
    }

    #[test]
    fn a_root_counts_for_the_trust_domain_that_it_names() {
        let anchors = TrustAnchors::from_pem(&[root(|_| ()), Mesh::new("other.test").root_pem()]).unwrap();
        let domains: Vec<_> = anchors.trust_domains().map(TrustDomain::as_str).collect();
        assert_eq!(domains, ["mesh.test", "other.test"]);
        assert!(anchors.of(&"third.test".parse().unwrap()).is_empty());
    }

    #[test]
    fn the_bundle_says_which_trust_domain_a_root_counts_for() {
        let silent = root(|params| params.subject_alt_names.clear());
        let bundle = TrustBundle { trust_domain: "other.test".parse().unwrap(), roots_pem: vec![root(|_| ()), silent] };
        let anchors = TrustAnchors::from_bundles(&[bundle]).unwrap();
        assert_eq!(anchors.of(&"other.test".parse().unwrap()).len(), 2);
        assert!(anchors.of(&"mesh.test".parse().unwrap()).is_empty());
    }

    #[test]
    fn the_same_root_counts_once() {
        let root = root(|_| ());
        let anchors = TrustAnchors::from_pem(&[root.clone(), format!("{root}{root}")]).unwrap();
        assert_eq!(anchors.of(&"mesh.test".parse().unwrap()).len(), 1);
    }

    #[test]
    fn what_cannot_be_a_root_is_refused_with_the_reason() {
        // permittedSubtrees: uniformResourceIdentifier "mesh.test".
        let on_uris = [b"\x30\x0f\xa0\x0d\x30\x0b\x86\x09".as_slice(), b"mesh.test"].concat();
        let refused = |pem: String| TrustAnchors::from_pem(&[pem]).unwrap_err();
        assert!(matches!(refused(String::new()), AnchorError::Pem(_)));
        assert!(matches!(refused(root(|params| params.is_ca = IsCa::NoCa)), AnchorError::NotAuthority { .. }));
        let silent = refused(root(|params| params.subject_alt_names.clear()));
        assert!(matches!(silent, AnchorError::NoTrustDomain { .. }));
        let malformed = refused(root(|params| {
            params.subject_alt_names = vec![SanType::URI("spiffe://MESH.test".try_into().unwrap())];
        }));
        assert!(matches!(malformed, AnchorError::TrustDomain { .. }));
        let constrained = refused(root(|params| {
            params.custom_extensions = vec![CustomExtension::from_oid_content(&[2, 5, 29, 30], on_uris.clone())];
        }));
        assert!(matches!(constrained, AnchorError::UriConstraints { .. }), "{constrained}");
    }
}
