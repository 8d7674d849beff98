//! `UpstreamConfig` and `RateLimits` of `service-defaults`, as Consul writes them; `SourceLevel` is weft's own.

use ::catalog::{
    CallLimits, Namespace, PassiveHealthCheck, PathMatch, Rate, RateLimit, RateLimits, RouteRate, ServiceKey,
    ServiceName, UpstreamConfig, UpstreamOverride, UpstreamSettings,
};
use serde_json::Value;

use super::default_partition;
use super::route_entry::{Shown, milliseconds, shown_duration};
use crate::decode::{DecodeError, Fields};

/// Is what holds of the calls that a service makes, with the services as they are named.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct UpstreamConfigEntry {
    defaults: UpstreamSettings,
    overrides: Vec<(ServiceName, Option<Namespace>, UpstreamSettings)>,
}

impl UpstreamConfigEntry {
    pub(super) fn read(fields: &mut Fields) -> Result<Self, DecodeError> {
        let entry = fields.object("UpstreamConfig", |config| {
            let overrides = config.objects("Overrides", |one| {
                default_partition(one, "Partition")?;
                one.unsupported(&["Peer"])?;
                Ok((one.required("Name")?, one.parsed("Namespace")?, read_settings(one)?))
            })?;
            Ok(Self { defaults: config.object("Defaults", read_settings)?.unwrap_or_default(), overrides })
        })?;
        Ok(entry.unwrap_or_default())
    }

    pub(super) fn of(config: &UpstreamConfig) -> Self {
        let named = |one: &UpstreamOverride| {
            (one.service.name.clone(), Some(one.service.namespace.clone()), one.settings.clone())
        };
        Self { defaults: config.defaults.clone(), overrides: config.overrides.iter().map(named).collect() }
    }

    pub(super) fn into_config(self, own: &Namespace) -> UpstreamConfig {
        let named = |(name, namespace, settings): (ServiceName, Option<Namespace>, UpstreamSettings)| {
            let service = ServiceKey::new(namespace.unwrap_or_else(|| own.clone()), name);
            UpstreamOverride { service, settings }
        };
        UpstreamConfig { defaults: self.defaults, overrides: self.overrides.into_iter().map(named).collect() }
    }

    pub(super) fn show(&self, shown: &mut Shown) {
        let one = |(name, namespace, settings): &(ServiceName, Option<Namespace>, UpstreamSettings)| {
            let mut shown = Shown::default();
            shown.put("Name", name.as_str());
            shown.put("Namespace", namespace.as_ref().map(Namespace::as_str));
            show_settings(settings, &mut shown);
            shown.done()
        };
        let (mut config, mut defaults) = (Shown::default(), Shown::default());
        show_settings(&self.defaults, &mut defaults);
        config.put("Defaults", defaults.done());
        config.put("Overrides", self.overrides.iter().map(one).collect::<Vec<Value>>());
        shown.put("UpstreamConfig", config.done());
    }
}

fn read_settings(fields: &mut Fields) -> Result<UpstreamSettings, DecodeError> {
    fields.unsupported(&[
        "EnvoyListenerJSON",
        "EnvoyClusterJSON",
        "Protocol",
        "MeshGateway",
        "BalanceOutboundConnections",
    ])?;
    let limits = fields.object("Limits", |limits| {
        Ok(CallLimits {
            connections_max: limits.number("MaxConnections")?,
            pending_max: limits.number("MaxPendingRequests")?,
            requests_max: limits.number("MaxConcurrentRequests")?,
        })
    })?;
    let passive = fields.object("PassiveHealthCheck", |check| {
        let failures: Option<u32> = check.number("MaxFailures")?;
        Ok(PassiveHealthCheck {
            interval_ms: check.duration("Interval")?.map(milliseconds),
            max_failures: failures.filter(|failures| *failures != 0),
            enforcing_percent: check.number("EnforcingConsecutive5xx")?,
            max_ejection_percent: check.number("MaxEjectionPercent")?,
            base_ejection_ms: check.duration("BaseEjectionTime")?.map(milliseconds),
        })
    })?;
    let connect_timeout: Option<u64> = fields.number("ConnectTimeoutMs")?;
    Ok(UpstreamSettings {
        limits: limits.filter(|limits| *limits != CallLimits::default()),
        passive,
        connect_timeout_ms: connect_timeout.filter(|timeout| *timeout != 0),
    })
}

/// Shows what holds of the calls from one service to another, as a `service-defaults` says it.
#[must_use]
pub fn shown_settings(settings: &UpstreamSettings) -> Value {
    let mut shown = Shown::default();
    show_settings(settings, &mut shown);
    shown.done()
}

