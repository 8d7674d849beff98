//! Compiles config entries into routes.

use std::{collections::BTreeMap, time::Duration};

use super::{
    Balancing, FailoverTarget, QueryTest, RouteRule, ServiceResolver, ServiceRouter, ServiceSplitter,
    check::paths_are_known,
    evaluate::{
        Fork, Leg, MirrorWay, Part, PathRule, QueryCheck, QueryRule, Rewrite, RouteAction, Routes, Rule, SplitEdits,
        Target, TargetKey, WHOLE,
    },
};
use crate::{
    Action, ConfigContent, ConfigEntries, ConfigKey, HeaderMatch, PathMatch, Selector, SelectorError, ServiceKey,
    http::{HeaderRule, PermissionError, expression},
};

/// How many splitters lead from one to the next at most.
const SPLITTERS_MAX: usize = 3;
/// How many parts one service's calls are divided into at most, and how many ways they take.
const PARTS_MAX: usize = 256;

/// Explains why config entries make no routes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RoutingError {
    /// Splitters or redirects lead back to where they came from.
    #[error("`{service}` leads back to itself: take one of the splitters or redirects between them away")]
    Circle {
        /// Where they meet.
        service: ServiceKey,
    },
    /// Splitters lead to splitters too often.
    #[error("more than {SPLITTERS_MAX} splitters lead from one to the next: divide at once")]
    TooDeep,
    /// There are more parts or ways than an agent should weigh.
    #[error("it is divided into more than {PARTS_MAX} ways: use fewer routes and splits")]
    TooMany,
    /// A subset is nowhere defined.
    #[error("service `{service}` has no subset `{subset}`: define it in its service-resolver first")]
    NoSubset {
        /// The service.
        service: ServiceKey,
        /// The subset.
        subset: String,
    },
    /// Requests of a service that is not HTTP cannot be told apart.
    #[error("a {kind} needs an HTTP protocol, and `{service}` is read as tcp: say so in its service-defaults first")]
    NotHttp {
        /// The kind of entry.
        kind: &'static str,
        /// The service.
        service: ServiceKey,
    },
    /// Two services of one route are not spoken to alike.
    #[error(
        "`{service}` is read as {found}, but calls for `{called}` would arrive there as another protocol: make them alike"
    )]
    OtherProtocol {
        /// The service that is called.
        called: ServiceKey,
        /// Where calls would go.
        service: ServiceKey,
        /// How that is read.
        found: crate::Protocol,
    },
    /// A rule cannot be held against requests.
    #[error("route {number}: {problem}")]
    Rule {
        /// Which, from 1.
        number: usize,
        /// What is wrong with it.
        problem: PermissionError,
    },
    /// A subset's selector cannot be read.
    #[error("subset `{subset}` of `{service}`: {problem}")]
    Filter {
        /// The service.
        service: ServiceKey,
        /// The subset.
        subset: String,
        /// What is wrong with it.
        problem: SelectorError,
    },
}

impl ConfigEntries {
    /// Returns where calls to a service go.
    ///
    /// # Errors
    /// [`RoutingError`] says which entries do not fit together.
    pub fn routes_of(&self, service: &ServiceKey) -> Result<Routes, RoutingError> {
        Compiler { entries: self, called: service, legs: Vec::new(), known: BTreeMap::new() }.compile()
    }

    /// Reports whether instances of a caller's own zone come first where no resolver says otherwise.
    fn is_by_locality(&self) -> bool {
        self.get(&ConfigKey::ProxyDefaults).is_some_and(|entry| match &entry.content {
            ConfigContent::ProxyDefaults(defaults) => defaults.by_locality,
            _ => false,
        })
    }

    fn router(&self, service: &ServiceKey) -> Option<&ServiceRouter> {
        match &self.get(&ConfigKey::ServiceRouter(service.clone()))?.content {
            ConfigContent::ServiceRouter(router) => Some(router),
            _ => None,
        }
    }

    fn splitter(&self, service: &ServiceKey) -> Option<&ServiceSplitter> {
        match &self.get(&ConfigKey::ServiceSplitter(service.clone()))?.content {
            ConfigContent::ServiceSplitter(splitter) => Some(splitter),
            _ => None,
        }
    }

    fn resolver(&self, service: &ServiceKey) -> Option<&ServiceResolver> {
        match &self.get(&ConfigKey::ServiceResolver(service.clone()))?.content {
            ConfigContent::ServiceResolver(resolver) => Some(resolver),
            _ => None,
        }
    }
}

struct Compiler<'e> {
    entries: &'e ConfigEntries,
    called: &'e ServiceKey,
    legs: Vec<Leg>,
    known: BTreeMap<TargetKey, usize>,
}

