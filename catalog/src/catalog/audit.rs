//! Writes the audit trail while commands are applied, and reads it.

use std::sync::Arc;

use super::{Catalog, Touched};
use crate::{
    Actor, AuditHead, AuditLine, CatalogIndex, Digest, Envelope, Outcome, WatchKey,
    audit::{Content, Description, LineForm, describe},
};

impl Catalog {
    /// Adds a line on a command that was carried out or refused, if it is one that the trail is kept for.
    pub(super) fn record(
        &mut self,
        index: CatalogIndex,
        envelope: &Envelope,
        outcome: &Outcome,
        digest: Digest,
        touched: &mut Touched,
    ) {
        if !self.is_past_first_release() {
            return;
        }
        let Some(description) = Description::of(&envelope.command) else { return };
        let refusal = describe::refusal(outcome);
        if refusal.is_some() && matches!(envelope.actor, Actor::Join | Actor::Login(_)) {
            // Whoever can reach a server can have this; they must not be able to push other lines out.
            return;
        }
        let AuditHead { sequence, hash } = self.audit.head;
        let line = LineForm {
            sequence: sequence + 1,
            index,
            time: envelope.proposed_at.to_string(),
            actor: describe::actor(&envelope.actor),
            source: envelope.source_address.as_deref(),
            request_id: envelope.request_id.as_str(),
            kind: description.kind,
            summary: &description.summary,
            content: description.content.as_ref().filter(|content| Content::fits(content)),
            outcome: if refusal.is_some() { "refused" } else { "done" },
            refusal,
            previous: hash,
        };
        let text: Arc<str> = serde_json::to_string(&line).expect("a line has only what JSON can hold").into();
        let hash = crate::AuditHash(digest(text.as_bytes()));
        let line = AuditLine { index, sequence: sequence + 1, text, hash };
        self.audit.push(line, &describe::actor(&envelope.actor));
        touched.changed(WatchKey::Audit);
    }

    /// Returns the end of the audit trail.
    #[must_use]
    pub fn audit_head(&self) -> AuditHead {
        self.audit.head
    }

    /// Returns the end of what the audit trail has forgotten: lines up to it live in exports only.
    #[must_use]
    pub fn audit_base(&self) -> AuditHead {
        self.audit.base
    }

    /// Returns the kept lines of the audit trail from log index `from` on, oldest first.
    pub fn audit_lines(&self, from: CatalogIndex) -> impl Iterator<Item = &AuditLine> {
        self.audit.lines(from)
    }

    /// Returns how many lines of the audit trail were ever forgotten.
    #[must_use]
    pub fn audit_forgotten(&self) -> u64 {
        self.audit.forgotten()
    }
}
