//! Reading the catalog: how fresh the answer is, and waiting for a change.

use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ::catalog::{Authority, Catalog, CatalogIndex, WatchKey};
use axum::response::{IntoResponse, Response};
use http::{HeaderName, HeaderValue};
use serde::Serialize;
use wire::crypto;
use wire::decode::parse_duration;

use super::call::Call;
use super::error::ApiError;
use super::query::{Query, parameter};

const WAIT_DEFAULT: Duration = Duration::from_secs(5 * 60);
const WAIT_MAX: Duration = Duration::from_secs(10 * 60);
/// How long a mesh that is being born may take to get its certificate authority.
const AUTHORITY_WAIT_MAX: Duration = Duration::from_secs(5);
/// A sixteenth of the wait is added at random, so that clients that began together do not come back together.
const JITTER_PART: u32 = 16;
/// What X-Consul-LastContact says where no leader was ever heard: the longest time that Go's clients can hold.
const NEVER_MS: u64 = 9_223_372_036_854;

/// How fresh an answer has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Consistency {
    /// A leader confirmed, after the request arrived, that nothing newer was acknowledged.
    Linearizable,
    /// What this server knows, however old.
    Stale,
}

impl Consistency {
    fn asked(query: &Query) -> Result<Self, ApiError> {
        match (query.has("stale"), query.has("consistent")) {
            (true, true) => Err(ApiError::ParametersConflict { first: "stale", second: "consistent" }),
            (true, false) => Ok(Self::Stale),
            // Consul's default lies between the two; weft gives the stronger promise for both.
            (false, _) => Ok(Self::Linearizable),
        }
    }
}

/// What a blocking query waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Wait {
    since: CatalogIndex,
    limit: Duration,
}

impl Wait {
    /// Reads `index` and `wait`; none where the query does not block.
    fn asked(query: &Query) -> Result<Option<Self>, ApiError> {
        let limit = match query.get("wait") {
            None => WAIT_DEFAULT,
            Some(text) => parse_duration(text).map_err(|error| parameter("wait", text, error.to_string()))?,
        };
        let since = query.index("index")?.filter(|index| *index > CatalogIndex(0));
        let limit = if limit.is_zero() { WAIT_DEFAULT } else { limit.min(WAIT_MAX) };
        Ok(since.map(|since| Self { since, limit }))
    }
}

/// A view of the catalog that satisfies what a request asked for.
pub(crate) struct Reading {
    /// The state to answer from.
    pub(super) catalog: Arc<Catalog>,
    /// What the caller may do, by that very state.
    pub(super) authority: Authority,
    /// Whether something was left out of the answer that the caller may not see.
    is_filtered: AtomicBool,
    keys: Vec<WatchKey>,
    consistency: Consistency,
}

impl Reading {
    /// Passes on whether the caller may see something, and notes that something was left out where it may not: the answer
    /// says so in a header.
    pub(super) fn keeps(&self, is_visible: bool) -> bool {
        if !is_visible {
            self.is_filtered.store(true, Ordering::Relaxed);
        }
        is_visible
    }

    /// Reports whether something was left out so far.
    pub(super) fn has_left_out(&self) -> bool {
        self.is_filtered.load(Ordering::Relaxed)
    }
}

impl Call {
    /// Takes the catalog for a query that reads what `keys` name, and waits for their change if it is a blocking one.
    ///
    /// # Errors
    ///
    /// Malformed parameters, [`ApiError::Read`] where no leader confirms the state, or [`ApiError::TokenUnknown`] where
    /// the caller's token ended while it waited.
    pub(super) async fn read(&self, keys: Vec<WatchKey>) -> Result<Reading, ApiError> {
        let consistency = Consistency::asked(&self.query)?;
        let wait = Wait::asked(&self.query)?;
        let consensus = self.state.consensus();
        if consistency == Consistency::Linearizable {
            consensus.read_index().await?;
        }
        let mut catalog = consensus.catalog();
        // An index from the future means that the state was restored to an earlier one: the client has to start over.
        if let Some(wait) = wait
            && wait.since <= catalog.index().max(CatalogIndex(1))
            && catalog.index_of(&keys) <= wait.since
        {
            let _waiting = self.state.metrics().blocking_query();
            let deadline = Instant::now() + wait.limit + jitter(wait.limit);
            catalog = consensus.changed(&keys, wait.since, deadline.into()).await;
        }
        let authority = self.authority_by(&catalog)?;
        Ok(Reading { catalog, authority, is_filtered: AtomicBool::new(false), keys, consistency })
    }

    /// Takes the catalog as [`Call::read`] does, once the mesh has its certificate authority: scripts ask for roots and make join
    /// tokens right after they bootstrap the ACL, of servers that may be a step behind.
    ///
    /// # Errors
    ///
    /// As [`Call::read`], and [`ApiError::NoAuthority`] where there is none after five seconds.
    pub(super) async fn read_with_authority(&self, keys: Vec<WatchKey>) -> Result<Reading, ApiError> {
        let mut reading = self.read(keys.clone()).await?;
        if reading.catalog.active_root().is_none() {
            let (roots, deadline) = ([WatchKey::Roots], Instant::now() + AUTHORITY_WAIT_MAX);
            self.state.consensus().changed(&roots, reading.catalog.index_of(&roots), deadline.into()).await;
            reading = self.read(keys).await?;
        }
        if reading.catalog.active_root().is_some() { Ok(reading) } else { Err(ApiError::NoAuthority) }
    }