impl Compiler<'_> {
    fn compile(mut self) -> Result<Routes, RoutingError> {
        let protocol = self.entries.protocol_of(self.called);
        if self.entries.rate_limits_of(self.called).is_some() && !protocol.is_http() {
            return Err(RoutingError::NotHttp { kind: "rate limit", service: self.called.clone() });
        }
        let mut rules = Vec::new();
        if let Some(router) = self.entries.router(self.called) {
            if !protocol.is_http() {
                return Err(RoutingError::NotHttp { kind: "service-router", service: self.called.clone() });
            }
            for (number, route) in (1..).zip(&router.routes) {
                rules.push(self.rule(number, route)?);
            }
        }
        let otherwise = self.fork(self.called, None)?;
        Ok(Routes { service: self.called.clone(), protocol, rules, otherwise, legs: self.legs })
    }

    fn rule(&mut self, number: usize, route: &RouteRule) -> Result<Rule, RoutingError> {
        let refused = |problem| RoutingError::Rule { number, problem };
        let text = |pattern: &String| expression::of_text(pattern).map_err(refused);
        let http = &route.matches.http;
        let path = match &http.path {
            None => None,
            Some(path) => Some(PathRule::new(path).map_err(refused)?),
        };
        // One value that fits is enough; where none may fit, all must not.
        let header = |header: &HeaderMatch| {
            HeaderRule::new(header, if header.invert { Action::Allow } else { Action::Deny }).map_err(refused)
        };
        let mut query = Vec::new();
        for parameter in &route.matches.query {
            let test = match &parameter.test {
                QueryTest::Present => QueryCheck::Present,
                QueryTest::Exact(wanted) => QueryCheck::Exact(wanted.clone()),
                QueryTest::Regex(pattern) => QueryCheck::Regex(text(pattern)?),
            };
            query.push(QueryRule { name: parameter.name.clone(), test });
        }
        let to = &route.to;
        let rewrite = to.prefix_rewrite.as_ref().zip(http.path.as_ref()).and_then(|(rewrite, path)| {
            let (from, whole) = match path {
                PathMatch::Exact(from) => (from, true),
                PathMatch::Prefix(from) => (from, false),
                PathMatch::Regex(_) => return None,
            };
            let ignore_case = route.matches.ignore_case;
            Some(Rewrite { from: from.clone(), to: rewrite.clone(), whole, ignore_case })
        });
        let mirror = match &to.mirror {
            Some(mirror) => {
                let way = self.leg(mirror.service.as_ref().unwrap_or(self.called), mirror.subset.as_deref())?;
                Some(MirrorWay { way, share: mirror.share })
            }
            None => None,
        };
        let fork = self.fork(to.service.as_ref().unwrap_or(self.called), to.subset.as_deref())?;
        Ok(Rule {
            path,
            ignore_case: route.matches.ignore_case,
            methods: http.methods.clone(),
            headers: http.headers.iter().map(header).collect::<Result<_, _>>()?,
            query,
            action: RouteAction {
                rewrite,
                request_timeout: to.request_timeout_ms.map(Duration::from_millis),
                retry: to.retry.clone(),
                request_headers: to.request_headers.clone(),
                response_headers: to.response_headers.clone(),
                mirror,
                fault: to.fault.clone(),
            },
            fork,
        })
    }

    /// Returns how what goes to a service, or to a subset of it, is divided.
    fn fork(&mut self, service: &ServiceKey, subset: Option<&str>) -> Result<Fork, RoutingError> {
        let mut parts = Vec::new();
        match subset {
            Some(_) => parts.push(Part { until: WHOLE, leg: self.leg(service, subset)?, edits: Vec::new() }),
            None => self.divide(service, WHOLE, &mut Vec::new(), &mut parts)?,
        }
        if parts.len() > PARTS_MAX {
            return Err(RoutingError::TooMany);
        }
        let mut until = 0;
        let bounds = parts.into_iter().filter(|part| part.until > 0).map(|share| {
            until += share.until;
            Part { until, ..share }
        });
        Ok(Fork(bounds.collect()))
    }

    /// Divides `share` of what goes to a service among the parts of its splitter, and of those that these lead to. `above` is
    /// the splitters that led here, each with what it changes; of a part `until` is its own share for now.
    fn divide(
        &mut self,
        service: &ServiceKey,
        share: u64,
        above: &mut Vec<(ServiceKey, Option<SplitEdits>)>,
        parts: &mut Vec<Part>,
    ) -> Result<(), RoutingError> {
        if above.iter().any(|(one, _)| one == service) {
            return Err(RoutingError::Circle { service: service.clone() });
        }
        let entries = self.entries;
        let Some(splitter) = entries.splitter(service) else {
            parts.push(Part { until: share, leg: self.leg(service, None)?, edits: edits_of(above) });
            return Ok(());
        };
        if !entries.protocol_of(service).is_http() {
            return Err(RoutingError::NotHttp { kind: "service-splitter", service: service.clone() });
        }
        if above.len() >= SPLITTERS_MAX || parts.len() > PARTS_MAX {
            return Err(if above.len() >= SPLITTERS_MAX { RoutingError::TooDeep } else { RoutingError::TooMany });
        }
        for split in &splitter.splits {
            let part = share / 10_000 * u64::from(split.weight);
            let to = split.service.as_ref().unwrap_or(service);
            let edits = SplitEdits {
                request_headers: split.request_headers.clone(),
                response_headers: split.response_headers.clone(),
            };
            let says = !edits.request_headers.is_empty() || !edits.response_headers.is_empty();
            above.push((service.clone(), says.then_some(edits)));
            // A part for the service itself is what is left of it, not all of it again.
            if split.subset.is_some() || to == service {
                let leg = self.leg(to, split.subset.as_deref())?;
                parts.push(Part { until: part, leg, edits: edits_of(above) });
            } else {
                self.divide(to, part, above, parts)?;
            }
            above.pop();
        }
        Ok(())
    }

    /// Returns the way to a service, or to a subset of it, as its resolver has it.
    fn leg(&mut self, service: &ServiceKey, subset: Option<&str>) -> Result<usize, RoutingError> {
        let first = self.target(service, subset)?;
        if let Some(known) = self.known.get(&first.key) {
            return Ok(*known);
        }
        if self.legs.len() >= PARTS_MAX {
            return Err(RoutingError::TooMany);
        }
        let key = first.key.clone();
        let resolver = self.entries.resolver(&key.service);
        let mut targets = vec![first];
        for next in resolver.map(|resolver| failover(resolver, key.subset.as_deref())).unwrap_or_default() {
            let next = self.target(next.service.as_ref().unwrap_or(&key.service), next.subset.as_deref())?;
            if targets.iter().all(|known| known.key != next.key) {
                targets.push(next);
            }
        }
        let request_timeout = resolver.and_then(|resolver| resolver.request_timeout_ms).map(Duration::from_millis);
        let balancing = Balancing::of(resolver, self.entries.is_by_locality());
        let connect_timeout = resolver.and_then(|resolver| resolver.connect_timeout_ms).map(Duration::from_millis);
        self.legs.push(Leg { targets, request_timeout, connect_timeout, balancing });
        self.known.insert(key, self.legs.len() - 1);
        Ok(self.legs.len() - 1)
    }

    /// Follows redirects and default subsets to what a name stands for.
    fn target(&self, service: &ServiceKey, subset: Option<&str>) -> Result<Target, RoutingError> {
        let mut key = TargetKey { service: service.clone(), subset: subset.map(str::to_owned) };
        let mut seen = Vec::new();
        loop {
            if seen.contains(&key) {
                return Err(RoutingError::Circle { service: key.service });
            }
            let resolver = self.entries.resolver(&key.service);
            if key.subset.is_none() {
                key.subset = resolver.and_then(|resolver| resolver.default_subset.clone());
            }
            let Some(redirect) = resolver.and_then(|resolver| resolver.redirect.as_ref()) else {
                return self.defined(key, resolver);
            };
            let next = TargetKey {
                service: redirect.service.as_ref().unwrap_or(&key.service).clone(),
                subset: redirect.subset.clone(),
            };
            seen.push(std::mem::replace(&mut key, next));
            if seen.len() > PARTS_MAX {
                return Err(RoutingError::TooMany);
            }
        }
    }

    fn defined(&self, key: TargetKey, resolver: Option<&ServiceResolver>) -> Result<Target, RoutingError> {
        let found = self.entries.protocol_of(&key.service);
        if found.is_http() != self.entries.protocol_of(self.called).is_http() {
            return Err(RoutingError::OtherProtocol { called: self.called.clone(), service: key.service, found });
        }
        let Some(name) = &key.subset else { return Ok(Target { key, filter: None, only_passing: false }) };
        let subset = resolver.and_then(|resolver| resolver.subsets.get(name));
        let Some(subset) = subset else {
            return Err(RoutingError::NoSubset { service: key.service.clone(), subset: name.clone() });
        };
        let filter =
            subset.filter.as_ref().map(|text| Selector::parse(text)).transpose().map_err(|problem| {
                RoutingError::Filter { service: key.service.clone(), subset: name.clone(), problem }
            })?;
        debug_assert!(filter.as_ref().is_none_or(paths_are_known), "selectors are looked at before they are kept");
        Ok(Target { filter, only_passing: subset.only_passing, key })
    }
}

/// Returns what the splitters that led to a part change, the first one first.
fn edits_of(above: &[(ServiceKey, Option<SplitEdits>)]) -> Vec<SplitEdits> {
    above.iter().filter_map(|(_, edits)| edits.clone()).collect()
}

/// Returns what takes over for a subset.
fn failover<'e>(resolver: &'e ServiceResolver, subset: Option<&str>) -> &'e [FailoverTarget] {
    let named = subset.and_then(|subset| resolver.failover.get(subset));
    named.or_else(|| resolver.failover.get("*")).map(Vec::as_slice).unwrap_or_default()
}
