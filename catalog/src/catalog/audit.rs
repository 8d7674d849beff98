//! Writes the audit trail while commands are applied, and reads it.

use std::sync::Arc;

use super::{Catalog, Touched};
use crate::{
    Actor, AuditHead, AuditLine, CatalogIndex, Command, Digest, Envelope, Outcome, RequestId, WatchKey,
    audit::{Content, Description, LineForm, describe},
};

impl Catalog {
    /// Says what the trail is to tell of a command, by the state before it; none where it tells nothing of such.
    pub(super) fn described<'a>(&self, command: &'a Command) -> Option<Description<'a>> {
        Description::of(command, self).filter(|_| self.is_past_first_release())
    }

    /// Adds a line on a command that was carried out or refused, if it is one that the trail is kept for.
    pub(super) fn record(
        &mut self,
        index: CatalogIndex,
        envelope: &Envelope,
        description: Option<Description<'_>>,
        outcome: &Outcome,
        digest: Digest,
        touched: &mut Touched,
    ) {
        let Some(description) = description else { return };
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
        self.add_line(index, &line, digest);
        touched.changed(WatchKey::Audit);
    }

    /// Adds the line that a majority was lost for good, and who went on without it: no command says that.
    pub(super) fn record_recovery(&mut self, index: CatalogIndex, survivor: &str, lost: &[String], digest: Digest) {
        let AuditHead { sequence, hash } = self.audit.head;
        let epoch = self.membership.epoch;
        let summary = format!("epoch {epoch} with server {survivor} alone, without {}", lost.join(", "));
        let line = LineForm {
            sequence: sequence + 1,
            index,
            time: self.clock.to_string(),
            actor: format!("server:{survivor}"),
            source: None,
            request_id: &format!("recover-quorum-{epoch}"),
            kind: "recover-quorum",
            summary: &describe::bounded(summary),
            content: None,
            outcome: "done",
            refusal: None,
            previous: hash,
        };
        self.add_line(index, &line, digest);
        self.changes.insert(WatchKey::Audit, index);
    }

    fn add_line(&mut self, index: CatalogIndex, line: &LineForm<'_>, digest: Digest) {
        let text: Arc<str> = serde_json::to_string(line).expect("a line has only what JSON can hold").into();
        let hash = crate::AuditHash(digest(text.as_bytes()));
        self.audit.push(AuditLine { index, sequence: line.sequence, text, hash }, &line.actor);
    }

    /// Returns the line that tells what was done under a request id, for as long as both are remembered.
    #[must_use]
    pub fn audit_line_of(&self, request_id: &RequestId) -> Option<&AuditLine> {
        let index = self.answers.get(request_id)?.index;
        self.audit.lines(index).next().filter(|line| line.index == index)
    }

    /// Returns what a request was answered, and at which index it was carried out, for as long as that is remembered.
    #[must_use]
    pub fn answer_to(&self, request_id: &RequestId) -> Option<(CatalogIndex, &Outcome)> {
        self.answers.get(request_id).map(|answer| (answer.index, &answer.outcome))
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
