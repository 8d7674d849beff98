//! Which cluster key seals the mesh's secrets, and sealing them anew with the first one that a server is given.

use std::sync::Arc;
use std::time::Duration;

use ::catalog::{CaChange, Catalog, Member, MemberRole, Membership, Refusal, ServerId, WatchKey};
use axum::response::Response;
use http::Method;
use tokio::time::Instant;
use wire::api_types::RekeyView;

use super::auth::Right;
use super::call::Call;
use super::error::ApiError;
use super::route::{Route, route};
use crate::ca;

/// With it, secrets are sealed anew although a server may not have the key.
const FORCE: &str = "force";
/// How long a server may take to say so that was started just now.
const SAID_WITHIN: Duration = Duration::from_secs(10);

pub(super) fn routes() -> Vec<Route> {
    vec![
        route(Method::GET, "/v1/operator/rekey", Right::OperatorRead, show).answers("RekeyView"),
        route(Method::PUT, "/v1/operator/rekey", Right::OperatorWrite, rekey).reads(&["force"]).answers("RekeyView"),
    ]
}

/// Answers with how many secrets each cluster key seals.
async fn show(call: Call) -> Result<Response, ApiError> {
    let reading = call.read(vec![WatchKey::Roots]).await?;
    let view = call.view(&reading.catalog);
    call.answer(&reading, &view)
}

/// Seals all secrets with this server's first key. Done twice it changes nothing the second time. A server that has not said
/// that it has the key could sign nothing any more: it is named, and nothing is sealed, unless `force` is sent.
async fn rekey(call: Call) -> Result<Response, ApiError> {
    call.check_no_body()?;
    let reading = call.read(vec![WatchKey::Roots]).await?;
    let secrets = ca::resealed(call.state.cluster_keys(), &reading.catalog)
        .map_err(|error| ApiError::Internal { reason: error.to_string() })?;
    if !secrets.is_empty() {
        let key = call.state.cluster_keys().primary.key_id();
        if !call.query.flag(FORCE)? {
            call.all_have(&key).await?;
        }
        call.change_ca(CaChange::Reseal { secrets }).await?;
    }
    call.json(&call.view(&call.state.consensus().catalog()))
}

/// Returns a server of the group that has not said that it has a key.
fn without<'a>(membership: &'a Membership, key: &str) -> Option<&'a ServerId> {
    let stays = |member: &&Arc<Member>| member.role != MemberRole::Leaving;
    let lacks = |member: &&Arc<Member>| !member.facts.keys.iter().any(|held| held == key);
    membership.members.values().filter(stays).find(lacks).map(|member| &member.id)
}

impl Call {
    /// Checks that every server has said that it has a key. One that was started just now is given time to say so.
    async fn all_have(&self, key: &str) -> Result<(), ApiError> {
        let (keys, deadline) = ([WatchKey::Members], Instant::now() + SAID_WITHIN);
        let mut catalog = self.state.consensus().catalog();
        while let Some(server) = without(catalog.membership(), key) {
            if Instant::now() >= deadline {
                let problem = format!(
                    "server `{server}` does not say that it has cluster key {key}: start it with that key, as the first or \
                     the previous one, or send `{FORCE}` if it never comes back"
                );
                return Err(Refusal::Membership { problem }.into());
            }
            catalog = self.state.consensus().changed(&keys, catalog.index_of(&keys), deadline).await;
        }
        Ok(())
    }

    fn view(&self, catalog: &Catalog) -> RekeyView {
        let sealing = ca::sealing(self.state.cluster_keys(), catalog);
        RekeyView {
            left: sealing.left(),
            primary: sealing.primary,
            previous: sealing.previous,
            sealed_with: sealing.sealed_with,
        }
    }
}

#[cfg(test)]
mod tests {
    use ::catalog::CatalogIndex;

    use super::*;

    #[test]
    fn a_server_that_has_not_said_that_it_has_the_key_is_named_unless_it_is_leaving() {
        let member = |raft_id: u64, keys: &[&str], role| {
            let facts = ::catalog::MemberFacts {
                raft_address: "10.0.0.1:8301".to_owned(),
                agent_address: "10.0.0.1:8300".to_owned(),
                release: "0.1.0".to_owned(),
                reads: 2,
                keys: keys.iter().map(|key| (*key).to_owned()).collect(),
            };
            let id = format!("s{raft_id}").parse().unwrap();
            let (created, modified) = (CatalogIndex(1), CatalogIndex(1));
            (raft_id, Arc::new(Member { id, raft_id, disk_id: format!("d{raft_id}"), role, facts, created, modified }))
        };
        let group = |members: &[(u64, Arc<Member>)]| Membership {
            members: members.iter().cloned().collect(),
            ..Membership::default()
        };
        let (both, old) = (member(1, &["new", "old"], MemberRole::Voter), member(2, &["old"], MemberRole::Learner));
        let (swapped, silent) = (member(3, &["old", "new"], MemberRole::Voter), member(4, &[], MemberRole::Voter));
        let leaving = member(5, &[], MemberRole::Leaving);
        let name = |members: &[(u64, Arc<Member>)]| without(&group(members), "new").map(ToString::to_string);
        assert_eq!(name(&[both.clone(), swapped.clone(), leaving]), None);
        assert_eq!(name(&[both.clone(), old]).as_deref(), Some("s2"));
        assert_eq!(name(&[both, swapped, silent]).as_deref(), Some("s4"));
    }
}
