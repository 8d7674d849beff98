//! Providers of tokens at work: their keys, fetched for all, and the tokens of theirs that were checked before.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use catalog::{JwtAlgorithm, ServiceKey, Timestamp, TokenProvider};
use http::header::{HeaderMap, HeaderName, HeaderValue};
use tokio::time::Instant;
use wire::crypto;
use wire::jwt::{Freshness, KeptKeys, KeySet, KeySource, TOKEN_BYTES_MAX, TokenFault, TokenRules, Told, VerifiedToken};
use wire::web::Reach;

use super::token_place::Place;
use crate::metrics::ProxyMetrics;

/// How much longer a request waits for keys than one fetch of them may take.
const WAIT_MORE: Duration = Duration::from_secs(1);

/// A provider is asked for keys no more often than this.
const PAUSE: Duration = Duration::from_secs(10);

/// The providers whose tokens the rules for one local service ask for.
pub(crate) type ProvidersOf = Arc<[Arc<Provider>]>;

/// Makes providers ready, and keeps what is known of each for as long as somebody asks for its tokens.
#[derive(Debug)]
pub(crate) struct Providers {
    reach: Reach,
    metrics: ProxyMetrics,
    kept: Option<Arc<dyn KeptKeys>>,
    known: Mutex<Followed>,
}

/// Is what was made ready last.
#[derive(Debug, Default)]
struct Followed {
    all: Vec<Arc<Provider>>,
    of: BTreeMap<ServiceKey, ProvidersOf>,
}

impl Providers {
    /// Has none yet; keys are fetched from as far as `reach`, and kept where there is a place for that.
    pub(crate) fn new(reach: Reach, metrics: ProxyMetrics, kept: Option<Arc<dyn KeptKeys>>) -> Self {
        Self { reach, metrics, kept, known: Mutex::default() }
    }

    /// Makes ready what rules ask for now. A provider that says what it said goes on with its keys and tokens, and one whose
    /// keys come from where they came goes on with these. What is kept of one that the rules of a service no longer ask for,
    /// nor those of another that is here, is forgotten; what was asked for a service that is gone ages.
    pub(crate) fn follow(
        &self,
        asked: &BTreeMap<ServiceKey, Vec<Arc<TokenProvider>>>,
    ) -> BTreeMap<ServiceKey, ProvidersOf> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut kept: Vec<Arc<Provider>> = Vec::new();
        let mut find = |entry: &Arc<TokenProvider>| {
            let same = |provider: &&Arc<Provider>| provider.entry == *entry;
            if let Some(found) = kept.iter().find(same) {
                return Arc::clone(found);
            }
            let provider = match known.all.iter().find(same) {
                Some(found) => Arc::clone(found),
                None => Arc::new(self.made(entry, &known.all)),
            };
            kept.push(Arc::clone(&provider));
            provider
        };
        let followed =
            asked.iter().map(|(service, entries)| (service.clone(), entries.iter().map(&mut find).collect()));
        let followed: BTreeMap<ServiceKey, ProvidersOf> = followed.collect();
        self.metrics.tokens().retain(kept.iter().map(|provider| provider.name()));
        let asked_before = known.of.iter().filter(|(service, _)| asked.contains_key(*service));
        for before in asked_before.flat_map(|(_, providers)| providers.iter()) {
            if let Ok(source) = &*before.source
                && kept.iter().all(|provider| provider.kept_as() != source.kept_as())
            {
                source.forget();
            }
        }
        *known = Followed { all: kept, of: followed.clone() };
        followed
    }

    fn made(&self, entry: &Arc<TokenProvider>, known: &[Arc<Provider>]) -> Provider {
        let same_keys = |provider: &&Arc<Provider>| provider.entry.name == entry.name && provider.has_keys_of(entry);
        let source = known.iter().find(same_keys).map(|provider| Arc::clone(&provider.source));
        let source = source.unwrap_or_else(|| Arc::new(self.source(entry)));
        if entry.fetch_ahead
            && let Ok(KeySource::Remote(remote)) = &*source
        {
            // Whoever comes first finds them, or waits for them.
            let _ = remote.at_hand();
        }
        Provider {
            name: entry.name.to_string(),
            places: entry.places().iter().filter_map(Place::new).collect(),
            told_in: entry.forwarding.as_ref().and_then(|told| Some((told.header.parse().ok()?, told.pad))),
            rules: TokenRules {
                issuer: entry.issuer.clone(),
                audiences: entry.audiences.clone(),
                // Which of them a key is for, the key says; none is ever tried with one of another kind.
                algorithms: JwtAlgorithm::ALL.to_vec(),
                clock_skew: entry.clock_skew(),
            },
            source,
            remembered: Mutex::new(Remembered::new(entry.remembered as usize)),
            metrics: self.metrics.clone(),
            entry: Arc::clone(entry),
        }
    }

    fn source(&self, entry: &TokenProvider) -> Result<KeySource, String> {
        let freshness = Freshness {
            young: Duration::from_secs(entry.fresh_seconds),
            timeout: Duration::from_millis(entry.timeout_ms),
            pause: PAUSE,
        };
        let (metrics, name) = (self.metrics.clone(), entry.name.to_string());
        let told: Told = Arc::new(move |is_fetched| metrics.tokens().fetched(&name, is_fetched, crypto::now()));
        let source =
            KeySource::new(&entry.keys, &entry.issuer, self.reach, freshness, Some(told)).map_err(|error| {
                tracing::warn!(provider = %entry.name, %error, "the keys of a provider of tokens cannot be used");
                error.to_string()
            })?;
        let Some(kept) = &self.kept else { return Ok(source) };
        let (source, fetched) = source.kept_by(Arc::clone(kept), crypto::now());
        if let Some(at) = fetched {
            self.metrics.tokens().has_keys_of(entry.name.as_str(), at);
        }
        Ok(source)
    }
}

