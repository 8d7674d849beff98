//! `service-router`, `service-splitter` and `service-resolver`, as Consul writes them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ::catalog::{
    FailoverTarget, HeaderEdits, HeaderMatch, HeaderTest, HttpMatch, Namespace, PathMatch, QueryMatch, QueryTest,
    Redirect, RetryOn, RetryRule, RouteDestination, RouteMatch, RouteRule, ServiceKey, ServiceName, ServiceResolver,
    ServiceRouter, ServiceSplitter, Split, Subset,
};
use serde_json::{Map, Value, json};

use super::balance_entry::BalanceEntry;
use super::default_partition;
use super::route_extras::{read_fault, read_mirror, show_fault, show_mirror};
use crate::decode::{DecodeError, Fields};

/// How often another instance is asked where only the reasons for it are given, as in Consul.
const RETRIES_DEFAULT: u32 = 1;

/// Names a service, perhaps without its namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reference {
    name: ServiceName,
    namespace: Option<Namespace>,
}

impl Reference {
    /// Takes the fields `Service` and `Namespace`; none where no service is named.
    pub(super) fn read(fields: &mut Fields) -> Result<Option<Self>, DecodeError> {
        default_partition(fields, "Partition")?;
        let (name, namespace) = (fields.parsed("Service")?, fields.parsed("Namespace")?);
        match (name, namespace) {
            (Some(name), namespace) => Ok(Some(Self { name, namespace })),
            (None, None) => Ok(None),
            (None, Some(_)) => Err(fields.refuse("Namespace", "it is of no service: name one in Service")),
        }
    }

    fn of(service: &ServiceKey) -> Self {
        Self { name: service.name.clone(), namespace: Some(service.namespace.clone()) }
    }

    fn in_namespace(self, own: &Namespace) -> ServiceKey {
        ServiceKey::new(self.namespace.unwrap_or_else(|| own.clone()), self.name)
    }

    pub(super) fn show(&self, shown: &mut Shown) {
        shown.put("Service", self.name.as_str());
        shown.put("Namespace", self.namespace.as_ref().map(Namespace::as_str).unwrap_or_default());
    }
}

/// Gathers the fields of an object that say something.
#[derive(Default)]
pub(super) struct Shown(Map<String, Value>);

impl Shown {
    pub(super) fn put(&mut self, name: &str, value: impl Into<Value>) {
        let value = value.into();
        let says_nothing = match &value {
            Value::Null | Value::Bool(false) => true,
            Value::String(text) => text.is_empty(),
            Value::Array(all) => all.is_empty(),
            Value::Object(all) => all.is_empty(),
            _ => false,
        };
        if !says_nothing {
            self.0.insert(name.to_owned(), value);
        }
    }

    /// Puts a field that says something even where it is empty.
    pub(super) fn put_as_it_is(&mut self, name: &str, value: Value) {
        self.0.insert(name.to_owned(), value);
    }

    pub(super) fn into_map(self) -> Map<String, Value> {
        self.0
    }

    pub(super) fn done(self) -> Value {
        Value::Object(self.0)
    }
}

/// Is what a `service-router` says, with services as they are named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RouterEntry(Vec<(RouteRule, References)>);

/// Is the services that one route names: where requests go, and where copies do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct References {
    to: Option<Reference>,
    mirror: Option<Reference>,
}

impl RouterEntry {
    pub(super) fn read(fields: &mut Fields) -> Result<Self, DecodeError> {
        let route = |route: &mut Fields| {
            let matches = route.object("Match", |of| of.object("HTTP", read_match))?.flatten().unwrap_or_default();
            let (to, references) = route.object("Destination", read_destination)?.unwrap_or_default();
            Ok((RouteRule { matches, to }, references))
        };
        Ok(Self(fields.objects("Routes", route)?))
    }

    pub(super) fn of(router: &ServiceRouter) -> Self {
        let named = |rule: &RouteRule| {
            let mirror = rule.to.mirror.as_ref().and_then(|mirror| mirror.service.as_ref()).map(Reference::of);
            (rule.clone(), References { to: rule.to.service.as_ref().map(Reference::of), mirror })
        };
        Self(router.routes.iter().map(named).collect())
    }