fn show_settings(settings: &UpstreamSettings, shown: &mut Shown) {
    shown.put("ConnectTimeoutMs", settings.connect_timeout_ms);
    if let Some(limits) = &settings.limits {
        let mut bounds = Shown::default();
        bounds.put("MaxConnections", limits.connections_max);
        bounds.put("MaxPendingRequests", limits.pending_max);
        bounds.put("MaxConcurrentRequests", limits.requests_max);
        shown.put("Limits", bounds.done());
    }
    if let Some(passive) = &settings.passive {
        let mut check = Shown::default();
        check.put("Interval", passive.interval_ms.map(shown_duration));
        check.put("MaxFailures", passive.max_failures);
        check.put("EnforcingConsecutive5xx", passive.enforcing_percent);
        check.put("MaxEjectionPercent", passive.max_ejection_percent);
        check.put("BaseEjectionTime", passive.base_ejection_ms.map(shown_duration));
        // One that leaves everything to the defaults is a check all the same.
        shown.put_as_it_is("PassiveHealthCheck", check.done());
    }
}

/// Reads how many requests instances of a service take.
pub(super) fn read_rate_limits(fields: &mut Fields) -> Result<RateLimits, DecodeError> {
    let limits = fields.object("RateLimits", |limits| {
        let (instance, source) =
            (limits.object("InstanceLevel", read_limit)?, limits.object("SourceLevel", read_limit)?);
        let says = |limit: &RateLimit| *limit != RateLimit::default();
        Ok(RateLimits { instance: instance.filter(says), source: source.filter(says) })
    })?;
    Ok(limits.unwrap_or_default())
}

fn read_limit(limit: &mut Fields) -> Result<RateLimit, DecodeError> {
    let general = read_rate(limit)?;
    let routes = limit.objects("Routes", |route| {
        let mut paths = [
            (PathMatch::Exact as fn(String) -> PathMatch, route.text("PathExact")?),
            (PathMatch::Prefix, route.text("PathPrefix")?),
            (PathMatch::Regex, route.text("PathRegex")?),
        ]
        .into_iter()
        .filter(|(_, text)| !text.is_empty())
        .map(|(make, text)| make(text));
        let (Some(path), None) = (paths.next(), paths.next()) else {
            return Err(route.refuse("PathExact", "use one of PathExact, PathPrefix and PathRegex"));
        };
        let rate = read_rate(route)?;
        let rate = rate.ok_or_else(|| route.refuse("RequestsPerSecond", "say how many"))?;
        Ok(RouteRate { path, rate })
    })?;
    Ok(RateLimit { general, routes })
}

fn read_rate(fields: &mut Fields) -> Result<Option<Rate>, DecodeError> {
    let (per_second, burst): (Option<u32>, Option<u32>) =
        (fields.number("RequestsPerSecond")?, fields.number("RequestsMaxBurst")?);
    let burst = burst.filter(|burst| *burst != 0);
    match (per_second.filter(|rate| *rate != 0), burst) {
        (Some(per_second), burst) => Ok(Some(Rate { per_second, burst })),
        (None, None) => Ok(None),
        (None, Some(_)) => Err(fields.refuse("RequestsMaxBurst", "it needs RequestsPerSecond")),
    }
}

/// Shows how many requests instances of a service take, as its `service-defaults` says it.
#[must_use]
pub fn shown_rate_limits(limits: &RateLimits) -> Value {
    let mut shown = Shown::default();
    show_rate_limits(limits, &mut shown);
    shown.into_map().remove("RateLimits").unwrap_or_default()
}

pub(super) fn show_rate_limits(limits: &RateLimits, shown: &mut Shown) {
    let mut levels = Shown::default();
    levels.put("InstanceLevel", limits.instance.as_ref().map(show_limit));
    levels.put("SourceLevel", limits.source.as_ref().map(show_limit));
    shown.put("RateLimits", levels.done());
}

fn show_limit(limit: &RateLimit) -> Value {
    let show_rate = |rate: &Rate, shown: &mut Shown| {
        shown.put("RequestsPerSecond", rate.per_second);
        shown.put("RequestsMaxBurst", rate.burst);
    };
    let route = |route: &RouteRate| {
        let mut shown = Shown::default();
        match &route.path {
            PathMatch::Exact(path) => shown.put("PathExact", path.as_str()),
            PathMatch::Prefix(path) => shown.put("PathPrefix", path.as_str()),
            PathMatch::Regex(path) => shown.put("PathRegex", path.as_str()),
        }
        show_rate(&route.rate, &mut shown);
        shown.done()
    };
    let mut shown = Shown::default();
    if let Some(rate) = &limit.general {
        show_rate(rate, &mut shown);
    }
    shown.put("Routes", limit.routes.iter().map(route).collect::<Vec<Value>>());
    shown.done()
}
