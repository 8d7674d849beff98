//! What the catalog keeps of the certificate authority. Private keys are here only sealed.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{AgentId, CatalogIndex, Timestamp, TrustDomain};

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
    /// Its private key; none where an operator keeps it, and once the root has been replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sealed_key: Option<SealedSecret>,
    /// Whether intermediates are signed with it now. One root is active at a time.
    pub active: bool,
    /// The same key certified by the root before it, so that whoever knows only that one recognises this one, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cross: Option<CrossCertificate>,
    /// When another root became active in its place; it stays in the bundle until the last leaf under it has expired.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaced_at: Option<Timestamp>,
    /// Whether it has left the bundle: it lets agents that were away for long renew, and vouches for nothing else.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub retired: bool,
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
    /// Its private key; none once another has taken its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sealed_key: Option<SealedSecret>,
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

/// Is a root's key certified by another root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CrossCertificate {
    /// The id of the root that signed it.
    pub signed_by: String,
    /// The certificate.
    pub certificate_pem: String,
}

/// Is how far a rotation of the root has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RotationStep {
    /// The new root is in the bundle, and agents acknowledge that they trust it.
    Distributing,
    /// The new root is active, and agents have their leaves signed anew.
    Reissuing,
}

/// Is a rotation of the root that is under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaRotation {
    /// The root that is to take over, or has.
    pub root_id: String,
    /// The root that it replaces.
    pub replaces: String,
    /// How far it has come.
    pub step: RotationStep,
    /// Whether the replaced root is distrusted at the end, which cuts whoever still has a leaf under it.
    #[serde(default)]
    pub distrust_replaced: bool,
    /// The index at which the new root came into the bundle: what agents must have in force.
    pub distributed: CatalogIndex,
    /// When that was.
    pub started_at: Timestamp,
    /// The index at which the new root became active.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activated: Option<CatalogIndex>,
    /// When that was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activated_at: Option<Timestamp>,
}

/// Is what an agent says of the roots that it has in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootsAck {
    /// The index of the roots that its proxy decides by.
    pub roots: CatalogIndex,
    /// Whether every leaf that it holds was signed by the intermediate that was active then.
    #[serde(default)]
    pub renewed: bool,
}

impl CaRotation {
    /// Reports whether an agent that said `ack` has done what the present step waits for.
    #[must_use]
    pub fn is_met(&self, ack: RootsAck) -> bool {
        match self.activated {
            None => ack.roots >= self.distributed,
            Some(activated) => ack.roots >= activated && ack.renewed,
        }
    }
}

/// Is a root that nobody may be recognised by any more, however long it would have lived.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DistrustedRoot {
    /// The index at which it was distrusted.
    pub distrusted: CatalogIndex,
    /// When it would have expired; it is remembered until then.
    pub not_after: Timestamp,
}

/// Is how long what the authority signs lives, as an operator has set it for all servers.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaConfig {
    /// The life of a leaf; each server's own setting where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leaf_ttl_ms: Option<u64>,
    /// The life of an intermediate; a year where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intermediate_ttl_ms: Option<u64>,
    /// The life of a root; ten years where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root_ttl_ms: Option<u64>,
    /// The index at which it was first written; 0 while nobody has.
    #[serde(default)]
    pub created: CatalogIndex,
    /// The index of the last change.
    #[serde(default)]
    pub modified: CatalogIndex,
}

impl CaConfig {
    /// Returns the life of a leaf, if it is set.
    #[must_use]
    pub fn leaf_ttl(&self) -> Option<Duration> {
        self.leaf_ttl_ms.map(Duration::from_millis)
    }

    /// Returns the life of an intermediate, if it is set.
    #[must_use]
    pub fn intermediate_ttl(&self) -> Option<Duration> {
        self.intermediate_ttl_ms.map(Duration::from_millis)
    }

    /// Returns the life of a root, if it is set.
    #[must_use]
    pub fn root_ttl(&self) -> Option<Duration> {
        self.root_ttl_ms.map(Duration::from_millis)
    }
}

/// Names the kind of record that a sealed key is part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SealedKind {
    /// A [`CaRoot`].
    Root,
    /// A [`CaIntermediate`].
    Intermediate,
}

/// Is a secret sealed anew, with another cluster key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resealed {
    /// What kind of record it is part of.
    pub of: SealedKind,
    /// The record's id.
    pub id: String,
    /// The nonce of what it replaces: another than that is left alone.
    pub replaces_nonce: String,
    /// The secret, sealed anew.
    pub sealed: SealedSecret,
}

/// Is one change of the certificate authority.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum CaChange {
    /// Brings a new root with its intermediate into the bundle; neither is used before it is activated.
    StartRotation {
        /// The root.
        root: Box<CaRoot>,
        /// The intermediate that it signed.
        intermediate: Box<CaIntermediate>,
        /// The root that it is to replace; refused if another one is active.
        replaces: String,
        /// Whether the replaced root is distrusted at the end.
        #[serde(default)]
        distrust_replaced: bool,
    },
    /// Takes a root that is not active yet out of the bundle again.
    CancelRotation {
        /// The root.
        root: String,
    },
    /// Notes what agents have in force.
    Acknowledge {
        /// What each said.
        acks: BTreeMap<AgentId, RootsAck>,
    },
    /// Has the new root sign from now on.
    Activate {
        /// The root.
        root: String,
    },
    /// Ends a rotation whose agents have their leaves from the new root.
    Finish {
        /// The root that has taken over.
        root: String,
    },
    /// Has another intermediate of the active root sign from now on.
    RenewIntermediate {
        /// The intermediate.
        intermediate: Box<CaIntermediate>,
        /// The one that it replaces; refused if another one is active.
        replaces: String,
    },
    /// Takes a replaced root out of the bundle, once nothing under it is valid any more.
    Retire {
        /// The root.
        root: String,
    },
    /// Takes a root out of the bundle at once, and has everything under it refused and cut.
    Distrust {
        /// The root.
        root: String,
    },
    /// Sets how long certificates live.
    Configure {
        /// The settings.
        config: CaConfig,
        /// Only if they were last changed at this index.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        compare: Option<CatalogIndex>,
    },
    /// Replaces sealed secrets by the same ones sealed with another cluster key.
    Reseal {
        /// The secrets.
        secrets: Vec<Resealed>,
    },
}
