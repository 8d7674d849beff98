//! A Kubernetes API server as far as its clients can tell: real TLS, certificates and tokens, versions, watches, conflicts,
//! reviews of tokens and calls of admission webhooks. What a real one does wrong now and then happens on command.
//!
//! It stands in for a real server where there is none; what is tested with it is tested with a real one, too. It lives in
//! this process, on a thread of its own, and ends with its [`ApiServer`]. Whoever it knows may do everything; who did what
//! is noted.

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

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, mpsc},
    thread::JoinHandle,
};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::{RootCertStore, ServerConfig, server::WebPkiClientVerifier};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject};
use serde_json::{Value, json};
use tokio::sync::{Notify, broadcast, watch};

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
    /// It waits until everything is released.
    Hold,
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
    release: Notify,
}

impl Shared {
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
    ca: Issuer<'static, KeyPair>,
    ca_pem: String,
    tls: Arc<ServerConfig>,
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
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "kubernetes");
        let ca_pem = params.self_signed(&key).unwrap().pem();
        let ca = Issuer::new(params, key);
        let tls = Arc::new(server_tls(&ca, &ca_pem, address));
        let shared = Arc::new(Shared {
            store: Mutex::default(),
            tokens: Tokens(KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap()),
            certificates: Mutex::default(),
            services: Mutex::default(),
            planned: Mutex::default(),
            seen: Mutex::default(),
            changed: watch::channel(0).0,
            watches: broadcast::channel(64).0,
            release: Notify::new(),
        });
        let mut server = Self { shared, address, ca, ca_pem, tls, running: None };
        for name in ["default", "kube-system"] {
            server.put(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}));
        }
        server.run(first);
        server
    }

    fn run(&mut self, first: impl FnOnce() + Send + 'static) {
        let (shared, tls, address) = (Arc::clone(&self.shared), Arc::clone(&self.tls), self.address);
        let (stop, stopped) = watch::channel(false);
        let (bound, is_bound) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            first();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(serve::serve(shared, tls, address, bound, stopped));
        });
        self.address = is_bound.recv().expect("the server listens");
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
        assert!(self.running.is_none(), "it is up");
        self.run(|| ());
    }

    /// Returns the address that clients are told.
    pub(crate) fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// Returns the certificate of its authority.
    pub(crate) fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// Writes the configuration of a client that shows a certificate for a user.
    pub(crate) fn certificate_config(&self, user: &str) -> Value {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, user);
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &self.ca).unwrap();
        self.shared.certificates.lock().unwrap().insert(certificate.der().to_vec(), user.to_owned());
        let encode = |text: String| data_encoding::BASE64.encode(text.as_bytes());
        let (certificate, key) = (encode(certificate.pem()), encode(key.serialize_pem()));
        self.config(&json!({"client-certificate-data": certificate, "client-key-data": key}))
    }

    /// Writes the configuration of a client that shows a token.
    pub(crate) fn token_config(&self, token: &str) -> Value {
        self.config(&json!({ "token": token }))
    }

    fn config(&self, user: &Value) -> Value {
        let ca = data_encoding::BASE64.encode(self.ca_pem.as_bytes());
        json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "own",
            "clusters": [{"name": "own", "cluster": {"server": self.url(), "certificate-authority-data": ca}}],
            "users": [{"name": "own", "user": user}],
            "contexts": [{"name": "own", "context": {"cluster": "own", "user": "own"}}],
        })
    }

    /// Signs a token of a service account, `namespace/name`, as the kubelet asks for one, bound to a pod if there is one.
    pub(crate) fn token(&self, account: &str, pod: Option<&str>, audiences: &[&str]) -> String {
        let (namespace, name) = account.split_once('/').expect("an account is namespace/name");
        let bound = pod.map(|pod| json!({"kind": "Pod", "name": pod}));
        let spec = json!({"audiences": audiences, "expirationSeconds": 600, "boundObjectRef": bound});
        let granted = self.shared.tokens.grant(&self.store(), namespace, name, &spec).unwrap();
        granted["status"]["token"].as_str().unwrap().to_owned()
    }

    /// Signs what somebody says, as nothing but the server's own key can.
    pub(crate) fn sign(&self, claims: &Value) -> String {
        self.shared.tokens.sign(claims)
    }

    /// Stores an object as it is, its status included, and returns it; whatever is there by its name is replaced.
    pub(crate) fn put(&self, object: Value) -> Value {
        let mut store = self.store();
        let key = store.key_of(&object);
        let stored = store.put(key, object);
        self.shared.changed.send_replace(store.version);
        stored
    }

    /// Returns an object of a resource such as `pods` or `leases.coordination.k8s.io`.
    pub(crate) fn get(&self, resource: &str, namespace: &str, name: &str) -> Option<Value> {
        self.store().get(resource, namespace, name).ok().cloned()
    }

    /// Changes an object in place, as whoever has it to do on a real cluster would.
    pub(crate) fn change(&self, resource: &str, namespace: &str, name: &str, change: impl FnOnce(&mut Value)) -> Value {
        let mut object = self.get(resource, namespace, name).expect("the object is there");
        change(&mut object);
        self.put(object)
    }

    /// Removes an object at once, whatever holds it.
    pub(crate) fn remove(&self, resource: &str, namespace: &str, name: &str) {
        let [resource, namespace, name] = [resource, namespace, name].map(str::to_owned);
        let mut store = self.store();
        store.remove(&ObjectKey { resource, namespace, name });
        self.shared.changed.send_replace(store.version);
    }

    /// Has webhooks that name a service be called at an address.
    pub(crate) fn route_service(&self, namespace: &str, name: &str, address: SocketAddr) {
        self.shared.services.lock().unwrap().insert(format!("{namespace}/{name}"), address);
    }

    /// Has something happen to the next requests whose `METHOD path?query` contains a text.
    pub(crate) fn next(&self, times: usize, part: &str, deed: Deed) {
        self.shared.planned.lock().unwrap().push((times, part.to_owned(), deed));
    }

    /// Forgets what was to happen, and lets go on what is held.
    pub(crate) fn release(&self) {
        self.shared.planned.lock().unwrap().clear();
        self.shared.release.notify_waiters();
    }

    /// Ends every watch, as a server does from time to time.
    pub(crate) fn end_watches(&self) {
        let _ = self.shared.watches.send(WatchFault::End);
    }

    /// Breaks the connection of every watch.
    pub(crate) fn break_watches(&self) {
        let _ = self.shared.watches.send(WatchFault::Break);
    }

    /// Forgets what happened before now, for every watch and for every list whose first page somebody has.
    pub(crate) fn forget_history(&self) {
        let mut store = self.store();
        store.forget();
        self.shared.changed.send_replace(store.version);
    }

    /// Tells every watch that wants to know which version there is now.
    pub(crate) fn bookmark(&self) {
        let _ = self.shared.watches.send(WatchFault::Bookmark);
    }

    /// Tells every watch once more what happened last, oldest first: duplicates, and versions that go backwards.
    pub(crate) fn repeat(&self, events: usize) {
        let changes = self.store().last(events);
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

    fn store(&self) -> MutexGuard<'_, Store> {
        self.shared.store.lock().unwrap()
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.go_down();
    }
}

fn server_tls(ca: &Issuer<'static, KeyPair>, ca_pem: &str, address: SocketAddr) -> ServerConfig {
    let names = vec!["localhost".to_owned(), "kubernetes.default.svc".to_owned(), address.ip().to_string()];
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(names).unwrap().signed_by(&key, ca).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca_pem.as_bytes()).unwrap()).unwrap();
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), wire::crypto::provider())
        .allow_unauthenticated()
        .build()
        .unwrap();
    ServerConfig::builder_with_provider(wire::crypto::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(clients)
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
        )
        .unwrap()
}
