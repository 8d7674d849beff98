//! One topic's view, shared by everybody who follows it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use catalog::{Catalog, CatalogIndex, Event, Item, Topic, WatchKey};
use wire::agent_protocol::ServerFrame;

use super::SessionId;

/// One frame for agents, encoded once however many receive it.
#[derive(Debug)]
pub struct Frame {
    content: ServerFrame,
    encoded: Bytes,
}

/// A frame would be larger than the wire allows.
#[derive(Debug, thiserror::Error)]
#[error("the frame does not fit into the largest one that agents accept")]
pub(crate) struct FrameTooLarge;

impl Frame {
    /// Encodes `content`.
    pub(crate) fn new(content: ServerFrame) -> Result<Frame, FrameTooLarge> {
        let encoded = wire::frame::encode_frame(&content).map_err(|_| FrameTooLarge)?;
        Ok(Frame { content, encoded })
    }

    /// Returns what the frame says.
    pub fn content(&self) -> &ServerFrame {
        &self.content
    }

    /// Returns the frame as it goes over the wire, length first.
    pub fn encoded(&self) -> &Bytes {
        &self.encoded
    }
}

/// What became of a view when the catalog moved on.
#[derive(Debug)]
pub(super) enum Change {
    /// Some items changed.
    Delta(Delta),
    /// The catalog went back behind what was sent, so everybody starts over.
    Reset,
}

/// The items in which two views differ.
#[derive(Debug, Default)]
pub(super) struct Delta {
    upserts: BTreeMap<String, Item>,
    removes: BTreeSet<String>,
}

impl Delta {
    fn between(old: &BTreeMap<String, Item>, new: &BTreeMap<String, Item>) -> Delta {
        Delta {
            upserts: new
                .iter()
                .filter(|(name, item)| old.get(*name) != Some(*item))
                .map(|(name, item)| (name.clone(), item.clone()))
                .collect(),
            removes: old.keys().filter(|name| !new.contains_key(*name)).cloned().collect(),
        }
    }

    fn is_empty(&self) -> bool {
        self.upserts.is_empty() && self.removes.is_empty()
    }
}

/// A topic's current view and who follows it.
#[derive(Debug)]
pub(super) struct Feed {
    reads: Vec<WatchKey>,
    /// The index of the last change to anything the topic reads. It may run ahead of what subscribers were sent, for a
    /// change of a key need not change the view.
    index: CatalogIndex,
    view: BTreeMap<String, Item>,
    subscribers: BTreeSet<SessionId>,
    /// The snapshot frame of the current index, once somebody asked for it.
    snapshot: Option<Arc<Frame>>,
}

impl Feed {
    pub(super) fn new(topic: &Topic, catalog: &Catalog) -> Feed {
        let reads = Catalog::reads(topic);
        Feed {
            index: catalog.index_of(&reads),
            view: catalog.view(topic),
            reads,
            subscribers: BTreeSet::new(),
            snapshot: None,
        }
    }

    pub(super) fn reads(&self) -> &[WatchKey] {
        &self.reads
    }

    pub(super) fn index(&self) -> CatalogIndex {
        self.index
    }

    pub(super) fn subscribers(&self) -> Vec<SessionId> {
        self.subscribers.iter().copied().collect()
    }

    pub(super) fn add(&mut self, session: SessionId) {
        self.subscribers.insert(session);
    }

    /// Removes a subscriber and says whether any is left.
    pub(super) fn remove(&mut self, session: SessionId) -> bool {
        self.subscribers.remove(&session);
        !self.subscribers.is_empty()
    }

    /// Takes over the catalog's view, and returns what changed if the view did.
    pub(super) fn advance(&mut self, topic: &Topic, catalog: &Catalog) -> Option<Change> {
        let index = catalog.index_of(&self.reads);
        if index == self.index {
            return None;
        }
        let went_back = index < self.index;
        let view = catalog.view(topic);
        let delta = Delta::between(&self.view, &view);
        self.index = index;
        self.snapshot = None;
        self.view = view;
        if went_back {
            Some(Change::Reset)
        } else if delta.is_empty() {
            None
        } else {
            Some(Change::Delta(delta))
        }
    }

    /// Returns the frame that carries the whole view.
    pub(super) fn snapshot(&mut self, topic: &Topic) -> Result<Arc<Frame>, FrameTooLarge> {
        if let Some(frame) = &self.snapshot {
            return Ok(Arc::clone(frame));
        }
        let event = Event::Snapshot { topic: topic.clone(), index: self.index, items: self.view.clone() };
        let frame = Arc::new(Frame::new(ServerFrame::Event(event))?);
        self.snapshot = Some(Arc::clone(&frame));
        Ok(frame)
    }

    /// Returns the frame that leads a subscriber who was sent index `sent` over `change` to the current index.
    pub(super) fn change_since(
        &mut self,
        topic: &Topic,
        sent: CatalogIndex,
        change: &Change,
    ) -> Result<Arc<Frame>, FrameTooLarge> {
        match change {
            Change::Reset => self.snapshot(topic),
            Change::Delta(delta) => {
                let event = Event::Delta {
                    topic: topic.clone(),
                    from: sent,
                    index: self.index,
                    upserts: delta.upserts.clone(),
                    removes: delta.removes.clone(),
                };
                Ok(Arc::new(Frame::new(ServerFrame::Event(event))?))
            }
        }
    }
}
