//! Keeping leaves and state on disk, in the background and one write at a time: nobody waits for the disk, and an older
//! state never overtakes a newer one.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use catalog::{AgentId, ServiceKey, Topic};
use tokio::sync::mpsc;
use tracing::{error, warn};
use wire::agent_protocol::Subject;

use super::restraint::rules;
use super::{Core, Event};
use crate::leaf::StoredLeaf;
use crate::state::{DataDirError, Saved, Store};
use crate::sync::View;

/// The files are not written more often.
const PAUSE: Duration = Duration::from_millis(100);
/// They are not tried to be written again sooner after a failure.
const RETRY: Duration = Duration::from_secs(2);

/// What is on disk, so that a restart without servers would find it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Kept {
    subjects: BTreeSet<Subject>,
    view: View,
    restraint: View,
    /// The version of what may be registered.
    known: u64,
}

impl Kept {
    /// Whether the leaf of a service is there after a restart.
    pub(crate) fn leaf(&self, service: &ServiceKey) -> bool {
        self.subjects.contains(&Subject::Service(service.clone()))
    }

    /// Whether a topic is there after a restart.
    pub(crate) fn topic(&self, topic: &Topic) -> bool {
        self.view.contains_key(topic)
    }
}

#[derive(Debug)]
enum Disk {
    Idle { not_before: Instant },
    Writing(Kept),
}

/// How a write ended, for each file that was to be written.
#[derive(Debug)]
pub(super) struct Written {
    state: Option<Result<(), StateFailed>>,
    leaves: Option<Result<(), String>>,
}

/// Why the state was not written.
#[derive(Debug)]
struct StateFailed {
    error: String,
    /// The older state allowed or knew something else and was taken away.
    is_removed: bool,
}

/// Knows what is to be written and what was.
#[derive(Debug)]
pub(super) struct Saver {
    store: Store,
    agent: AgentId,
    disk: Disk,
    state_changed: bool,
    leaves_changed: bool,
    kept: Kept,
    /// Why the newest state is not on disk.
    state_failed: Option<String>,
    /// Why the newest leaves are not on disk.
    leaves_failed: Option<String>,
}

impl Saver {
    pub(super) fn new(store: Store, agent: AgentId) -> Self {
        Self {
            store,
            agent,
            disk: Disk::Idle { not_before: Instant::now() },
            state_changed: true,
            leaves_changed: false,
            kept: Kept::default(),
            state_failed: None,
            leaves_failed: None,
        }
    }

    /// Goes on for another record: what is on disk is of the one before.
    pub(super) fn is_now(&mut self, agent: AgentId) {
        self.agent = agent;
        self.state_changed = true;
        self.leaves_changed = true;
    }

