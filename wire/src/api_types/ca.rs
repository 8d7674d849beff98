//! The certificate authority's rotation, its settings, the ages of certificates and the sealing of secrets.

use std::collections::BTreeMap;
use std::time::Duration;

use catalog::{CaConfig, CatalogIndex, CheckStatus, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::crypto::Secret;
use crate::decode::{DecodeError, Fields, Shape};
use crate::rfc3339;

/// Asks `PUT /v1/connect/ca/rotate` for another root.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct CaRotateRequest {
    /// Whether the present root is distrusted at the end, which cuts whoever still has a leaf under it.
    pub distrust_old: bool,
}

impl Shape for CaRotateRequest {
    fn read(fields: &mut Fields) -> Result<Self, DecodeError> {
        Ok(Self { distrust_old: fields.flag("DistrustOld")?.unwrap_or(false) })
    }
}

/// Gives `PUT /v1/connect/ca/intermediate` an authority of the operator's own. All three are PEM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct CaIntermediateRequest {
    /// The root, whose key stays where it is.
    pub root_cert: String,
    /// The intermediate that it signed.
    pub intermediate_cert: String,
    /// The intermediate's key.
    #[schema(value_type = String)]
    pub private_key: Secret,
}

impl Shape for CaIntermediateRequest {
    fn read(fields: &mut Fields) -> Result<Self, DecodeError> {
        Ok(Self {
            root_cert: fields.required("RootCert")?,
            intermediate_cert: fields.required("IntermediateCert")?,
            private_key: Secret::new(fields.required::<String>("PrivateKey")?),
        })
    }
}

/// Sets, by `PUT /v1/connect/ca/configuration` in Consul's shape, how long certificates live.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaConfigurationRequest {
    /// The settings; what is absent is as each server is told, or by default.
    pub config: CaConfig,
}

fn milliseconds(duration: Option<Duration>) -> Option<u64> {
    duration.map(|duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

impl Shape for CaConfigurationRequest {
    fn read(fields: &mut Fields) -> Result<Self, DecodeError> {
        match fields.text("Provider")?.as_str() {
            "" | "consul" | "weft" => {}
            other => {
                let reason = format!(
                    "weft has no provider `{}`: it signs itself, and `weft ca set-intermediate` gives it an intermediate of yours",
                    other.escape_debug()
                );
                return Err(fields.refuse("Provider", reason));
            }
        }
        let config = fields.object("Config", |config| {
            let read = CaConfig {
                leaf_ttl_ms: milliseconds(config.duration("LeafCertTTL")?),
                intermediate_ttl_ms: milliseconds(config.duration("IntermediateCertTTL")?),
                root_ttl_ms: milliseconds(config.duration("RootCertTTL")?),
                ..CaConfig::default()
            };
            config.unsupported(&["PrivateKey", "RootCert", "CSRMaxPerSecond", "CSRMaxConcurrent", "RotationPeriod"])?;
            Ok(read)
        })?;
        fields.ignored(&["CreateIndex", "ModifyIndex", "State"]);
        fields.unsupported(&["ForceWithoutCrossSigning"])?;
        Ok(Self { config: config.unwrap_or_default() })
    }
}

/// Shows the authority's settings in Consul's shape.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct CaConfigurationView {
    /// Always `consul`: the name that Consul's clients know for an authority that signs itself.
    pub provider: String,
    /// The lives of certificates, as Go writes durations.
    pub config: CaConfigurationLives,
    /// The index at which it was first written; 0 while nobody has.
    #[schema(value_type = u64)]
    pub create_index: CatalogIndex,
    /// The index of the last change.
    #[schema(value_type = u64)]
    pub modify_index: CatalogIndex,
}

/// Shows how long certificates live.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CaConfigurationLives {
    /// The life of a leaf.
    #[serde(rename = "LeafCertTTL")]
    pub leaf: String,
    /// The life of an intermediate.
    #[serde(rename = "IntermediateCertTTL")]
    pub intermediate: String,
    /// The life of a root.
    #[serde(rename = "RootCertTTL")]
    pub root: String,
}