    pub(super) fn into_router(self, service: ServiceKey) -> ServiceRouter {
        let own = service.namespace.clone();
        let named = |(mut rule, References { to, mirror }): (RouteRule, References)| {
            rule.to.service = to.map(|reference| reference.in_namespace(&own));
            if let Some(copies) = &mut rule.to.mirror {
                copies.service = mirror.map(|reference| reference.in_namespace(&own));
            }
            rule
        };
        ServiceRouter { routes: self.0.into_iter().map(named).collect(), service }
    }

    pub(super) fn show(&self) -> Map<String, Value> {
        let route = |(rule, references): &(RouteRule, References)| {
            let mut shown = Shown::default();
            let http = show_match(&rule.matches);
            shown.put("Match", if http.is_empty() { Value::Null } else { json!({ "HTTP": http }) });
            shown.put("Destination", show_destination(&rule.to, references));
            shown.done()
        };
        Map::from_iter([("Routes".to_owned(), self.0.iter().map(route).collect())])
    }
}

fn read_match(http: &mut Fields) -> Result<RouteMatch, DecodeError> {
    let (exact, prefix, regex) = (http.text("PathExact")?, http.text("PathPrefix")?, http.text("PathRegex")?);
    let paths =
        [(PathMatch::Exact as fn(String) -> PathMatch, exact), (PathMatch::Prefix, prefix), (PathMatch::Regex, regex)];
    let mut paths = paths.into_iter().filter(|(_, text)| !text.is_empty()).map(|(make, text)| make(text));
    let path = paths.next();
    if paths.next().is_some() {
        return Err(http.refuse("PathExact", "use one of PathExact, PathPrefix and PathRegex"));
    }
    let ignore_case = http.flag("CaseInsensitive")?.unwrap_or(false);
    let headers = http.objects("Header", |header| {
        let name: String = header.required("Name")?;
        let texts = [
            (HeaderTest::Exact as fn(String) -> HeaderTest, header.text("Exact")?),
            (HeaderTest::Prefix, header.text("Prefix")?),
            (HeaderTest::Suffix, header.text("Suffix")?),
            (HeaderTest::Contains, header.text("Contains")?),
            (HeaderTest::Regex, header.text("Regex")?),
        ];
        let test = one_of(header, HeaderTest::Present, texts)?;
        let (invert, ignore_case) = (header.flag("Invert")?, header.flag("IgnoreCase")?);
        Ok(HeaderMatch {
            name: name.to_ascii_lowercase(),
            test,
            invert: invert.unwrap_or(false),
            ignore_case: ignore_case.unwrap_or(false),
        })
    })?;
    let query = http.objects("QueryParam", |parameter| {
        let name = parameter.required("Name")?;
        let texts = [
            (QueryTest::Exact as fn(String) -> QueryTest, parameter.text("Exact")?),
            (QueryTest::Regex, parameter.text("Regex")?),
        ];
        Ok(QueryMatch { name, test: one_of(parameter, QueryTest::Present, texts)? })
    })?;
    let methods = http.texts("Methods")?.into_iter().map(|method| method.to_ascii_uppercase()).collect();
    Ok(RouteMatch { http: HttpMatch { path, methods, headers }, query, ignore_case })
}

/// Is a test with the text that it holds values against; empty where it is not set.
type Worded<T> = (fn(String) -> T, String);

/// Reads which one test is set.
fn one_of<T, const N: usize>(fields: &mut Fields, present: T, texts: [Worded<T>; N]) -> Result<T, DecodeError> {
    let mut tests: Vec<T> = fields.flag("Present")?.filter(|is_set| *is_set).map(|_| present).into_iter().collect();
    tests.extend(texts.into_iter().filter(|(_, text)| !text.is_empty()).map(|(make, text)| make(text)));
    match (tests.pop(), tests.pop()) {
        (Some(test), None) => Ok(test),
        _ => Err(fields.refuse("Present", "set exactly one of the tests: Present, Exact, Regex or another")),
    }
}

