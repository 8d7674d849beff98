use http::Method;
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use kube::api::PostParams;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};

use super::review::REVIEW_BYTES_MAX;
use super::*;
use crate::kubernetes::inject::AGENT_CONTAINER;
use crate::kubernetes::inject::testing::settings;
use crate::kubernetes::testing::{ApiServer, client, eventually, pod};

const CONFIGURATIONS: &str = "mutatingwebhookconfigurations.admissionregistration.k8s.io";

/// Is a cluster with what the chart puts there, and a namespace of each kind.
struct Cluster {
    server: ApiServer,
    client: Client,
}

impl Cluster {
    async fn start() -> Self {
        let server = ApiServer::start();
        let namespace = |name: &str, labels: Value| {
            server
                .put(json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name, "labels": labels } }))
        };
        namespace("weft", json!({}));
        namespace("other", json!({}));
        namespace("shop", json!({ "weft.dev/inject": "enabled" }));
        namespace("legacy", json!({ "weft.dev/inject": "enabled", "weft.dev/may-bypass": "true" }));
        server.put(json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "weft-injector", "namespace": "weft" }
        }));
        let webhook = |name: &str, path: &str, bypass: &str| {
            json!({
                "name": name, "admissionReviewVersions": ["v1"], "sideEffects": "None", "failurePolicy": "Fail",
                "clientConfig": { "service": { "name": "weft-injector", "namespace": "weft", "path": path, "port": 443 } },
                "namespaceSelector": {
                    "matchLabels": { "weft.dev/inject": "enabled" },
                    "matchExpressions": [{ "key": "weft.dev/may-bypass", "operator": bypass, "values": ["true"] }],
                },
                "rules": [{ "apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"] }],
            })
        };
        server.put(json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration",
            "metadata": { "name": "weft-injector" },
            "webhooks": [
                webhook("injector.weft.dev", INJECT_PATH, "NotIn"),
                webhook("may-bypass.injector.weft.dev", INJECT_MAY_BYPASS_PATH, "In"),
            ],
        }));
        let client = client(server.certificate_config("injector")).await;
        Self { server, client }
    }

    /// Starts an injector that the service leads to from now on.
    async fn injector(&self) -> (Injector, watch::Sender<Option<Arc<Settings>>>) {
        let (told, read) = watch::channel(Some(Arc::new(settings())));
        let name = "weft-injector".to_owned();
        let config = InjectorConfig {
            listen: "127.0.0.1:0".parse().unwrap(),
            namespace: "weft".to_owned(),
            service: name.clone(),
            secret: name.clone(),
            configuration: name,
        };
        let injector = Injector::with_client(self.client.clone(), config, read).await.unwrap();
        self.server.route_service("weft", "weft-injector", injector.address());
        (injector, told)
    }

    /// Makes a pod as anybody would.
    async fn make(&self, namespace: &str, name: &str, change: impl FnOnce(&mut Value)) -> Result<Value, String> {
        let mut written = pod(namespace, name);
        change(&mut written);
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let pod: Pod = serde_json::from_value(written).unwrap();
        let made = pods.create(&PostParams::default(), &pod).await.map_err(|error| error.to_string())?;
        Ok(serde_json::to_value(made).unwrap())
    }

    /// Makes a pod that is injected, as soon as that is possible.
    async fn injected(&self, name: &str) {
        let made = eventually("a pod to be made", || async { self.make("shop", name, |_| {}).await.ok() }).await;
        assert!(has_agent(&made), "{made}");
    }

    /// Asks an injector directly, as whoever trusts the bundle that it told the API server; returns the status.
    async fn ask(&self, address: SocketAddr, method: Method, path: &str, kind: &str, body: &[u8]) -> u16 {
        let bundle = data_encoding::BASE64.decode(self.bundle().as_bytes()).unwrap();
        let mut roots = rustls::RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(&bundle) {
            roots.add(root.unwrap()).unwrap();
        }
        let connector = tokio_rustls::TlsConnector::from(Arc::new(wire::tls::web_client_config(roots)));
        let stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let name = ServerName::try_from("weft-injector.weft.svc").unwrap();
        let stream = connector.connect(name, stream).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let request = http::Request::builder().method(method).uri(path).header("content-type", kind);
        let body = Full::new(bytes::Bytes::copy_from_slice(body));
        let answer = sender.send_request(request.header("host", "x").body(body).unwrap()).await.unwrap();
        answer.status().as_u16()
    }

    fn bundle(&self) -> String {
        let configuration = self.server.get(CONFIGURATIONS, "", "weft-injector").unwrap();
        configuration["webhooks"][0]["clientConfig"]["caBundle"].as_str().unwrap_or_default().to_owned()
    }
}

