//! What the catalog keeps of the certificate authority. Private keys are here only sealed.

use serde::{Deserialize, Serialize};

use crate::{CatalogIndex, Timestamp, TrustDomain};

/// Holds a secret sealed with a key derived from the cluster key: AES-256-GCM, bound to cluster, kind and id of the record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SealedSecret {
    /// Which cluster key sealed it.
    pub key_id: String,
    /// The nonce, hexadecimal.
    pub nonce: String,
    /// Ciphertext and tag, base64.
    pub ciphertext: String,
}

/// Is a root certificate of the mesh.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaRoot {
    /// The SHA-256 of the certificate's DER, hexadecimal.
    pub id: String,
    /// The certificate.
    pub certificate_pem: String,
    /// Its private key.
    pub sealed_key: SealedSecret,
    /// Whether intermediates are signed with it now. One root is active at a time.
    pub active: bool,
    /// When it becomes valid.
    pub not_before: Timestamp,
    /// When it expires.
    pub not_after: Timestamp,
    /// The index at which it was installed.
    #[serde(default)]
    pub created: CatalogIndex,
    /// The index of the last change.
    #[serde(default)]
    pub modified: CatalogIndex,
}

/// Is a certificate that signs leaves day to day.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaIntermediate {
    /// The SHA-256 of the certificate's DER, hexadecimal.
    pub id: String,
    /// The root that signed it.
    pub root_id: String,
    /// The certificate.
    pub certificate_pem: String,
    /// Its private key.
    pub sealed_key: SealedSecret,
    /// Whether leaves are signed with it now. One intermediate is active at a time.
    pub active: bool,
    /// When it becomes valid.
    pub not_before: Timestamp,
    /// When it expires.
    pub not_after: Timestamp,
    /// The index at which it was installed.
    #[serde(default)]
    pub created: CatalogIndex,
    /// The index of the last change.
    #[serde(default)]
    pub modified: CatalogIndex,
}

/// Is the roots that a trust domain is recognised by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrustBundle {
    /// The trust domain.
    pub trust_domain: TrustDomain,
    /// Its root certificates, PEM, in the order of their ids.
    pub roots_pem: Vec<String>,
}
