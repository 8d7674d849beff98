//! What is counted of tokens of requests, and of the keys that they are checked with.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use catalog::Timestamp;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// How many providers are counted under their own names.
const PROVIDERS_MAX: usize = 100;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct JudgedLabel {
    provider: String,
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct FetchedLabel {
    provider: String,
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ProviderLabel {
    provider: String,
}

/// Counts tokens and fetches of keys; a clone counts into the same numbers.
#[derive(Clone, Default)]
pub(crate) struct TokenMetrics {
    judged: Family<JudgedLabel, Counter>,
    fetches: Family<FetchedLabel, Counter>,
    fetched_at: Family<ProviderLabel, Gauge>,
    known: Arc<Mutex<BTreeSet<String>>>,
    dated: Arc<Mutex<BTreeSet<String>>>,
}

impl TokenMetrics {
    /// Counts a token that was judged; `outcome` comes from a closed set.
    pub(crate) fn judged(&self, provider: &str, outcome: &'static str) {
        self.judged.get_or_create(&JudgedLabel { provider: self.label(provider), outcome }).inc();
    }

    /// Counts a fetch of keys that has ended, and says when there were new ones last.
    pub(crate) fn fetched(&self, provider: &str, is_fetched: bool, now: Timestamp) {
        let outcome = if is_fetched { "fetched" } else { "failed" };
        self.fetches.get_or_create(&FetchedLabel { provider: self.label(provider), outcome }).inc();
        if is_fetched {
            self.has_keys_of(provider, now);
        }
    }

    /// Says when the keys were fetched that a provider has.
    pub(crate) fn has_keys_of(&self, provider: &str, fetched: Timestamp) {
        let provider = self.label(provider);
        lock(&self.dated).insert(provider.clone());
        let seconds = i64::try_from(fetched.0 / 1000).unwrap_or(i64::MAX);
        self.fetched_at.get_or_create(&ProviderLabel { provider }).set(seconds);
    }

    /// Forgets the keys of providers that nobody asks for any more: an age without end would be an alert about nothing.
    pub(crate) fn retain<'a>(&self, providers: impl Iterator<Item = &'a str>) {
        let kept: BTreeSet<String> = providers.map(|provider| self.label(provider)).collect();
        lock(&self.dated).retain(|provider| {
            let is_kept = kept.contains(provider);
            if !is_kept {
                self.fetched_at.remove(&ProviderLabel { provider: provider.clone() });
            }
            is_kept
        });
    }

    /// Returns what a provider is counted under: who writes providers must not fill a collector.
    fn label(&self, provider: &str) -> String {
        let mut known = lock(&self.known);
        let is_counted = known.contains(provider) || (known.len() < PROVIDERS_MAX && known.insert(provider.to_owned()));
        if is_counted { provider.to_owned() } else { "other".to_owned() }
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "proxy_tokens",
            "Tokens of requests that were judged, by provider and what became of them",
            self.judged.clone(),
        );
        registry.register(
            "proxy_token_key_fetches",
            "Fetches of the keys of providers of tokens that have ended, by provider and outcome",
            self.fetches.clone(),
        );
        registry.register(
            "proxy_token_keys_fetched_timestamp_seconds",
            "When the keys of a provider of tokens were fetched last; a day after that its tokens are refused",
            self.fetched_at.clone(),
        );
    }
}

fn lock(names: &Mutex<BTreeSet<String>>) -> MutexGuard<'_, BTreeSet<String>> {
    names.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a11_providers_beyond_the_bound_are_counted_together() {
        let metrics = TokenMetrics::default();
        for index in 0..PROVIDERS_MAX + 5 {
            metrics.judged(&format!("p{index}"), "valid");
        }
        assert_eq!(metrics.label("p3"), "p3");
        assert_eq!(metrics.label("q"), "other");
    }
}
