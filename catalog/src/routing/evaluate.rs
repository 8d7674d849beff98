//! Routes as callers' agents go by them: compiled once, asked for every request without a copy.

use std::time::Duration;

use regex::Regex;

use super::{Balancing, Fault, HeaderEdits, RetryRule};
use crate::{
    CheckStatus, Endpoint, PathMatch, Protocol, Selector, ServiceKey,
    http::{HeaderRule, Headers, NormalPath, PermissionError, expression},
};

/// The whole that shares of a fork are parts of: three splitters deep, each in hundredths of a percent.
pub(super) const WHOLE: u64 = 10_000 * 10_000 * 10_000;

/// Says where calls to one service go.
#[derive(Debug, Clone)]
pub struct Routes {
    pub(super) service: ServiceKey,
    pub(super) protocol: Protocol,
    pub(super) rules: Vec<Rule>,
    /// Where everything goes that no rule is for.
    pub(super) otherwise: Fork,
    pub(super) legs: Vec<Leg>,
}

/// Is a rule of a router, ready to be held against requests.
#[derive(Debug, Clone)]
pub(super) struct Rule {
    pub(super) path: Option<PathRule>,
    /// Whether the path fits in whatever letter case.
    pub(super) ignore_case: bool,
    pub(super) methods: Vec<String>,
    pub(super) headers: Vec<HeaderRule>,
    pub(super) query: Vec<QueryRule>,
    pub(super) action: RouteAction,
    pub(super) fork: Fork,
}

/// Is a condition on the path.
#[derive(Debug, Clone)]
pub(crate) enum PathRule {
    Exact(String),
    Prefix(String),
    Regex(Regex),
}

/// Is a condition on a parameter of the query.
#[derive(Debug, Clone)]
pub(super) struct QueryRule {
    pub(super) name: String,
    pub(super) test: QueryCheck,
}

/// Says what a parameter's value is held against.
#[derive(Debug, Clone)]
pub(super) enum QueryCheck {
    Present,
    Exact(String),
    Regex(Regex),
}

/// Divides what comes by weight: each part up to its bound, of [`WHOLE`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fork(pub(super) Vec<Part>);

/// Is one part of what comes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    /// Up to where it reaches.
    pub(super) until: u64,
    /// The number of its leg.
    pub(super) leg: usize,
    /// What changes on the way there.
    pub(super) edits: Vec<SplitEdits>,
}

/// Says what of the headers changes of requests that a splitter sends one way, and of their answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SplitEdits {
    /// What of the request's.
    pub request_headers: HeaderEdits,
    /// What of the answer's.
    pub response_headers: HeaderEdits,
}

/// Says what happens to a request on its way.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RouteAction {
    pub(super) rewrite: Option<Rewrite>,
    /// How long until the answer begins, all attempts together.
    pub request_timeout: Option<Duration>,
    /// When another instance is asked.
    pub retry: Option<RetryRule>,
    /// What of the request's headers changes.
    pub request_headers: HeaderEdits,
    /// What of the answer's headers changes.
    pub response_headers: HeaderEdits,
    /// Which way copies go.
    pub mirror: Option<MirrorWay>,
    /// What goes wrong on purpose.
    pub fault: Option<Fault>,
}

/// Says which way copies of requests go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MirrorWay {
    /// The number of the way among [`Routes::legs`].
    pub way: usize,
    /// Of how many requests, in hundredths of a percent.
    pub share: u16,
}

/// Says what takes the place of which start of the path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rewrite {
    pub(super) from: String,
    pub(super) to: String,
    /// Whether it is the whole path.
    pub(super) whole: bool,
    /// Whether it stands there in whatever letter case.
    pub(super) ignore_case: bool,
}

impl Rewrite {
    /// Returns what follows what is rewritten, where that is there.
    fn rest<'p>(&self, path: &'p str) -> Option<&'p str> {
        let (start, rest) = path.split_at_checked(self.from.len())?;
        let is_there = start == self.from || self.ignore_case && start.eq_ignore_ascii_case(&self.from);
        is_there.then_some(rest)
    }
}

impl RouteAction {
    /// Returns the path that a request goes on with; none where it stays as it is.
    #[must_use]
    pub fn rewritten(&self, path: &str) -> Option<String> {
        let rewrite = self.rewrite.as_ref()?;
        let rest = rewrite.rest(path)?;
        if rewrite.whole {
            return Some(rewrite.to.clone());
        }
        // One slash between the two, whichever of them brings it.
        let start = if rest.starts_with('/') { rewrite.to.trim_end_matches('/') } else { rewrite.to.as_str() };
        let joint = if start.ends_with('/') || rest.is_empty() || rest.starts_with('/') { "" } else { "/" };
        let path = format!("{start}{joint}{rest}");
        Some(if path.is_empty() { "/".to_owned() } else { path })
    }
}

