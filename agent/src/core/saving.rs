//! Keeping leaves and state on disk, in the background and one write at a time: nobody waits for the disk, and an older
//! state never overtakes a newer one.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use catalog::{AgentId, ServiceKey, Topic};
use tokio::sync::mpsc;
use tracing::error;
use wire::agent_protocol::Subject;

use super::{Core, Event};
use crate::state::{DataDirError, Saved, Store};

/// The files are not written more often.
const PAUSE: Duration = Duration::from_millis(100);
/// They are not tried to be written again sooner after a failure.
const RETRY: Duration = Duration::from_secs(10);

/// What was written to disk at least once, so that a restart without servers would find it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Kept {
    subjects: BTreeSet<Subject>,
    topics: BTreeSet<Topic>,
}

impl Kept {
    /// Whether the leaf of a service is there after a restart.
    pub(crate) fn leaf(&self, service: &ServiceKey) -> bool {
        self.subjects.contains(&Subject::Service(service.clone()))
    }

    /// Whether a topic is there after a restart.
    pub(crate) fn topic(&self, topic: &Topic) -> bool {
        self.topics.contains(topic)
    }
}

#[derive(Debug)]
enum Disk {
    Idle { not_before: Instant },
    Writing(Kept),
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
}

impl Saver {
    pub(super) fn new(store: Store, agent: AgentId) -> Self {
        let disk = Disk::Idle { not_before: Instant::now() };
        Self { store, agent, disk, state_changed: true, leaves_changed: false, kept: Kept::default() }
    }

    /// Notes what an earlier run kept.
    pub(super) fn found<'a>(
        &mut self,
        subjects: impl Iterator<Item = &'a Subject>,
        topics: impl Iterator<Item = &'a Topic>,
    ) {
        self.kept.subjects.extend(subjects.cloned());
        self.kept.topics.extend(topics.cloned());
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
    /// After a failure the agent serves all the same, and is called ready: what is lost is only what a restart would find.
    pub(super) fn written(&mut self, result: Result<(), DataDirError>) {
        let mut pause = PAUSE;
        if let Err(error) = result {
            let error = wire::one_line(&error);
            error!(error, "state and leaves are not kept; a restart without servers would start from older ones");
            (self.state_changed, self.leaves_changed) = (true, true);
            pause = RETRY;
        }
        let idle = Disk::Idle { not_before: Instant::now() + pause };
        if let Disk::Writing(mut written) = std::mem::replace(&mut self.disk, idle) {
            self.kept.subjects.append(&mut written.subjects);
            self.kept.topics.append(&mut written.topics);
        }
    }

    fn write(
        &mut self,
        content: Kept,
        saved: Option<Saved>,
        leaves: Option<Vec<(Subject, crate::leaf::StoredLeaf)>>,
        events: mpsc::Sender<Event>,
    ) {
        self.disk = Disk::Writing(content);
        let (store, agent) = (self.store.clone(), self.agent.clone());
        let write = move || {
            leaves.map_or(Ok(()), |leaves| store.keep_leaves(&agent, &leaves))?;
            saved.map_or(Ok(()), |saved| store.save(&agent, &saved))
        };
        tokio::spawn(async move {
            // A panic while writing is reported by the runtime; the next change tries again.
            let written = tokio::task::spawn_blocking(write).await.unwrap_or(Ok(()));
            // The core ends without waiting for its last write.
            let _ = events.send(Event::Saved(written)).await;
        });
    }
}

impl Core {
    /// Starts to write what changed, if it is time to.
    pub(super) fn save(&mut self) {
        if self.saver.due_in() != Some(Duration::ZERO) {
            return;
        }
        let mut content = Kept::default();
        let saved = std::mem::take(&mut self.saver.state_changed).then(|| {
            content.topics.extend(self.sync.view().keys().cloned());
            Saved {
                servers: self.sync.servers().to_vec(),
                view: self.sync.view().clone(),
                known: self.sync.known(),
                statuses: self.statuses.clone(),
                mesh_port: self.mesh_port,
            }
        });
        let leaves = std::mem::take(&mut self.saver.leaves_changed).then(|| {
            content.subjects.extend(self.leaves.held().keys().cloned());
            let held = self.leaves.held().iter();
            held.map(|(subject, leaf)| (subject.clone(), leaf.stored().clone())).collect()
        });
        self.saver.write(content, saved, leaves, self.events.clone());
    }
}
