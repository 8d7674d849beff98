//! Writes config entries, and refuses those that would leave something else without meaning.

use std::{collections::BTreeMap, sync::Arc};

use super::{Attempt, Catalog, Touched};
use crate::{
    CatalogIndex, ConfigChange, ConfigContent, ConfigEntries, ConfigEntry, ConfigKey, Intention, Item, MtlsMode,
    Outcome, Policy, Protocol, Refusal, ServiceKey, ServicePattern, WatchKey,
};

/// How many rules a refusal names at most.
const NAMED_MAX: usize = 8;

impl Catalog {
    /// Returns the config entries.
    #[must_use]
    pub fn config(&self) -> &ConfigEntries {
        &self.config
    }

    /// Returns how the bytes of a service are read.
    #[must_use]
    pub fn protocol_of(&self, service: &ServiceKey) -> Protocol {
        self.config.protocol_of(service)
    }

    pub(super) fn change_config(
        &mut self,
        index: CatalogIndex,
        change: &ConfigChange,
        touched: &mut Touched,
    ) -> Attempt {
        match change {
            ConfigChange::Write { entry, compare } => self.write_config(index, entry, *compare, touched),
            ConfigChange::Delete { key, compare } => self.delete_config(key, *compare, touched),
        }
    }

    fn write_config(
        &mut self,
        index: CatalogIndex,
        entry: &ConfigEntry,
        compare: Option<CatalogIndex>,
        touched: &mut Touched,
    ) -> Attempt {
        let key = entry.key();
        self.check_config_unchanged(&key, compare)?;
        let previous = self.config.get(&key);
        if previous.is_some_and(|held| held.content == entry.content && held.meta == entry.meta) {
            return Ok(Outcome::Done);
        }
        self.check_permissive(&key, entry)?;
        let created = previous.map_or(index, |held| held.created);
        let mut next = self.config.clone();
        next.insert(Arc::new(ConfigEntry { created, modified: index, ..entry.clone() }));
        self.adopt_config(&key, next, touched)
    }

    fn delete_config(&mut self, key: &ConfigKey, compare: Option<CatalogIndex>, touched: &mut Touched) -> Attempt {
        self.check_config_unchanged(key, compare)?;
        if self.config.get(key).is_none() {
            return Ok(Outcome::Done);
        }
        let mut next = self.config.clone();
        next.remove(key);
        self.adopt_config(key, next, touched)
    }

    /// Puts `next` in place, which differs in `key` only.
    fn adopt_config(&mut self, key: &ConfigKey, next: ConfigEntries, touched: &mut Touched) -> Attempt {
        self.check_rules_enforceable(key, &next)?;
        self.check_routes(key, &next)?;
        self.check_providers(key, &next)?;
        // Who leads to the service does so by entries of others, which stay: before and after are the same.
        let leading = key.service().map(|service| next.leading_to(service)).unwrap_or_default();
        self.config = next;
        touched.changed(WatchKey::Config);
        match key.service() {
            None if matches!(key, ConfigKey::JwtProvider(_)) => touched.changed(WatchKey::TokenProviders),
            None => touched.changed(WatchKey::ProxyDefaults),
            Some(service) if !self.has_config(service) => touched.gone(WatchKey::ConfigOf(service.clone())),
            Some(_) => {}
        }
        if let Some(service) = key.service() {
            self.settle_address(service, touched);
        }
        for service in leading.into_iter().filter(|service| self.has_config(service)) {
            touched.changed(WatchKey::ConfigOf(service));
        }
        Ok(Outcome::Done)
    }

    /// Refuses to have bytes read in a way in which rules on requests, that were enforced so far, would deny everything.
    fn check_rules_enforceable(&self, key: &ConfigKey, next: &ConfigEntries) -> Result<(), Refusal> {
        let loses = |intention: &&Intention| match &intention.destination {
            ServicePattern::Exact(service) if intention.judges_requests() => {
                self.protocol_of(service).is_http() && !next.protocol_of(service).is_http()
            }
            _ => false,
        };
        let named: Vec<String> = self.intentions().filter(loses).map(|one| one.key().to_string()).collect();
        if named.is_empty() {
            return Ok(());
        }
        let problem =
            format!("the rules on requests of {} need an HTTP protocol: change these first", named.join(", "));
        Err(Refusal::invalid(format!("{key}: protocol"), problem))
    }

