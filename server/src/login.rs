//! Logins: whose credential it is, and what the binding rules make of them.

mod failure;
mod jwt;
mod rules;
#[cfg(test)]
pub(crate) mod testing;
mod turns;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use catalog::{
    AuthConfig, AuthMethodName, Bound, Catalog, CatalogIndex, KeyFingerprint, LoginClaims, Refusal, SecretHash,
    Timestamp,
};
use tracing::{debug, warn};
use wire::crypto::{self, Secret};
use wire::login::{Credential, LoginContext, LoginError, LoginMaker, LoginMethod};

#[cfg(test)]
pub(crate) use failure::DENIED;
pub(crate) use failure::LoginFailed;
use jwt::JwtMethod;
use turns::{Asker, Turns};

use crate::pace::Pace;

/// The longest that a credential may still count which an agent enrols with: so long it is remembered, lest another key
/// uses it.
const BEARER_LIFETIME_MAX: Duration = Duration::from_secs(24 * 3600);
/// Logins that were not accepted, as far as the log has a line each: anybody can try, and must not fill it.
const NOTED_BURST: u32 = 100;
const NOTED_PER_SECOND: u32 = 10;

/// Is somebody whose credential was checked, and what they are here.
#[derive(Debug, Clone)]
pub(crate) struct Verified {
    pub(crate) method: AuthMethodName,
    pub(crate) claims: LoginClaims,
    pub(crate) bound: Bound,
    /// When the credential ends.
    pub(crate) ends: Timestamp,
    /// The hash of that by which the credential is known again.
    pub(crate) bearer: SecretHash,
    /// Whether it is worth nothing under another key.
    pub(crate) is_of_one_key: bool,
}

/// Checks logins; a clone shares what is known of keys.
#[derive(Clone)]
pub(crate) struct Logins {
    inner: Arc<Inner>,
}

/// The checks of the methods that were asked for, and the index at which each method was as its check has it.
type Methods = BTreeMap<AuthMethodName, (CatalogIndex, Arc<dyn LoginMethod>)>;

struct Inner {
    /// What knows the types of methods that this crate does not.
    makers: Vec<Arc<dyn LoginMaker>>,
    methods: Mutex<Methods>,
    rules: rules::HeldRules,
    turns: Turns,
    notes: Pace,
    started: Instant,
}

impl std::fmt::Debug for Logins {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Logins")
    }
}

impl Default for Logins {
    fn default() -> Self {
        Self::new(Vec::new())
    }
}

impl Logins {
    /// Knows the types of methods that `makers` know, besides its own.
    pub(crate) fn new(makers: Vec<Arc<dyn LoginMaker>>) -> Self {
        let notes = Pace::new(NOTED_BURST, NOTED_PER_SECOND);
        let (methods, rules, turns, started) = (Mutex::default(), Default::default(), Turns::new(), Instant::now());
        Self { inner: Arc::new(Inner { makers, methods, rules, turns, notes, started }) }
    }

    /// Checks the credential of an agent with a key and an address, and asks the binding rules of `catalog` who that is here.
    pub(crate) async fn verify_agent(
        &self,
        catalog: &Catalog,
        method: &AuthMethodName,
        bearer: &Secret,
        key: &KeyFingerprint,
        source: IpAddr,
    ) -> Result<Verified, LoginFailed> {
        self.verify(catalog, method, bearer, Some(key), Asker::Agent(source)).await
    }

    /// Checks the credential of a caller of the API, and asks the binding rules of `catalog` who that is here.
    pub(crate) async fn verify_caller(
        &self,
        catalog: &Catalog,
        method: &AuthMethodName,
        bearer: &Secret,
        source: Option<IpAddr>,
    ) -> Result<Verified, LoginFailed> {
        self.verify(catalog, method, bearer, None, Asker::Caller(source)).await
    }

