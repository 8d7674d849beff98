//! Listening to an API server: everything that a connector wants to know of a cluster, as one stream of news.

use std::fmt::Debug;
use std::pin::Pin;

use futures_util::stream::SelectAll;
use futures_util::{Stream, StreamExt};
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::Api;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watching};
use kube::{Client, Resource};
use serde::de::DeserializeOwned;

use super::resources::{ServiceDefaults, ServiceIntentions};

/// Is one thing that an API server said.
#[derive(Debug)]
pub(super) enum News {
    Services(Box<Event<Service>>),
    Slices(Box<Event<EndpointSlice>>),
    Pods(Box<Event<Pod>>),
    Intentions(Box<Event<ServiceIntentions>>),
    Defaults(Box<Event<ServiceDefaults>>),
    /// Objects of this kind are not heard of just now, and why; it is tried again.
    Deaf(&'static str, String),
}

pub(super) type NewsStream = SelectAll<Pin<Box<dyn Stream<Item = News> + Send>>>;

/// The kinds that nodes are made of, and those that entries are made of.
pub(super) const NODE_KINDS: [&str; 3] = ["services", "endpointslices", "pods"];
pub(super) const ENTRY_KINDS: [&str; 2] = ["serviceintentions", "servicedefaults"];

/// Begins to listen; with custom resources or without them. Whatever breaks off begins again, later each time.
pub(super) fn listen(client: &Client, with_resources: bool) -> NewsStream {
    let mut all = SelectAll::new();
    all.push(kind(client, NODE_KINDS[0], |event| News::Services(Box::new(event))));
    all.push(kind(client, NODE_KINDS[1], |event| News::Slices(Box::new(event))));
    all.push(kind(client, NODE_KINDS[2], |event| News::Pods(Box::new(event))));
    if with_resources {
        all.push(kind(client, ENTRY_KINDS[0], |event| News::Intentions(Box::new(event))));
        all.push(kind(client, ENTRY_KINDS[1], |event| News::Defaults(Box::new(event))));
    }
    all
}

fn kind<K>(
    client: &Client,
    name: &'static str,
    news: impl Fn(Event<K>) -> News + Send + 'static,
) -> Pin<Box<dyn Stream<Item = News> + Send>>
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
    K::DynamicType: Default,
{
    let events = watching(Api::<K>::all(client.clone()), watcher::Config::default()).default_backoff();
    events
        .map(move |event| match event {
            Ok(event) => news(event),
            Err(error) => News::Deaf(name, wire::one_line(&error)),
        })
        .boxed()
}
