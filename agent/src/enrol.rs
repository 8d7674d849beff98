//! Joining a mesh: from a join token, or by the word of a platform, to an agent record.
//!
//! The agent's key is kept before the first request is sent, and a server answers a repeat with the same key as it
//! answered the first time. So an agent that dies anywhere in between is enrolled by simply starting again.

use std::sync::Arc;
use std::time::Duration;

use catalog::SecretHash;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tracing::{info, warn};
use wire::agent_protocol::{JOIN_PATH, JoinRequest, JoinResponse, LOGIN_PATH, LoginRequest, MESH_PATH, MeshName};
use wire::crypto::Secret;
use wire::join_token::JoinSecret;
use wire::login::{CredentialError, CredentialFor};
use wire::pki::LeafKey;
use wire::tls::{TrustAnchors, join_client_config};

use crate::config::{Config, LoginSource};
use crate::leaf::{HeldLeaf, LeafError};
use crate::state::Identity;
use crate::sync::connection::{CallError, Connection};
use wire::random::Seeded;

/// A join waits for a Raft write.
const JOIN_TIMEOUT: Duration = Duration::from_secs(20);
/// Which mesh a server is of, it says at once; a platform has this long, too, to say who the agent is.
const SHORT_TIMEOUT: Duration = Duration::from_secs(10);
/// With an identity in hand, servers are not waited for longer, however many there are.
const ONCE_TIMEOUT: Duration = Duration::from_secs(1);
/// The wait before the first repeat is drawn from up to this.
const BACKOFF_BASE: Duration = Duration::from_millis(200);
/// No wait before a repeat is drawn from more.
const BACKOFF_MAX: Duration = Duration::from_secs(15);

/// Why an agent cannot join, however often it tries.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// There is neither an identity nor a join token.
    #[error(
        "the agent has no identity yet: make a token with `weft join-token create` and give it by --join-token-file, or \
         name an auth method by --auth-method"
    )]
    NoToken,
    /// No server is configured.
    #[error("no server is configured: name at least one agent port by --server HOST:PORT")]
    NoServer,
    /// A server refused the join.
    #[error("server {server} refused to let this agent join: {error}")]
    Refused {
        /// The server.
        server: String,
        /// What it said, and what to do.
        error: String,
    },
    /// The server's answer does not hold together.
    #[error("server {server} let this agent join as somebody else: {reason}")]
    Answer {
        /// The server.
        server: String,
        /// What is wrong.
        reason: String,
    },
}

/// What an agent shows to be let in.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Proof<'a> {
    /// A join token.
    Token(&'a JoinSecret),
    /// The word of its platform.
    Login(&'a LoginSource),
}

impl Proof<'_> {
    /// Returns the roots by which a server is recognised before it is shown anything.
    fn roots(&self) -> Vec<[u8; 32]> {
        match self {
            Self::Token(token) => vec![token.root_fingerprint()],
            Self::Login(login) => login.root_fingerprints.clone(),
        }
    }

    /// Returns what an identity remembers it by: another join token than before is noticed, a new credential of the same
    /// method is nothing new.
    pub(crate) fn mark(&self) -> SecretHash {
        match self {
            Self::Token(token) => token.secret_hash(),
            Self::Login(login) => wire::crypto::secret_hash(&Secret::new(format!("login:{}", login.method))),
        }
    }
}

/// Joins, or logs in; tries servers in turn until one answers.
///
/// # Errors
///
/// Only what another attempt would not change.
pub(crate) async fn enrol(config: &Config, proof: Proof<'_>, key: &LeafKey) -> Result<Identity, EnrolError> {
    if config.servers.is_empty() {
        return Err(EnrolError::NoServer);
    }
    let mut jitter = Seeded::from_entropy();
    let mut servers = config.servers.clone();
    jitter.shuffle(&mut servers);
    let mut failures = 0;
    for server in servers.iter().cycle() {
        match attempt(server, config, proof, key).await {
            Ok(identity) => {
                info!(node = %config.node, server, agent = %identity.record.id, "agent enrolled");
                return Ok(identity);
            }
            Err(Failed::ForGood(error)) => return Err(error),
            Err(Failed::ForNow { error, retry_after }) => {
                let wait = retry_after.unwrap_or_default() + jitter.backoff(failures, BACKOFF_BASE, BACKOFF_MAX);
                warn!(server, error, retry_in_s = wait.as_secs_f32(), "cannot join yet");
                failures += 1;
                tokio::time::sleep(wait).await;
            }
        }
    }
    Err(EnrolError::NoServer)
}

/// Tries every server once, for an agent that has an identity already.
///
/// # Errors
///
/// One line on the last failure.
pub(crate) async fn once(config: &Config, proof: Proof<'_>, key: &LeafKey) -> Result<Identity, String> {
    let mut last = EnrolError::NoServer.to_string();
    // All at once, and for a short time only: meanwhile the services of this node are not served. Whichever server is
    // first, the others answer the same, for the key is the same.
    let mut attempts: FuturesUnordered<_> =
        config.servers.iter().map(|server| attempt(server, config, proof, key)).collect();
    let first = tokio::time::timeout(ONCE_TIMEOUT, async {
        while let Some(answer) = attempts.next().await {
            match answer {
                Ok(identity) => return Ok(identity),
                Err(Failed::ForGood(error)) => return Err(error.to_string()),
                Err(Failed::ForNow { error, .. }) => last = error,
            }
        }
        Err(last)
    });
    first.await.unwrap_or_else(|_| Err(format!("no server answered within {ONCE_TIMEOUT:?}")))
}

