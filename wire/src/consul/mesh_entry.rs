//! The `mesh` config entry.

use std::collections::BTreeSet;

use ::catalog::{
    Action, AuditMode, CatalogIndex, Guardrail, KeyExchange, MeshEntry, Namespace, ServicePattern, SourcePattern,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::default_partition;
use crate::decode::{DecodeError, Fields};

/// The kind and the name of the one entry.
pub const MESH: &str = "mesh";

/// Writes or shows the `mesh` config entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct MeshConfigEntry {
    /// Always `mesh`.
    pub kind: String,
    /// Always `mesh`.
    pub name: String,
    /// What happens where no intention matches.
    #[schema(value_type = String)]
    pub default_intention_policy: Action,
    /// Denies that no intention overrides.
    pub guardrails: Vec<GuardrailEntry>,
    /// Where denials are only logged and counted.
    #[serde(default, skip_serializing_if = "AuditModeEntry::is_off")]
    #[schema(value_type = Object)]
    pub audit: AuditModeEntry,
    /// The weakest key exchange that agents accept from one another: `classical` or `hybrid`.
    #[schema(value_type = String)]
    pub min_key_exchange: KeyExchange,
    /// What holds of redirected connections.
    #[serde(default, skip_serializing_if = "TransparentProxyEntry::is_default")]
    #[schema(value_type = Object)]
    pub transparent_proxy: TransparentProxyEntry,
    /// Whether services may be made to take callers without identity.
    #[serde(rename = "AllowEnablingPermissiveMutualTLS", default, skip_serializing_if = "std::ops::Not::not")]
    pub allows_permissive: bool,
    /// The namespaces of which no caller is told an instance that can be dialled past its agent.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub refuse_bypassable: BTreeSet<Namespace>,
    /// The index at which it was first written.
    #[schema(value_type = u64)]
    pub create_index: CatalogIndex,
    /// The index of the last change.
    #[schema(value_type = u64)]
    pub modify_index: CatalogIndex,
}

/// Writes or shows what holds of redirected connections.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct TransparentProxyEntry {
    /// Whether they go to services of the mesh only.
    #[serde(default)]
    pub mesh_destinations_only: bool,
}

impl TransparentProxyEntry {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }

    fn read(fields: &mut Fields) -> Result<Self, DecodeError> {
        Ok(Self { mesh_destinations_only: fields.flag("MeshDestinationsOnly")?.unwrap_or(false) })
    }
}

/// Writes or shows a guardrail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct GuardrailEntry {
    /// The name that explanations use.
    pub name: String,
    /// Who must not call.
    #[schema(value_type = String)]
    pub source: SourcePattern,
    /// Who must not be called.
    #[schema(value_type = String)]
    pub destination: ServicePattern,
}

/// Writes or shows where denials are only logged and counted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct AuditModeEntry {
    /// Toward every destination.
    #[serde(default)]
    pub mesh: bool,
    /// Toward the services of these namespaces.
    #[serde(default)]
    pub namespaces: BTreeSet<Namespace>,
}

impl AuditModeEntry {
    fn is_off(&self) -> bool {
        !self.mesh && self.namespaces.is_empty()
    }

    fn read(fields: &mut Fields) -> Result<Self, DecodeError> {
        Ok(Self {
            mesh: fields.flag("Mesh")?.unwrap_or(false),
            namespaces: fields.parsed_list("Namespaces")?.into_iter().collect(),
        })
    }
}

impl MeshConfigEntry {
    /// Reads what follows the kind.
    pub(super) fn read_rest(fields: &mut Fields) -> Result<Self, DecodeError> {
        match fields.text("Name")?.as_str() {
            "" | MESH => {}
            _ => return Err(fields.refuse("Name", "the one entry of kind `mesh` is named `mesh`; leave it out")),
        }
        default_partition(fields, "Partition")?;
        let entry = Self {
            kind: MESH.to_owned(),
            name: MESH.to_owned(),
            default_intention_policy: fields.parsed("DefaultIntentionPolicy")?.unwrap_or(Action::Deny),
            guardrails: fields.objects("Guardrails", |guardrail| {
                Ok(GuardrailEntry {
                    name: guardrail.required("Name")?,
                    source: guardrail.required("Source")?,
                    destination: guardrail.required("Destination")?,
                })
            })?,
            audit: fields.object("Audit", AuditModeEntry::read)?.unwrap_or_default(),
            min_key_exchange: fields.parsed("MinKeyExchange")?.unwrap_or_default(),
            transparent_proxy: fields.object("TransparentProxy", TransparentProxyEntry::read)?.unwrap_or_default(),
            allows_permissive: fields.flag("AllowEnablingPermissiveMutualTLS")?.unwrap_or(false),
            refuse_bypassable: fields.parsed_list("RefuseBypassable")?.into_iter().collect(),
            create_index: CatalogIndex::default(),
            modify_index: CatalogIndex::default(),
        };
        fields.ignored(&["CreateIndex", "ModifyIndex", "Hash"]);
        fields.unsupported(&["TLS", "HTTP", "Peering", "ValidateClusters", "Meta", "Namespace"])?;
        Ok(entry)
    }
}

