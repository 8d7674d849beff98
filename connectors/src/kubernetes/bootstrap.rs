//! Makes a new group of servers ready for its cluster: the first token, the auth method of pods, the roots that agents know.
//!
//! Each step looks first and does only what is missing, so that it may run at any time, anywhere, and be killed anywhere: the
//! first token's secret is kept before it is used, and what an operator changed afterwards is left alone.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use http::StatusCode;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret as ClusterSecret};
use kube::Api;
use kube::api::PostParams;
use serde_json::{Value, json};
use tracing::{info, warn};
use wire::api_types::{BootstrapChallenge, BootstrapProof};
use wire::client::{ApiClient, ApiError};
use wire::cluster_key::{ClusterKey, ClusterKeyFileError};
use wire::crypto::{Secret, random_hex};

/// How often is looked again: roots come and go while the authority rotates.
const PERIOD: Duration = Duration::from_secs(30);
/// So long after a failure.
const AGAIN_AFTER: Duration = Duration::from_secs(3);
/// Where the first token's secret stands in its Secret.
const TOKEN: &str = "token";
const SECRET_BYTES: usize = 32;
/// Where the injector looks for the roots.
const ROOTS: &str = "roots.json";
/// Says of an auth method that its binding rules may still be missing.
const BEGUN: &str = "pods of this cluster; rules to come";
const DONE: &str = "pods of this cluster";

/// Says where things are.
#[derive(Debug, Clone)]
pub struct BootstrapConfig {
    /// The address of a server's API, on loopback or by https.
    pub api: String,
    /// The file with the servers' cluster key.
    pub cluster_key_file: PathBuf,
    /// The namespace of what follows.
    pub namespace: String,
    /// The secret that holds the first token; it must exist, and may be empty.
    pub token_secret: String,
    /// The config map that tells the roots; it must exist, and may be empty.
    pub roots: String,
    /// The auth method of the cluster's pods.
    pub auth_method: String,
    /// The audience of their tokens.
    pub audience: String,
}

/// Why a step failed; it is tried again.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// The cluster key cannot be read.
    #[error("cannot prove to hold the cluster key")]
    Key(#[source] ClusterKeyFileError),
    /// Nothing says where the cluster's API is.
    #[error("cannot tell where the cluster's API is: run in a pod, or have KUBECONFIG name a file")]
    Infer(#[source] Box<kube::config::InferConfigError>),
    /// The cluster did not do what was asked.
    #[error("cannot {what} in the cluster")]
    Cluster {
        /// What was asked.
        what: String,
        /// What the cluster said.
        #[source]
        source: Box<kube::Error>,
    },
    /// A server did not do what was asked.
    #[error("cannot {what}")]
    Server {
        /// What was asked.
        what: &'static str,
        /// What the server said.
        #[source]
        source: Box<ApiError>,
    },
    /// Somebody else made the first token.
    #[error(
        "the first token was made by hand: put a management token into secret `{secret}` as `token`, or turn this off \
         (`bootstrap.enabled=false`)"
    )]
    ByHand {
        /// The secret.
        secret: String,
    },
}

/// Goes through the steps again and again.
#[derive(Debug)]
pub struct Bootstrap {
    config: BootstrapConfig,
    secrets: Api<ClusterSecret>,
    maps: Api<ConfigMap>,
    key: ClusterKey,
}

impl Bootstrap {
    /// Reads the key and finds the cluster; nothing is asked yet.
    ///
    /// # Errors
    ///
    /// [`BootstrapError`] says what is missing.
    pub async fn new(config: BootstrapConfig) -> Result<Self, BootstrapError> {
        wire::crypto::install_provider();
        let key = ClusterKey::load(&config.cluster_key_file).map_err(BootstrapError::Key)?;
        let cluster = kube::Config::infer().await.map_err(|source| BootstrapError::Infer(Box::new(source)))?;
        let client = kube::Client::try_from(cluster).map_err(failed("use what is known of the API"))?;
        let (secrets, maps) =
            (Api::namespaced(client.clone(), &config.namespace), Api::namespaced(client, &config.namespace));
        Ok(Self { config, secrets, maps, key })
    }