/// Is a way that a call may take: to one target, or where nothing of it is left to the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leg {
    /// The targets in the order in which they are tried; at least one.
    pub targets: Vec<Target>,
    /// How long until an answer begins, where no route says otherwise.
    pub request_timeout: Option<Duration>,
    /// How long it may take until an instance is reached.
    pub connect_timeout: Option<Duration>,
    /// How one of several instances is chosen.
    pub balancing: Balancing,
}

/// Is a service, or a subset of one, that calls end at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// What it is found by.
    pub key: TargetKey,
    pub(super) filter: Option<Selector>,
    pub(super) only_passing: bool,
}

/// Names a service, or a subset of one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TargetKey {
    /// The service.
    pub service: ServiceKey,
    /// The subset's name.
    pub subset: Option<String>,
}

impl Leg {
    /// Leads to all instances of a service, and nowhere else.
    #[must_use]
    pub fn plain(service: ServiceKey) -> Self {
        let key = TargetKey { service, subset: None };
        let targets = vec![Target { key, filter: None, only_passing: false }];
        Self { targets, request_timeout: None, connect_timeout: None, balancing: Balancing::default() }
    }
}

impl Target {
    /// Reports whether every instance of the service is one of the target.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.filter.is_none() && !self.only_passing
    }

    /// Reports whether an instance of the service is one of the target. One that a selector cannot be asked of is none.
    #[must_use]
    pub fn selects(&self, endpoint: &Endpoint) -> bool {
        if self.only_passing && endpoint.status != CheckStatus::Passing {
            return false;
        }
        let Some(filter) = &self.filter else { return true };
        filter.selects(&document(&self.key.service, endpoint)).unwrap_or(false)
    }
}

/// What selectors of subsets can ask for, in Consul's names.
pub(super) const PATHS: &str = "Service.ID, Service.Service, Service.Address, Service.Port, \
    Service.Tags, Service.Meta.<key>, Service.Weights.Passing, Service.Weights.Warning, Node.Node, Node.Address, Node.Meta.<key>";

fn document(service: &ServiceKey, endpoint: &Endpoint) -> serde_json::Value {
    let weights = serde_json::json!({ "Passing": endpoint.weights.passing, "Warning": endpoint.weights.warning });
    serde_json::json!({
        "Service": {
            "ID": endpoint.key.id.as_str(), "Service": service.name.as_str(), "Address": endpoint.address,
            "Port": endpoint.port, "Tags": endpoint.tags, "Meta": endpoint.meta, "Weights": weights,
        },
        "Node": { "Node": endpoint.key.node.as_str(), "Address": endpoint.address, "Meta": endpoint.node_meta },
    })
}

/// Is what of a request rules are held against.
#[derive(Debug)]
pub struct RoutedRequest<'a, H: ?Sized> {
    /// The method.
    pub method: &'a str,
    /// The path, in its normal form.
    pub path: &'a NormalPath<'a>,
    /// The query, as it is.
    pub query: Option<&'a str>,
    /// The host, in lower case and without its port.
    pub host: Option<&'a str>,
    /// The header fields.
    pub headers: &'a H,
}

/// Is where a call goes.
#[derive(Debug, Clone, Copy)]
pub struct Turn<'r> {
    /// The number of the rule that sent it there; none where no rule did.
    pub rule: Option<usize>,
    /// What happens to it on the way; none where no rule says so.
    pub action: Option<&'r RouteAction>,
    /// Where it goes.
    pub leg: &'r Leg,
    /// The number of that among [`Routes::legs`].
    pub way: usize,
    /// What the splitters on the way there change, the first one first.
    pub edits: &'r [SplitEdits],
}

impl Routes {
    /// Sends everything to all instances of the service itself.
    #[must_use]
    pub fn plain(service: ServiceKey, protocol: Protocol) -> Self {
        let legs = vec![Leg::plain(service.clone())];
        Self {
            service,
            protocol,
            rules: Vec::new(),
            otherwise: Fork(vec![Part { until: WHOLE, leg: 0, edits: Vec::new() }]),
            legs,
        }
    }

    /// Returns the service that is called.
    #[must_use]
    pub fn service(&self) -> &ServiceKey {
        &self.service
    }

    /// Returns how what is called is read.
    #[must_use]
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Reports whether some rule is held against requests.
    #[must_use]
    pub fn reads_requests(&self) -> bool {
        !self.rules.is_empty()
    }

    /// Returns all that calls may end at.
    pub fn targets(&self) -> impl Iterator<Item = &Target> {
        self.legs.iter().flat_map(|leg| &leg.targets)
    }

    /// Returns the ways that calls may take.
    #[must_use]
    pub fn legs(&self) -> &[Leg] {
        &self.legs
    }

    /// Returns how what a rule of this number sends on is divided, or without one what no rule is for: the shares, in percent,
    /// of the ways by number, and what changes of the headers on each.
    #[must_use]
    pub fn shares(&self, rule: Option<usize>) -> Vec<(f64, usize, &[SplitEdits])> {
        let fork = match rule {
            Some(number) => self.rules.get(number).map(|rule| &rule.fork),
            None => Some(&self.otherwise),
        };
        let mut from = 0;
        let parts = fork.into_iter().flat_map(|fork| &fork.0).map(|Part { until, leg, edits }| {
            let share = until - std::mem::replace(&mut from, *until);
            // Shares are whole billionths, which a double holds exactly enough.
            #[expect(clippy::cast_precision_loss, reason = "shares are shown to people")]
            (share as f64 * 100.0 / WHOLE as f64, *leg, edits.as_slice())
        });
        parts.collect()
    }

