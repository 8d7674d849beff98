//! Who of several copies does the work: a Lease of the cluster says so.
//!
//! Nobody's clock but one's own counts: a lease is over when it has not changed for its whole length since it was seen, and
//! its holder stops a third of that earlier. So two copies never both believe that they lead, whatever their clocks say.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{Api, ObjectMeta, PostParams};
use tokio::time::Instant;
use tracing::{debug, info, warn};

/// How long a lease lasts without being renewed.
const LEASE_LENGTH: Duration = Duration::from_secs(15);
/// How long its holder believes in it.
const BELIEF: Duration = Duration::from_secs(10);
/// How often it is looked at, and renewed.
pub(super) const LEASE_PAUSE: Duration = Duration::from_secs(2);
/// The lengths that are believed of others.
const LENGTHS_S: std::ops::RangeInclusive<i32> = 1..=600;

/// Is what is known of a lease, and decides what to do about it. Times are those of one's own clock, from any beginning.
#[derive(Debug, Clone)]
struct Leadership {
    holder: String,
    /// The version that was seen last, and when it was seen first.
    seen: Option<(String, Duration)>,
    /// When the renewal was sent that succeeded last.
    renewed: Option<Duration>,
}

/// Says what to do about a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
enum LeaseAction {
    /// It is somebody else's.
    Wait,
    /// Make it.
    Create,
    /// Write it, in one's own name, over the version that was seen.
    Take {
        /// Whether somebody else held it.
        is_new: bool,
    },
}

impl Leadership {
    /// Begins without knowing anything; `holder` tells this process from all others.
    fn new(holder: String) -> Self {
        Self { holder, seen: None, renewed: None }
    }

    /// Decides by the lease as it is now.
    fn step(&mut self, lease: Option<&Lease>, now: Duration) -> LeaseAction {
        let Some(lease) = lease else { return LeaseAction::Create };
        let version = lease.metadata.resource_version.clone().unwrap_or_default();
        if self.seen.as_ref().is_none_or(|(seen, _)| *seen != version) {
            self.seen = Some((version, now));
        }
        let spec = lease.spec.clone().unwrap_or_default();
        let holder = spec.holder_identity.unwrap_or_default();
        if holder == self.holder {
            return LeaseAction::Take { is_new: false };
        }
        self.renewed = None;
        let length_s = spec.lease_duration_seconds.unwrap_or_default().clamp(*LENGTHS_S.start(), *LENGTHS_S.end());
        let length = Duration::from_secs(u64::from(length_s.unsigned_abs()));
        let since = self.seen.as_ref().map_or(now, |(_, since)| *since);
        if holder.is_empty() || now.saturating_sub(since) > length {
            LeaseAction::Take { is_new: true }
        } else {
            LeaseAction::Wait
        }
    }

    /// Notes that a write that was sent at `sent` succeeded.
    fn renewed(&mut self, sent: Duration) {
        self.renewed = Some(sent);
    }

    /// Reports whether this process leads at `now`.
    fn leads(&self, now: Duration) -> bool {
        self.renewed.is_some_and(|renewed| now.saturating_sub(renewed) < BELIEF)
    }
}

/// Keeps a lease in a cluster.
pub(super) struct LeaseKeeper {
    leases: Api<Lease>,
    name: String,
    leadership: Leadership,
    begun: Instant,
    /// Whether the lease may be in one's own name: something was sent that would make it so, and nobody else was seen since.
    may_hold: bool,
}

impl std::fmt::Debug for LeaseKeeper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LeaseKeeper").field("name", &self.name).field("leadership", &self.leadership).finish()
    }
}

impl LeaseKeeper {
    /// Gets ready to compete for a lease of a namespace.
    pub(super) fn new(client: &Client, namespace: &str, name: &str, holder: &str) -> Self {
        let leases = Api::namespaced(client.clone(), namespace);
        let leadership = Leadership::new(holder.to_owned());
        Self { leases, name: name.to_owned(), leadership, begun: Instant::now(), may_hold: false }
    }

    /// Reports whether this process leads just now.
    fn leads(&self) -> bool {
        self.leadership.leads(self.begun.elapsed())
    }