impl CaConfigurationView {
    /// Shows settings, with what holds where nothing is set.
    pub fn new(config: &CaConfig, leaf: Duration, intermediate: Duration, root: Duration) -> Self {
        let go = |duration: Duration| match duration.as_secs() {
            seconds if seconds > 0 && seconds % 3600 == 0 => format!("{}h", seconds / 3600),
            seconds if u128::from(seconds) * 1000 == duration.as_millis() => format!("{seconds}s"),
            _ => format!("{}ms", duration.as_millis()),
        };
        Self {
            provider: "consul".to_owned(),
            config: CaConfigurationLives {
                leaf: go(config.leaf_ttl().unwrap_or(leaf)),
                intermediate: go(config.intermediate_ttl().unwrap_or(intermediate)),
                root: go(config.root_ttl().unwrap_or(root)),
            },
            create_index: config.created,
            modify_index: config.modified,
        }
    }
}

/// Answers `GET /v1/connect/ca/rotation`: how a rotation stands, and whether one would be safe now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct CaRotationView {
    /// The id of the root that signs.
    #[serde(rename = "ActiveRootID")]
    pub active_root: String,
    /// The rotation that is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotation: Option<CaRotationStatus>,
    /// Roots that were replaced and are trusted until the last leaf under them has expired, with when that is.
    pub replaced: Vec<CaReplacedRoot>,
    /// Whether a rotation that began now would go through without an outage.
    pub safe: bool,
    /// Why it would not.
    pub reasons: Vec<String>,
    /// What else is worth knowing before one begins.
    pub notes: Vec<String>,
}

/// Shows the rotation that is under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct CaRotationStatus {
    /// The id of the root that takes over.
    #[serde(rename = "RootID")]
    pub root: String,
    /// The id of the root that it replaces.
    pub replaces: String,
    /// `distributing` until agents trust the new root, then `reissuing` until their leaves are signed anew.
    pub step: String,
    /// Whether the replaced root is distrusted at the end.
    pub distrust_old: bool,
    /// When it began.
    #[serde(with = "rfc3339::text")]
    #[schema(value_type = String)]
    pub started_at: Timestamp,
    /// How many agents are waited for.
    pub waiting_for: usize,
    /// The nodes of some of them.
    pub nodes: Vec<String>,
    /// When nobody is waited for any longer.
    #[serde(with = "rfc3339::text")]
    #[schema(value_type = String)]
    pub goes_on_at: Timestamp,
}

/// Shows a root that was replaced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct CaReplacedRoot {
    /// The root's id.
    #[serde(rename = "ID")]
    pub id: String,
    /// When it leaves the bundle.
    #[serde(with = "rfc3339::text")]
    #[schema(value_type = String)]
    pub retires_at: Timestamp,
}

/// Shows how old a certificate is that the mesh or the answering server uses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
#[schema(as = ServedCertificateAge)]
pub struct CertificateAge {
    /// `root`, `intermediate`, `server` (toward agents), `raft` or `api`.
    pub certificate: String,
    /// When its life began.
    #[serde(with = "rfc3339::text")]
    #[schema(value_type = String)]
    pub begins_at: Timestamp,
    /// When it ends.
    #[serde(with = "rfc3339::text")]
    #[schema(value_type = String)]
    pub ends_at: Timestamp,
    /// How much of its life is left, in hundredths, rounded down.
    pub left_percent: u64,
    /// `passing`, `warning` with less than 33 hundredths left, `critical` with less than 15.
    #[schema(value_type = String)]
    pub status: CheckStatus,
}

/// Answers `GET` and `PUT /v1/operator/rekey`: which cluster key seals the mesh's secrets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct RekeyView {
    /// The name of the first key of the answering server: what it seals with.
    pub primary: String,
    /// The name of its other key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<String>,
    /// How many secrets are sealed with each key, by its name.
    pub sealed_with: BTreeMap<String, usize>,
    /// How many are sealed with another key than the first.
    pub left: usize,
}
