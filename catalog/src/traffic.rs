//! What a service's own agents hold calls to: how many it makes at once, which instances it leaves alone for a while, and how
//! many requests it takes.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::http::PermissionError;
use crate::routing::{PathRule, check_timeout};
use crate::{
    Action, HttpMatch, PathMatch, Permission, Protocol, ProxyDefaults, Refusal, ServiceDefaults, ServiceKey,
    http::check_permission,
};

const OVERRIDES_MAX: usize = 128;
const ROUTES_MAX: usize = 64;
const COUNT_MAX: u32 = 1_000_000;
const TIME_MS_MAX: u64 = 60 * 60 * 1000;

/// Says what holds of the calls that a service makes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpstreamConfig {
    /// What holds of all that are not named.
    #[serde(default, skip_serializing_if = "UpstreamSettings::is_empty")]
    pub defaults: UpstreamSettings,
    /// What holds of those to a service instead.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub overrides: Vec<UpstreamOverride>,
}

/// Says what holds of the calls to one service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpstreamOverride {
    /// The service that is called.
    pub service: ServiceKey,
    /// What holds; the defaults hold of what it leaves out.
    pub settings: UpstreamSettings,
}

/// Is what holds of the calls from one service to another.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpstreamSettings {
    /// How many there are at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<CallLimits>,
    /// Which instances are left alone for a while.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passive: Option<PassiveHealthCheck>,
    /// How long it may take until an instance is reached, in milliseconds, where its resolver says nothing of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connect_timeout_ms: Option<u64>,
}

/// Bounds how many calls there are at once; without a bound where none is given.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CallLimits {
    /// Connections that nobody looks into, those of requests that changed the protocol included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections_max: Option<u32>,
    /// Calls that wait for a tunnel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending_max: Option<u32>,
    /// Requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests_max: Option<u32>,
}

/// Says when an instance is left alone for what it answers, and for how long.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PassiveHealthCheck {
    /// After how long without being ejected one ejection less counts, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval_ms: Option<u64>,
    /// After how many failures in a row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_failures: Option<u32>,
    /// In how many cases of a hundred.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enforcing_percent: Option<u32>,
    /// How many of a hundred instances at most at once; one may always be, if there are two.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_ejection_percent: Option<u32>,
    /// For how long the first time, in milliseconds; for as much longer each further time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_ejection_ms: Option<u64>,
}

impl PassiveHealthCheck {
    /// Returns after how many failures in a row an instance is ejected.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.max_failures.unwrap_or(5)
    }

    /// Returns in how many cases of a hundred that is done.
    #[must_use]
    pub fn enforcing(&self) -> u32 {
        self.enforcing_percent.unwrap_or(100)
    }

    /// Returns how many of so many instances may be ejected at once: the share that is given or one, and never so many
    /// that fewer than half of them are left.
    #[must_use]
    pub fn most_of(&self, instances: usize) -> usize {
        let share = instances * self.max_ejection_percent.unwrap_or(10) as usize / 100;
        share.max(1).min(instances / 2)
    }

    /// Returns for how long an instance is ejected that was ejected so often before.
    #[must_use]
    pub fn length(&self, before: u32) -> Duration {
        const LONGEST: Duration = Duration::from_secs(300);
        let base = Duration::from_millis(self.base_ejection_ms.unwrap_or(30_000));
        base.saturating_mul(before.saturating_add(1)).min(LONGEST.max(base))
    }

    /// Returns after how long one ejection less counts.
    #[must_use]
    pub fn interval(&self) -> Duration {
        Duration::from_millis(self.interval_ms.unwrap_or(10_000))
    }
}

impl UpstreamSettings {
    /// Reports whether nothing is said.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl UpstreamConfig {
    /// Reports whether nothing is said.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Returns what holds of the calls to a service.
    #[must_use]
    pub fn of(&self, service: &ServiceKey) -> UpstreamSettings {
        let own = self.overrides.iter().find(|one| one.service == *service).map(|one| &one.settings);
        let own = own.cloned().unwrap_or_default();
        UpstreamSettings {
            limits: own.limits.or_else(|| self.defaults.limits.clone()),
            passive: own.passive.or_else(|| self.defaults.passive.clone()),
            connect_timeout_ms: own.connect_timeout_ms.or(self.defaults.connect_timeout_ms),
        }
    }
}

/// Bounds how many requests an instance of a service takes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateLimits {
    /// From all callers together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<RateLimit>,
    /// From each calling service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<RateLimit>,
}

/// Is a rate of requests, and those of some paths.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateLimit {
    /// How many requests that no route is for; any number where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub general: Option<Rate>,
    /// The rates of some paths; the first that matches counts the request, and no other does.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<RouteRate>,
}

/// Is a rate of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// How many a second in the long run.
    pub per_second: u32,
    /// How many at once after a pause; as many as in a second where nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burst: Option<u32>,
}