fn has_agent(pod: &Value) -> bool {
    pod["spec"]["initContainers"].as_array().into_iter().flatten().any(|it| it["name"] == AGENT_CONTAINER)
}

#[tokio::test]
async fn k1_new_pods_of_labelled_namespaces_get_their_agent_over_the_injectors_own_certificate() {
    let cluster = Cluster::start().await;
    let nobody = cluster.make("shop", "early", |_| {}).await.unwrap_err();
    assert!(nobody.contains("failed calling webhook"), "no pod is made outside the mesh by accident: {nobody}");
    let (_injector, _told) = cluster.injector().await;
    cluster.injected("web-1").await;
    assert!(!has_agent(&cluster.make("other", "web-1", |_| {}).await.unwrap()), "its namespace is not labelled");

    let host = |pod: &mut Value| pod["spec"]["hostNetwork"] = json!(true);
    let refused = cluster.make("shop", "host", host).await.unwrap_err();
    assert!(refused.contains("network of its machine"), "{refused}");
    assert!(!has_agent(&cluster.make("legacy", "host", host).await.unwrap()), "the namespace may");
    let out = |pod: &mut Value| pod["metadata"]["annotations"] = json!({ "weft.dev/inject": "false" });
    assert!(cluster.make("shop", "out", out).await.unwrap_err().contains("may-bypass"));
    assert!(!has_agent(&cluster.make("legacy", "out", out).await.unwrap()));
}

#[tokio::test]
async fn k1_replicas_share_one_authority_and_mend_what_somebody_overwrote() {
    let cluster = Cluster::start().await;
    let ((one, _told), (_other, _also_told)) = tokio::join!(cluster.injector(), cluster.injector());
    cluster.injected("web-1").await;
    let bundle = cluster.bundle();
    cluster.server.route_service("weft", "weft-injector", one.address());
    cluster.injected("web-2").await;
    assert_eq!(cluster.bundle(), bundle, "both show certificates of one root");
    cluster.server.change(CONFIGURATIONS, "", "weft-injector", |configuration| {
        configuration["webhooks"][0]["clientConfig"]["caBundle"] = json!("");
    });
    assert!(cluster.make("shop", "web-3", |_| {}).await.is_err());
    cluster.injected("web-3").await;
    assert_eq!(cluster.bundle(), bundle);
}

#[tokio::test]
async fn k1_a_question_that_is_too_long_or_comes_too_early_is_not_answered() {
    let cluster = Cluster::start().await;
    let (injector, told) = cluster.injector().await;
    cluster.injected("web-1").await;
    let ask = async |method, path, kind, body: &[u8]| cluster.ask(injector.address(), method, path, kind, body).await;
    let (json, post) = ("application/json", Method::POST);
    assert_eq!(ask(post.clone(), INJECT_PATH, json, &vec![b'x'; REVIEW_BYTES_MAX + 1]).await, 413);
    assert_eq!(ask(post.clone(), INJECT_PATH, json, &vec![b'x'; REVIEW_BYTES_MAX]).await, 400);
    assert_eq!(ask(post.clone(), INJECT_PATH, json, b"{\"apiVersion\": \"admission.k8s.io/v1beta1\"}").await, 400);
    assert_eq!(ask(post.clone(), INJECT_PATH, "text/yaml", b"{}").await, 415);
    assert_eq!(ask(post, "/mutate", json, b"{}").await, 404);
    assert_eq!(ask(Method::GET, INJECT_PATH, json, b"").await, 405);
    assert_eq!(ask(Method::GET, "/ready", json, b"").await, 200);
    told.send_replace(None);
    let early = cluster.make("shop", "early", |_| {}).await.unwrap_err();
    assert!(early.contains("does not know yet"), "{early}");
    injector.drain().await;
    assert!(cluster.make("shop", "late", |_| {}).await.is_err());
}