enum Failed {
    ForNow { error: String, retry_after: Option<Duration> },
    ForGood(EnrolError),
}

async fn attempt(server: &str, config: &Config, proof: Proof<'_>, key: &LeafKey) -> Result<Identity, Failed> {
    let for_now =
        |error: &dyn std::error::Error, retry_after| Failed::ForNow { error: wire::one_line(error), retry_after };
    // Where it can be, it is asked for before a connection is opened: a platform may need a moment.
    let mut bearer = match proof {
        Proof::Login(login) if !login.source.names_the_mesh() => {
            Some(bearer_of(login, "", key).await.map_err(|error| for_now(&error, None))?)
        }
        _ => None,
    };
    // Only the roots that the proof names are trusted, so the secret goes to nobody else.
    let tls = Arc::new(join_client_config(proof.roots()));
    let connection = Connection::open(server, tls).await.map_err(|error| Failed::ForNow {
        error: format!("{}; {}", wire::one_line(&error), error.advice()),
        retry_after: None,
    })?;
    if let (Proof::Login(login), None) = (proof, &bearer) {
        // The server has shown that it is of a root that was named to this agent; what it says of the mesh counts for what
        // the platform signs, and for no more.
        let asked = connection.call::<_, MeshName>(MESH_PATH, &serde_json::json!({}), SHORT_TIMEOUT).await;
        let mesh = asked.map_err(|error| for_now(&error, None))?;
        bearer = Some(bearer_of(login, &mesh.cluster_id, key).await.map_err(|error| for_now(&error, None))?);
    }
    let (csr, node) = (key.csr_der(None), config.node.clone());
    let (platform, zone, network) = (config.platform, config.zone.clone(), config.network.clone());
    let answer = match (proof, bearer) {
        (Proof::Token(token), _) => {
            let request = JoinRequest { secret: token.secret(), csr, node, platform, zone, network };
            connection.call::<_, JoinResponse>(JOIN_PATH, &request, JOIN_TIMEOUT).await
        }
        (Proof::Login(login), bearer) => {
            let (method, bearer) = (login.method.clone(), bearer.unwrap_or_else(|| Secret::new("")));
            let request = LoginRequest { method, bearer, csr, node, platform, zone, network };
            connection.call::<_, JoinResponse>(LOGIN_PATH, &request, JOIN_TIMEOUT).await
        }
    };
    match answer {
        Ok(response) => accept(response, config, proof, key)
            .map_err(|reason| Failed::ForGood(EnrolError::Answer { server: server.to_owned(), reason })),
        Err(CallError::Refused { error, .. }) => {
            Err(Failed::ForGood(EnrolError::Refused { server: server.to_owned(), error }))
        }
        Err(CallError::Unavailable { error, retry_after, .. }) => Err(Failed::ForNow { error, retry_after }),
        Err(error) => Err(for_now(&error, None)),
    }
}

/// Asks the platform for a credential, bound to this agent's key and the mesh.
async fn bearer_of(login: &LoginSource, cluster_id: &str, key: &LeafKey) -> Result<Secret, CredentialError> {
    let wanted = CredentialFor { cluster_id, key: &key.fingerprint(), now: wire::crypto::now() };
    match tokio::time::timeout(SHORT_TIMEOUT, login.source.credential(wanted)).await {
        Ok(credential) => credential,
        Err(_) => Err(CredentialError::Platform {
            reason: format!("{} did not answer within {SHORT_TIMEOUT:?}", login.source.name()),
        }),
    }
}

/// Looks whether what a server gave is what was asked for.
fn accept(response: JoinResponse, config: &Config, proof: Proof<'_>, key: &LeafKey) -> Result<Identity, String> {
    let record = response.record;
    if record.node != config.node || record.platform != config.platform {
        return Err(format!("the record is of {} on {}", record.node, record.platform));
    }
    if record.key != key.fingerprint() {
        return Err("the record is of another key".to_owned());
    }
    TrustAnchors::of_domain(&response.mesh.trust_domain, response.roots_pem.clone())
        .map_err(|error| wire::one_line(&error))?;
    if response.provisional {
        warn!(node = %record.node, "the servers have no quorum; this agent calls out, and is advertised once they have one");
    }
    let wanted = response.mesh.scheme().agent(record.platform, &record.node);
    let leaf = HeldLeaf::new(key, &response.leaf, &wanted, wire::crypto::now())
        .map_err(|error: LeafError| wire::one_line(&error))?;
    Ok(Identity {
        record,
        mesh: response.mesh,
        roots_pem: response.roots_pem,
        leaf: leaf.stored().clone(),
        servers: response.servers,
        joined_with: proof.mark(),
    })
}