    /// Looks at the lease and takes or renews it if that may be; reports whether this process leads. To be called each
    /// [`LEASE_PAUSE`]. Cancel safe.
    pub(super) async fn tend(&mut self) -> bool {
        let (did_lead, sent) = (self.leads(), self.begun.elapsed());
        let tending = tokio::time::timeout(BELIEF / 2, self.look(sent));
        match tending.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!(lease = self.name, error = wire::one_line(&error), "the lease cannot be looked at"),
            Err(_) => warn!(lease = self.name, "the API server does not answer about the lease"),
        }
        let leads = self.leads();
        if leads != did_lead {
            info!(lease = self.name, holder = self.leadership.holder, leads, "the lease changed hands");
        }
        leads
    }

    async fn look(&mut self, sent: Duration) -> Result<(), kube::Error> {
        let held = self.leases.get_opt(&self.name).await?;
        let action = self.leadership.step(held.as_ref(), sent);
        self.may_hold = action != LeaseAction::Wait;
        let written = match (action, held) {
            (LeaseAction::Wait, _) => return Ok(()),
            (LeaseAction::Take { is_new }, Some(held)) => {
                let lease = self.in_own_name(held, is_new);
                self.leases.replace(&self.name, &PostParams::default(), &lease).await
            }
            (_, _) => {
                let metadata = ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() };
                let lease = self.in_own_name(Lease { metadata, ..Lease::default() }, true);
                self.leases.create(&PostParams::default(), &lease).await
            }
        };
        match written {
            Ok(_) => self.leadership.renewed(sent),
            // Somebody else was faster; the next look shows who.
            Err(kube::Error::Api(status)) if status.code == 409 => debug!(lease = self.name, "the lease was changed"),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn in_own_name(&self, mut lease: Lease, is_new: bool) -> Lease {
        let now = Some(MicroTime(Timestamp::now()));
        let before = lease.spec.take().unwrap_or_default();
        lease.spec = Some(LeaseSpec {
            holder_identity: Some(self.leadership.holder.clone()),
            lease_duration_seconds: i32::try_from(LEASE_LENGTH.as_secs()).ok(),
            acquire_time: if is_new { now.clone() } else { before.acquire_time },
            renew_time: now,
            lease_transitions: Some(before.lease_transitions.unwrap_or_default() + i32::from(is_new)),
            ..LeaseSpec::default()
        });
        lease
    }

    /// Gives the lease back, so that the next copy need not wait; where that fails, it waits. Cancel safe: what was begun is
    /// done by the next call.
    pub(super) async fn give_back(&mut self) {
        self.leadership.renewed = None;
        if !self.may_hold {
            return;
        }
        let giving = async {
            let mut lease = self.leases.get(&self.name).await?;
            let spec = lease.spec.get_or_insert_default();
            let is_own = spec.holder_identity.as_deref() == Some(&self.leadership.holder);
            if is_own {
                spec.holder_identity = Some(String::new());
                spec.lease_duration_seconds = Some(1);
                self.leases.replace(&self.name, &PostParams::default(), &lease).await?;
            }
            Ok::<bool, kube::Error>(is_own)
        };
        match tokio::time::timeout(BELIEF / 2, giving).await {
            Ok(Ok(is_own)) => {
                self.may_hold = false;
                if is_own {
                    info!(lease = self.name, "the lease was given back");
                }
            }
            Ok(Err(error)) => {
                warn!(lease = self.name, error = wire::one_line(&error), "the lease cannot be given back")
            }
            Err(_) => warn!(lease = self.name, "the API server does not answer about the lease"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::kubernetes::testing::{ApiServer, Deed, client, on_each};

    fn lease(version: u64, holder: &str) -> Lease {
        let spec = json!({"holderIdentity": holder, "leaseDurationSeconds": 15});
        serde_json::from_value(json!({"metadata": {"resourceVersion": version.to_string()}, "spec": spec})).unwrap()
    }

    proptest! {
        /// Copies look, write and pause as they like, each with a clock of its own.
        #[test]
        fn two_copies_never_lead_at_once(
            steps in proptest::collection::vec((0usize..3, 0u64..4_000, 0u64..9_000), 1..200),
        ) {
            let offsets = [0, 3_600_000, 77];
            let mut copies: Vec<Leadership> = (0..3).map(|number| Leadership::new(format!("c{number}"))).collect();
            let (mut held, mut now): (Option<(u64, usize)>, u64) = (None, 0);
            for (copy, pause, delay) in steps {
                now += pause;
                let own = |now: u64| Duration::from_millis(now + offsets[copy]);
                let seen = held.map(|(version, holder)| lease(version, &format!("c{holder}")));
                let action = copies[copy].step(seen.as_ref(), own(now));
                if action != LeaseAction::Wait {
                    // The write arrives later, and fails if somebody wrote meanwhile; nobody did, for steps are one by one.
                    let sent = own(now);
                    now += delay;
                    held = Some((held.map_or(1, |(version, _)| version + 1), copy));
                    copies[copy].renewed(sent);
                }
                let leaders = copies
                    .iter()
                    .zip(offsets)
                    .filter(|(one, offset)| one.leads(Duration::from_millis(now + offset)))
                    .count();
                prop_assert!(leaders <= 1, "{leaders} lead at {now}");
            }
        }
    }

    #[test]
    fn a_lease_that_stands_still_for_its_length_is_taken_and_one_that_is_empty_at_once() {
        let mut own = Leadership::new("own".to_owned());
        let at = Duration::from_secs;
        assert_eq!(own.step(None, at(0)), LeaseAction::Create);
        assert_eq!(own.step(Some(&lease(1, "other")), at(0)), LeaseAction::Wait);
        assert_eq!(own.step(Some(&lease(2, "other")), at(14)), LeaseAction::Wait, "it was renewed");
        assert_eq!(own.step(Some(&lease(2, "other")), at(29)), LeaseAction::Wait);
        assert_eq!(own.step(Some(&lease(2, "other")), at(30)), LeaseAction::Take { is_new: true });
        assert_eq!(own.step(Some(&lease(3, "")), at(30)), LeaseAction::Take { is_new: true });
        assert!(!own.leads(at(30)));
        own.renewed(at(30));
        assert!(own.leads(at(39)) && !own.leads(at(40)));
        assert_eq!(own.step(Some(&lease(4, "own")), at(31)), LeaseAction::Take { is_new: false });
        assert_eq!(own.step(Some(&lease(5, "other")), at(32)), LeaseAction::Wait);
        assert!(!own.leads(at(32)), "somebody else has it, whatever was believed");
    }

    #[tokio::test]
    async fn one_of_two_copies_leads_and_the_other_follows_when_it_gives_up() {
        on_each(|api| async move {
            let keeper = |holder| LeaseKeeper::new(&api, "default", "weft", holder);
            let (mut first, mut second) = (keeper("first"), keeper("second"));
            assert!(first.tend().await);
            assert!(!second.tend().await);
            assert!(first.tend().await, "it is renewed");
            first.give_back().await;
            assert!(!first.leads());
            assert!(second.tend().await);
            assert!(!first.tend().await);
            let held = Api::<Lease>::namespaced(api, "default").get("weft").await.unwrap().spec.unwrap();
            assert_eq!((held.holder_identity.as_deref(), held.lease_transitions), (Some("second"), Some(2)));
        })
        .await;
    }

    #[tokio::test]
    async fn a_lease_outlives_failures_and_is_given_back_whatever_went_before() {
        let server = ApiServer::start();
        let api = client(server.certificate_config("connector")).await;
        let keeper = |holder| LeaseKeeper::new(&api, "default", "weft", holder);
        let (mut first, mut second) = (keeper("first"), keeper("second"));
        assert!(first.tend().await);
        server.next(1, "PUT", Deed::Answer(500, None));
        assert!(first.tend().await, "one failure is no loss");
        // Whoever ends may have begun to give it back, and been told to end in the middle of that.
        tokio::select! {
            biased;
            () = first.give_back() => panic!("it waits for the API server"),
            () = std::future::ready(()) => {}
        }
        assert!(!first.leads());
        first.give_back().await;
        assert!(second.tend().await);
        assert!(!first.tend().await);
        // What was written without an answer is given back, too.
        second.give_back().await;
        server.next(1, "PUT", Deed::Lose);
        assert!(!first.tend().await, "nobody said that it has it");
        first.give_back().await;
        assert!(second.tend().await);
        let held = server.get("leases.coordination.k8s.io", "default", "weft").unwrap();
        assert_eq!((&held["spec"]["holderIdentity"], &held["spec"]["leaseTransitions"]), (&json!("second"), &json!(4)));
    }
}
