//! Changing the catalog: one command, wrapped with who asked, carried to the leader.

use std::fmt::Debug;
use std::str::FromStr;

use ::catalog::{
    AccessorId, Actor, Catalog, CatalogIndex, Command, ENVELOPE_VERSION, Envelope, Outcome, Refusal, RequestId,
};
use wire::api_types::AuditRecord;
use wire::crypto;

use super::call::Call;
use super::error::ApiError;
use crate::consensus::{Committed, Role};

impl Call {
    /// Carries out a command in the name of the caller's token, if that may ask for it.
    ///
    /// # Errors
    ///
    /// [`ApiError::PermissionDenied`] where the caller lacks a right that the command needs.
    /// [`ApiError::Refused`] where the command is malformed or the state forbids it: nothing has changed.
    /// [`ApiError::Propose`] where no leader took it, or where nobody knows whether it was carried out.
    pub(super) async fn write(&self, command: Command) -> Result<Committed, ApiError> {
        let accessor = self.caller.accessor().ok_or_else(|| ApiError::Internal {
            reason: format!("the route {} writes but asks for no token", self.path),
        })?;
        self.permit(&command).await?;
        self.write_as(Actor::Token(accessor.clone()), command).await
    }

    /// Checks that the caller may ask for a command, by a state in which no right lives on that was taken away before the
    /// request came: a follower asks the leader first.
    async fn permit(&self, command: &Command) -> Result<(), ApiError> {
        let consensus = self.state.consensus();
        if consensus.status().role != Role::Leader {
            consensus.read_index().await?;
        }
        let catalog = consensus.catalog();
        let authority = self.authority_by(&catalog)?;
        catalog.permits(&authority, command).map_err(|lack| self.denied(lack))
    }

    /// Names something that this request makes. Under a request id it is the same name each time, so that a repeat asks the
    /// very same.
    pub(super) fn new_id<T: FromStr>(&self, kind: &str) -> T
    where
        T::Err: Debug,
    {
        let id = match (&self.request_id, self.caller.accessor()) {
            (Some(request_id), Some(accessor)) => derived_id(kind, accessor, request_id),
            _ => crypto::uuid_v4(),
        };
        id.parse().expect("such ids have a UUID's form")
    }

    /// Returns what an earlier carrying out of this request was answered, by the same caller and under the same request id, and
    /// when: what such a request draws anew each time is not what the first one drew. Who asked is told by the audit trail,
    /// which has a line on whatever is asked for here.
    pub(super) fn answered_earlier<'a>(&self, catalog: &'a Catalog) -> Option<(CatalogIndex, &'a Outcome)> {
        let (request_id, accessor) = (self.request_id.as_ref()?, self.caller.accessor()?);
        let record: AuditRecord = serde_json::from_str(&catalog.audit_line_of(request_id)?.text).ok()?;
        let is_callers = record.actor == format!("token:{accessor}");
        catalog.answer_to(request_id).filter(|(_, outcome)| is_callers && !matches!(outcome, Outcome::Refused(_)))
    }

    /// Carries out a command in the name of `actor`.
    pub(super) async fn write_as(&self, actor: Actor, command: Command) -> Result<Committed, ApiError> {
        self.propose(actor, self.request_id.clone().unwrap_or_else(random_request_id), command).await
    }

    /// Carries out what makes something with a secret. A repeat draws another secret than the first request did: it is told
    /// that the first one's is gone, where `was_made` finds what that made.
    pub(super) async fn write_secret(
        &self,
        command: Command,
        was_made: impl Fn(&Catalog) -> bool,
    ) -> Result<(), ApiError> {
        match self.write(command).await {
            Err(ApiError::Refused(Refusal::RequestIdReused { .. })) if was_made(&self.state.consensus().catalog()) => {
                Err(ApiError::SecretGone)
            }
            result => result.map(drop),
        }
    }

    /// Carries out one of several commands that a request consists of; the caller's request id does not mark it.
    /// Each is permitted anew: a right that is taken away in the middle ends the request.
    pub(super) async fn write_part(&self, command: Command) -> Result<Committed, ApiError> {
        let accessor = self.caller.accessor().ok_or_else(|| ApiError::Internal {
            reason: format!("the route {} writes but asks for no token", self.path),
        })?;
        self.permit(&command).await?;
        self.propose(Actor::Token(accessor.clone()), random_request_id(), command).await
    }

    async fn propose(&self, actor: Actor, request_id: RequestId, command: Command) -> Result<Committed, ApiError> {
        command.validate()?;
        let envelope = Envelope {
            version: ENVELOPE_VERSION,
            request_id,
            actor,
            source_address: self.source.map(|source| source.to_string()),
            proposed_at: crypto::now(),
            command,
        };
        let committed = self.state.consensus().propose(envelope).await?;
        match committed.outcome {
            Outcome::Refused(refusal) => Err(refusal.into()),
            _ => Ok(committed),
        }
    }

    /// Reads `cas`: the index at which the caller last saw what it changes.
    pub(super) fn compare(&self) -> Result<Option<CatalogIndex>, ApiError> {
        self.query.index("cas")
    }
}

/// Names what a caller makes under a request id: another caller's request of that id is another request.
fn derived_id(kind: &str, caller: &AccessorId, request_id: &RequestId) -> String {
    crypto::uuid_of(format!("{kind} {caller} {}", request_id.as_str()).as_bytes())
}

pub(super) fn random_request_id() -> RequestId {
    crypto::uuid_v4().parse().expect("a UUID is a request id: 36 letters, digits and hyphens")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p13_a_name_is_the_callers_own_and_the_same_for_a_repeat() {
        let accessor = |n: u8| format!("00000000-0000-0000-0000-00000000000{n}").parse::<AccessorId>().unwrap();
        let request = |id: &str| id.parse::<RequestId>().unwrap();
        let first = derived_id("policy", &accessor(1), &request("r"));
        assert_eq!(derived_id("policy", &accessor(1), &request("r")), first);
        for other in [
            derived_id("policy", &accessor(2), &request("r")),
            derived_id("role", &accessor(1), &request("r")),
            derived_id("policy", &accessor(1), &request("r2")),
        ] {
            assert_ne!(other, first);
        }
    }
}
