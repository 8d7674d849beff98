//! The form of entries that say where calls go: what can be judged without any other entry.

use super::{
    HeaderEdits, QueryTest, RouteRule, ServiceResolver, ServiceRouter, ServiceSplitter, Subset, balance::check_balance,
    evaluate::PATHS, extras::check_fault, extras::check_mirror,
};
use crate::{
    Action, ConfigContent, HttpMatch, PathMatch, Permission, Refusal, Selector,
    http::{NormalPath, check_permission, expression, is_reserved},
    traffic::{check_defaults, check_global},
};

const ROUTES_MAX: usize = 128;
const CONDITIONS_MAX: usize = 32;
const SPLITS_MAX: usize = 64;
const SUBSETS_MAX: usize = 64;
const FAILOVERS_MAX: usize = 16;
const EDITS_MAX: usize = 32;
const NAME_BYTES_MAX: usize = 128;
const VALUE_BYTES_MAX: usize = 1024;
const ATTEMPTS_MAX: u32 = 10;
const TIMEOUT_MS_MAX: u64 = 60 * 60 * 1000;
/// All that splits share, in hundredths of a percent.
const ALL: u32 = 10_000;

/// Checks what an entry says by itself.
pub(crate) fn check_content(content: &ConfigContent) -> Result<(), Refusal> {
    match content {
        ConfigContent::ProxyDefaults(defaults) => check_global(defaults),
        ConfigContent::ServiceDefaults(defaults) => check_defaults(defaults),
        ConfigContent::ServiceRouter(router) => check_router(router),
        ConfigContent::ServiceSplitter(splitter) => check_splitter(splitter),
        ConfigContent::ServiceResolver(resolver) => check_resolver(resolver),
        ConfigContent::JwtProvider(provider) => provider.check(),
    }
}

fn few(field: impl Into<String>, count: usize, max: usize) -> Result<(), Refusal> {
    if count <= max { Ok(()) } else { Err(Refusal::invalid(field, format!("there are {count}: use at most {max}"))) }
}

fn check_router(router: &ServiceRouter) -> Result<(), Refusal> {
    few("routes", router.routes.len(), ROUTES_MAX)?;
    (1..).zip(&router.routes).try_for_each(|(number, route)| check_route(number, route))
}

fn check_route(number: usize, route: &RouteRule) -> Result<(), Refusal> {
    let invalid = |field: &str, problem: String| Refusal::invalid(format!("routes, {number}: {field}"), problem);
    let http = &route.matches.http;
    few(format!("routes, {number}: headers"), http.headers.len(), CONDITIONS_MAX)?;
    few(format!("routes, {number}: query"), route.matches.query.len(), CONDITIONS_MAX)?;
    if route.matches.ignore_case && !matches!(http.path, Some(PathMatch::Exact(_) | PathMatch::Prefix(_))) {
        return Err(invalid(
            "case_insensitive",
            "it is of an exact path or a prefix; a regex begins with `(?i)`".into(),
        ));
    }
    if *http != HttpMatch::default() {
        let permission = Permission::new(Action::Allow, http.clone());
        check_permission(&permission).map_err(|error| invalid("match", error.to_string()))?;
    }
    for parameter in &route.matches.query {
        if parameter.name.is_empty() || parameter.name.len() > NAME_BYTES_MAX {
            return Err(invalid("query", format!("a parameter's name has 1 to {NAME_BYTES_MAX} bytes")));
        }
        if let QueryTest::Regex(pattern) = &parameter.test {
            expression::of_text(pattern).map_err(|error| invalid("query", error.to_string()))?;
        }
    }
    let to = &route.to;
    if let Some(rewrite) = &to.prefix_rewrite {
        let is_plain =
            |path: &str| NormalPath::of(path).is_ok_and(|normal| normal.as_str() == path && normal.decoded() == path);
        let matched = match &http.path {
            Some(PathMatch::Exact(path) | PathMatch::Prefix(path)) => path,
            _ => {
                return Err(invalid(
                    "prefix_rewrite",
                    "it needs an exact path or a prefix to take the place of".into(),
                ));
            }
        };
        if !is_plain(rewrite) || !is_plain(matched) {
            let problem = "it and what it takes the place of are paths without escapes, `;`, dots and empty segments";
            return Err(invalid("prefix_rewrite", problem.to_owned()));
        }
    }
    check_timeout(to.request_timeout_ms).map_err(|problem| invalid("request_timeout", problem))?;
    if let Some(retry) = &to.retry {
        if retry.attempts == 0 || retry.attempts > ATTEMPTS_MAX {
            return Err(invalid("num_retries", format!("use 1 to {ATTEMPTS_MAX}")));
        }
        if retry.on.is_empty() && retry.on_status.is_empty() {
            return Err(invalid("retry", "say after what another instance is asked".to_owned()));
        }
        if !retry.on_status.iter().all(|status| (400..600).contains(status)) {
            return Err(invalid("retry_on_status_codes", "use statuses from 400 to 599".to_owned()));
        }
    }
    if let Some(mirror) = &to.mirror {
        check_mirror(mirror).map_err(|problem| invalid("mirror", problem))?;
    }
    if let Some(fault) = &to.fault {
        check_fault(fault).map_err(|problem| invalid("fault", problem))?;
    }
    check_edits(&to.request_headers).map_err(|problem| invalid("request_headers", problem))?;
    check_edits(&to.response_headers).map_err(|problem| invalid("response_headers", problem))
}

