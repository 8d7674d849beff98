//! How many requests an instance of a service takes: buckets of tokens, for all callers together and for each one.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use catalog::{Rate, RateLimit, RateLimits, RoutesOfRates, SpiffeId};
use governor::clock::{Clock, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota};

/// How many callers have buckets of their own; those beyond share one set.
const SOURCES_MAX: usize = 1024;

/// Holds the buckets of one service.
#[derive(Debug)]
pub(crate) struct RateLimiter {
    limits: RateLimits,
    instance: Option<(RoutesOfRates, Buckets)>,
    source: Option<PerSource>,
    clock: DefaultClock,
}

#[derive(Debug)]
struct PerSource {
    limit: RateLimit,
    routes: RoutesOfRates,
    /// Written once for each caller: requests read side by side.
    buckets: RwLock<HashMap<SpiffeId, Arc<Buckets>>>,
    others: Arc<Buckets>,
}

/// Is the bucket of all that no route is for, and one for each route.
#[derive(Debug)]
struct Buckets {
    general: Option<DefaultDirectRateLimiter>,
    routes: Vec<DefaultDirectRateLimiter>,
}

impl RateLimiter {
    /// Makes the buckets of a service, or takes over those that there are where nothing has changed. Nothing where an
    /// expression cannot be used, which servers see to.
    pub(crate) fn renewed(known: Option<&Arc<Self>>, limits: &RateLimits) -> Option<Arc<Self>> {
        if let Some(known) = known.filter(|known| known.limits == *limits) {
            return Some(Arc::clone(known));
        }
        let instance = limits.instance.as_ref().map(|limit| Some((limit.routes().ok()?, Buckets::new(limit))));
        let source = limits.source.as_ref().map(|limit| {
            let (routes, others) = (limit.routes().ok()?, Arc::new(Buckets::new(limit)));
            Some(PerSource { limit: limit.clone(), routes, buckets: RwLock::default(), others })
        });
        let (instance, source) = (instance.flatten(), source.flatten());
        Some(Arc::new(Self { limits: limits.clone(), instance, source, clock: DefaultClock::default() }))
    }

    /// Takes a token for a request of a caller to a path without its escapes.
    ///
    /// # Errors
    ///
    /// How long the caller should wait, if there is none.
    pub(crate) fn take(&self, source: &SpiffeId, path: &str) -> Result<(), Duration> {
        // The caller's own first: one that asks too much takes nothing from the others.
        if let Some(per_source) = &self.source {
            per_source.of(source).take(per_source.routes.of(path), &self.clock)?;
        }
        match &self.instance {
            Some((routes, buckets)) => buckets.take(routes.of(path), &self.clock),
            None => Ok(()),
        }
    }
}

impl PerSource {
    fn of(&self, source: &SpiffeId) -> Arc<Buckets> {
        let known = self.buckets.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = known.get(source) {
            return Arc::clone(own);
        }
        if known.len() >= SOURCES_MAX {
            return Arc::clone(&self.others);
        }
        drop(known);
        let mut buckets = self.buckets.write().unwrap_or_else(PoisonError::into_inner);
        // Another request of the same caller, or the last caller that there was room for, may have come first.
        if buckets.len() >= SOURCES_MAX && !buckets.contains_key(source) {
            return Arc::clone(&self.others);
        }
        Arc::clone(buckets.entry(source.clone()).or_insert_with(|| Arc::new(Buckets::new(&self.limit))))
    }
}

impl Buckets {
    fn new(limit: &RateLimit) -> Self {
        let bucket = |rate: &Rate| {
            let per_second = std::num::NonZeroU32::new(rate.per_second).unwrap_or(std::num::NonZeroU32::MIN);
            let burst = rate.burst.and_then(std::num::NonZeroU32::new).unwrap_or(per_second);
            governor::RateLimiter::direct(Quota::per_second(per_second).allow_burst(burst))
        };
        Self {
            general: limit.general.as_ref().map(bucket),
            routes: limit.routes.iter().map(|route| bucket(&route.rate)).collect(),
        }
    }

