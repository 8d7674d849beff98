//! Changes of what is registered locally, one after the other: each is on disk before it is in force and before whoever asked
//! is told, and the core goes on with everything else meanwhile.

use std::collections::VecDeque;
use std::path::PathBuf;

use tokio::sync::oneshot;

use super::{Core, Event};
use crate::local::{Content, Local, LocalError, read_files};

pub(super) type Reply = oneshot::Sender<Result<(), LocalError>>;

type Files = Vec<(PathBuf, Content)>;

/// Decides what is registered after a change, or refuses it.
type Change = Box<dyn FnOnce(&mut Local) -> Result<(), LocalError> + Send>;

/// Is a change that waits for its turn. There are no more of them than connections to the local API, each of which waits for
/// its answer.
enum Waiting {
    Change(Change, Reply),
    /// The files of definitions are read first.
    Reload(Reply),
}

/// Says how a step off the core's task ended.
#[derive(Debug)]
pub(super) enum Done {
    /// The files of definitions were read.
    Read(Result<Files, LocalError>),
    /// The change was written to disk.
    Kept(Result<(), LocalError>),
}

/// What is being waited for.
enum UnderWay {
    Reading(Reply),
    Keeping(Box<Local>, Reply),
}

/// Holds the change that is being made, and those behind it.
#[derive(Default)]
pub(super) struct Registering {
    waiting: VecDeque<Waiting>,
    under_way: Option<UnderWay>,
}

impl Core {
    /// Changes what is registered, keeps it, and only then says that it is done.
    pub(super) fn alter(
        &mut self,
        reply: Reply,
        change: impl FnOnce(&mut Local) -> Result<(), LocalError> + Send + 'static,
    ) {
        self.registering.waiting.push_back(Waiting::Change(Box::new(change), reply));
        self.register_next();
    }

    /// Takes what the files say now; where that is refused, what they said before stays in force.
    pub(super) fn reload(&mut self, reply: Reply) {
        self.registering.waiting.push_back(Waiting::Reload(reply));
        self.register_next();
    }

    /// Begins with the next change, if none is under way.
    fn register_next(&mut self) {
        while self.registering.under_way.is_none() {
            match self.registering.waiting.pop_front() {
                None => return,
                Some(Waiting::Change(change, reply)) => self.change(change, reply),
                Some(Waiting::Reload(reply)) => {
                    self.registering.under_way = Some(UnderWay::Reading(reply));
                    let sources = self.config.services.clone();
                    self.off_core(move || Done::Read(read_files(&sources)), Done::Read);
                }
            }
        }
    }

    fn change(&mut self, change: Change, reply: Reply) {
        let mut next = self.local.clone();
        if let Err(error) = change(&mut next) {
            // Whoever asked may have gone; there is nobody to tell then.
            let _ = reply.send(Err(error));
            return;
        }
        let (store, agent, registered) = (self.store.clone(), self.identity.record.id.clone(), next.registered());
        self.registering.under_way = Some(UnderWay::Keeping(Box::new(next), reply));
        let keep = move || {
            let kept = store.keep_registered(&agent, &registered);
            Done::Kept(kept.map_err(|source| LocalError::Keep { source: Box::new(source) }))
        };
        self.off_core(keep, |error| Done::Kept(error.map(drop)));
    }

    /// Does what waits for the disk elsewhere; a panic is a failure like any other.
    fn off_core(
        &self,
        work: impl FnOnce() -> Done + Send + 'static,
        failed: impl FnOnce(Result<Files, LocalError>) -> Done + Send + 'static,
    ) {
        let events = self.events.clone();
        tokio::spawn(async move {
            let done = tokio::task::spawn_blocking(work)
                .await
                .unwrap_or_else(|panicked| failed(Err(LocalError::Internal { reason: panicked.to_string() })));
            // The core ends without waiting for its disk.
            let _ = events.send(Event::Registering(done)).await;
        });
    }

    /// Goes on with the change that is under way.
    pub(super) fn registering(&mut self, done: Done) {
        match (self.registering.under_way.take(), done) {
            (Some(UnderWay::Reading(reply)), Done::Read(Ok(definitions))) => {
                tracing::info!(definitions = definitions.len(), "service definitions read again");
                self.change(Box::new(move |local| local.reload_files(definitions)), reply);
            }
            (Some(UnderWay::Reading(reply)), Done::Read(Err(error))) => drop(reply.send(Err(error))),
            (Some(UnderWay::Keeping(next, reply)), Done::Kept(Ok(()))) => {
                self.local = *next;
                // A login meanwhile may have changed what the agent may stand before.
                self.local.entitle(self.identity.record.services.clone());
                self.follow_local();
                // Whoever is told may call at once.
                self.publish();
                let _ = reply.send(Ok(()));
            }
            (Some(UnderWay::Keeping(_, reply)), Done::Kept(Err(error))) => drop(reply.send(Err(error))),
            // Nothing else was asked for.
            (under_way, _) => self.registering.under_way = under_way,
        }
        self.register_next();
    }
}