pub(crate) fn check_timeout(timeout_ms: Option<u64>) -> Result<(), String> {
    match timeout_ms {
        Some(0) => Err("0 would leave no time at all: leave it out".to_owned()),
        Some(timeout) if timeout > TIMEOUT_MS_MAX => Err("use at most one hour".to_owned()),
        _ => Ok(()),
    }
}

fn check_edits(edits: &HeaderEdits) -> Result<(), String> {
    if edits.add.len() + edits.set.len() + edits.remove.len() > EDITS_MAX {
        return Err(format!("there are more than {EDITS_MAX} changes"));
    }
    for name in edits.add.keys().chain(edits.set.keys()).chain(&edits.remove) {
        let is_name = (1..=NAME_BYTES_MAX).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if !is_name {
            return Err(format!("`{}` is no header: use a-z, 0-9 and `-`", name.escape_debug()));
        }
        if is_reserved(name) {
            return Err(format!("`{name}` is not an operator's to change"));
        }
    }
    for (name, value) in edits.add.iter().chain(&edits.set) {
        let is_value = (1..=VALUE_BYTES_MAX).contains(&value.len())
            && value.trim() == value
            && value.bytes().all(|b| matches!(b, b' '..=b'~'));
        if !is_value || value.contains('%') {
            return Err(format!(
                "the value of `{name}` is 1 to {VALUE_BYTES_MAX} printable ASCII characters, none of them `%`"
            ));
        }
    }
    Ok(())
}

fn check_splitter(splitter: &ServiceSplitter) -> Result<(), Refusal> {
    few("splits", splitter.splits.len(), SPLITS_MAX)?;
    let sum: u32 = splitter.splits.iter().map(|split| u32::from(split.weight)).sum();
    if sum != ALL {
        let problem = format!("the weights make {}.{:02}, not 100", sum / 100, sum % 100);
        return Err(Refusal::invalid("splits", problem));
    }
    let twice = splitter.splits.iter().enumerate().find(|(at, split)| {
        let own = |service: &Option<_>| service.clone().unwrap_or_else(|| splitter.service.clone());
        let same = |one: &super::Split| own(&one.service) == own(&split.service) && one.subset == split.subset;
        splitter.splits[..*at].iter().any(same)
    });
    match twice {
        Some((at, _)) => Err(Refusal::invalid("splits", format!("the {}. names what another names already", at + 1))),
        None => (1..).zip(&splitter.splits).try_for_each(|(number, split)| {
            let invalid = |field: &'static str| {
                move |problem: String| Refusal::invalid(format!("splits, {number}: {field}"), problem)
            };
            check_edits(&split.request_headers).map_err(invalid("request_headers"))?;
            check_edits(&split.response_headers).map_err(invalid("response_headers"))?;
            check_subset_name(split.subset.as_deref())
        }),
    }
}