/// Is the rate of the requests to some paths.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouteRate {
    /// The paths.
    pub path: PathMatch,
    /// How many.
    pub rate: Rate,
}

/// Finds which route of a rate limit counts a request.
#[derive(Debug, Default)]
pub struct RoutesOfRates(Vec<PathRule>);

impl RoutesOfRates {
    /// Returns the number of the first route that a path, without its escapes, is of.
    #[must_use]
    pub fn of(&self, path: &str) -> Option<usize> {
        self.0.iter().position(|rule| rule.matches(path))
    }
}

impl RateLimits {
    /// Reports whether nothing is said.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl RateLimit {
    /// Makes the routes ready to be held against requests.
    ///
    /// # Errors
    ///
    /// Which expression cannot be used.
    pub fn routes(&self) -> Result<RoutesOfRates, PermissionError> {
        self.routes.iter().map(|route| PathRule::new(&route.path)).collect::<Result<_, _>>().map(RoutesOfRates)
    }
}

/// More ports of a service have no mTLS mode of their own.
const PORT_MODES_MAX: usize = 64;

/// More namespaces have no mTLS mode of their own: every agent holds them.
const NAMESPACE_MODES_MAX: usize = 256;

/// Checks what the `proxy-defaults` say by themselves.
pub(crate) fn check_global(defaults: &ProxyDefaults) -> Result<(), Refusal> {
    let said = defaults.namespace_modes.len();
    if said > NAMESPACE_MODES_MAX {
        let problem =
            format!("there are {said}: use at most {NAMESPACE_MODES_MAX}, and `mutual_tls_mode` for the rest");
        return Err(Refusal::invalid("mutual_tls_mode_by_namespace", problem));
    }
    Ok(())
}

/// Checks what the `service-defaults` of a service say by themselves.
pub(crate) fn check_defaults(defaults: &ServiceDefaults) -> Result<(), Refusal> {
    if defaults.external && defaults.protocol.is_some_and(Protocol::is_http) {
        let problem = "nobody reads what leaves the mesh: leave the protocol out, or say `tcp`";
        return Err(Refusal::invalid("external", problem));
    }
    let ports: BTreeSet<u16> = defaults.port_modes.iter().map(|one| one.port).collect();
    if ports.len() < defaults.port_modes.len() || ports.contains(&0) || ports.len() > PORT_MODES_MAX {
        let problem = format!("name each port once, from 1 on, and at most {PORT_MODES_MAX} of them");
        return Err(Refusal::invalid("mutual_tls_mode_by_port", problem));
    }
    let UpstreamConfig { defaults: of_all, overrides } = &defaults.upstreams;
    check_settings("upstream_config.defaults", of_all)?;
    if overrides.len() > OVERRIDES_MAX {
        let problem = format!("there are {}: use at most {OVERRIDES_MAX}", overrides.len());
        return Err(Refusal::invalid("upstream_config.overrides", problem));
    }
    let mut named = BTreeSet::new();
    for one in overrides {
        let field = format!("upstream_config.overrides, {}", one.service);
        if !named.insert(&one.service) {
            return Err(Refusal::invalid(field, "it is named twice"));
        }
        check_settings(&field, &one.settings)?;
    }
    let RateLimits { instance, source } = &defaults.rate_limits;
    for (field, limit) in [("rate_limits.instance_level", instance), ("rate_limits.source_level", source)] {
        if let Some(limit) = limit {
            check_rates(limit).map_err(|problem| Refusal::invalid(field, problem))?;
        }
    }
    Ok(())
}

fn check_settings(field: &str, settings: &UpstreamSettings) -> Result<(), Refusal> {
    let invalid = |what: &str, problem: String| Err(Refusal::invalid(format!("{field}.{what}"), problem));
    if let Some(CallLimits { connections_max, pending_max, requests_max }) = &settings.limits
        && [connections_max, pending_max, requests_max].into_iter().flatten().any(|max| !is_count(*max))
    {
        return invalid("limits", format!("use 1 to {COUNT_MAX}, or leave it out"));
    }
    if let Err(problem) = check_timeout(settings.connect_timeout_ms) {
        return invalid("connect_timeout_ms", problem);
    }
    let Some(passive) = &settings.passive else { return Ok(()) };
    let PassiveHealthCheck { interval_ms, max_failures, enforcing_percent, max_ejection_percent, base_ejection_ms } =
        passive;
    let is_percent = |percent: &Option<u32>| percent.is_none_or(|percent| percent <= 100);
    if !is_percent(enforcing_percent) || !is_percent(max_ejection_percent) {
        return invalid("passive_health_check", "a percentage is 0 to 100".to_owned());
    }
    if max_failures.is_some_and(|max| !is_count(max)) {
        return invalid("passive_health_check", format!("max_failures is 1 to {COUNT_MAX}"));
    }
    if [interval_ms, base_ejection_ms].into_iter().flatten().any(|time| *time == 0 || *time > TIME_MS_MAX) {
        return invalid("passive_health_check", "a time is at most one hour, and not 0".to_owned());
    }
    Ok(())
}