    /// Writes a reading's answer, with the headers that Consul's clients look at.
    pub(super) fn answer<T: Serialize + ?Sized>(&self, reading: &Reading, value: &T) -> Result<Response, ApiError> {
        let mut response = if self.shaping.is_idle() {
            self.json(value)?
        } else {
            let value =
                serde_json::to_value(value).map_err(|error| ApiError::Internal { reason: error.to_string() })?;
            self.json(&self.shaping.apply(&reading.catalog, value)?)?
        };
        self.mark(reading, &mut response);
        Ok(response)
    }

    /// Answers that what was looked for does not exist, with the headers by which a client can wait until it does.
    pub(super) fn not_found(&self, reading: &Reading, what: &'static str, name: &dyn Display) -> Response {
        let mut response = ApiError::NotFound { what, name: name.to_string() }.into_response();
        self.mark(reading, &mut response);
        response
    }

    /// Sets the headers of a reading.
    pub(super) fn mark(&self, reading: &Reading, response: &mut Response) {
        let status = self.state.consensus().status();
        let consistency = match reading.consistency {
            Consistency::Linearizable => "consistent",
            Consistency::Stale => "stale",
        };
        let last_contact_ms =
            status.last_contact.map_or(NEVER_MS, |since| u64::try_from(since.as_millis()).unwrap_or(NEVER_MS));
        let index = reading.catalog.index_of(&reading.keys).0.max(1);
        let headers = response.headers_mut();
        headers.insert(HeaderName::from_static("x-consul-index"), HeaderValue::from(index));
        headers.insert(
            HeaderName::from_static("x-consul-knownleader"),
            HeaderValue::from_static(if status.leader.is_some() { "true" } else { "false" }),
        );
        if reading.is_filtered.load(Ordering::Relaxed) {
            let name = HeaderName::from_static("x-consul-results-filtered-by-acls");
            headers.insert(name, HeaderValue::from_static("true"));
        }
        headers.insert(HeaderName::from_static("x-consul-lastcontact"), HeaderValue::from(last_contact_ms));
        // There is no other way than waiting for a change, and whoever has no right has none.
        for (name, value) in [("x-consul-query-backend", "blocking-query"), ("x-consul-default-acl-policy", "deny")] {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        headers
            .insert(HeaderName::from_static("x-consul-effective-consistency"), HeaderValue::from_static(consistency));
    }
}

/// Returns a random part of a sixteenth of `limit`.
fn jitter(limit: Duration) -> Duration {
    let most = limit / JITTER_PART;
    let share = u32::from_be_bytes(crypto::random());
    most.mul_f64(f64::from(share) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(text: &str) -> Query {
        Query::parse(&format!("/v1/x?{text}").parse().unwrap()).unwrap()
    }

    fn wait(text: &str) -> Option<(u64, u64)> {
        Wait::asked(&query(text)).unwrap().map(|wait| (wait.since.0, wait.limit.as_secs()))
    }

    #[test]
    fn a_query_blocks_only_with_an_index_above_zero() {
        assert_eq!(wait(""), None);
        assert_eq!(wait("wait=10s"), None);
        assert_eq!(wait("index=0&wait=10s"), None);
        assert_eq!(wait("index=7"), Some((7, 300)));
        assert_eq!(wait("index=7&wait=0s"), Some((7, 300)));
        assert_eq!(wait("index=7&wait=90s"), Some((7, 90)));
        assert_eq!(wait("index=7&wait=24h"), Some((7, 600)));
    }

    #[test]
    fn a_bad_wait_is_refused_by_name() {
        for bad in ["10", "s", "-1s", "1e3s", "5 m", "1d", "inf", "1..5s"] {
            let text = format!("wait={}", bad.replace(' ', "%20"));
            let error = Wait::asked(&query(&text)).unwrap_err().to_string();
            assert!(error.contains("`wait`"), "{error}");
        }
    }

    #[test]
    fn jitter_is_at_most_a_sixteenth() {
        for _ in 0..1000 {
            assert!(jitter(Duration::from_secs(160)) <= Duration::from_secs(10));
        }
    }

    #[test]
    fn stale_and_consistent_exclude_each_other() {
        assert_eq!(Consistency::asked(&query("")).unwrap(), Consistency::Linearizable);
        assert_eq!(Consistency::asked(&query("consistent")).unwrap(), Consistency::Linearizable);
        assert_eq!(Consistency::asked(&query("stale")).unwrap(), Consistency::Stale);
        let error = Consistency::asked(&query("stale&consistent")).unwrap_err();
        assert!(matches!(error, ApiError::ParametersConflict { .. }));
    }
}