    /// Returns where a request goes. `draw` is any number, drawn anew for each request.
    pub fn choose<H: Headers + ?Sized>(&self, request: &RoutedRequest<'_, H>, draw: u64) -> Option<Turn<'_>> {
        match self.rules.iter().enumerate().find(|(_, rule)| rule.matches(request)) {
            Some((number, rule)) => {
                Some(Turn { rule: Some(number), action: Some(&rule.action), ..self.turn(&rule.fork, draw)? })
            }
            None => self.otherwise(draw),
        }
    }

    /// Returns where goes what no rule is for, such as a connection that nobody looks into.
    #[must_use]
    pub fn otherwise(&self, draw: u64) -> Option<Turn<'_>> {
        self.turn(&self.otherwise, draw)
    }

    fn turn<'r>(&'r self, fork: &'r Fork, draw: u64) -> Option<Turn<'r>> {
        let point = draw % WHOLE;
        let Part { leg: way, edits, .. } = fork.0.iter().find(|part| point < part.until)?;
        Some(Turn { rule: None, action: None, leg: self.legs.get(*way)?, way: *way, edits })
    }
}

impl Rule {
    fn matches<H: Headers + ?Sized>(&self, request: &RoutedRequest<'_, H>) -> bool {
        let path = request.path.decoded();
        let path_fits = self.path.as_ref().is_none_or(|rule| match self.ignore_case {
            true => rule.matches_any_case(path),
            false => rule.matches(path),
        });
        // What is rewritten must stand there as it was written.
        let stands_there = |rewrite: &Rewrite| rewrite.rest(request.path.as_str()).is_some();
        let can_be_rewritten = self.action.rewrite.as_ref().is_none_or(stands_there);
        path_fits
            && can_be_rewritten
            && (self.methods.is_empty() || self.methods.iter().any(|method| method == request.method))
            && self.headers.iter().all(|rule| rule.matches(request.headers, request.host))
            && self.query.iter().all(|rule| rule.matches(request.query.unwrap_or_default()))
    }
}

impl PathRule {
    /// Makes it ready.
    pub(crate) fn new(path: &PathMatch) -> Result<Self, PermissionError> {
        Ok(match path {
            PathMatch::Exact(path) => Self::Exact(path.clone()),
            PathMatch::Prefix(path) => Self::Prefix(path.clone()),
            PathMatch::Regex(pattern) => Self::Regex(expression::of_text(pattern)?),
        })
    }

    pub(crate) fn matches(&self, path: &str) -> bool {
        match self {
            Self::Exact(wanted) => path == wanted,
            Self::Prefix(wanted) => path.starts_with(wanted.as_str()),
            Self::Regex(wanted) => wanted.is_match(path),
        }
    }

    /// Matches a path without regard to the case of ASCII letters; a regular expression says that itself.
    fn matches_any_case(&self, path: &str) -> bool {
        match self {
            Self::Exact(wanted) => path.eq_ignore_ascii_case(wanted),
            Self::Prefix(wanted) => {
                path.split_at_checked(wanted.len()).is_some_and(|(start, _)| start.eq_ignore_ascii_case(wanted))
            }
            Self::Regex(wanted) => wanted.is_match(path),
        }
    }
}

impl QueryRule {
    fn matches(&self, query: &str) -> bool {
        query.split('&').filter(|pair| !pair.is_empty()).any(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            spells(name, &self.name)
                && match &self.test {
                    QueryCheck::Present => true,
                    QueryCheck::Exact(wanted) => spells(value, wanted),
                    QueryCheck::Regex(wanted) => match value.contains(['%', '+']) {
                        false => wanted.is_match(value),
                        true => String::from_utf8(unescaped(value).collect()).is_ok_and(|text| wanted.is_match(&text)),
                    },
                }
        })
    }
}

/// Reports whether an escaped text stands for `wanted`.
fn spells(escaped: &str, wanted: &str) -> bool {
    unescaped(escaped).eq(wanted.bytes())
}

/// Returns what the escapes of a form stand for; what is no escape stands for itself.
fn unescaped(text: &str) -> impl Iterator<Item = u8> {
    let bytes = text.as_bytes();
    let mut at = 0;
    std::iter::from_fn(move || {
        let b = *bytes.get(at)?;
        let digit = |offset: usize| char::from(*bytes.get(at + offset)?).to_digit(16);
        let (b, width) = match b {
            b'+' => (b' ', 1),
            b'%' => match digit(1).zip(digit(2)) {
                Some((high, low)) => (u8::try_from(high * 16 + low).unwrap_or(b'%'), 3),
                None => (b'%', 1),
            },
            b => (b, 1),
        };
        at += width;
        Some(b)
    })
}
