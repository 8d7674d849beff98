//! Watches: what happened since a version, as it happens.

use std::{io, sync::Arc};

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderValue, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use serde_json::{Value, json};
use tokio::sync::mpsc::{Sender, channel};
use tokio::sync::{broadcast::Receiver, watch};

use super::serve::{Asked, Body, status};
use super::{Shared, store::Change};

/// Says what becomes of the watches that there are.
#[derive(Debug, Clone)]
pub(super) enum WatchFault {
    Break,
    Bookmark,
    Repeat(Vec<Change>),
}

/// Is one watch: what was asked for, and whom to tell. Whoever is gone hears nothing, and the watch ends.
struct Watch {
    asked: Asked,
    told: Sender<io::Result<Frame<Bytes>>>,
}

pub(super) fn start(shared: &Arc<Shared>, asked: Asked) -> Response<Body> {
    let (told, lines) = channel(16);
    let (shared, changed, faults) = (Arc::clone(shared), shared.changed.subscribe(), shared.watches.subscribe());
    tokio::spawn(async move { Watch { asked, told }.run(&shared, changed, faults).await });
    let lines = stream::unfold(lines, |mut lines| async move { Some((lines.recv().await?, lines)) });
    let mut response = Response::new(BodyExt::boxed_unsync(StreamBody::new(lines)));
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/json"));
    response
}

impl Watch {
    /// Tells what happens until nobody listens, or it cannot go on; nothing in the end.
    async fn run(
        self,
        shared: &Shared,
        mut changed: watch::Receiver<u64>,
        mut faults: Receiver<WatchFault>,
    ) -> Option<()> {
        let mut at = self.asked.says("resourceVersion").parse().unwrap_or(0);
        if at == 0 {
            // Without a version a watch begins with all there is.
            let (all, version) = {
                let store = shared.store();
                (store.list(&self.asked.key.resource).cloned().collect::<Vec<_>>(), store.version)
            };
            at = version;
            self.send(all.iter().filter(|one| self.asked.selects(one)).map(|one| line("ADDED", one)).collect()).await?;
        }
        loop {
            changed.borrow_and_update();
            let known = shared.store().since(at);
            let Some((news, version)) = known else {
                let gone = status(&(410, "Expired", "too old resource version".to_owned()));
                return self.send(line("ERROR", &gone)).await;
            };
            at = version;
            self.tell(&news).await?;
            let fault = tokio::select! {
                fault = faults.recv() => fault.ok()?,
                _ = changed.changed() => continue,
                () = self.told.closed() => return None,
            };
            match fault {
                WatchFault::Break => return self.told.send(Err(io::ErrorKind::ConnectionReset.into())).await.ok(),
                WatchFault::Repeat(changes) => self.tell(&changes).await?,
                WatchFault::Bookmark if self.asked.says("allowWatchBookmarks") == "true" => {
                    let metadata = json!({"resourceVersion": at.to_string()});
                    let mark = json!({"apiVersion": "v1", "kind": "", "metadata": metadata});
                    self.send(line("BOOKMARK", &mark)).await?;
                }
                WatchFault::Bookmark => {}
            }
        }
    }

    async fn tell(&self, changes: &[Change]) -> Option<()> {
        let own = changes.iter().filter(|change| change.key.resource == self.asked.key.resource);
        self.send(own.filter_map(|change| self.line_of(change)).collect()).await
    }

    /// Returns what one change means to whoever asked; nothing where neither before nor after it an object is meant.
    fn line_of(&self, change: &Change) -> Option<String> {
        let meant = |object: &Option<Value>| object.clone().filter(|object| self.asked.selects(object));
        match (meant(&change.before), meant(&change.after)) {
            (before, Some(after)) => Some(line(if before.is_some() { "MODIFIED" } else { "ADDED" }, &after)),
            (Some(mut last), None) => {
                last["metadata"]["resourceVersion"] = json!(change.version.to_string());
                Some(line("DELETED", &last))
            }
            (None, None) => None,
        }
    }

    async fn send(&self, lines: String) -> Option<()> {
        if lines.is_empty() {
            return Some(());
        }
        self.told.send(Ok(Frame::data(lines.into()))).await.ok()
    }
}

fn line(kind: &str, object: &Value) -> String {
    format!("{}\n", json!({"type": kind, "object": object}))
}
