//! What the proxy really does, for whoever looks: read off the snapshot in force and off what it remembers of instances.

use std::sync::Arc;

use catalog::{CheckStatus, Effect, Endpoint, Protocol, Reach, ServiceKey, TargetKey, TokenProvider};
use tokio::time::Instant;
use wire::api_types::{
    ProxyCertificate, ProxyConfigView, ProxyEndpoint, ProxyEndpoints, ProxyInstance, ProxyListener, ProxyRule,
    ProxyRules, ProxyTokenProvider, ProxyUpstream,
};
use wire::consul::{IntentionJwt, IntentionPermission, shown_rate_limits, shown_settings};
use wire::pki::Serial;
use wire::report::RuleName;

use super::Proxy;
use super::current::Current;
use super::outbound::cluster::is_panic;
use super::outbound::upstreams::UpstreamStatus;

impl Proxy {
    /// Reports whether the proxy knows a service at all: as one that it stands before, or one that is called.
    pub(crate) fn knows(&self, service: &ServiceKey) -> bool {
        self.room.current.load().as_ref().is_some_and(|current| {
            let snapshot = &current.snapshot;
            let is_called = |service: &ServiceKey| snapshot.upstreams.iter().any(|it| it.destination == *service);
            snapshot.locals.contains_key(service) || snapshot.endpoints.contains_key(service) || is_called(service)
        })
    }

    /// Lists the listeners through which a service is called.
    pub(crate) fn listeners_to(&self, service: &ServiceKey) -> Vec<ProxyListener> {
        let upstreams = self.upstreams.borrow();
        let to_it = upstreams.upstreams.iter().filter(|upstream| upstream.listener.destination == *service);
        to_it
            .map(|upstream| {
                let (address, error) = place(upstream);
                ProxyListener { owner: upstream.listener.owner.clone(), address, error }
            })
            .collect()
    }

    /// Returns how the bytes of a service are read.
    pub(crate) fn protocol_of(&self, service: &ServiceKey) -> Protocol {
        self.room.current.load().as_ref().map(|current| current.snapshot.protocol(service)).unwrap_or_default()
    }

    /// Lists what calls of a service end at by the route in force.
    pub(crate) fn targets_of(&self, service: &ServiceKey) -> Vec<TargetKey> {
        let Some(current) = self.room.current.load_full() else { return Vec::new() };
        let mut targets: Vec<TargetKey> = Vec::new();
        for target in current.snapshot.routes(service).targets() {
            if !targets.contains(&target.key) {
                targets.push(target.key.clone());
            }
        }
        targets
    }

    /// Shows the instances that calls of a service may end at, and how they fare.
    pub(crate) fn endpoints_of(&self, service: &ServiceKey) -> ProxyEndpoints {
        let Some(current) = self.room.current.load_full() else {
            return ProxyEndpoints { service: service.clone(), is_panicking: false, endpoints: Vec::new() };
        };
        let now = Instant::now();
        let routes = current.snapshot.routes(service);
        let mut seen = Vec::new();
        let mut endpoints = Vec::new();
        for target in routes.targets() {
            if seen.contains(&&target.key) {
                continue;
            }
            seen.push(&target.key);
            let instances = current.snapshot.instances(target).iter();
            endpoints.extend(instances.map(|endpoint| self.shown(&current, &target.key, endpoint, now)));
        }
        let known = current.snapshot.endpoints.get(service);
        ProxyEndpoints { service: service.clone(), is_panicking: known.is_some_and(|known| is_panic(known)), endpoints }
    }

    fn shown(&self, current: &Current, target: &TargetKey, endpoint: &Endpoint, now: Instant) -> ProxyEndpoint {
        let snapshot = &current.snapshot;
        let (reach, dialled) =
            match (catalog::reach(endpoint, &snapshot.network, &snapshot.gateways), endpoint.mesh_port) {
                (Reach::Direct, None) if snapshot.external.contains_key(&target.service) => (
                    "outside the mesh: nobody proves who answers",
                    vec![format!("{}:{}", endpoint.address, endpoint.port)],
                ),
                (_, None) => ("no agent stands before it", Vec::new()),
                (Reach::Direct, Some(port)) => ("direct", vec![format!("{}:{port}", endpoint.address)]),
                (Reach::Through(gateways), _) => (
                    "gateway",
                    gateways.iter().map(|gateway| format!("{}:{}", gateway.address, gateway.port)).collect(),
                ),
                (Reach::Unreachable, _) => ("in another network without a gateway", Vec::new()),
            };
        let standing = self.room.endpoints.standing(&endpoint.key);
        let milliseconds = |length: std::time::Duration| u64::try_from(length.as_millis()).unwrap_or(u64::MAX);
        let aside = standing.as_ref().map(|standing| standing.aside_for(now)).filter(|aside| !aside.is_zero());
        let weights = endpoint.weights;
        ProxyEndpoint {
            target: name_of(target),
            instance: endpoint.key.clone(),
            dialled,
            reach: reach.to_owned(),
            status: endpoint.status,
            zone: endpoint.zone.clone(),
            weight: if endpoint.status == CheckStatus::Warning { weights.warning } else { weights.passing },
            open: standing.as_ref().map_or(0, |standing| standing.open()),
            latency_us: standing
                .and_then(|standing| standing.latency(now))
                .map(|latency| u64::try_from(latency.as_micros()).unwrap_or(u64::MAX)),
            aside_ms: aside.map(milliseconds),
        }
    }

