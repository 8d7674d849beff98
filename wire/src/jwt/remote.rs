//! Keys that an issuer publishes: kept while they are young, fetched by one for all, and by nobody too often.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use catalog::{JwtKeys, Timestamp};
use serde_json::Value;
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::{info, warn};

use super::kept::KeptKeys;
use super::keys::KeySet;
use super::source::KeysUnavailable;
use crate::web::{Reach, WebClient};
use crate::{crypto, one_line};

/// For so long the last keys that there were are good enough while the issuer does not answer; then what needs them is denied.
pub const KEPT_MAX: Duration = Duration::from_secs(24 * 3600);
/// By so much the clock may have been set back since keys were kept.
const SET_BACK_MAX: Duration = Duration::from_secs(60);
/// What somebody waits for keys beyond the time of two fetches: each answers in time or not at all.
const WAIT_MORE: Duration = Duration::from_secs(5);

/// Says how often keys are fetched, and how long that may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Freshness {
    /// For so long keys count as new: nobody asks again.
    pub young: Duration,
    /// The time that one fetch has, from the name's lookup to the last byte.
    pub timeout: Duration,
    /// The issuer is asked no more often than this, whatever key ids are sent and however often it fails.
    pub pause: Duration,
}

/// Is told when a fetch has ended, and whether there are new keys.
pub type Told = Arc<dyn Fn(bool) + Send + Sync>;

impl Default for Freshness {
    fn default() -> Self {
        Self { young: Duration::from_secs(600), timeout: Duration::from_secs(10), pause: Duration::from_secs(30) }
    }
}

/// Where an issuer publishes its keys.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Set(String),
    Discovery(String),
}

/// Holds the published keys of one issuer: whoever needs them shares one fetch.
pub struct RemoteKeys {
    shared: Arc<Shared>,
}

struct Shared {
    fetcher: WebClient,
    place: Place,
    /// The name of the place, with whose word counts there: of another place's keys nothing is taken over.
    name: String,
    kept: Option<Arc<dyn KeptKeys>>,
    /// Whether nothing of it is to be kept any more.
    is_forgotten: AtomicBool,
    issuer: String,
    freshness: Freshness,
    told: Option<Told>,
    held: Mutex<Held>,
    fetched: Notify,
}

/// What is known; a machine of its own, so that time is a value.
#[derive(Debug, Default)]
struct Held {
    keys: Option<(Arc<KeySet>, Instant)>,
    asked_at: Option<Instant>,
    failure: Option<String>,
    is_fetching: bool,
}

/// What to do for somebody who needs keys.
#[derive(Debug)]
enum Step {
    Use(Arc<KeySet>),
    /// They are good enough, and old enough for somebody to look for new ones.
    UseAndFetch(Arc<KeySet>),
    Fetch,
    Wait,
    Fail(String),
}

impl fmt::Debug for RemoteKeys {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("RemoteKeys").field("place", &self.shared.place).finish_non_exhaustive()
    }
}

impl Held {
    /// Decides what to do. `newer_than` is when the keys were fetched that did not have the one that is looked for.
    fn decide(&mut self, now: Instant, newer_than: Option<Instant>, freshness: Freshness) -> Step {
        let usable = self.keys.as_ref().filter(|(_, at)| now.duration_since(*at) <= KEPT_MAX);
        let new_enough = usable.filter(|(_, at)| newer_than.is_none_or(|than| *at > than));
        if let Some((keys, at)) = new_enough {
            let keys = Arc::clone(keys);
            let is_due = now.duration_since(*at) > freshness.young && !self.is_fetching && self.may_ask(now, freshness);
            if is_due {
                self.begin(now);
                return Step::UseAndFetch(keys);
            }
            return Step::Use(keys);
        }
        if self.is_fetching {
            return Step::Wait;
        }
        if self.may_ask(now, freshness) {
            self.begin(now);
            return Step::Fetch;
        }
        // Asked a moment ago: what there is must do, even if it lacks the key.
        match (usable, &self.failure) {
            (Some((keys, _)), _) => Step::Use(Arc::clone(keys)),
            (None, Some(failure)) => Step::Fail(failure.clone()),
            (None, None) => Step::Fail("the issuer's keys are not known".to_owned()),
        }
    }

    /// Returns the keys if they are all that there are for now: the issuer is not being asked, and would not be.
    fn all_there_are(&self, now: Instant, freshness: Freshness) -> Option<Arc<KeySet>> {
        let usable = self.keys.as_ref().filter(|(_, at)| now.duration_since(*at) <= KEPT_MAX);
        usable.filter(|_| !self.is_fetching && !self.may_ask(now, freshness)).map(|(keys, _)| Arc::clone(keys))
    }

    fn may_ask(&self, now: Instant, freshness: Freshness) -> bool {
        self.asked_at.is_none_or(|at| now.duration_since(at) >= freshness.pause)
    }

    fn begin(&mut self, now: Instant) {
        self.is_fetching = true;
        self.asked_at = Some(now);
    }

