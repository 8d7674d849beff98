//! API servers for tests: the stand-in that the stories use, too, and a real one where there is one.

#[path = "../../../tests/it/harness/authority.rs"]
mod authority;
mod conformance;
mod real;
#[allow(dead_code, reason = "other tests use all of it")]
#[path = "../../../tests/it/harness/kubernetes.rs"]
pub(crate) mod stand_in;

use std::time::Duration;

use kube::{Client, Config, config::Kubeconfig};
use serde_json::{Value, json};

pub(crate) use stand_in::{ApiServer, Deed};

/// How long what is promised within seconds may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Makes a client of a configuration.
pub(crate) async fn client(config: Value) -> Client {
    let config: Kubeconfig = serde_json::from_value(config).unwrap();
    let config = Config::from_custom_kubeconfig(config, &kube::config::KubeConfigOptions::default()).await.unwrap();
    Client::try_from(config).unwrap()
}

/// Runs a test with the stand-in, and with a real API server where `KUBEBUILDER_ASSETS` says where one is.
pub(crate) async fn on_each<F: Future<Output = ()>>(test: impl Fn(Client) -> F) {
    let test = &test;
    on_each_by(move |config| async move { test(client(config).await).await }).await;
}

/// Does so with what a client is configured by.
pub(crate) async fn on_each_by<F: Future<Output = ()>>(test: impl Fn(Value) -> F) {
    let server = ApiServer::start();
    test(server.certificate_config("admin")).await;
    if let Some(assets) = std::env::var_os("KUBEBUILDER_ASSETS") {
        let server = real::RealServer::start(assets.as_ref()).await;
        test(server.config()).await;
    }
}

/// Asks again and again until there is an answer.
pub(crate) async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut ask: impl FnMut() -> F) -> T {
    let asking = async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, asking).await.unwrap_or_else(|_| panic!("waited {PATIENCE:?} for {what}"))
}

/// Is a pod that no kubelet has taken.
pub(crate) fn pod(namespace: &str, name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": namespace},
        "spec": {"serviceAccountName": "web", "containers": [{"name": "app", "image": "app"}]},
    })
}