fn is_count(count: u32) -> bool {
    (1..=COUNT_MAX).contains(&count)
}

fn check_rates(limit: &RateLimit) -> Result<(), String> {
    if limit.general.is_none() && limit.routes.is_empty() {
        return Err("it limits nothing: give requests_per_second, or routes".to_owned());
    }
    if limit.routes.len() > ROUTES_MAX {
        return Err(format!("there are {} routes: use at most {ROUTES_MAX}", limit.routes.len()));
    }
    let rates = limit.general.iter().chain(limit.routes.iter().map(|route| &route.rate));
    if rates.into_iter().any(|rate| !is_count(rate.per_second) || rate.burst.is_some_and(|burst| !is_count(burst))) {
        return Err(format!("a rate and its burst are 1 to {COUNT_MAX}"));
    }
    for (number, route) in (1..).zip(&limit.routes) {
        let http = HttpMatch { path: Some(route.path.clone()), ..HttpMatch::default() };
        check_permission(&Permission::new(Action::Allow, http)).map_err(|error| format!("route {number}: {error}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_override_holds_of_what_it_says_and_the_defaults_of_the_rest() {
        let limits = |max| Some(CallLimits { requests_max: Some(max), ..CallLimits::default() });
        let passive = Some(PassiveHealthCheck::default());
        let config = UpstreamConfig {
            defaults: UpstreamSettings { limits: limits(9), passive: passive.clone(), connect_timeout_ms: Some(700) },
            overrides: vec![UpstreamOverride {
                service: "db".parse().unwrap(),
                settings: UpstreamSettings { limits: limits(1), ..UpstreamSettings::default() },
            }],
        };
        assert_eq!(
            config.of(&"db".parse().unwrap()),
            UpstreamSettings { limits: limits(1), passive: passive.clone(), connect_timeout_ms: Some(700) }
        );
        assert_eq!(
            config.of(&"api".parse().unwrap()),
            UpstreamSettings { limits: limits(9), passive, connect_timeout_ms: Some(700) }
        );
    }

    #[test]
    fn ejections_leave_half_of_the_instances_and_grow_longer() {
        let most = |percent, instances| {
            PassiveHealthCheck { max_ejection_percent: percent, ..PassiveHealthCheck::default() }.most_of(instances)
        };
        for (percent, instances, want) in [
            (None, 1, 0),
            (None, 2, 1),
            (None, 3, 1),
            (None, 40, 4),
            (Some(100), 3, 1),
            (Some(100), 10, 5),
            (Some(0), 4, 1),
        ] {
            assert_eq!(most(percent, instances), want, "{percent:?} of {instances}");
        }
        let passive = PassiveHealthCheck::default();
        let lengths: Vec<u64> = [0, 1, 9, 100].into_iter().map(|before| passive.length(before).as_secs()).collect();
        assert_eq!(lengths, [30, 60, 300, 300]);
    }

    #[test]
    fn f1_what_makes_no_sense_is_refused_by_field() {
        let refused = |change: fn(&mut ServiceDefaults), want: &str| {
            let mut defaults = ServiceDefaults::new("api".parse().unwrap());
            change(&mut defaults);
            let error = check_defaults(&defaults).unwrap_err().to_string();
            assert!(error.contains(want), "{error}");
        };
        refused(
            |one| {
                one.upstreams.defaults.limits = Some(CallLimits { requests_max: Some(0), ..CallLimits::default() });
            },
            "upstream_config.defaults.limits: use 1 to",
        );
        refused(
            |one| (one.external, one.protocol) = (true, Some(Protocol::Http)),
            "external: nobody reads what leaves",
        );
        refused(
            |one| {
                let settings = UpstreamSettings {
                    passive: Some(PassiveHealthCheck { max_ejection_percent: Some(101), ..Default::default() }),
                    ..UpstreamSettings::default()
                };
                one.upstreams.overrides = vec![UpstreamOverride { service: "db".parse().unwrap(), settings }];
            },
            "upstream_config.overrides, default/db.passive_health_check: a percentage",
        );
        refused(|one| one.rate_limits.instance = Some(RateLimit::default()), "it limits nothing");
        refused(
            |one| {
                let rate = Rate { per_second: 0, burst: None };
                one.rate_limits.source = Some(RateLimit { general: Some(rate), routes: vec![] });
            },
            "rate_limits.source_level: a rate and its burst",
        );
        refused(
            |one| {
                let path = PathMatch::Regex("(".to_owned());
                let routes = vec![RouteRate { path, rate: Rate { per_second: 1, burst: None } }];
                one.rate_limits.source = Some(RateLimit { general: None, routes });
            },
            "route 1",
        );
    }
}
