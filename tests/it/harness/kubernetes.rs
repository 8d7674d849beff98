//! A Kubernetes API server as far as its clients can tell: real TLS, certificates and tokens, versions, watches, conflicts,
//! reviews of tokens and calls of admission webhooks. What a real one does wrong now and then happens on command.
//!
//! It stands in for a real server where there is none. What clients rely on is held against a real one, too, by the tests of the
//! connectors that run on each, where there is one. It lives in this process, on a thread of its own, and ends with its
//! [`ApiServer`]. Whoever it knows may do everything; who did what is noted. What no part of weft asks of a server is not there.

#[path = "kubernetes/access.rs"]
mod access;
#[path = "kubernetes/serve.rs"]
mod serve;
#[path = "kubernetes/store.rs"]
mod store;
#[path = "kubernetes/watching.rs"]
mod watching;
#[path = "kubernetes/webhooks.rs"]
mod webhooks;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, mpsc};
use std::thread::JoinHandle;

use serde_json::{Value, json};
use tokio::{net::TcpSocket, sync::broadcast, sync::watch};

use super::authority::{Authority, client_certificate, kubeconfig};
use access::Tokens;
use store::{ObjectKey, Store};
use watching::WatchFault;

/// Says what becomes of a request.
#[derive(Debug, Clone)]
pub(crate) enum Deed {
    /// It is answered with this status, and with this body if there is one, whatever that says.
    Answer(u16, Option<Value>),
    /// It is carried out, and half of the answer comes.
    Cut,
    /// It is carried out, and the connection breaks before a byte of the answer comes.
    Lose,
}

/// What everything in the server shares.
struct Shared {
    store: Mutex<Store>,
    tokens: Tokens,
    /// Whose certificates there are.
    certificates: Mutex<BTreeMap<Vec<u8>, String>>,
    /// Where webhooks find the services that their configurations name, as `namespace/name`.
    services: Mutex<BTreeMap<String, SocketAddr>>,
    /// What is to happen: how often, to requests with which text in their line, and what.
    planned: Mutex<Vec<(usize, String, Deed)>>,
    seen: Mutex<Vec<(String, String)>>,
    changed: watch::Sender<u64>,
    watches: broadcast::Sender<WatchFault>,
}

impl Shared {
    fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap()
    }

    /// Changes what is stored, and has watches tell.
    fn write<T>(&self, change: impl FnOnce(&mut Store) -> T) -> T {
        let mut store = self.store();
        let made = change(&mut store);
        self.changed.send_replace(store.version);
        made
    }

    /// Takes what is to happen to a request.
    fn take(&self, line: &str) -> Option<Deed> {
        let mut planned = self.planned.lock().unwrap();
        let (times, _, deed) =
            planned.iter_mut().find(|(times, part, _)| *times > 0 && line.contains(part.as_str()))?;
        *times -= 1;
        Some(deed.clone())
    }
}

/// Is a server, running or not.
pub(crate) struct ApiServer {
    shared: Arc<Shared>,
    address: SocketAddr,
    held: Option<TcpSocket>,
    authority: Authority,
    running: Option<(watch::Sender<bool>, JoinHandle<()>)>,
}

impl ApiServer {
    /// Starts a server on loopback.
    pub(crate) fn start() -> Self {
        Self::start_by((Ipv4Addr::LOCALHOST, 0).into(), || ())
    }