    /// Notes what an earlier run kept.
    pub(super) fn found<'a>(&mut self, subjects: impl Iterator<Item = &'a Subject>, saved: Option<&Saved>) {
        let (view, restraint) = saved.map(|saved| (saved.view.clone(), saved.restraint.clone())).unwrap_or_default();
        self.kept = Kept { subjects: subjects.cloned().collect(), view, restraint, known: 0 };
    }

    pub(super) fn state_changed(&mut self) {
        self.state_changed = true;
    }

    pub(super) fn leaves_changed(&mut self) {
        self.leaves_changed = true;
    }

    pub(super) fn kept(&self) -> &Kept {
        &self.kept
    }

    /// Whether the last state could not be written.
    pub(super) fn is_state_unsaved(&self) -> bool {
        self.state_failed.is_some()
    }

    /// Returns what could not be written and why, one line each.
    pub(super) fn unsaved(&self) -> Vec<String> {
        let state = self.state_failed.iter().map(|error| format!("the last good state cannot be saved: {error}"));
        let leaves = self.leaves_failed.iter().map(|error| format!("leaves cannot be saved: {error}"));
        state.chain(leaves).collect()
    }

    /// Returns how long to wait until the next write; nothing when there is none to make.
    pub(super) fn due_in(&self) -> Option<Duration> {
        match &self.disk {
            Disk::Idle { not_before } if self.state_changed || self.leaves_changed => {
                Some(not_before.saturating_duration_since(Instant::now()))
            }
            Disk::Idle { .. } | Disk::Writing(_) => None,
        }
    }

    /// Takes the news that the write under way has ended.
    ///
    /// Returns the version of what may be registered that is on disk now, where the state was written.
    ///
    /// After a failure the agent serves on, but is not ready: a restart would find less than it should, or nothing.
    pub(super) fn written(&mut self, written: Written) -> Option<u64> {
        let disk = std::mem::replace(&mut self.disk, Disk::Idle { not_before: Instant::now() });
        let Disk::Writing(content) = disk else { return None };
        let mut pause = PAUSE;
        let mut saved = None;
        match written.state {
            Some(Ok(())) => {
                (self.kept.view, self.kept.restraint) = (content.view, content.restraint);
                self.kept.known = content.known;
                saved = Some(content.known);
                self.state_failed = None;
            }
            Some(Err(failed)) => {
                if failed.is_removed {
                    self.kept.view.clear();
                    self.kept.restraint.clear();
                }
                self.state_changed = true;
                pause = RETRY;
                self.state_failed = Some(failed.error);
            }
            None => {}
        }
        match written.leaves {
            Some(Ok(())) => {
                self.kept.subjects = content.subjects;
                self.leaves_failed = None;
            }
            Some(Err(error)) => {
                self.leaves_changed = true;
                pause = RETRY;
                self.leaves_failed = Some(error);
            }
            None => {}
        }
        self.disk = Disk::Idle { not_before: Instant::now() + pause };
        saved
    }

    fn write(
        &mut self,
        content: Kept,
        saved: Option<Saved>,
        leaves: Option<Vec<(Subject, StoredLeaf)>>,
        events: mpsc::Sender<Event>,
    ) {
        let is_same = |one: &View, other: &View| rules(one) == rules(other);
        let rules_differ =
            !is_same(&self.kept.view, &content.view) || !is_same(&self.kept.restraint, &content.restraint);
        self.disk = Disk::Writing(content);
        let (store, agent) = (self.store.clone(), self.agent.clone());
        tokio::spawn(async move {
            let mut written = Written { state: None, leaves: None };
            // The state first: an old one allows what was forbidden since, an old leaf is only asked for again.
            if let Some(saved) = saved {
                let (at, of) = (store.clone(), agent.clone());
                written.state = Some(match off_thread(move || at.save(&of, &saved)).await {
                    Ok(()) => Ok(()),
                    Err(error) => Err(StateFailed::new(&store, error, rules_differ).await),
                });
            }
            if let Some(leaves) = leaves {
                let result = off_thread(move || store.keep_leaves(&agent, &leaves)).await;
                if let Err(error) = &result {
                    error!(error, "leaves not saved; a restart without servers would start from older ones");
                }
                written.leaves = Some(result);
            }
            // The core ends without waiting for its last write.
            let _ = events.send(Event::Saved(written)).await;
        });
    }
}

impl StateFailed {
    /// Takes the older state away if what is allowed is something else by now: a restart then refuses until a server
    /// says what holds, instead of allowing what was forbidden since. To unlink a file works on a full disk too.
    async fn new(store: &Store, error: String, rules_differ: bool) -> Self {
        if !rules_differ {
            error!(error, "state not saved; a restart without servers would start from an older one");
            return Self { error, is_removed: false };
        }
        error!(error, "state not saved; the older one is removed, and a restart waits for a server");
        let store = store.clone();
        let removed = off_thread(move || store.forget_state()).await;
        if let Err(error) = &removed {
            warn!(error, "older state not removed; a restart without servers would allow what it allows");
        }
        Self { error, is_removed: removed.is_ok() }
    }
}

/// Works with the disk where nobody waits for it; a panic is a failure like any other.
async fn off_thread(work: impl FnOnce() -> Result<(), DataDirError> + Send + 'static) -> Result<(), String> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(|error| wire::one_line(&error)),
        Err(panicked) => Err(wire::one_line(&panicked)),
    }
}

