//! `weft connector kubernetes`: takes a cluster's pods and resources into the mesh.
//!
//! The lease in the catalog says which copy works, and fences what another one still writes. The one that works holds a
//! Lease of the cluster, too, so that everybody who looks there sees who it is, and one copy alone writes statuses.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use catalog::{ConnectorProblem, ProblemKind};
use futures_util::StreamExt;
use kube::Client;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tracing::info;

use super::entries::Entries;
use super::lease::{LEASE_PAUSE, LeaseKeeper};
use super::mirror::Mirror;
use super::pods::{Observed, SyncRules, sight};
use super::resources::{ServiceDefaults, ServiceIntentions};
use super::watch::{ENTRY_KINDS, NODE_KINDS, News, listen};
use crate::plan::{Caution, Sight};
use crate::shell::{self, Post, ShellError};

/// How long more news is waited for after the first: a rollout is many.
const SETTLE: Duration = Duration::from_millis(100);
/// How often what resources ask for is held against what the mesh says, whether there is news or not.
const ENTRIES_PAUSE: Duration = Duration::from_secs(30);
/// How soon after it could not be.
const ENTRIES_AGAIN: Duration = Duration::from_secs(3);

/// Says how a cluster is taken in.
#[derive(Clone)]
pub struct Settings {
    /// How to talk to the cluster.
    pub client: Client,
    /// Which of its services count.
    pub rules: SyncRules,
    /// The namespace of the Lease that says which copy works.
    pub lease_namespace: String,
    /// The name of that Lease.
    pub lease_name: String,
    /// Whether custom resources are taken.
    pub with_resources: bool,
    /// How many of one's own config entries may go at once.
    pub caution: Caution,
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settings").field("rules", &self.rules).finish_non_exhaustive()
    }
}

/// Runs the connector of a cluster until `stop` is done. Whoever ends gives the Lease back, so that nobody has to wait for it.
///
/// # Errors
/// [`ShellError`] where it cannot begin. Whatever fails later is tried again, and told as a problem meanwhile.
pub async fn run(config: shell::Config, settings: Settings, stop: impl Future<Output = ()>) -> Result<(), ShellError> {
    let holder = &config.settings.holder;
    let mut lease = LeaseKeeper::new(&settings.client, &settings.lease_namespace, &settings.lease_name, holder);
    let ended = shell::run(config, |post| look(post, &settings, &mut lease), stop).await;
    lease.give_back().await;
    ended
}

/// Looks at a cluster for as long as it is polled; works while this process runs the connector.
async fn look(mut post: Post, settings: &Settings, lease: &mut LeaseKeeper) -> Result<(), std::convert::Infallible> {
    loop {
        post.until_active().await;
        let (leading, leads) = watch::channel(false);
        let mut over = post.clone();
        // The lease is tended beside the work, which may wait for an answer for long.
        let tending = tend(lease, &leading, over.until_inactive());
        let mut work = Work::new(post.clone(), settings.clone(), leads);
        tokio::select! {
            () = tending => {}
            () = work.run() => {}
        }
        // What this copy saw is of no use once another one has worked.
        post.see(Sight::default());
    }
}