    /// Starts a server at an address, on a thread that does something first, such as to enter another network.
    pub(crate) fn start_by(address: SocketAddr, first: impl FnOnce() + Send + 'static) -> Self {
        wire::crypto::install_provider();
        let shared = Arc::new(Shared {
            store: Mutex::default(),
            tokens: Tokens::new(),
            certificates: Mutex::default(),
            services: Mutex::default(),
            planned: Mutex::default(),
            seen: Mutex::default(),
            changed: watch::channel(0).0,
            watches: broadcast::channel(64).0,
        });
        let authority = Authority::new("kubernetes");
        let mut server = Self { shared, address, held: None, authority, running: None };
        server.put(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}}));
        server.run(first);
        server
    }

    fn run(&mut self, first: impl FnOnce() + Send + 'static) {
        let (shared, address) = (Arc::clone(&self.shared), self.address);
        let tls = self.authority.server(&["localhost".to_owned(), address.ip().to_string()]);
        let (stop, stopped) = watch::channel(false);
        let (bound, is_bound) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            first();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(serve::serve(shared, tls, address, bound, stopped));
        });
        let held = is_bound.recv().expect("the server listens");
        self.address = held.local_addr().unwrap();
        self.held = Some(held);
        self.running = Some((stop, thread));
    }

    /// Ends the server as a crash would: nobody answers at its address any more. What it stores stays.
    pub(crate) fn go_down(&mut self) {
        if let Some((stop, thread)) = self.running.take() {
            let _ = stop.send(true);
            let _ended = thread.join();
        }
    }

    /// Starts the server again where it was.
    pub(crate) fn come_up(&mut self) {
        self.run(|| ());
    }

    /// Returns the address that clients are told.
    pub(crate) fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// Returns the certificate of its authority.
    pub(crate) fn ca_pem(&self) -> &str {
        self.authority.pem()
    }

    /// Writes the configuration of a client that shows a certificate for a user.
    pub(crate) fn certificate_config(&self, user: &str) -> Value {
        let (certificate, key) = self.authority.sign(user, "", &[]);
        self.shared.certificates.lock().unwrap().insert(certificate.der().to_vec(), user.to_owned());
        kubeconfig(&self.url(), self.ca_pem(), &client_certificate(&certificate, &key))
    }

    /// Writes the configuration of a client that shows a token.
    pub(crate) fn token_config(&self, token: &str) -> Value {
        kubeconfig(&self.url(), self.ca_pem(), &json!({ "token": token }))
    }

    /// Signs a token of a service account, `namespace/name`, as the kubelet asks for one, bound to a pod if there is one.
    pub(crate) fn token(&self, account: &str, pod: Option<&str>, audiences: &[&str]) -> String {
        let (namespace, name) = account.split_once('/').expect("an account is namespace/name");
        let bound = pod.map(|pod| json!({"kind": "Pod", "name": pod}));
        let spec = json!({"audiences": audiences, "expirationSeconds": 600, "boundObjectRef": bound});
        let granted = self.shared.tokens.grant(&self.shared.store(), namespace, name, &spec).unwrap();
        granted["status"]["token"].as_str().unwrap().to_owned()
    }

    /// Signs what somebody says, as nothing but the server's own key can.
    pub(crate) fn sign(&self, claims: &Value) -> String {
        self.shared.tokens.sign(claims)
    }

    /// Stores an object as it is, its status included, and returns it; whatever is there by its name is replaced.
    pub(crate) fn put(&self, object: Value) -> Value {
        self.shared.write(|store| {
            let key = store.key_of(&object);
            store.put(key, object)
        })
    }

    /// Returns an object of a resource such as `pods` or `leases.coordination.k8s.io`.
    pub(crate) fn get(&self, resource: &str, namespace: &str, name: &str) -> Option<Value> {
        self.shared.store().get(resource, namespace, name).ok().cloned()
    }

    /// Changes an object in place, as whoever has it to do on a real cluster would.
    pub(crate) fn change(&self, resource: &str, namespace: &str, name: &str, change: impl FnOnce(&mut Value)) -> Value {
        let mut object = self.get(resource, namespace, name).expect("the object is there");
        change(&mut object);
        self.put(object)
    }

    /// Removes an object at once.
    pub(crate) fn remove(&self, resource: &str, namespace: &str, name: &str) {
        let key = ObjectKey::new(resource, namespace, name);
        self.shared.write(|store| store.remove(&key)).expect("the object is there");
    }

    /// Has webhooks that name a service be called at an address.
    pub(crate) fn route_service(&self, namespace: &str, name: &str, address: SocketAddr) {
        self.shared.services.lock().unwrap().insert(format!("{namespace}/{name}"), address);
    }

    /// Has something happen to the next requests whose `METHOD path?query` contains a text.
    pub(crate) fn next(&self, times: usize, part: &str, deed: Deed) {
        self.shared.planned.lock().unwrap().push((times, part.to_owned(), deed));
    }

    /// Breaks the connection of every watch.
    pub(crate) fn break_watches(&self) {
        let _ = self.shared.watches.send(WatchFault::Break);
    }

    /// Forgets what happened before now, for every watch and for every list whose first page somebody has.
    pub(crate) fn forget_history(&self) {
        self.shared.write(Store::forget);
    }

    /// Tells every watch that wants to know which version there is now.
    pub(crate) fn bookmark(&self) {
        let _ = self.shared.watches.send(WatchFault::Bookmark);
    }

    /// Tells every watch once more what happened last, oldest first: duplicates, and versions that go backwards.
    pub(crate) fn repeat(&self, events: usize) {
        let changes = self.shared.store().last(events);
        let _ = self.shared.watches.send(WatchFault::Repeat(changes));
    }

    /// Returns how many watches there are.
    pub(crate) fn watching(&self) -> usize {
        self.shared.watches.receiver_count()
    }

    /// Returns who asked for what so far, in the words of access rules: `update leases.coordination.k8s.io/status`.
    pub(crate) fn seen(&self) -> Vec<(String, String)> {
        self.shared.seen.lock().unwrap().clone()
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.go_down();
    }
}