impl Core {
    /// Starts to write what changed, if it is time to.
    pub(super) fn save(&mut self) {
        if self.saver.due_in() != Some(Duration::ZERO) {
            return;
        }
        let mut content = self.saver.kept.clone();
        let saved = std::mem::take(&mut self.saver.state_changed).then(|| {
            content.view = self.sync.view().clone();
            content.restraint = self.sync.restraint().clone();
            content.known = self.sync.known_version();
            Saved {
                servers: self.sync.servers().to_vec(),
                group: self.sync.group().cloned(),
                view: self.sync.view().clone(),
                restraint: self.sync.restraint().clone(),
                known: self.sync.known(),
                statuses: self.statuses.clone(),
                mesh_port: self.mesh_port,
                advertised: Some(self.advertise),
                outbound: self.local.given_outbound_ports().clone(),
            }
        });
        let leaves = std::mem::take(&mut self.saver.leaves_changed).then(|| {
            content.subjects = self.leaves.held().keys().cloned().collect();
            let held = self.leaves.held().iter();
            held.map(|(subject, leaf)| (subject.clone(), leaf.stored().clone())).collect()
        });
        self.saver.write(content, saved, leaves, self.events.clone());
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use catalog::CatalogIndex;

    use super::*;
    use crate::sync::TopicState;

    #[tokio::test]
    async fn a_write_that_panics_has_failed() {
        let result = off_thread(|| panic!("no disk")).await;
        assert!(result.unwrap_err().contains("no disk"));
    }

    #[tokio::test]
    async fn leaves_that_cannot_be_written_do_not_keep_the_state_from_it() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("leaves.new")).unwrap();
        let store = Store::open(Some(dir.path())).unwrap();
        let mut saver = Saver::new(store, AgentId::enrolled_at(CatalogIndex(1)));
        let saved = Saved {
            servers: Vec::new(),
            group: None,
            view: View::new(),
            restraint: View::new(),
            known: None,
            statuses: BTreeMap::new(),
            mesh_port: 0,
            advertised: None,
            outbound: BTreeMap::new(),
        };
        let (events, mut inbox) = mpsc::channel(1);
        saver.write(Kept::default(), Some(saved), Some(Vec::new()), events);
        let Some(Event::Saved(written)) = inbox.recv().await else { panic!("no news of the write") };
        assert!(matches!(written.state, Some(Ok(()))) && matches!(written.leaves, Some(Err(_))), "{written:?}");
        assert!(dir.path().join("state.json").exists());
        saver.written(written);
        assert!(saver.unsaved()[0].starts_with("leaves cannot be saved") && !saver.is_state_unsaved());
    }

    #[test]
    fn what_could_not_be_written_is_not_kept_and_is_tried_again() {
        let mut saver = Saver::new(Store::open(None).unwrap(), AgentId::enrolled_at(CatalogIndex(1)));
        let mut content = Kept::default();
        let state = TopicState { index: CatalogIndex(1), items: BTreeMap::new() };
        content.view.insert(Topic::Mesh, Arc::new(state));
        content.subjects.insert(Subject::Agent);
        let failed = || Written {
            state: Some(Err(StateFailed { error: "full".to_owned(), is_removed: true })),
            leaves: Some(Ok(())),
        };
        saver.disk = Disk::Writing(content.clone());
        saver.state_changed = false;
        saver.written(failed());
        assert!(!saver.kept().topic(&Topic::Mesh) && saver.kept().subjects.contains(&Subject::Agent));
        assert_eq!(saver.unsaved(), ["the last good state cannot be saved: full"]);
        assert!(saver.due_in().is_some_and(|wait| wait > PAUSE));
        saver.disk = Disk::Writing(content);
        saver.written(Written { state: Some(Ok(())), leaves: None });
        assert!(saver.kept().topic(&Topic::Mesh) && saver.unsaved().is_empty());
    }
}
