//! Watches: what happened since a version, as it happens.

use std::{io, sync::Arc};

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderValue, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use serde_json::{Value, json};
use tokio::sync::{broadcast, watch};

use super::{
    Shared,
    serve::{Asked, Body, status},
    store::Change,
};

/// Says what becomes of the watches that there are.
#[derive(Debug, Clone)]
pub(super) enum WatchFault {
    End,
    Break,
    Bookmark,
    Repeat(Vec<Change>),
}

/// Is one watch: how far it is, and what it has still to say.
struct Watch {
    shared: Arc<Shared>,
    asked: Asked,
    at: u64,
    pending: Vec<u8>,
    changed: watch::Receiver<u64>,
    faults: broadcast::Receiver<WatchFault>,
    is_over: bool,
}

pub(super) fn start(shared: &Arc<Shared>, asked: Asked) -> Response<Body> {
    let (changed, faults) = (shared.changed.subscribe(), shared.watches.subscribe());
    let at: u64 = asked.says("resourceVersion").parse().unwrap_or(0);
    let (shared, pending) = (Arc::clone(shared), Vec::new());
    let mut watch = Watch { shared, asked, at, pending, changed, faults, is_over: false };
    if at == 0 {
        // Without a version a watch begins with all there is.
        let shared = Arc::clone(&watch.shared);
        let store = shared.store.lock().unwrap();
        store.list(&watch.asked.key.resource.clone()).for_each(|object| watch.say("ADDED", object));
        watch.at = store.version;
    }
    let lines = stream::unfold(watch, |mut watch| async move {
        let lines = watch.next().await?;
        Some((lines.map(|lines| Frame::data(Bytes::from(lines))), watch))
    });
    let mut response = Response::new(BodyExt::boxed_unsync(StreamBody::new(lines)));
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/json"));
    response
}

impl Watch {
    async fn next(&mut self) -> Option<Result<Vec<u8>, io::Error>> {
        loop {
            self.changed.borrow_and_update();
            if self.pending.is_empty() && !self.is_over {
                self.catch_up();
            }
            if !self.pending.is_empty() {
                return Some(Ok(std::mem::take(&mut self.pending)));
            }
            if self.is_over {
                return None;
            }
            let fault = tokio::select! {
                fault = self.faults.recv() => fault.unwrap_or(WatchFault::End),
                _ = self.changed.changed() => continue,
            };
            match fault {
                WatchFault::End => self.is_over = true,
                WatchFault::Break => {
                    self.is_over = true;
                    return Some(Err(io::ErrorKind::ConnectionReset.into()));
                }
                WatchFault::Bookmark if self.asked.says("allowWatchBookmarks") == "true" => {
                    let metadata = json!({"resourceVersion": self.at.to_string()});
                    let mark = json!({"apiVersion": self.asked.api_version(), "kind": "", "metadata": metadata});
                    self.write("BOOKMARK", &mark);
                }
                WatchFault::Bookmark => {}
                WatchFault::Repeat(changes) => changes.iter().for_each(|change| self.tell(change)),
            }
        }
    }

    /// Notes what happened since, or that it is forgotten.
    fn catch_up(&mut self) {
        let (news, version) = {
            let store = self.shared.store.lock().unwrap();
            (store.since(self.at), store.version)
        };
        match news {
            Some(changes) => {
                self.at = version;
                changes.iter().for_each(|change| self.tell(change));
            }
            None => {
                self.write("ERROR", &status(&(410, "Expired", "too old resource version".to_owned())));
                self.is_over = true;
            }
        }
    }

    fn tell(&mut self, change: &Change) {
        if change.key.resource != self.asked.key.resource {
            return;
        }
        let was = change.before.as_ref().is_some_and(|object| self.asked.selects(object));
        match (&change.before, &change.after) {
            (_, Some(after)) if self.asked.selects(after) => self.say(if was { "MODIFIED" } else { "ADDED" }, after),
            (Some(before), _) if was => {
                let mut last = before.clone();
                last["metadata"]["resourceVersion"] = json!(change.version.to_string());
                self.say("DELETED", &last);
            }
            _ => {}
        }
    }

    fn say(&mut self, kind: &str, object: &Value) {
        if self.asked.selects(object) {
            self.write(kind, object);
        }
    }

    fn write(&mut self, kind: &str, object: &Value) {
        self.pending.extend(format!("{}\n", json!({"type": kind, "object": object})).into_bytes());
    }
}
