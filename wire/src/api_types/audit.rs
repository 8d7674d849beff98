//! The audit trail, as readers of its lines see it.

use catalog::CatalogIndex;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

/// The header that says where the whole trail ends, as `<sequence>:<hash>`.
pub const AUDIT_HEAD_HEADER: &str = "x-weft-audit-head";
/// The header that says after which record the part that servers keep begins, as `<sequence>:<hash>`.
pub const AUDIT_BASE_HEADER: &str = "x-weft-audit-base";

/// Answers `GET /v1/audit`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct AuditTrail {
    /// Where the whole trail ends, as `<sequence>:<hash>`.
    pub head: String,
    /// After which record the part that servers keep begins, in the same form.
    pub base: String,
    /// The records, each as its line has it, and its hash.
    #[schema(value_type = Vec<Object>)]
    pub records: Vec<Value>,
}

/// Is one record of the audit trail, as far as a table needs it.
///
/// Later releases may add fields; what was hashed is the line and not this.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct AuditRecord {
    /// Counts records from 1.
    pub sequence: u64,
    /// The log index of the command.
    pub index: CatalogIndex,
    /// When it was proposed, by the clock of the server that did.
    #[serde(default)]
    pub time: String,
    /// Who asked: `token:<accessor>`, `server:<name>`, `agent:<id>`, `join` or `cluster-key`.
    #[serde(default)]
    pub actor: String,
    /// From which address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// The request.
    #[serde(rename = "RequestID", default)]
    pub request_id: String,
    /// What was asked for.
    #[serde(default)]
    pub kind: String,
    /// What it concerned.
    #[serde(default)]
    pub summary: String,
    /// `done` or `refused`.
    #[serde(default)]
    pub outcome: String,
    /// Why it was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusal: Option<String>,
    /// What stood there, where the servers have forgotten it; such a record says nothing else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forgotten: Option<ForgottenRecords>,
}

/// Names records that the servers have forgotten, up to the one that it stands in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ForgottenRecords {
    /// The first of them.
    pub from: u64,
}
