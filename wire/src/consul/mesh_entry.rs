//! The `mesh` config entry.

use std::collections::BTreeSet;

use ::catalog::{Action, CatalogIndex, Guardrail, MeshEntry, ServicePattern, SourcePattern};
use serde::{Deserialize, Serialize};

use super::default_partition;
use crate::decode::{DecodeError, Fields, Shape};

/// The kind and the name of the one entry.
const MESH: &str = "mesh";

/// Writes or shows the `mesh` config entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct MeshConfigEntry {
    /// Always `mesh`.
    pub kind: String,
    /// Always `mesh`.
    pub name: String,
    /// What happens where no intention matches.
    pub default_intention_policy: Action,
    /// Denies that no intention overrides.
    pub guardrails: Vec<GuardrailEntry>,
    /// The index at which it was first written.
    pub create_index: CatalogIndex,
    /// The index of the last change.
    pub modify_index: CatalogIndex,
}

/// Writes or shows a guardrail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct GuardrailEntry {
    /// The name that explanations use.
    pub name: String,
    /// Who must not call.
    pub source: SourcePattern,
    /// Who must not be called.
    pub destination: ServicePattern,
}

impl Shape for MeshConfigEntry {
    fn read(fields: &mut Fields) -> Result<Self, DecodeError> {
        // The kind decides what everything else means, so it comes first.
        let kind: String = fields.required("Kind")?;
        if kind != MESH {
            let reason = format!(
                "weft carries out no entries of kind `{}` yet; the one there is is `mesh`",
                kind.escape_debug()
            );
            return Err(fields.refuse("Kind", reason));
        }
        match fields.text("Name")?.as_str() {
            "" | MESH => {}
            _ => return Err(fields.refuse("Name", "the one entry of kind `mesh` is named `mesh`; leave it out")),
        }
        default_partition(fields, "Partition")?;
        let entry = Self {
            kind,
            name: MESH.to_owned(),
            default_intention_policy: fields.parsed("DefaultIntentionPolicy")?.unwrap_or(Action::Deny),
            guardrails: fields.objects("Guardrails", |guardrail| {
                Ok(GuardrailEntry {
                    name: guardrail.required("Name")?,
                    source: guardrail.required("Source")?,
                    destination: guardrail.required("Destination")?,
                })
            })?,
            create_index: CatalogIndex::default(),
            modify_index: CatalogIndex::default(),
        };
        fields.ignored(&["CreateIndex", "ModifyIndex", "Hash"]);
        fields.unsupported(&[
            "TransparentProxy",
            "AllowEnablingPermissiveMutualTLS",
            "TLS",
            "HTTP",
            "Peering",
            "ValidateClusters",
            "Meta",
            "Namespace",
        ])?;
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
            create_index: entry.created,
            modify_index: entry.modified,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::{Format, from_json, from_value};

    #[track_caller]
    fn refused(body: &str, want: &str) {
        let entry = from_json::<MeshConfigEntry>(body.as_bytes()).and_then(MeshConfigEntry::into_entry);
        let error = entry.unwrap_err().to_string();
        assert!(error.contains(want), "{error}");
    }

    #[test]
    fn an_entry_is_read_from_hcl_and_shown_again() {
        let text = br#"
            kind = "mesh"
            default_intention_policy = "allow"
            guardrails = [{ name = "no-legacy", source = "legacy/*", destination = "*/*" }]
        "#;
        let entry: MeshConfigEntry = from_value(Format::Hcl.read(text).unwrap(), "").unwrap();
        let kept = entry.clone().into_entry().unwrap();
        assert_eq!((kept.default_action, kept.guardrails.len()), (Action::Allow, 1));
        assert_eq!(MeshConfigEntry::from(&kept), entry);
        let again = serde_json::to_vec(&entry).unwrap();
        assert_eq!(from_json::<MeshConfigEntry>(&again).unwrap(), entry);
    }

    #[test]
    fn a_kind_that_nothing_carries_out_is_refused_by_name() {
        refused(
            r#"{"Kind": "service-router", "Name": "web", "Routes": []}"#,
            "`Kind`: weft carries out no entries of kind",
        );
        refused(
            r#"{"Kind": "mesh", "TransparentProxy": {"MeshDestinationsOnly": true}}"#,
            "`TransparentProxy.MeshDestinationsOnly` is not supported",
        );
        refused(r#"{"Kind": "mesh", "Name": "other"}"#, "`Name`");
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