impl MeshConfigEntry {
    /// Returns the entry as the catalog keeps it.
    ///
    /// # Errors
    ///
    /// [`DecodeError::Value`] if two guardrails have one name, for then an explanation would not tell them apart.
    pub fn into_entry(self) -> Result<MeshEntry, DecodeError> {
        let mut names = BTreeSet::new();
        if let Some(twice) = self.guardrails.iter().find(|guardrail| !names.insert(&guardrail.name)) {
            let reason = format!("the name `{}` stands twice; give each guardrail its own", twice.name.escape_debug());
            return Err(DecodeError::Value { path: "Guardrails".to_owned(), reason });
        }
        let guardrail = |entry: GuardrailEntry| Guardrail {
            name: entry.name,
            source: entry.source,
            destination: entry.destination,
        };
        Ok(MeshEntry {
            default_action: self.default_intention_policy,
            guardrails: self.guardrails.into_iter().map(guardrail).collect(),
            audit: AuditMode { mesh: self.audit.mesh, namespaces: self.audit.namespaces },
            min_key_exchange: self.min_key_exchange,
            mesh_destinations_only: self.transparent_proxy.mesh_destinations_only,
            allows_permissive: self.allows_permissive,
            refuses_bypassable: self.refuse_bypassable,
            created: CatalogIndex::default(),
            modified: CatalogIndex::default(),
        })
    }
}

impl From<&MeshEntry> for MeshConfigEntry {
    fn from(entry: &MeshEntry) -> Self {
        let guardrail = |guardrail: &Guardrail| GuardrailEntry {
            name: guardrail.name.clone(),
            source: guardrail.source.clone(),
            destination: guardrail.destination.clone(),
        };
        Self {
            kind: MESH.to_owned(),
            name: MESH.to_owned(),
            default_intention_policy: entry.default_action,
            guardrails: entry.guardrails.iter().map(guardrail).collect(),
            audit: AuditModeEntry { mesh: entry.audit.mesh, namespaces: entry.audit.namespaces.clone() },
            min_key_exchange: entry.min_key_exchange,
            transparent_proxy: TransparentProxyEntry { mesh_destinations_only: entry.mesh_destinations_only },
            allows_permissive: entry.allows_permissive,
            refuse_bypassable: entry.refuses_bypassable.clone(),
            create_index: entry.created,
            modify_index: entry.modified,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::ConfigEntry;
    use super::*;
    use crate::decode::{Format, from_json, from_value};

    fn mesh(entry: Result<ConfigEntry, DecodeError>) -> Result<MeshConfigEntry, DecodeError> {
        entry.map(|entry| match entry {
            ConfigEntry::Mesh(entry) => entry,
            other => panic!("{other:?}"),
        })
    }

    #[track_caller]
    fn refused(body: &str, want: &str) {
        let error = mesh(from_json(body.as_bytes())).and_then(MeshConfigEntry::into_entry).unwrap_err().to_string();
        assert!(error.contains(want), "{error}");
    }

    #[test]
    fn an_entry_is_read_from_hcl_and_shown_again() {
        let text = br#"
            kind = "mesh"
            default_intention_policy = "allow"
            guardrails = [{ name = "no-legacy", source = "legacy/*", destination = "*/*" }]
            audit { namespaces = ["shop"] }
            min_key_exchange = "hybrid"
            transparent_proxy { mesh_destinations_only = true }
            refuse_bypassable = ["shop"]
            allow_enabling_permissive_mutual_tls = true
        "#;
        let entry = mesh(from_value(Format::Hcl.read(text).unwrap(), "")).unwrap();
        let kept = entry.clone().into_entry().unwrap();
        assert_eq!((kept.default_action, kept.guardrails.len()), (Action::Allow, 1));
        assert_eq!(MeshConfigEntry::from(&kept), entry);
        let again = serde_json::to_vec(&entry).unwrap();
        assert_eq!(mesh(from_json(&again)).unwrap(), entry);
        assert_eq!(kept.min_key_exchange, KeyExchange::Hybrid);
        assert!(kept.mesh_destinations_only && kept.allows_permissive);
        assert!(kept.refuses_bypassable.contains(&"shop".parse().unwrap()));
        assert!(kept.audit.namespaces.contains(&"shop".parse().unwrap()) && !kept.audit.mesh);
    }

    #[test]
    fn a_kind_that_nothing_carries_out_is_refused_by_name() {
        refused(
            r#"{"Kind": "ingress-gateway", "Name": "web", "Listeners": []}"#,
            "`Kind`: weft carries out no entries of kind",
        );
        refused(
            r#"{"Kind": "mesh", "TLS": {"Incoming": {"TLSMinVersion": "TLSv1_2"}}}"#,
            "`TLS.Incoming.TLSMinVersion` is not supported",
        );
        refused(r#"{"Kind": "mesh", "Name": "other"}"#, "`Name`");
        refused(r#"{"Kind": "mesh", "MinKeyExchange": "quantum"}"#, "use `classical` or `hybrid`");
        refused(
            r#"{"Kind": "mesh", "Guardrails": [{"Name": "a", "Source": "*/web", "Destination": "*"}]}"#,
            "`Guardrails[0].Source`",
        );
        refused(
            r#"{"Kind": "mesh", "Guardrails": [{"Name": "a", "Source": "*", "Destination": "*"},
            {"Name": "a", "Source": "*", "Destination": "*"}]}"#,
            "stands twice",
        );
    }
}
