//! Logging in again: an agent whose record is gone, and whose platform vouches for it, gets a new one while it runs.

use std::time::{Duration, Instant};

use tracing::{info, warn};
use wire::agent_protocol::Subject;

use super::{Core, Event};
use crate::enrol::{self, Proof};
use crate::leaf::{HeldLeaf, key_for, named};
use crate::state::Identity;
use crate::sync::Input;

/// After a login that was refused, the next one waits for at least this; the credential may be another one by then.
const PAUSE: Duration = Duration::from_secs(10);
/// And for up to this much more, for many agents may be in the same position.
const SPREAD: Duration = Duration::from_secs(20);

/// Whether a login is under way, and when the next one may be.
#[derive(Debug, Default)]
pub(super) struct Standing {
    is_under_way: bool,
    not_before: Option<Instant>,
}

impl Core {
    /// Logs in, if the agent can and is not doing so already.
    pub(super) fn log_in(&mut self) {
        let Some(login) = self.config.login.clone() else { return };
        if self.login.is_under_way || self.login.not_before.is_some_and(|at| Instant::now() < at) {
            return;
        }
        self.login.is_under_way = true;
        info!(method = %login.method, "the servers have no record of this agent; it logs in again");
        let (config, store, events) = (self.config.clone(), self.store.clone(), self.events.clone());
        let key = key_for(&Subject::Agent, &self.key);
        tokio::spawn(async move {
            let result = match enrol::enrol(&config, Proof::Login(&login), &key).await {
                Ok(identity) => keep(store, identity).await,
                Err(error) => Err(wire::one_line(&error)),
            };
            let _ = events.send(Event::LoggedIn(result)).await;
        });
    }

    /// Goes on as what the servers say the agent is now.
    pub(super) fn logged_in(&mut self, result: Result<Box<Identity>, String>) {
        self.login.is_under_way = false;
        let identity = match result {
            Ok(identity) => *identity,
            Err(error) => {
                warn!(error, "the agent could not log in again; it goes on with what it knows");
                self.login.not_before = Some(Instant::now() + PAUSE + self.jitter.up_to(SPREAD));
                return;
            }
        };
        match HeldLeaf::load(identity.leaf.clone(), &named(&Subject::Agent, &identity)) {
            Ok(leaf) => self.leaves.signed(&Subject::Agent, leaf, wire::crypto::now()),
            Err(error) => {
                warn!(error = wire::one_line(&error), "the certificate of a login cannot be used");
                return;
            }
        }
        info!(agent = %identity.record.id, "agent logged in again");
        if identity.record.id != self.identity.record.id {
            // The serials of the leaves it holds name the old record, and what is registered belongs to that.
            self.leaves.renew_all();
            self.step(Input::Readmitted);
        }
        self.local.entitle(identity.record.services.clone());
        self.saver.is_now(identity.record.id.clone());
        self.identity = identity;
        self.follow_local();
        self.changed = true;
        self.reconnect();
    }
}

/// Keeps a new identity before it is used, off the core's task.
async fn keep(store: crate::state::Store, identity: Identity) -> Result<Box<Identity>, String> {
    let kept = identity.clone();
    match tokio::task::spawn_blocking(move || store.keep_identity(&kept)).await {
        Ok(Ok(())) => Ok(Box::new(identity)),
        Ok(Err(error)) => Err(wire::one_line(&error)),
        Err(panicked) => Err(panicked.to_string()),
    }
}