/// Is a provider of tokens at work.
pub(crate) struct Provider {
    entry: Arc<TokenProvider>,
    name: String,
    places: Vec<Place>,
    /// The header in which the application is told what a token says, and whether its Base64 is padded.
    told_in: Option<(HeaderName, bool)>,
    rules: TokenRules,
    source: Arc<Result<KeySource, String>>,
    remembered: Mutex<Remembered>,
    metrics: ProxyMetrics,
}

impl std::fmt::Debug for Provider {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Provider").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Says what became of the token that a request has for a provider.
#[derive(Debug, Clone)]
pub(crate) enum Judged {
    /// It counts.
    Valid(Arc<VerifiedToken>),
    /// There is none.
    Missing,
    /// It does not count.
    Refused(TokenRefused),
    /// Newer keys than those of this instant, or any at all, would have to be had first.
    Wanting(Option<Instant>),
    /// It can be judged neither way.
    Unknown,
}

/// Says why a token does not count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TokenRefused {
    /// By itself.
    #[error(transparent)]
    Fault(#[from] TokenFault),
    /// Beside another.
    #[error("the request carries several tokens, and nobody can say which counts")]
    Several,
}

impl TokenRefused {
    /// Returns the word of metrics, logs and answers.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Self::Fault(fault) => fault.label(),
            Self::Several => "token_several",
        }
    }
}

impl Provider {
    /// Returns the name that rules give.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Reports whether a token that another one took would be taken here for the same reasons.
    pub(crate) fn trusts_as(&self, other: &Self) -> bool {
        self.rules == other.rules && self.entry.keys == other.entry.keys
    }

    /// Returns the name that its keys are kept under.
    fn kept_as(&self) -> Option<&str> {
        self.source.as_ref().as_ref().ok().and_then(KeySource::kept_as)
    }

    fn has_keys_of(&self, entry: &TokenProvider) -> bool {
        let own = &self.entry;
        own.keys == entry.keys && own.fresh_seconds == entry.fresh_seconds && own.timeout_ms == entry.timeout_ms
    }

    /// Judges what a request carries for this provider. `is_last` says that keys were waited for already.
    pub(crate) fn judge(&self, headers: &HeaderMap, query: Option<&str>, now: Timestamp, is_last: bool) -> Judged {
        let mut found: Option<&str> = None;
        for token in self.places.iter().flat_map(|place| place.tokens(headers, query)) {
            if found.is_some_and(|found| found != token) {
                return self.noted(Judged::Refused(TokenRefused::Several));
            }
            found = Some(token);
        }
        let Some(token) = found else { return Judged::Missing };
        self.noted(match self.check(token, now) {
            // Whoever waited has what can be had.
            Ok(Judged::Wanting(Some(_))) if is_last => Judged::Refused(TokenFault::UnknownKey.into()),
            Ok(Judged::Wanting(None)) if is_last => Judged::Unknown,
            Ok(judged) => judged,
            Err(fault) => Judged::Refused(fault.into()),
        })
    }

    fn noted(&self, judged: Judged) -> Judged {
        let outcome = match &judged {
            Judged::Valid(_) => "valid",
            Judged::Refused(refused) => refused.label(),
            Judged::Unknown => "token_unjudged",
            Judged::Missing | Judged::Wanting(_) => return judged,
        };
        self.metrics.tokens().judged(&self.name, outcome);
        judged
    }