fn show_match(matches: &RouteMatch) -> Map<String, Value> {
    let mut shown = Shown::default();
    match &matches.http.path {
        Some(PathMatch::Exact(path)) => shown.put("PathExact", path.as_str()),
        Some(PathMatch::Prefix(path)) => shown.put("PathPrefix", path.as_str()),
        Some(PathMatch::Regex(path)) => shown.put("PathRegex", path.as_str()),
        None => {}
    }
    shown.put("CaseInsensitive", matches.ignore_case);
    shown.put("Methods", matches.http.methods.clone());
    let header = |header: &HeaderMatch| {
        let mut shown = Shown::default();
        shown.put("Name", header.name.as_str());
        match &header.test {
            HeaderTest::Present => shown.put("Present", true),
            HeaderTest::Exact(text) => shown.put("Exact", text.as_str()),
            HeaderTest::Prefix(text) => shown.put("Prefix", text.as_str()),
            HeaderTest::Suffix(text) => shown.put("Suffix", text.as_str()),
            HeaderTest::Contains(text) => shown.put("Contains", text.as_str()),
            HeaderTest::Regex(text) => shown.put("Regex", text.as_str()),
        }
        shown.put("Invert", header.invert);
        shown.put("IgnoreCase", header.ignore_case);
        shown.done()
    };
    shown.put("Header", matches.http.headers.iter().map(header).collect::<Vec<_>>());
    let query = |parameter: &QueryMatch| {
        let mut shown = Shown::default();
        shown.put("Name", parameter.name.as_str());
        match &parameter.test {
            QueryTest::Present => shown.put("Present", true),
            QueryTest::Exact(text) => shown.put("Exact", text.as_str()),
            QueryTest::Regex(text) => shown.put("Regex", text.as_str()),
        }
        shown.done()
    };
    shown.put("QueryParam", matches.query.iter().map(query).collect::<Vec<_>>());
    shown.0
}

fn read_destination(to: &mut Fields) -> Result<(RouteDestination, References), DecodeError> {
    let reference = Reference::read(to)?;
    let attempts: u32 = to.number("NumRetries")?.unwrap_or(0);
    let mut on = BTreeSet::new();
    if to.flag("RetryOnConnectFailure")?.unwrap_or(false) {
        on.insert(RetryOn::ConnectFailure);
    }
    for word in to.texts("RetryOn")? {
        on.insert(match word.as_str() {
            "connect-failure" => RetryOn::ConnectFailure,
            "reset" => RetryOn::Reset,
            "gateway-error" => RetryOn::GatewayError,
            "5xx" => RetryOn::ServerError,
            _ => {
                let reason = format!("`{}`: use connect-failure, reset, gateway-error or 5xx", word.escape_debug());
                return Err(to.refuse("RetryOn", reason));
            }
        });
    }
    let on_status = to.list("RetryOnStatusCodes", |value, path| {
        let status = value.as_u64().and_then(|status| u16::try_from(status).ok());
        status.ok_or_else(|| DecodeError::Value { path: path.to_owned(), reason: "it is no status".to_owned() })
    })?;
    let on_status: BTreeSet<u16> = on_status.into_iter().collect();
    if attempts > 0 && on.is_empty() && on_status.is_empty() {
        // What Consul takes where only a number is given.
        on = BTreeSet::from([RetryOn::ConnectFailure, RetryOn::Reset, RetryOn::GatewayError]);
    }
    let says_retry = !on.is_empty() || !on_status.is_empty();
    let retry = says_retry.then_some(RetryRule {
        attempts: if attempts == 0 { RETRIES_DEFAULT } else { attempts },
        on,
        on_status,
    });
    let rewrite = to.text("PrefixRewrite")?;
    let (mirror, copies) = read_mirror(to)?.map_or((None, None), |(mirror, copies)| (Some(mirror), copies));
    let destination = RouteDestination {
        service: None,
        subset: to.parsed("ServiceSubset")?,
        prefix_rewrite: (!rewrite.is_empty()).then_some(rewrite),
        request_timeout_ms: to.duration("RequestTimeout")?.map(milliseconds),
        retry,
        request_headers: to.object("RequestHeaders", read_edits)?.unwrap_or_default(),
        response_headers: to.object("ResponseHeaders", read_edits)?.unwrap_or_default(),
        mirror,
        fault: read_fault(to)?,
    };
    to.unsupported(&["IdleTimeout"])?;
    Ok((destination, References { to: reference, mirror: copies }))
}