    /// Goes on until it is dropped.
    pub async fn run(&self) {
        let mut failed_with = String::new();
        loop {
            let pause = match self.once().await {
                Ok(()) => {
                    failed_with.clear();
                    PERIOD
                }
                Err(error) => {
                    let error = wire::one_line(&error).to_string();
                    // Once for each reason, for it may last.
                    if error != failed_with {
                        warn!(error, "not ready yet; trying again");
                        failed_with = error;
                    }
                    AGAIN_AFTER
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// Does what is missing.
    ///
    /// # Errors
    ///
    /// [`BootstrapError`] says which step failed; those before it are done.
    pub async fn once(&self) -> Result<(), BootstrapError> {
        let secret = self.kept_secret().await?;
        let server = |what| move |source| BootstrapError::Server { what, source: Box::new(source) };
        let plain = ApiClient::new(&self.config.api).map_err(server("call the API"))?;
        let api = plain.clone().with_token(secret.clone());
        if !is_known(&api).await.map_err(server("ask whose the first token is"))? {
            self.make_token(&plain, secret).await?;
        }
        self.admit_pods(&api).await.map_err(server("write the auth method of pods"))?;
        let roots: Value =
            api.get("/v1/connect/ca/roots").json().await.map_err(server("ask for the authority's roots"))?;
        self.tell_roots(&roots).await
    }

    /// Returns the secret of the first token; draws it and keeps it where nobody has yet.
    async fn kept_secret(&self) -> Result<Secret, BootstrapError> {
        let name = &self.config.token_secret;
        loop {
            let found = self.secrets.get(name).await.map_err(failed(format!("read secret `{name}`")))?;
            let kept = found.data.as_ref().and_then(|data| data.get(TOKEN));
            if let Some(text) = kept.and_then(|bytes| str::from_utf8(&bytes.0).ok()).filter(|text| !text.is_empty()) {
                return Ok(Secret::new(text.trim()));
            }
            let drawn = random_hex(SECRET_BYTES).into_bytes();
            let mut data = found.data.clone().unwrap_or_default();
            data.insert(TOKEN.to_owned(), ByteString(drawn));
            let written = ClusterSecret { data: Some(data), ..found };
            match self.secrets.replace(name, &PostParams::default(), &written).await {
                // Somebody was faster: theirs is the one.
                Err(kube::Error::Api(status)) if status.code == 409 => {}
                other => drop(other.map_err(failed(format!("write secret `{name}`")))?),
            }
        }
    }

    async fn make_token(&self, api: &ApiClient, secret: Secret) -> Result<(), BootstrapError> {
        let server = |source| BootstrapError::Server { what: "make the first token", source: Box::new(source) };
        let BootstrapChallenge { challenge } = api.get("/v1/acl/bootstrap").json().await.map_err(server)?;
        let proof = self.key.acl_bootstrap_mac(&challenge).to_vec();
        let proof = BootstrapProof { challenge, proof, bootstrap_secret: Some(secret) };
        match api.put("/v1/acl/bootstrap").body(&proof).map_err(server)?.send().await {
            Ok(_) => {
                info!(secret = self.config.token_secret, "first token made");
                Ok(())
            }
            Err(ApiError::Status { status: StatusCode::FORBIDDEN, message, .. }) if message.contains("already") => {
                Err(BootstrapError::ByHand { secret: self.config.token_secret.clone() })
            }
            Err(error) => Err(server(error)),
        }
    }

    /// Makes the auth method of the cluster's pods, where there is none of its name: each pod may be the service of its service
    /// account, in the namespace of its name, on the node of its own name.
    async fn admit_pods(&self, api: &ApiClient) -> Result<(), ApiError> {
        let name = &self.config.auth_method;
        let method = |description: &str| {
            json!({
                "Name": name, "Type": "kubernetes", "Description": description,
                "Config": { "BoundAudiences": [self.config.audience] },
            })
        };
        let found: Option<Value> = match api.get("/v1/acl/auth-method").segment(name).json().await {
            Ok(found) => Some(found),
            Err(ApiError::Status { status: StatusCode::NOT_FOUND, .. }) => None,
            Err(error) => return Err(error),
        };
        match found.as_ref().map(|found| found["Description"] == BEGUN) {
            Some(false) => return Ok(()),
            Some(true) => {}
            None => {
                api.put("/v1/acl/auth-method").body(&method(BEGUN))?.send().await?;
            }
        }
        let rules: Vec<Value> = api.get("/v1/acl/binding-rules").query("authmethod", name).json().await?;
        for (kind, bound) in [
            ("service", "${serviceaccount.namespace}/${serviceaccount.name}"),
            ("node", "${pod.name}.${serviceaccount.namespace}"),
        ] {
            if !rules.iter().any(|rule| rule["BindType"] == kind && rule["BindName"] == bound) {
                let rule = json!({ "AuthMethod": name, "BindType": kind, "BindName": bound, "Description": DONE });
                api.put("/v1/acl/binding-rule").body(&rule)?.send().await?;
            }
        }
        api.put("/v1/acl/auth-method").segment(name).body(&method(DONE))?.send().await?;
        info!(method = name, "pods of this cluster may log in");
        Ok(())
    }

    /// Tells the injector which roots agents are to know the servers by: all that are in force.
    async fn tell_roots(&self, roots: &Value) -> Result<(), BootstrapError> {
        let mut known: Vec<&str> =
            roots["Roots"].as_array().into_iter().flatten().filter_map(|root| root["ID"].as_str()).collect();
        known.sort_unstable();
        if known.is_empty() {
            return Ok(());
        }
        let text = format!("{}\n", json!({ "root_fingerprints": known }));
        let name = &self.config.roots;
        let found = self.maps.get(name).await.map_err(failed(format!("read config map `{name}`")))?;
        if found.data.as_ref().and_then(|data| data.get(ROOTS)) == Some(&text) {
            return Ok(());
        }
        let data = BTreeMap::from([(ROOTS.to_owned(), text)]);
        let written = ConfigMap { data: Some(data), ..found };
        match self.maps.replace(name, &PostParams::default(), &written).await {
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
            other => {
                other.map_err(failed(format!("write config map `{name}`")))?;
                info!(roots = known.len(), "roots told");
                Ok(())
            }
        }
    }
}

/// Reports whether the servers know the token.
async fn is_known(api: &ApiClient) -> Result<bool, ApiError> {
    match api.get("/v1/acl/token/self").send().await {
        Ok(_) => Ok(true),
        Err(ApiError::Status { status: StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED, .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

fn failed(what: impl Into<String>) -> impl FnOnce(kube::Error) -> BootstrapError {
    let what = what.into();
    move |source| BootstrapError::Cluster { what, source: Box::new(source) }
}