    fn take(&self, route: Option<usize>, clock: &DefaultClock) -> Result<(), Duration> {
        let bucket = match route {
            Some(number) => self.routes.get(number),
            None => self.general.as_ref(),
        };
        bucket.map_or(Ok(()), |bucket| bucket.check().map_err(|later| later.wait_time_from(clock.now())))
    }
}

#[cfg(test)]
mod tests {
    use catalog::{PathMatch, RouteRate};

    use super::*;

    fn rate(per_second: u32, burst: u32) -> Rate {
        Rate { per_second, burst: Some(burst) }
    }

    fn caller(name: &str) -> SpiffeId {
        format!("spiffe://mesh.test/ns/default/sa/{name}").parse().unwrap()
    }

    fn taken(limiter: &RateLimiter, source: &str, path: &str, requests: usize) -> usize {
        (0..requests).filter(|_| limiter.take(&caller(source), path).is_ok()).count()
    }

    #[test]
    fn each_caller_and_all_together_have_buckets_by_path() {
        let slow = RouteRate { path: PathMatch::Prefix("/slow".to_owned()), rate: rate(1, 2) };
        let limits = RateLimits {
            instance: Some(RateLimit { general: Some(rate(1, 30)), routes: vec![] }),
            source: Some(RateLimit { general: Some(rate(1, 20)), routes: vec![slow] }),
        };
        let limiter = RateLimiter::renewed(None, &limits).unwrap();
        assert_eq!(taken(&limiter, "web", "/slow/a", 10), 2);
        assert_eq!(taken(&limiter, "web", "/", 40), 20, "its other requests have a bucket of their own");
        let left = taken(&limiter, "app", "/", 20);
        assert_eq!(left, 8, "22 of the 30 of all together are gone, and what was refused took none");
        let wait = limiter.take(&caller("web"), "/slow").unwrap_err();
        assert!(wait > Duration::from_millis(500) && wait <= Duration::from_secs(1), "{wait:?}");
        assert!(
            Arc::ptr_eq(&RateLimiter::renewed(Some(&limiter), &limits).unwrap(), &limiter),
            "kept with their tokens"
        );
        let none = RateLimits { source: None, ..limits };
        assert!(!Arc::ptr_eq(&RateLimiter::renewed(Some(&limiter), &none).unwrap(), &limiter));
    }

    #[test]
    fn a_caller_whose_first_requests_come_at_once_has_one_set_of_buckets() {
        let limits =
            RateLimits { instance: None, source: Some(RateLimit { general: Some(rate(1, 5)), routes: vec![] }) };
        let limiter = RateLimiter::renewed(None, &limits).unwrap();
        let of = |name: &str| limiter.source.as_ref().unwrap().of(&caller(name));
        for number in 0..200 {
            let (name, together) = (format!("web-{number}"), std::sync::Barrier::new(4));
            let all: Vec<Arc<Buckets>> = std::thread::scope(|scope| {
                let ask = || {
                    together.wait();
                    of(&name)
                };
                let asking: Vec<_> = (0..4).map(|_| scope.spawn(ask)).collect();
                asking.into_iter().map(|asked| asked.join().unwrap()).collect()
            });
            assert!(all.iter().all(|one| Arc::ptr_eq(one, &all[0])) && !Arc::ptr_eq(&of("app"), &all[0]), "{name}");
        }
    }

    #[test]
    fn the_number_of_buckets_is_bounded() {
        let limits =
            RateLimits { instance: None, source: Some(RateLimit { general: Some(rate(1, 1)), routes: vec![] }) };
        let limiter = RateLimiter::renewed(None, &limits).unwrap();
        let each = (0..SOURCES_MAX).filter(|number| taken(&limiter, &format!("s{number}"), "/", 2) == 1).count();
        assert_eq!(each, SOURCES_MAX);
        assert_eq!(taken(&limiter, "one-more", "/", 1) + taken(&limiter, "and-more", "/", 1), 1, "these two share one");
        assert_eq!(limiter.source.as_ref().unwrap().buckets.read().unwrap().len(), SOURCES_MAX);
    }
}