    fn check(&self, token: &str, now: Timestamp) -> Result<Judged, TokenFault> {
        // Before anything is computed of it.
        if token.len() > TOKEN_BYTES_MAX {
            return Err(TokenFault::TooLong { bytes: token.len() });
        }
        let (keys, at) = match &*self.source {
            Ok(KeySource::Fixed(keys)) => (Arc::clone(keys), None),
            Ok(KeySource::Remote(remote)) => match remote.at_hand() {
                Some((keys, at)) => (keys, Some(at)),
                None => return Ok(Judged::Wanting(None)),
            },
            Err(_) => return Ok(Judged::Unknown),
        };
        let hash = crypto::sha256(token.as_bytes());
        if let Some(known) = self.remembered().get(&hash, &keys)
            && now >= known.begins
        {
            return if now < known.ends { Ok(Judged::Valid(known)) } else { Err(TokenFault::Expired) };
        }
        let unproved = self.rules.read(token)?;
        // Most requests carry one token, and several providers look at it: nobody is asked for keys of another's.
        if unproved.issuer().is_some_and(|issuer| issuer != self.rules.issuer) {
            return Err(TokenFault::Issuer);
        }
        match self.rules.check(&unproved, &keys, now)? {
            Some(verified) => {
                let verified = Arc::new(verified);
                self.remembered().keep(hash, keys, Arc::clone(&verified));
                Ok(Judged::Valid(verified))
            }
            None if at.is_some() => Ok(Judged::Wanting(at)),
            None => Err(TokenFault::UnknownKey),
        }
    }

    /// Waits until newer keys have come, or it is known that none will for now. It ends in bounded time.
    pub(crate) async fn wait_for_keys(&self, newer_than: Option<Instant>) {
        let Ok(KeySource::Remote(remote)) = &*self.source else { return };
        let longest = Duration::from_millis(self.entry.timeout_ms) + WAIT_MORE;
        // What came of it, the next look at the token says.
        let _ = tokio::time::timeout(longest, remote.get(newer_than)).await;
    }

    /// Returns the header in which the application is told what its tokens say.
    pub(crate) fn told_in(&self) -> Option<&HeaderName> {
        self.told_in.as_ref().map(|(name, _)| name)
    }

    /// Takes out of a head what only this provider's tokens may say.
    pub(crate) fn clean(&self, headers: &mut HeaderMap) {
        if let Some((name, _)) = &self.told_in {
            headers.remove(name);
        }
    }

    /// Takes the token out of a head that goes on, unless the application is to have it, and tells the application what the
    /// token says, where it is to be told.
    pub(crate) fn forward(&self, token: &VerifiedToken, headers: &mut HeaderMap) {
        for place in &self.places {
            place.take_out(headers);
        }
        let Some((name, pad)) = &self.told_in else { return };
        let mut payload = token.payload.clone();
        while *pad && !payload.len().is_multiple_of(4) {
            payload.push('=');
        }
        // Base64 is made of characters that a header may have.
        if let Ok(value) = HeaderValue::try_from(payload) {
            headers.insert(name.clone(), value);
        }
    }

    fn remembered(&self) -> std::sync::MutexGuard<'_, Remembered> {
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type TokenHash = [u8; 32];

/// The tokens that were checked lately, by hash: those that were used since the last turn, and those of the turn before.
struct Remembered {
    young: HashMap<TokenHash, Known>,
    old: HashMap<TokenHash, Known>,
    half: usize,
}

/// A token that counts, and the keys that it was checked with.
#[derive(Clone)]
struct Known {
    keys: Arc<KeySet>,
    token: Arc<VerifiedToken>,
}

impl Remembered {
    fn new(max: usize) -> Self {
        Self { young: HashMap::new(), old: HashMap::new(), half: max.div_ceil(2) }
    }

    /// Returns a token that was checked with the very keys that are in use.
    fn get(&mut self, hash: &TokenHash, keys: &Arc<KeySet>) -> Option<Arc<VerifiedToken>> {
        let is_of = |known: &&Known| Arc::ptr_eq(&known.keys, keys);
        if let Some(known) = self.young.get(hash) {
            return Some(known).filter(is_of).map(|known| Arc::clone(&known.token));
        }
        let known = self.old.remove(hash)?;
        let token = Some(&known).filter(is_of).map(|known| Arc::clone(&known.token))?;
        self.put(*hash, known);
        Some(token)
    }

    fn keep(&mut self, hash: TokenHash, keys: Arc<KeySet>, token: Arc<VerifiedToken>) {
        self.put(hash, Known { keys, token });
    }

    fn put(&mut self, hash: TokenHash, known: Known) {
        if self.young.len() >= self.half {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(hash, known);
    }
}
