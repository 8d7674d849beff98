//! Whom this server admitted alone is written down before they are told, several at once where several come at once.

use std::path::PathBuf;

use tokio::sync::watch;
use tracing::{error, info};

use super::journal::{self, Entry, Journal, Work};
use super::{Held, Outage, State};

/// How far the journal is.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Written {
    /// What was noted up to this ticket is on the disk.
    pub(super) up_to: u64,
    /// The disk failed: nothing more is written by this process.
    is_closed: bool,
}

/// Whom a server admits alone cannot be written down, so that nobody more is.
#[derive(Debug, thiserror::Error)]
#[error("this server cannot write down whom it admits without a quorum: use another, and see to its disk")]
pub(crate) struct NotKept;

impl Outage {
    /// Returns what a server holds that begins, with those whom an earlier process of it admitted alone and never told the mesh
    /// of; without a directory nothing is written down.
    pub(crate) fn open(directory: Option<PathBuf>) -> Outage {
        let Some(directory) = directory else { return Outage::default() };
        let outage = Outage { directory: Some(directory.clone()), ..Outage::default() };
        let (held, tidied) = journal::recover(&directory);
        if !held.is_empty() {
            info!(
                agents = held.len(),
                "agents were admitted without a quorum before this server ended; the mesh is asked when it can be"
            );
            let up_to = outage.state().recover(held);
            outage.written.send_modify(|written| written.up_to = up_to);
            outage.pending.notify_one();
        }
        if let Err(error) = tidied {
            outage.close(&error.to_string());
        }
        outage
    }

    fn close(&self, error: &str) {
        error!(error, "cannot write down whom this server admits without a quorum; it admits nobody more");
        self.written.send_modify(|written| written.is_closed = true);
        self.state().unwritten = Vec::new();
    }

    /// Reports whether nothing more can be written down, so that nobody more is let in.
    pub(crate) fn is_closed(&self) -> bool {
        self.written.borrow().is_closed
    }

    /// Notes what is to be written down, where anything is.
    pub(super) fn note(&self, state: &mut State, entry: Entry) {
        if self.directory.is_some() && !self.is_closed() {
            state.unwritten.push(entry);
        }
    }

    /// Waits until it is written down that an agent with this key was admitted, where it was by this server alone.
    ///
    /// # Errors
    /// [`NotKept`] where that cannot be.
    pub(crate) async fn until_kept(&self, key: &catalog::KeyFingerprint) -> Result<(), NotKept> {
        let held = self.state().held.get(key).map(|held| held.ticket);
        let Some(ticket) = held.filter(|_| self.directory.is_some()) else { return Ok(()) };
        let mut written: watch::Receiver<Written> = self.written.subscribe();
        let reached = written.wait_for(|written| written.is_closed || written.up_to >= ticket).await;
        reached.is_ok_and(|written| written.up_to >= ticket).then_some(()).ok_or(NotKept)
    }

    /// Returns what is to be written next, and the ticket that it reaches to; none where nothing is.
    fn next_work(&self, journal: &Journal) -> Option<(Work, u64)> {
        let mut state = self.state();
        let entries = std::mem::take(&mut state.unwritten);
        if entries.is_empty() {
            return None;
        }
        let work = if state.held.is_empty() {
            Work::Clear
        } else if journal.is_long(entries.len()) {
            Work::Rewrite(state.in_order())
        } else {
            Work::Append(entries)
        };
        Some((work, state.tickets))
    }
}

impl State {
    /// Takes in whom an earlier process held, and returns their last ticket.
    fn recover(&mut self, held: Vec<Held>) -> u64 {
        for mut one in held {
            self.tickets += 1;
            (one.ticket, one.is_recovered) = (self.tickets, true);
            self.given.insert(one.record.enrolled);
            self.given.extend(&one.superseded);
            self.held.insert(one.record.key.clone(), one);
        }
        self.tickets
    }

    /// Returns who is held, in the order of their admissions.
    pub(super) fn in_order(&self) -> Vec<Held> {
        let mut held: Vec<Held> = self.held.values().cloned().collect();
        held.sort_by_key(|held| held.ticket);
        held
    }
}

/// Writes down what is to be written down. Never returns.
pub(crate) async fn keep(outage: &Outage) {
    let Some(directory) = outage.directory.clone() else { return std::future::pending().await };
    let mut journal = Journal::new(directory);
    loop {
        outage.unwritten.notified().await;
        while let Some((work, up_to)) = outage.next_work(&journal) {
            let written = tokio::task::spawn_blocking(move || {
                let result = journal.carry_out(work);
                (journal, result)
            });
            let failed = match written.await {
                Ok((back, Ok(()))) => {
                    journal = back;
                    outage.written.send_modify(|written| written.up_to = up_to);
                    continue;
                }
                Ok((_, Err(error))) => error.to_string(),
                Err(error) => error.to_string(),
            };
            // What a disk holds that failed once is not known: what follows is not written there.
            outage.close(&failed);
            return std::future::pending().await;
        }
    }
}
