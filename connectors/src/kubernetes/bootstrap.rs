//! Makes a new group of servers ready for its cluster: the first token, the auth method of pods, the roots that the servers are
//! known by, the connector's token.
//!
//! Each step looks first and does only what is missing, so that it may run at any time, anywhere, and be killed anywhere: the
//! first token's secret is kept before it is used, and what an operator changed afterwards is left alone.

mod connector_token;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use catalog::AccessorId;
use http::StatusCode;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret as ClusterSecret};
use kube::Api;
use kube::api::PostParams;
use serde_json::{Value, json};
use tracing::{info, warn};
use wire::acl::TokenView;
use wire::api_types::{BootstrapChallenge, BootstrapProof};
use wire::client::{ApiClient, ApiError};
use wire::cluster_key::{ClusterKey, ClusterKeyFileError};
use wire::crypto::{Secret, random_hex};

use super::cluster::{self, ClusterError, ClusterName, node_name};

/// How often is looked again: roots come and go while the authority rotates.
const PERIOD: Duration = Duration::from_secs(30);
/// So long after a failure.
const AGAIN_AFTER: Duration = Duration::from_secs(3);
/// Where a token's secret stands in its Secret.
const TOKEN: &str = "token";
const SECRET_BYTES: usize = 32;
/// Where the injector looks for the roots' fingerprints, and whoever calls the servers' API for the roots.
const ROOTS: &str = "roots.json";
const CERTIFICATES: &str = "ca.pem";
/// Says of an auth method that its binding rules may still be missing.
const BEGUN: &str = "pods of this cluster; rules to come";
const DONE: &str = "pods of this cluster";
/// What is asked of a server in two places.
const WHOSE: &str = "ask whose the first token is";
const MAKE: &str = "make the first token";

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
    /// The secret that holds the token of the cluster's connector; it must exist, and may be empty. There is none where
    /// nobody is to be given one.
    pub connector_token: Option<String>,
    /// How the cluster's pods log in; nothing is set up for them where nobody says so.
    pub pod_logins: Option<PodLogins>,
}

/// Says how a cluster's pods log in.
#[derive(Debug, Clone)]
pub struct PodLogins {
    /// Their auth method.
    pub auth_method: String,
    /// The audience of their tokens; one of the mesh alone where there is none.
    pub audience: Option<String>,
    /// The cluster's name, where there are several in the mesh.
    pub cluster_name: Option<ClusterName>,
}