    fn end(&mut self, now: Instant, result: Result<KeySet, String>) {
        self.is_fetching = false;
        match result {
            Ok(keys) => {
                self.keys = Some((Arc::new(keys), now));
                self.failure = None;
            }
            Err(failure) => self.failure = Some(failure),
        }
    }
}

impl RemoteKeys {
    /// Returns the keys at `keys`; none where these are not published.
    ///
    /// # Errors
    ///
    /// [`KeysUnavailable`] if the roots that vouch for the place cannot be read.
    pub fn new(
        keys: &JwtKeys,
        issuer: &str,
        reach: Reach,
        freshness: Freshness,
        told: Option<Told>,
    ) -> Result<Option<Self>, KeysUnavailable> {
        let (place, ca_pem) = match keys {
            JwtKeys::Url { url, ca_pem } => (Place::Set(url.clone()), ca_pem),
            JwtKeys::Discovery { url, ca_pem } => (Place::Discovery(url.clone()), ca_pem),
            JwtKeys::Pem(_) | JwtKeys::Set(_) => return Ok(None),
        };
        let fetcher = WebClient::new(ca_pem.as_deref(), reach, freshness.timeout)
            .map_err(|error| KeysUnavailable::new(one_line(&error)))?;
        let (held, fetched) = (Mutex::default(), Notify::new());
        let name = serde_json::to_vec(&(keys, issuer)).expect("texts are JSON");
        let (name, issuer) = (crypto::sha256_hex(&name), issuer.to_owned());
        let (kept, is_forgotten) = (None, AtomicBool::new(false));
        let shared = Shared { fetcher, place, name, kept, is_forgotten, issuer, freshness, told, held, fetched };
        Ok(Some(Self { shared: Arc::new(shared) }))
    }

    /// Has what is fetched kept, and goes on with what was kept before, as if there had been no restart; returns when that was
    /// fetched.
    pub(super) fn kept_by(mut self, kept: Arc<dyn KeptKeys>, now: Timestamp) -> (Self, Option<Timestamp>) {
        let shared = Arc::get_mut(&mut self.shared).expect("nobody else has a copy of what was made a moment ago");
        let found = kept.load(&shared.name).and_then(|(text, fetched)| {
            let at = instant_of(fetched, now)?;
            let keys = KeySet::from_jwks(text.as_bytes()).ok()?;
            shared.held().keys = Some((Arc::new(keys), at));
            Some(fetched)
        });
        shared.kept = Some(kept);
        (self, found)
    }

    /// Returns the name that its keys are kept under.
    #[must_use]
    pub fn kept_as(&self) -> &str {
        &self.shared.name
    }

    /// Has what is kept of its keys forgotten, and what is fetched from now on not kept.
    ///
    /// # Panics
    ///
    /// If it is called outside of a runtime.
    pub fn forget(&self) {
        self.shared.is_forgotten.store(true, Ordering::SeqCst);
        if self.shared.kept.is_some() {
            let shared = Arc::clone(&self.shared);
            // Nobody waits for the disk.
            tokio::task::spawn_blocking(move || shared.forget());
        }
    }

    /// Returns the keys if no others can be had for now, without asking anybody.
    #[must_use]
    pub fn all_there_are(&self, now: Instant) -> Option<Arc<KeySet>> {
        self.shared.held().all_there_are(now, self.shared.freshness)
    }

    /// Returns the keys that can be used at once and when they were fetched, and has somebody fetch them where it is time to.
    ///
    /// # Panics
    ///
    /// If it is called outside of a runtime.
    #[must_use]
    pub fn at_hand(&self) -> Option<(Arc<KeySet>, Instant)> {
        let mut held = self.shared.held();
        let step = held.decide(Instant::now(), None, self.shared.freshness);
        let at = held.keys.as_ref().map(|(_, at)| *at);
        drop(held);
        match step {
            Step::Use(keys) => Some((keys, at?)),
            Step::UseAndFetch(keys) => {
                self.fetch();
                Some((keys, at?))
            }
            Step::Fetch => {
                self.fetch();
                None
            }
            Step::Wait | Step::Fail(_) => None,
        }
    }

    /// Returns the keys and when they were fetched; newer ones than `newer_than` if the issuer may be asked.
    ///
    /// # Errors
    ///
    /// [`KeysUnavailable`] if there are none that may still be used, or none came in time.
    pub async fn get(&self, newer_than: Option<Instant>) -> Result<(Arc<KeySet>, Instant), KeysUnavailable> {
        let wait = 2 * self.shared.freshness.timeout + WAIT_MORE;
        self.get_by(newer_than, Instant::now() + wait).await
    }

