//! Relaxations: audit mode for a limited time.

use std::time::Duration;

use catalog::{AccessorId, CatalogIndex, Namespace, PolicyChange, Relaxation, RelaxedScope, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::decode::{DecodeError, Fields, Shape};
use crate::rfc3339;

/// Asks `PUT /v1/mesh/relaxation` to put a namespace or the mesh into audit mode for a time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct RelaxRequest {
    /// The namespace; none for the whole mesh, which `whole_mesh` has to say.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub namespace: Option<Namespace>,
    /// Whether it is the whole mesh.
    pub whole_mesh: bool,
    /// For how long.
    #[serde(rename = "For", serialize_with = "as_milliseconds")]
    #[schema(value_type = String)]
    pub lasts: Duration,
    /// Why.
    pub reason: String,
}

fn as_milliseconds<S: serde::Serializer>(lasts: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&format!("{}ms", lasts.as_millis()))
}

impl Shape for RelaxRequest {
    fn read(fields: &mut Fields) -> Result<Self, DecodeError> {
        let request = Self {
            namespace: fields.parsed("Namespace")?,
            whole_mesh: fields.flag("WholeMesh")?.unwrap_or(false),
            lasts: fields
                .duration("For")?
                .ok_or_else(|| fields.refuse("For", "it is missing; send a duration of 1s to 24h"))?,
            reason: fields.text("Reason")?,
        };
        if request.namespace.is_some() == request.whole_mesh {
            return Err(fields.refuse("Namespace", "name one namespace, or send WholeMesh as true"));
        }
        Ok(request)
    }
}

impl RelaxRequest {
    /// Returns what is relaxed.
    pub fn scope(&self) -> RelaxedScope {
        self.namespace.clone().map_or(RelaxedScope::Mesh, RelaxedScope::Namespace)
    }

    /// Returns the change that is asked for.
    pub fn into_change(self) -> PolicyChange {
        let lasts_ms = u64::try_from(self.lasts.as_millis()).unwrap_or(u64::MAX);
        PolicyChange::Relax { scope: self.scope(), reason: self.reason, lasts_ms }
    }
}

/// Shows a relaxation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct RelaxationView {
    /// The namespace; none for the whole mesh.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub namespace: Option<Namespace>,
    /// Whether it is the whole mesh.
    pub whole_mesh: bool,
    /// Why, in the words of whoever made it.
    pub reason: String,
    /// Whose token made it.
    #[serde(rename = "AccessorID", default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub accessor: Option<AccessorId>,
    /// When it was made.
    #[serde(with = "rfc3339::text")]
    #[schema(value_type = String)]
    pub since: Timestamp,
    /// When it ends.
    #[serde(with = "rfc3339::text")]
    #[schema(value_type = String)]
    pub ends_at: Timestamp,
    /// The index at which it was made.
    #[schema(value_type = u64)]
    pub modify_index: CatalogIndex,
}

impl From<&Relaxation> for RelaxationView {
    fn from(relaxation: &Relaxation) -> Self {
        let namespace = match &relaxation.scope {
            RelaxedScope::Mesh => None,
            RelaxedScope::Namespace(namespace) => Some(namespace.clone()),
        };
        Self {
            whole_mesh: namespace.is_none(),
            namespace,
            reason: relaxation.reason.clone(),
            accessor: relaxation.by.clone(),
            since: relaxation.since,
            ends_at: relaxation.ends_at,
            modify_index: relaxation.modified,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::from_json;

    #[test]
    fn a_relaxation_is_asked_for_as_it_is_sent() {
        let request = RelaxRequest {
            namespace: Some("shop".parse().unwrap()),
            whole_mesh: false,
            lasts: Duration::from_secs(1800),
            reason: "a broken rollout".to_owned(),
        };
        assert_eq!(from_json::<RelaxRequest>(&serde_json::to_vec(&request).unwrap()).unwrap(), request);
        let PolicyChange::Relax { scope, lasts_ms, .. } = request.into_change() else { panic!() };
        assert_eq!((scope.to_string().as_str(), lasts_ms), ("namespace shop", 1_800_000));
    }

    #[test]
    fn the_whole_mesh_is_relaxed_only_by_saying_so() {
        for (body, want) in [
            (r#"{"For": "30m", "Reason": "x"}"#, "`Namespace`: name one namespace"),
            (r#"{"For": "30m", "Namespace": "shop", "WholeMesh": true}"#, "`Namespace`: name one namespace"),
            (r#"{"WholeMesh": true}"#, "`For`: it is missing"),
            (r#"{"WholeMesh": true, "For": "tomorrow"}"#, "`For`"),
            (r#"{"WholeMesh": true, "For": "30m", "Until": "x"}"#, "unknown field `Until`"),
        ] {
            let error = from_json::<RelaxRequest>(body.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(want), "{error}");
        }
        assert_eq!(
            from_json::<RelaxRequest>(br#"{"WholeMesh": true, "For": "30m", "Reason": "x"}"#).unwrap().scope(),
            RelaxedScope::Mesh
        );
    }
}