    /// Shows what is configured for a service.
    pub(crate) fn config_of(&self, service: &ServiceKey) -> Option<ProxyConfigView> {
        let current = self.room.current.load_full()?;
        let snapshot = &current.snapshot;
        let instances = snapshot.locals.get(service).into_iter().flatten().map(|local| ProxyInstance {
            instance: local.key.clone(),
            address: std::net::SocketAddr::new(local.local_address, local.port).to_string(),
            ports: local.ports.clone(),
        });
        let certificate = snapshot.identities.get(service).map(|tls| ProxyCertificate {
            identity: tls.id().to_string(),
            serial: Serial::from(tls.serial()).to_colons(),
            not_before: tls.not_before(),
            not_after: tls.not_after(),
        });
        let providers = snapshot.providers.get(service).into_iter().flatten();
        let provider = |provider: &Arc<TokenProvider>| ProxyTokenProvider {
            name: provider.name.to_string(),
            issuer: provider.issuer.clone(),
        };
        Some(ProxyConfigView {
            service: service.clone(),
            protocol: snapshot.protocol(service),
            generation: current.generation,
            mesh_listener: self.mesh_address.to_string(),
            min_key_exchange: snapshot.min_key_exchange,
            instances: instances.collect(),
            certificate,
            mtls_mode: snapshot.modes.get(service).cloned().unwrap_or_default().to_string(),
            rate_limits: snapshot.rate_limits.get(service).map(shown_rate_limits).unwrap_or_default(),
            token_providers: providers.map(provider).collect(),
            rules: self.rules_of(&current, service),
            upstreams: self.upstreams_of(&current, service),
        })
    }

    /// Lists whom a service calls: through listeners of its own, then by name only where something is said of that.
    fn upstreams_of(&self, current: &Current, service: &ServiceKey) -> Vec<ProxyUpstream> {
        let settings = &current.snapshot.settings;
        let upstreams = self.upstreams.borrow();
        let own = upstreams.upstreams.iter().filter(|upstream| upstream.listener.owner == *service);
        let mut own: Vec<ProxyUpstream> = own
            .map(|upstream| {
                let (destination, (address, error)) = (upstream.listener.destination.clone(), place(upstream));
                let settings = settings.get(&(service.clone(), destination.clone()));
                let settings = settings.map(shown_settings).unwrap_or_default();
                ProxyUpstream { destination, address, settings, error }
            })
            .collect();
        for ((_, destination), settings) in settings.iter().filter(|((owner, _), _)| owner == service) {
            if !own.iter().any(|upstream| upstream.destination == *destination) {
                let (address, settings) = (String::new(), shown_settings(settings));
                own.push(ProxyUpstream { destination: destination.clone(), address, settings, error: None });
            }
        }
        own
    }

    fn rules_of(&self, current: &Arc<Current>, service: &ServiceKey) -> Option<ProxyRules> {
        let policy = current.snapshot.policies.get(service)?;
        let uses = self.room.metrics.tally().rule_uses();
        let shown = |rule: RuleName, effect: String| {
            let is_of = |other: &RuleName| match (&rule, other) {
                // An intention's numbers are those of its permissions, too.
                (RuleName::Intention { key, .. }, RuleName::Intention { key: other, .. }) => key == other,
                (one, other) => one == other,
            };
            let own = || uses.iter().filter(|used| used.destination == *service && is_of(&used.rule));
            let (allowed, denied) = (own().map(|used| used.allowed).sum(), own().map(|used| used.denied).sum());
            ProxyRule { rule: rule.to_string(), effect, permissions: Vec::new(), jwt: None, allowed, denied }
        };
        let mut rules: Vec<ProxyRule> = policy
            .guardrails
            .iter()
            .filter(|guardrail| guardrail.destination.matches(service))
            .map(|guardrail| shown(RuleName::Guardrail(guardrail.name.clone()), "deny".to_owned()))
            .collect();
        rules.extend(policy.intentions.iter().map(|intention| {
            let (effect, permissions) = match &intention.effect {
                Effect::Action(action) => (action.to_string(), Vec::new()),
                Effect::Permissions(permissions) => (
                    format!("{} permissions", permissions.len()),
                    permissions.iter().map(IntentionPermission::from).collect(),
                ),
            };
            let jwt = intention.jwt.as_ref().map(IntentionJwt::from);
            let rule = shown(RuleName::Intention { key: intention.key(), permission: None }, effect);
            ProxyRule { permissions, jwt, ..rule }
        }));
        rules.push(shown(RuleName::Default, policy.default_action.to_string()));
        Some(ProxyRules { default: policy.default_action, rules })
    }
}

/// Names a target as an operator does: the service, and the subset after a dot.
pub(crate) fn name_of(target: &TargetKey) -> String {
    match &target.subset {
        Some(subset) => format!("{subset}.{}", target.service),
        None => target.service.to_string(),
    }
}

/// Returns where an upstream listens or was to, and why it does not.
fn place(upstream: &UpstreamStatus) -> (String, Option<String>) {
    match &upstream.outcome {
        Ok(address) => (address.to_string(), None),
        Err(error) => (upstream.listener.address.to_string(), Some(error.clone())),
    }
}