    async fn get_by(
        &self,
        newer_than: Option<Instant>,
        deadline: Instant,
    ) -> Result<(Arc<KeySet>, Instant), KeysUnavailable> {
        loop {
            // Registered before anything is looked at, or an end in between would be slept through.
            let mut fetched = std::pin::pin!(self.shared.fetched.notified());
            fetched.as_mut().enable();
            let step = self.shared.held().decide(Instant::now(), newer_than, self.shared.freshness);
            match step {
                Step::Use(keys) => return Ok((keys, self.shared.fetched_at())),
                Step::UseAndFetch(keys) => {
                    let at = self.shared.fetched_at();
                    self.fetch();
                    return Ok((keys, at));
                }
                Step::Fetch => self.fetch(),
                Step::Wait => {}
                Step::Fail(reason) => return Err(KeysUnavailable::new(reason)),
            }
            if tokio::time::timeout_at(deadline, fetched).await.is_err() {
                return Err(KeysUnavailable::new("the issuer's keys did not come in time"));
            }
        }
    }

    /// Fetches in a task of its own: whoever asked may go away, and others wait for the same keys.
    fn fetch(&self) {
        let fetching = Fetching { shared: Arc::clone(&self.shared), result: None };
        tokio::spawn(async move {
            let result = fetching.shared.fetch().await;
            let issuer = &fetching.shared.issuer;
            match &result {
                Ok(_) => info!(issuer, "keys of an issuer fetched"),
                Err(error) => warn!(issuer, error, "cannot fetch the keys of an issuer"),
            }
            let shared = Arc::clone(&fetching.shared);
            let (result, text) = match result {
                Ok((keys, text)) => (Ok(keys), Some(text)),
                Err(error) => (Err(error), None),
            };
            fetching.end(result);
            // Nobody waits for the disk.
            if let Some(text) = text {
                let fetched = crypto::now();
                tokio::task::spawn_blocking(move || shared.keep(text, fetched));
            }
        });
    }
}

impl Shared {
    fn keep(&self, text: String, fetched: Timestamp) {
        let Some(kept) = &self.kept else { return };
        if !self.is_forgotten.load(Ordering::SeqCst) {
            kept.keep(&self.name, text, fetched);
        }
        // It may have been forgotten meanwhile.
        if self.is_forgotten.load(Ordering::SeqCst) {
            self.forget();
        }
    }

    fn forget(&self) {
        if let Some(kept) = &self.kept {
            kept.forget(&self.name);
        }
    }
}

/// Returns when something was by the clock that waits are measured by; none of what was too long ago, or is yet to come.
fn instant_of(at: Timestamp, now: Timestamp) -> Option<Instant> {
    let age = now.since(at);
    let is_past = at.since(now) <= SET_BACK_MAX;
    (is_past && age <= KEPT_MAX).then(|| Instant::now().checked_sub(age)).flatten()
}

/// A fetch under way. However it ends, it ends: without a result, it has failed.
struct Fetching {
    shared: Arc<Shared>,
    result: Option<Result<KeySet, String>>,
}

impl Fetching {
    fn end(mut self, result: Result<KeySet, String>) {
        self.result = Some(result);
    }
}

impl Drop for Fetching {
    fn drop(&mut self) {
        let result = self.result.take().unwrap_or_else(|| Err("the fetch of the issuer's keys broke off".to_owned()));
        let is_fetched = result.is_ok();
        self.shared.held().end(Instant::now(), result);
        if let Some(told) = &self.shared.told {
            told(is_fetched);
        }
        self.shared.fetched.notify_waiters();
    }
}

impl Shared {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fetched_at(&self) -> Instant {
        self.held().keys.as_ref().map_or_else(Instant::now, |(_, at)| *at)
    }

    /// Returns the keys, and the text that they are in.
    async fn fetch(&self) -> Result<(KeySet, String), String> {
        let text = |error: &dyn std::error::Error| one_line(error);
        let url = match &self.place {
            Place::Set(url) => url.clone(),
            Place::Discovery(url) => self.discover(url).await?,
        };
        let body = self.fetcher.get(&url).await.map_err(|error| text(&error))?;
        let keys = KeySet::from_jwks(&body).map_err(|error| format!("`{url}`: {error}"))?;
        let text = String::from_utf8(body.into()).map_err(|error| format!("`{url}`: {error}"))?;
        Ok((keys, text))
    }

    /// Asks the issuer where its keys are (OpenID Connect Discovery 1.0 §4).
    async fn discover(&self, url: &str) -> Result<String, String> {
        let at = format!("{}/.well-known/openid-configuration", url.trim_end_matches('/'));
        let body = self.fetcher.get(&at).await.map_err(|error| one_line(&error))?;
        let found: Value = serde_json::from_slice(&body).map_err(|error| format!("`{at}`: {error}"))?;
        let field = |name: &str| found.get(name).and_then(Value::as_str);
        // Section 4.3: it must speak of the very issuer that was asked, and we take no other one's word.
        if field("issuer") != Some(self.issuer.as_str()) {
            return Err(format!("`{at}` speaks of another issuer than `{}`", self.issuer));
        }
        let keys = field("jwks_uri").filter(|keys| keys.starts_with("https://"));
        keys.map(str::to_owned).ok_or_else(|| format!("`{at}` names no https address of keys"))
    }
}

#[cfg(test)]
mod tests;