/// Competes for the Lease until `over` is done, and gives it back then.
async fn tend(lease: &mut LeaseKeeper, leading: &watch::Sender<bool>, over: impl Future<Output = ()>) {
    let mut ticks = interval(LEASE_PAUSE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tokio::pin!(over);
    loop {
        tokio::select! {
            () = &mut over => break,
            _ = ticks.tick() => {
                let leads = lease.tend().await;
                leading.send_if_modified(|known| std::mem::replace(known, leads) != leads);
            }
        }
    }
    leading.send_replace(false);
    lease.give_back().await;
}

struct Work {
    post: Post,
    settings: Settings,
    leads: watch::Receiver<bool>,
    observed: Observed,
    intentions: Mirror<ServiceIntentions>,
    defaults: Mirror<ServiceDefaults>,
    /// What is not heard of just now, and why.
    deaf: BTreeMap<&'static str, String>,
    entries: Entries,
}

impl Work {
    fn new(post: Post, settings: Settings, leads: watch::Receiver<bool>) -> Self {
        let entries = Entries::new(post.clone(), settings.client.clone(), settings.caution);
        Self {
            post,
            settings,
            leads,
            observed: Observed::default(),
            intentions: Mirror::default(),
            defaults: Mirror::default(),
            deaf: BTreeMap::new(),
            entries,
        }
    }

    async fn run(&mut self) {
        let mut news = listen(&self.settings.client, self.settings.with_resources);
        let (mut act_at, mut entries_at): (Option<Instant>, Instant) = (None, Instant::now());
        let far = Duration::from_secs(3600);
        loop {
            let leads = *self.leads.borrow();
            let act = act_at.unwrap_or_else(|| Instant::now() + far);
            tokio::select! {
                Some(one) = news.next() => {
                    let concerns_entries = matches!(one, News::Intentions(_) | News::Defaults(_));
                    let doubted = self.doubted();
                    let is_news = self.take(one);
                    if self.doubted() > doubted {
                        tracing::warn!("the cluster tells of what is older than it told before: asking for all of it again");
                        news = listen(&self.settings.client, self.settings.with_resources);
                    }
                    if is_news {
                        act_at.get_or_insert(Instant::now() + SETTLE);
                        if concerns_entries {
                            entries_at = entries_at.min(Instant::now() + SETTLE);
                        }
                    }
                }
                Ok(()) = self.leads.changed() => {
                    act_at = Some(Instant::now());
                    entries_at = Instant::now() + SETTLE;
                }
                () = sleep_until(act), if act_at.is_some() => {
                    act_at = None;
                    self.show();
                }
                () = sleep_until(entries_at), if leads && self.settings.with_resources => {
                    let done = self.entries.sync(&self.intentions, &self.defaults).await;
                    entries_at = Instant::now() + if done { ENTRIES_PAUSE } else { ENTRIES_AGAIN };
                    // What could not be written, or was held, is told with the rest.
                    act_at.get_or_insert(Instant::now());
                }
            }
        }
    }

    /// Returns of how many kinds the last list is doubted.
    fn doubted(&self) -> usize {
        let Observed { services, slices, pods, .. } = &self.observed;
        let of_nodes = [services.is_doubted(), slices.is_doubted(), pods.is_doubted()];
        let of_entries = [self.intentions.is_doubted(), self.defaults.is_doubted()];
        of_nodes.into_iter().chain(of_entries).filter(|is_doubted| *is_doubted).count()
    }

    /// Takes one piece of news, and reports whether anything is new.
    fn take(&mut self, news: News) -> bool {
        let (kind, is_news) = match news {
            News::Services(event) => (NODE_KINDS[0], self.observed.services.take(*event)),
            News::Slices(event) => (NODE_KINDS[1], self.observed.slices.take(*event)),
            News::Pods(event) => (NODE_KINDS[2], self.observed.take_pod(*event)),
            News::Intentions(event) => (ENTRY_KINDS[0], self.intentions.take(*event)),
            News::Defaults(event) => (ENTRY_KINDS[1], self.defaults.take(*event)),
            News::Deaf(kind, why) => {
                tracing::warn!(kind, error = why, "a watch broke off; it begins again");
                return self.deaf.insert(kind, why).is_none();
            }
        };
        self.deaf.remove(kind).is_some() || is_news
    }

    /// Says what the cluster looks like.
    fn show(&mut self) {
        let mut seen = sight(&self.observed, &self.settings.rules);
        let degraded = |subject: &str, reason: String| ConnectorProblem {
            kind: ProblemKind::Degraded,
            subject: subject.to_owned(),
            reason,
        };
        seen.problems.extend(self.deaf.iter().map(|(kind, why)| degraded(kind, why.clone())));
        if !*self.leads.borrow() {
            // Whoever holds the Lease may know better; nothing is removed by this copy's word.
            seen.is_complete = false;
            seen.problems.push(degraded(
                "the Lease of the cluster",
                "another copy holds it, or it cannot be written".to_owned(),
            ));
        }
        seen.problems.extend(self.entries.problems());
        info!(nodes = seen.nodes.len(), complete = seen.is_complete, "what the cluster looks like");
        self.post.see(seen);
    }
}

/// Returns the namespaces whose services are the cluster's own matter.
#[must_use]
pub fn own_namespaces() -> BTreeSet<String> {
    ["kube-system", "kube-public", "kube-node-lease"].map(str::to_owned).into()
}