fn show_destination(to: &RouteDestination, references: &References) -> Value {
    let mut shown = Shown::default();
    if let Some(reference) = &references.to {
        reference.show(&mut shown);
    }
    shown.put("ServiceSubset", to.subset.as_deref().unwrap_or_default());
    shown.put("PrefixRewrite", to.prefix_rewrite.as_deref().unwrap_or_default());
    shown.put("RequestTimeout", to.request_timeout_ms.map(shown_duration).unwrap_or_default());
    if let Some(retry) = &to.retry {
        shown.put("NumRetries", retry.attempts);
        shown.put("RetryOnConnectFailure", retry.on.contains(&RetryOn::ConnectFailure));
        let words = retry.on.iter().filter_map(|on| match on {
            RetryOn::ConnectFailure => None,
            RetryOn::Reset => Some("reset"),
            RetryOn::GatewayError => Some("gateway-error"),
            RetryOn::ServerError => Some("5xx"),
        });
        shown.put("RetryOn", words.collect::<Vec<_>>());
        shown.put("RetryOnStatusCodes", retry.on_status.iter().copied().collect::<Vec<_>>());
    }
    shown.put("RequestHeaders", show_edits(&to.request_headers));
    shown.put("ResponseHeaders", show_edits(&to.response_headers));
    shown.put("Mirror", to.mirror.as_ref().map(|mirror| show_mirror(mirror, references.mirror.as_ref())));
    shown.put("Fault", to.fault.as_ref().map(show_fault));
    shown.done()
}

fn read_edits(edits: &mut Fields) -> Result<HeaderEdits, DecodeError> {
    let lower = |all: BTreeMap<String, String>| {
        all.into_iter().map(|(name, value)| (name.to_ascii_lowercase(), value)).collect()
    };
    Ok(HeaderEdits {
        add: lower(edits.text_map("Add")?),
        set: lower(edits.text_map("Set")?),
        remove: edits.texts("Remove")?.into_iter().map(|name| name.to_ascii_lowercase()).collect(),
    })
}

pub(super) fn show_edits(edits: &HeaderEdits) -> Value {
    let mut shown = Shown::default();
    shown.put("Add", json!(edits.add));
    shown.put("Set", json!(edits.set));
    shown.put("Remove", edits.remove.iter().cloned().collect::<Vec<_>>());
    shown.done()
}

/// Is what a `service-splitter` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SplitterEntry(Vec<(Split, Option<Reference>)>);

impl SplitterEntry {
    pub(super) fn read(fields: &mut Fields) -> Result<Self, DecodeError> {
        let split = |split: &mut Fields| {
            let reference = Reference::read(split)?;
            let weight = read_percent(split, "Weight")?.unwrap_or(0);
            let subset = split.parsed("ServiceSubset")?;
            let request_headers = split.object("RequestHeaders", read_edits)?.unwrap_or_default();
            let response_headers = split.object("ResponseHeaders", read_edits)?.unwrap_or_default();
            Ok((Split { weight, service: None, subset, request_headers, response_headers }, reference))
        };
        Ok(Self(fields.objects("Splits", split)?))
    }

    pub(super) fn of(splitter: &ServiceSplitter) -> Self {
        let named = |split: &Split| (split.clone(), split.service.as_ref().map(Reference::of));
        Self(splitter.splits.iter().map(named).collect())
    }