/// Why a step failed; it is tried again.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// The cluster key cannot be read.
    #[error("cannot prove to hold the cluster key")]
    Key(#[source] ClusterKeyFileError),
    /// There is no cluster to talk to.
    #[error(transparent)]
    Unreachable(#[from] ClusterError),
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
        let key = ClusterKey::load(&config.cluster_key_file).map_err(BootstrapError::Key)?;
        let (client, _) = cluster::client().await?;
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
        if accessor_of(&api).await.map_err(server(WHOSE))?.is_none() {
            self.make_token(&plain, &api, secret).await?;
        }
        let audience = match &self.config.pod_logins {
            Some(logins) => admit_pods(&api, logins).await.map_err(server("write the auth method of pods"))?,
            None => None,
        };
        let roots: Value =
            api.get("/v1/connect/ca/roots").json().await.map_err(server("ask for the authority's roots"))?;
        self.tell_roots(&roots, audience.as_deref()).await?;
        match &self.config.connector_token {
            Some(name) => self.give_connector_a_token(&plain, &api, name).await,
            None => Ok(()),
        }
    }

    /// Returns the secret of the first token; draws it and keeps it where nobody has yet.
    async fn kept_secret(&self) -> Result<Secret, BootstrapError> {
        let name = &self.config.token_secret;
        loop {
            let found = self.read_secret(name).await?;
            if let Some(kept) = token_in(&found) {
                return Ok(kept);
            }
            // Where somebody was faster, theirs is the one.
            self.keep(found, &Secret::new(random_hex(SECRET_BYTES))).await?;
        }
    }

    async fn read_secret(&self, name: &str) -> Result<ClusterSecret, BootstrapError> {
        self.secrets.get(name).await.map_err(failed(format!("read secret `{name}`")))
    }

    /// Keeps a token in a secret, unless somebody changed that since it was read; reports whether it did.
    async fn keep(&self, found: ClusterSecret, token: &Secret) -> Result<bool, BootstrapError> {
        let name = found.metadata.name.clone().unwrap_or_default();
        let mut data = found.data.clone().unwrap_or_default();
        data.insert(TOKEN.to_owned(), ByteString(token.expose().as_bytes().to_vec()));
        let written = ClusterSecret { data: Some(data), ..found };
        match self.secrets.replace(&name, &PostParams::default(), &written).await {
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
            other => other.map(|_| true).map_err(failed(format!("write secret `{name}`"))),
        }
    }

    /// Makes the first token with a secret that is kept; `plain` carries no token, `api` the one that is to be made.
    async fn make_token(&self, plain: &ApiClient, api: &ApiClient, secret: Secret) -> Result<(), BootstrapError> {
        let server = |what| move |source| BootstrapError::Server { what, source: Box::new(source) };
        let asked = plain.get("/v1/acl/bootstrap").json().await.map_err(server(MAKE))?;
        let BootstrapChallenge { challenge, is_done } = asked;
        if is_done {
            // Another copy of this may have made it meanwhile, with the very secret that is kept.
            return match accessor_of(api).await.map_err(server(WHOSE))? {
                Some(_) => Ok(()),
                None => Err(BootstrapError::ByHand { secret: self.config.token_secret.clone() }),
            };
        }
        let proof = self.key.acl_bootstrap_mac(&challenge).to_vec();
        let proof = BootstrapProof { challenge, proof, bootstrap_secret: Some(secret) };
        plain.put("/v1/acl/bootstrap").body(&proof).map_err(server(MAKE))?.send().await.map_err(server(MAKE))?;
        info!(secret = self.config.token_secret, "first token made");
        Ok(())
    }

    /// Tells which roots the servers are known by, all that are in force, for agents by their fingerprints; and whom their
    /// tokens are for.
    async fn tell_roots(&self, roots: &Value, audience: Option<&str>) -> Result<(), BootstrapError> {
        let listed = roots["Roots"].as_array().into_iter().flatten();
        let known: BTreeMap<&str, &str> =
            listed.filter_map(|root| Some((root["ID"].as_str()?, root["RootCert"].as_str()?))).collect();
        if known.is_empty() {
            return Ok(());
        }
        let fingerprints: Vec<&&str> = known.keys().collect();
        let certificates: String = known.values().map(|pem| format!("{}\n", pem.trim_end())).collect();
        let mut told = json!({ "root_fingerprints": fingerprints });
        if let Some(audience) = audience {
            told["audience"] = json!(audience);
        }
        let data = BTreeMap::from([(ROOTS.to_owned(), format!("{told}\n")), (CERTIFICATES.to_owned(), certificates)]);
        let name = &self.config.roots;
        let found = self.maps.get(name).await.map_err(failed(format!("read config map `{name}`")))?;
        if found.data.as_ref() == Some(&data) {
            return Ok(());
        }
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

/// Makes the auth method of a cluster's pods, where there is none of its name: each pod may be the service of its service
/// account, in the namespace of its name, on the node of its own name. Returns the audience that it asks for.
async fn admit_pods(api: &ApiClient, logins: &PodLogins) -> Result<Option<String>, ApiError> {
    let name = &logins.auth_method;
    let method = |description: &str| {
        json!({
            "Name": name, "Type": "kubernetes", "Description": description,
            "Config": { "BoundAudiences": logins.audience.iter().collect::<Vec<_>>() },
        })
    };
    let found: Option<Value> = match api.get("/v1/acl/auth-method").segment(name).json().await {
        Ok(found) => Some(found),
        Err(ApiError::Status { status: StatusCode::NOT_FOUND, .. }) => None,
        Err(error) => return Err(error),
    };
    match found.as_ref().map(|found| found["Description"] == BEGUN) {
        Some(false) => return Ok(audience_of(found.as_ref())),
        Some(true) => {}
        None => {
            api.put("/v1/acl/auth-method").body(&method(BEGUN))?.send().await?;
        }
    }
    let rules: Vec<Value> = api.get("/v1/acl/binding-rules").query("authmethod", name).json().await?;
    let node = node_name("${pod.name}", "${serviceaccount.namespace}", logins.cluster_name.as_ref());
    for (kind, bound) in [("service", "${serviceaccount.namespace}/${serviceaccount.name}"), ("node", node.as_str())] {
        if !rules.iter().any(|rule| rule["BindType"] == kind && rule["BindName"] == bound) {
            let rule = json!({ "AuthMethod": name, "BindType": kind, "BindName": bound, "Description": DONE });
            api.put("/v1/acl/binding-rule").body(&rule)?.send().await?;
        }
    }
    let done: Value = api.put("/v1/acl/auth-method").segment(name).body(&method(DONE))?.json().await?;
    info!(method = name, "pods of this cluster may log in");
    Ok(audience_of(Some(&done)))
}

/// Returns the audience that an auth method asks for; the first of several.
fn audience_of(method: Option<&Value>) -> Option<String> {
    method?["Config"]["BoundAudiences"][0].as_str().map(str::to_owned)
}

/// Returns the public name of the client's token; none where the servers do not know it.
async fn accessor_of(api: &ApiClient) -> Result<Option<AccessorId>, ApiError> {
    match api.get("/v1/acl/token/self").json::<TokenView>().await {
        Ok(own) => Ok(Some(own.accessor)),
        Err(ApiError::Status { status: StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED, .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Returns the token that a secret holds.
fn token_in(secret: &ClusterSecret) -> Option<Secret> {
    let text = str::from_utf8(&secret.data.as_ref()?.get(TOKEN)?.0).ok()?.trim();
    (!text.is_empty()).then(|| Secret::new(text))
}

fn failed(what: impl Into<String>) -> impl FnOnce(kube::Error) -> BootstrapError {
    let what = what.into();
    move |source| BootstrapError::Cluster { what, source: Box::new(source) }
}