    /// Refuses to let callers without identity in where the mesh does not allow that.
    fn check_permissive(&self, key: &ConfigKey, entry: &ConfigEntry) -> Result<(), Refusal> {
        let is_permissive = |mode: MtlsMode| mode == MtlsMode::Permissive;
        let lets_in = match &entry.content {
            ConfigContent::ProxyDefaults(defaults) => {
                defaults.mtls_mode.is_some_and(is_permissive)
                    || defaults.namespace_modes.values().any(|mode| is_permissive(*mode))
            }
            ConfigContent::ServiceDefaults(defaults) => {
                defaults.mtls_mode.is_some_and(is_permissive)
                    || defaults.port_modes.iter().any(|one| is_permissive(one.mode))
            }
            _ => false,
        };
        if !lets_in || self.mesh_entry.allows_permissive {
            return Ok(());
        }
        let problem = "permissive needs `allow_enabling_permissive_mutual_tls` in the `mesh` entry first";
        Err(Refusal::invalid(format!("{key}: mutual_tls_mode"), problem))
    }

    /// Refuses to take away a provider of tokens that rules ask for.
    fn check_providers(&self, key: &ConfigKey, next: &ConfigEntries) -> Result<(), Refusal> {
        let ConfigKey::JwtProvider(name) = key else { return Ok(()) };
        if next.get(key).is_some() {
            return Ok(());
        }
        let asks = |intention: &&Intention| intention.providers().any(|asked| asked == name.as_str());
        let asking: Vec<String> =
            self.intentions().filter(asks).take(NAMED_MAX).map(|one| one.key().to_string()).collect();
        if asking.is_empty() {
            return Ok(());
        }
        let problem = format!("its tokens are asked for by {}: change these first", asking.join(", "));
        Err(Refusal::invalid(key.to_string(), problem))
    }

    /// Refuses what leaves calls without a way that they had.
    fn check_routes(&self, key: &ConfigKey, next: &ConfigEntries) -> Result<(), Refusal> {
        if matches!(key, ConfigKey::JwtProvider(_)) {
            return Ok(());
        }
        let concerned = key.service().map_or_else(|| next.services(), |service| next.leading_to(service));
        for service in concerned {
            if let Err(problem) = next.routes_of(&service)
                && self.config.routes_of(&service).is_ok()
            {
                return Err(Refusal::invalid(key.to_string(), format!("calls to `{service}`: {problem}")));
            }
        }
        Ok(())
    }

    fn check_config_unchanged(&self, key: &ConfigKey, compare: Option<CatalogIndex>) -> Result<(), Refusal> {
        let modified = self.config.get(key).map(|entry| entry.modified).unwrap_or_default();
        match compare.filter(|expected| *expected != modified) {
            Some(expected) => Err(Refusal::EntryChanged { name: key.to_string(), modified, expected }),
            None => Ok(()),
        }
    }

    /// Reports whether a service has a config entry of its own.
    pub(super) fn has_config(&self, service: &ServiceKey) -> bool {
        ConfigKey::all_of(service).iter().any(|key| self.config.get(key).is_some())
    }

    /// Returns what a destination's agents are told: its rules, and the providers of the tokens that they ask for.
    pub(super) fn rule_items(&self, policy: Policy) -> BTreeMap<String, Item> {
        let providers = policy.intentions.iter().flat_map(Intention::providers).filter_map(|name| {
            let entry = self.config.provider(name)?;
            Some((entry.key().to_string(), Item::Config(Box::new((**entry).clone()))))
        });
        let mut items: BTreeMap<String, Item> = providers.collect();
        items.extend(
            policy
                .intentions
                .into_iter()
                .map(|intention| (intention.key().to_string(), Item::Intention(Box::new(intention)))),
        );
        items
    }

    /// Returns what callers of a service are told: how calls to it go, and of one that is outside the mesh the rules, which
    /// nobody else would hold them to.
    pub(super) fn config_items(&self, service: &ServiceKey) -> BTreeMap<String, Item> {
        let item = |entry: &Arc<ConfigEntry>| (entry.key().to_string(), Item::Config(Box::new((**entry).clone())));
        let mut items: BTreeMap<String, Item> = self.config.bearing_on(service).map(item).collect();
        if self.config.is_external(service) {
            let rules = self.policy_for(service).intentions.into_iter();
            items.extend(rules.map(|rule| (rule.key().to_string(), Item::Intention(Box::new(rule)))));
        }
        items
    }
}

#[cfg(test)]
pub(super) mod tests;