    pub(super) fn into_splitter(self, service: ServiceKey) -> ServiceSplitter {
        let own = service.namespace.clone();
        let named = |(split, reference): (Split, Option<Reference>)| Split {
            service: reference.map(|reference| reference.in_namespace(&own)),
            ..split
        };
        ServiceSplitter { splits: self.0.into_iter().map(named).collect(), service }
    }

    pub(super) fn show(&self) -> Map<String, Value> {
        let split = |(split, reference): &(Split, Option<Reference>)| {
            let mut shown = Shown::default();
            shown.put("Weight", f64::from(split.weight) / 100.0);
            if let Some(reference) = reference {
                reference.show(&mut shown);
            }
            shown.put("ServiceSubset", split.subset.as_deref().unwrap_or_default());
            shown.put("RequestHeaders", show_edits(&split.request_headers));
            shown.put("ResponseHeaders", show_edits(&split.response_headers));
            shown.done()
        };
        Map::from_iter([("Splits".to_owned(), self.0.iter().map(split).collect())])
    }
}

/// Reads a percentage, exact to a hundredth, in hundredths; none where there is none.
pub(super) fn read_percent(fields: &mut Fields, name: &str) -> Result<Option<u16>, DecodeError> {
    let Some((value, path)) = fields.take(name) else { return Ok(None) };
    let hundredths = value.as_f64().map(|percent| percent * 100.0);
    let exact = hundredths.filter(|exact| (0.0..=10_000.0).contains(exact) && (exact - exact.round()).abs() < 1e-6);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is whole and within 0 to 10,000")]
    match exact {
        Some(exact) => Ok(Some(exact.round() as u16)),
        None => {
            Err(DecodeError::Value { path, reason: "use a number from 0 to 100 with at most two decimals".to_owned() })
        }
    }
}

/// Is a service and a subset of it, as far as they are named.
type Named = (Option<Reference>, Option<String>);

/// Is what a `service-resolver` says; what it sends calls to stands beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ResolverEntry {
    says: Says,
    redirect: Option<Named>,
    failover: BTreeMap<String, Vec<Named>>,
}

/// Is what a resolver says of its own service.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Says {
    default_subset: Option<String>,
    subsets: BTreeMap<String, Subset>,
    request_timeout_ms: Option<u64>,
    connect_timeout_ms: Option<u64>,
    balance: BalanceEntry,
}

impl ResolverEntry {
    pub(super) fn read(fields: &mut Fields) -> Result<Self, DecodeError> {
        let subsets = fields.map("Subsets", |value, path| {
            let mut subset = Fields::new(value, path)?;
            let filter = subset.text("Filter")?;
            let only_passing = subset.flag("OnlyPassing")?.unwrap_or(false);
            subset.finish()?;
            Ok(Subset { filter: (!filter.is_empty()).then_some(filter), only_passing })
        })?;
        let redirect = fields.object("Redirect", |redirect| {
            redirect.unsupported(&["Datacenter", "Peer", "SamenessGroup"])?;
            read_target(redirect)
        })?;
        let failover = fields.map("Failover", |value, path| {
            let mut failover = Fields::new(value, path)?;
            failover.unsupported(&["Datacenters", "SamenessGroup", "Policy"])?;
            let first = read_target(&mut failover)?;
            let mut targets = failover.objects("Targets", |target| {
                target.unsupported(&["Datacenter", "Peer"])?;
                read_target(target)
            })?;
            failover.finish()?;
            if targets.is_empty() {
                targets.push(first);
            } else if first != (None, None) {
                let reason = "name services either in Targets or beside it".to_owned();
                return Err(DecodeError::Value { path: path.to_owned(), reason });
            }
            Ok(targets)
        })?;
        let says = Says {
            default_subset: fields.parsed("DefaultSubset")?,
            subsets,
            request_timeout_ms: fields.duration("RequestTimeout")?.map(milliseconds),
            connect_timeout_ms: fields.duration("ConnectTimeout")?.map(milliseconds),
            balance: BalanceEntry::read(fields)?,
        };
        Ok(Self { says, redirect, failover })
    }