fn check_resolver(resolver: &ServiceResolver) -> Result<(), Refusal> {
    few("subsets", resolver.subsets.len(), SUBSETS_MAX)?;
    few("failover", resolver.failover.len(), SUBSETS_MAX)?;
    check_timeout(resolver.request_timeout_ms).map_err(|problem| Refusal::invalid("request_timeout", problem))?;
    check_timeout(resolver.connect_timeout_ms).map_err(|problem| Refusal::invalid("connect_timeout", problem))?;
    for (name, subset) in &resolver.subsets {
        check_subset_name(Some(name))?;
        check_subset(name, subset)?;
    }
    check_balance(resolver)?;
    let is_there = |name: &str| resolver.subsets.contains_key(name);
    let no_subset = |field: &str, name: &str| {
        Err(Refusal::invalid(field, format!("there is no subset `{}`: define it", name.escape_debug())))
    };
    if let Some(name) = resolver.default_subset.as_ref().filter(|name| !is_there(name)) {
        return no_subset("default_subset", name);
    }
    if let Some(name) = resolver.failover.keys().find(|name| *name != "*" && !is_there(name)) {
        return no_subset("failover", name);
    }
    for (name, targets) in &resolver.failover {
        few(format!("failover.{name}"), targets.len(), FAILOVERS_MAX)?;
        if targets.is_empty() || targets.iter().any(|target| target.service.is_none() && target.subset.is_none()) {
            return Err(Refusal::invalid(format!("failover.{name}"), "it names neither a service nor a subset"));
        }
    }
    let Some(redirect) = &resolver.redirect else { return Ok(()) };
    if redirect.service.is_none() && redirect.subset.is_none() {
        return Err(Refusal::invalid("redirect", "it names neither a service nor a subset"));
    }
    let says_more = !resolver.subsets.is_empty() || !resolver.failover.is_empty() || resolver.default_subset.is_some();
    let says_how = resolver.balance.is_some() || resolver.by_locality.is_some();
    if says_more || says_how || resolver.request_timeout_ms.is_some() {
        let problem = "a name that stands for another has nothing else to say: write it to the other's entry";
        return Err(Refusal::invalid("redirect", problem));
    }
    Ok(())
}

fn check_subset_name(name: Option<&str>) -> Result<(), Refusal> {
    match name {
        Some(name) if name.parse::<crate::ServiceName>().is_err() => {
            let problem = format!("`{}` is no subset's name: use 1 to 63 of a-z, 0-9 and `-`", name.escape_debug());
            Err(Refusal::invalid("subset", problem))
        }
        _ => Ok(()),
    }
}

fn check_subset(name: &str, subset: &Subset) -> Result<(), Refusal> {
    let Some(filter) = &subset.filter else { return Ok(()) };
    let field = || format!("subsets.{name}.filter");
    let selector = Selector::parse(filter).map_err(|error| Refusal::invalid(field(), error.to_string()))?;
    if paths_are_known(&selector) {
        return Ok(());
    }
    Err(Refusal::invalid(field(), format!("a subset's instances are told apart by {PATHS} only")))
}

/// Reports whether all that a subset's selector asks for is something that a caller's agent knows.
pub(super) fn paths_are_known(selector: &Selector) -> bool {
    selector.paths().iter().all(|path| match path {
        [of, field] if of == "Service" => {
            ["ID", "Service", "Address", "Port", "Tags", "Meta"].contains(&field.as_str())
        }
        [of, field, _] if of == "Service" && field == "Meta" => true,
        [of, field, which] if of == "Service" => field == "Weights" && ["Passing", "Warning"].contains(&which.as_str()),
        [of, field] if of == "Node" => ["Node", "Address", "Meta"].contains(&field.as_str()),
        [of, field, _] if of == "Node" => field == "Meta",
        _ => false,
    })
}