    async fn verify(
        &self,
        catalog: &Catalog,
        method: &AuthMethodName,
        bearer: &Secret,
        key: Option<&KeyFingerprint>,
        asker: Asker,
    ) -> Result<Verified, LoginFailed> {
        let failed = |error| LoginFailed::Credential { method: method.clone(), error };
        let checker = self.method(catalog, method)?;
        let credential = Credential { bearer: bearer.clone() };
        // What cannot count is sent away before it takes anything of what others need.
        checker.glance(&credential).map_err(failed)?;
        let jitter = f64::from(u16::from_be_bytes(crypto::random())) / f64::from(u16::MAX);
        let asked = checker.asks_others().then_some(method);
        self.inner.turns.take(asker, asked, jitter).map_err(|retry_after| LoginFailed::Busy { retry_after })?;
        let cluster_id = catalog.mesh().map(|mesh| mesh.cluster_id.clone()).unwrap_or_default();
        let context = LoginContext { cluster_id: &cluster_id, key, now: crypto::now() };
        let identity = checker.verify(&credential, context).await.map_err(failed)?;
        if key.is_some() && identity.ends.since(context.now) > BEARER_LIFETIME_MAX {
            let hours = BEARER_LIFETIME_MAX.as_secs() / 3600;
            return Err(failed(LoginError::rejected(format!(
                "it counts for longer than {hours} h: have the platform issue one that ends sooner"
            ))));
        }
        let bound = self.inner.rules.of(catalog, method)?.bind(&identity.claims, catalog.index())?;
        let bearer = crypto::secret_hash(&Secret::new(checker.known_by(&credential)));
        Ok(Verified {
            method: method.clone(),
            claims: identity.claims,
            bound,
            ends: identity.ends,
            bearer,
            is_of_one_key: checker.is_of_one_key(),
        })
    }

    /// Writes to the log why somebody was not let in: whoever asked is not told.
    pub(crate) fn note(&self, method: &AuthMethodName, source: Option<SocketAddr>, failed: &LoginFailed) {
        let source = source.map(|source| source.to_string()).unwrap_or_default();
        let error = wire::one_line(failed);
        if self.inner.notes.take(self.inner.started.elapsed(), 0.0).is_ok() {
            warn!(%method, src.addr = source, error, "a login was not accepted");
        } else {
            debug!(%method, src.addr = source, error, "a login was not accepted");
        }
    }

    /// Returns the check of a method; one that was changed forgets what its keys were.
    fn method(&self, catalog: &Catalog, name: &AuthMethodName) -> Result<Arc<dyn LoginMethod>, LoginFailed> {
        let Some(method) = catalog.auth_method(name) else {
            self.methods().remove(name);
            return Err(Refusal::NotFound { what: "auth method".to_owned(), name: name.to_string() }.into());
        };
        let mut methods = self.methods();
        if let Some((modified, checker)) = methods.get(name)
            && *modified == method.modified
        {
            return Ok(Arc::clone(checker));
        }
        let checker =
            self.make(&method.config).map_err(|error| LoginFailed::Credential { method: name.clone(), error })?;
        methods.insert(name.clone(), (method.modified, Arc::clone(&checker)));
        Ok(checker)
    }

    /// Makes the check of a method, or says why it cannot work: static keys are read, nobody is asked anything.
    ///
    /// # Errors
    /// [`LoginError::Unavailable`] for a type that nobody on this server knows.
    pub(crate) fn make(&self, config: &AuthConfig) -> Result<Arc<dyn LoginMethod>, LoginError> {
        if let AuthConfig::Jwt(jwt) = config {
            return JwtMethod::new(jwt.as_ref().clone()).map(|checker| Arc::new(checker) as Arc<dyn LoginMethod>);
        }
        let made = self.inner.makers.iter().find_map(|maker| maker.make(config));
        made.unwrap_or_else(|| {
            Err(LoginError::unavailable(format!("this server does not know logins of type `{}`", config.kind())))
        })
    }

    fn methods(&self) -> MutexGuard<'_, Methods> {
        self.inner.methods.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