    pub(super) fn of(resolver: &ServiceResolver) -> Self {
        let named = |service: &Option<ServiceKey>, subset: &Option<String>| {
            (service.as_ref().map(Reference::of), subset.clone())
        };
        let targets = |targets: &Vec<FailoverTarget>| targets.iter().map(|to| named(&to.service, &to.subset)).collect();
        Self {
            says: Says {
                default_subset: resolver.default_subset.clone(),
                subsets: resolver.subsets.clone(),
                request_timeout_ms: resolver.request_timeout_ms,
                connect_timeout_ms: resolver.connect_timeout_ms,
                balance: BalanceEntry {
                    balance: resolver.balance,
                    hashing: resolver.hashing.clone(),
                    choices: resolver.choices,
                    by_locality: resolver.by_locality,
                },
            },
            redirect: resolver.redirect.as_ref().map(|to| named(&to.service, &to.subset)),
            failover: resolver.failover.iter().map(|(of, to)| (of.clone(), targets(to))).collect(),
        }
    }

    pub(super) fn into_resolver(self, service: ServiceKey) -> ServiceResolver {
        let own = service.namespace.clone();
        let named = |reference: Option<Reference>| reference.map(|reference| reference.in_namespace(&own));
        let targets = |targets: Vec<Named>| {
            let target = |(reference, subset)| FailoverTarget { service: named(reference), subset };
            targets.into_iter().map(target).collect()
        };
        ServiceResolver {
            default_subset: self.says.default_subset,
            subsets: self.says.subsets,
            redirect: self.redirect.map(|(reference, subset)| Redirect { service: named(reference), subset }),
            failover: self.failover.into_iter().map(|(of, to)| (of, targets(to))).collect(),
            request_timeout_ms: self.says.request_timeout_ms,
            connect_timeout_ms: self.says.connect_timeout_ms,
            balance: self.says.balance.balance,
            hashing: self.says.balance.hashing,
            choices: self.says.balance.choices,
            by_locality: self.says.balance.by_locality,
            service,
        }
    }

    pub(super) fn show(&self) -> Map<String, Value> {
        let target = |(reference, subset): &Named| {
            let mut shown = Shown::default();
            if let Some(reference) = reference {
                reference.show(&mut shown);
            }
            shown.put("ServiceSubset", subset.as_deref().unwrap_or_default());
            shown.done()
        };
        let subset = |(name, subset): (&String, &Subset)| {
            let mut shown = Shown::default();
            shown.put("Filter", subset.filter.as_deref().unwrap_or_default());
            shown.put("OnlyPassing", subset.only_passing);
            (name.clone(), shown.done())
        };
        let mut shown = Shown::default();
        shown.put("DefaultSubset", self.says.default_subset.as_deref().unwrap_or_default());
        shown.put("Subsets", self.says.subsets.iter().map(subset).collect::<Map<_, _>>());
        shown.put("Redirect", self.redirect.as_ref().map(target));
        let failover = self.failover.iter().map(|(of, to)| {
            let targets: Vec<Value> = to.iter().map(target).collect();
            (of.clone(), json!({ "Targets": targets }))
        });
        shown.put("Failover", failover.collect::<Map<_, _>>());
        shown.put("RequestTimeout", self.says.request_timeout_ms.map(shown_duration).unwrap_or_default());
        shown.put("ConnectTimeout", self.says.connect_timeout_ms.map(shown_duration).unwrap_or_default());
        self.says.balance.show(&mut shown);
        shown.0
    }
}

fn read_target(target: &mut Fields) -> Result<Named, DecodeError> {
    Ok((Reference::read(target)?, target.parsed("ServiceSubset")?))
}

/// Rounds up, so that a time that is there does not become none.
pub(super) fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros().div_ceil(1000)).unwrap_or(u64::MAX)
}

pub(super) fn shown_duration(milliseconds: u64) -> String {
    if milliseconds.is_multiple_of(1000) { format!("{}s", milliseconds / 1000) } else { format!("{milliseconds}ms") }
}
