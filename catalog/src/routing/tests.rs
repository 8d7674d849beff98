//! What routes promise, held against a plain reading of the same entries.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::evaluate::{Part, WHOLE};
use super::*;
use crate::{
    ConfigContent, ConfigEntries, ConfigEntry, ConfigKey, HeaderMatch, HeaderTest, HttpMatch, PathMatch, Protocol,
    ServiceDefaults, ServiceKey, http::NormalPath,
};

fn key(name: &str) -> ServiceKey {
    name.parse().unwrap()
}

fn entries(all: Vec<ConfigContent>) -> ConfigEntries {
    all.into_iter().map(|content| Arc::new(ConfigEntry::new(content))).collect()
}

fn http(name: &str) -> ConfigContent {
    ConfigContent::ServiceDefaults(ServiceDefaults {
        protocol: Some(Protocol::Http),
        ..ServiceDefaults::new(key(name))
    })
}

fn splitter(name: &str, parts: &[(u16, &str, Option<&str>)]) -> ConfigContent {
    let part = |(weight, to, subset): &(u16, &str, Option<&str>)| Split {
        weight: *weight,
        service: (!to.is_empty()).then(|| key(to)),
        subset: subset.map(str::to_owned),
        request_headers: HeaderEdits::default(),
        response_headers: HeaderEdits::default(),
    };
    ConfigContent::ServiceSplitter(ServiceSplitter { service: key(name), splits: parts.iter().map(part).collect() })
}

fn resolver(name: &str) -> ServiceResolver {
    ServiceResolver::new(key(name))
}

fn versions(name: &str) -> ServiceResolver {
    let subset =
        |version: &str| Subset { filter: Some(format!("Service.Meta.version == {version}")), only_passing: false };
    let subsets = ["v1", "v2"].map(|version| (version.to_owned(), subset(version)));
    ServiceResolver { subsets: subsets.into(), ..resolver(name) }
}

fn redirected(name: &str, to: &str) -> ConfigContent {
    let redirect = Some(Redirect { service: Some(key(to)), subset: None });
    ConfigContent::ServiceResolver(ServiceResolver { redirect, ..resolver(name) })
}

fn rule(matches: RouteMatch, to: RouteDestination) -> RouteRule {
    RouteRule { matches, to }
}

fn on_path(path: PathMatch) -> RouteMatch {
    RouteMatch { http: HttpMatch { path: Some(path), ..HttpMatch::default() }, ..RouteMatch::default() }
}

fn to(service: &str) -> RouteDestination {
    RouteDestination { service: Some(key(service)), ..RouteDestination::default() }
}

fn router(name: &str, routes: Vec<RouteRule>) -> ConfigContent {
    ConfigContent::ServiceRouter(ServiceRouter { service: key(name), routes })
}

/// Returns where a request goes: the rule's number, and the first target.
fn sent(routes: &Routes, method: &str, target: &str, headers: &[(&str, &str)], draw: u64) -> (Option<usize>, String) {
    let (path, query) = NormalPath::with_query(target).unwrap();
    let request = RoutedRequest { method, path: &path, query, host: Some("api"), headers };
    let turn = routes.choose(&request, draw).unwrap();
    (turn.rule, shown(&turn.leg.targets[0]))
}

fn shown(target: &Target) -> String {
    match &target.key.subset {
        None => target.key.service.name.to_string(),
        Some(subset) => format!("{}:{subset}", target.key.service.name),
    }
}

#[test]
fn the_first_rule_that_matches_decides_and_what_none_matches_goes_to_the_service() {
    let header = HeaderMatch {
        name: "x-canary".to_owned(),
        test: HeaderTest::Exact("true".to_owned()),
        invert: false,
        ignore_case: false,
    };
    let canary =
        RouteMatch { http: HttpMatch { headers: vec![header], ..HttpMatch::default() }, ..RouteMatch::default() };
    let debug = RouteMatch {
        query: vec![QueryMatch { name: "debug mode".to_owned(), test: QueryTest::Regex("[1-9]".to_owned()) }],
        ..RouteMatch::default()
    };
    let posts = RouteMatch {
        http: HttpMatch {
            methods: vec!["POST".to_owned()],
            path: Some(PathMatch::Exact("/v1".to_owned())),
            headers: vec![],
        },
        ..RouteMatch::default()
    };
    let all = entries(vec![
        http("api"),
        http("canary"),
        http("admin"),
        http("debug"),
        http("posts"),
        router(
            "api",
            vec![
                rule(canary, to("canary")),
                rule(on_path(PathMatch::Prefix("/admin".to_owned())), to("admin")),
                rule(debug, to("debug")),
                rule(posts, to("posts")),
            ],
        ),
    ]);
    let routes = all.routes_of(&key("api")).unwrap();
    let check = |method: &str, target: &str, headers: &[(&str, &str)], want: (Option<usize>, &str)| {
        assert_eq!(sent(&routes, method, target, headers, 7), (want.0, want.1.to_owned()), "{method} {target}");
    };
    check("GET", "/", &[], (None, "api"));
    check("GET", "/admin/x", &[], (Some(1), "admin"));
    check("GET", "/x/../admin", &[], (Some(1), "admin"));
    check("GET", "/%61dmin", &[], (Some(1), "admin"));
    check("GET", "/admin", &[("x-canary", "true")], (Some(0), "canary"));
    check("GET", "/", &[("x-canary", "false")], (None, "api"));
    check("GET", "/", &[("x-canary", "false"), ("x-canary", "true")], (Some(0), "canary"));
    check("GET", "/?debug+mode=5", &[], (Some(2), "debug"));
    check("GET", "/?a=b&debug%20mode=%35", &[], (Some(2), "debug"));
    check("GET", "/?debug+mode=55", &[], (None, "api"));
    check("GET", "/?debugmode=5", &[], (None, "api"));
    check("POST", "/v1", &[], (Some(3), "posts"));
    check("GET", "/v1", &[], (None, "api"));
}

#[test]
fn a_prefix_is_rewritten_with_one_slash_between() {
    for (path, from, rewrite, want) in [
        (PathMatch::Prefix("/api".to_owned()), "/api/x", "/", "/x"),
        (PathMatch::Prefix("/api".to_owned()), "/api", "/", "/"),
        (PathMatch::Prefix("/api/".to_owned()), "/api/x", "/v2", "/v2/x"),
        (PathMatch::Prefix("/api".to_owned()), "/api/x/y", "/v2/", "/v2/x/y"),
        (PathMatch::Prefix("/api".to_owned()), "/apis", "/v2", "/v2/s"),
        (PathMatch::Exact("/api".to_owned()), "/api", "/v2/all", "/v2/all"),
    ] {
        let to = RouteDestination { prefix_rewrite: Some(rewrite.to_owned()), ..RouteDestination::default() };
        let all = entries(vec![http("api"), router("api", vec![rule(on_path(path), to)])]);
        let routes = all.routes_of(&key("api")).unwrap();
        let path = NormalPath::of(from).unwrap();
        let request = RoutedRequest { method: "GET", path: &path, query: None, host: None, headers: &[][..] };
        let turn = routes.choose(&request, 0).unwrap();
        assert_eq!(turn.action.unwrap().rewritten(from).as_deref(), Some(want), "{from} with {rewrite}");
    }
}

#[test]
fn a_resolver_says_what_a_name_stands_for_and_what_takes_over() {
    let api = ServiceResolver {
        default_subset: Some("v1".to_owned()),
        failover: BTreeMap::from([(
            "*".to_owned(),
            vec![
                FailoverTarget { service: None, subset: Some("v2".to_owned()) },
                FailoverTarget { service: Some(key("old")), subset: None },
            ],
        )]),
        request_timeout_ms: Some(1500),
        balance: Some(Balance::RoundRobin),
        ..versions("api")
    };
    let all = entries(vec![ConfigContent::ServiceResolver(api), redirected("www", "api"), redirected("old", "older")]);
    let routes = all.routes_of(&key("www")).unwrap();
    let leg = routes.otherwise(0).unwrap().leg;
    let targets: Vec<String> = leg.targets.iter().map(shown).collect();
    assert_eq!(targets, ["api:v1", "api:v2", "older"]);
    assert_eq!((leg.request_timeout.unwrap().as_millis(), leg.balancing.policy), (1500, Balance::RoundRobin));
    assert!(!routes.reads_requests() && !leg.targets[0].is_whole() && leg.targets[2].is_whole());
}

#[test]
fn what_leads_nowhere_or_in_a_circle_is_an_error_that_names_it() {
    let error = |all: Vec<ConfigContent>, of: &str| entries(all).routes_of(&key(of)).unwrap_err().to_string();
    let circle = error(vec![redirected("a", "b"), redirected("b", "a")], "a");
    assert!(circle.starts_with("`default/a` leads back to itself"), "{circle}");
    let split = |from: &str, to: &str| splitter(from, &[(10_000, to, None)]);
    let all = |more: Vec<ConfigContent>| ["a", "b", "c", "d"].map(http).into_iter().chain(more).collect();
    let circle = error(all(vec![split("a", "b"), split("b", "a")]), "a");
    assert!(circle.contains("leads back to itself"), "{circle}");
    let deep = error(all(vec![split("a", "b"), split("b", "c"), split("c", "d"), split("d", "e")]), "a");
    assert!(deep.starts_with("more than 3 splitters"), "{deep}");
    let subset = error(all(vec![splitter("a", &[(10_000, "b", Some("v9"))])]), "a");
    assert!(subset.starts_with("service `default/b` has no subset `v9`"), "{subset}");
    let tcp = error(vec![split("a", "b")], "a");
    assert!(tcp.starts_with("a service-splitter needs an HTTP protocol, and `default/a` is read as tcp"), "{tcp}");
    let tcp = error(vec![router("a", vec![])], "a");
    assert!(tcp.starts_with("a service-router needs an HTTP protocol"), "{tcp}");
    let other = error(vec![http("a"), redirected("a", "b")], "a");
    assert!(other.starts_with("`default/b` is read as tcp, but calls for `default/a`"), "{other}");
    let own = entries(all(vec![splitter("a", &[(9_000, "", None), (1_000, "b", None)])]));
    assert!(own.routes_of(&key("a")).is_ok(), "a part for itself is no circle");
}

#[test]
fn a_subset_has_the_instances_that_its_filter_selects() {
    let all = entries(vec![ConfigContent::ServiceResolver(ServiceResolver {
        default_subset: Some("v2".to_owned()),
        ..versions("api")
    })]);
    let routes = all.routes_of(&key("api")).unwrap();
    let target = &routes.otherwise(0).unwrap().leg.targets[0];
    let endpoint = |version: Option<&str>| crate::Endpoint {
        key: crate::InstanceKey {
            node: "n".parse().unwrap(),
            namespace: "default".parse().unwrap(),
            id: "i".parse().unwrap(),
        },
        address: "10.0.0.1".to_owned(),
        mesh_port: None,
        port: 80,
        ports: BTreeMap::new(),
        status: crate::CheckStatus::Passing,
        zone: None,
        network: String::new(),
        platform: crate::Platform::Vm,
        weights: crate::Weights::default(),
        meta: version.map(|version| ("version".to_owned(), version.to_owned())).into_iter().collect(),
        tags: vec!["canary".to_owned()],
        node_meta: BTreeMap::from([("rack".to_owned(), "r1".to_owned())]),
    };
    for (filter, want) in [
        ("\"canary\" in Service.Tags", true),
        ("Service.Tags contains canary", true),
        ("\"old\" in Service.Tags", false),
        ("Node.Meta.rack == r1 and Service.Service == api", true),
        ("Node.Meta.rack != r1", false),
        ("Service.Weights.Passing == 1", true),
    ] {
        let subset = Subset { filter: Some(filter.to_owned()), only_passing: false };
        let content = ConfigContent::ServiceResolver(ServiceResolver {
            default_subset: Some("one".to_owned()),
            subsets: BTreeMap::from([("one".to_owned(), subset)]),
            ..resolver("api")
        });
        assert_eq!(check_content(&content), Ok(()), "{filter}");
        let routes = entries(vec![content]).routes_of(&key("api")).unwrap();
        assert_eq!(routes.otherwise(0).unwrap().leg.targets[0].selects(&endpoint(None)), want, "{filter}");
    }
    assert!(target.selects(&endpoint(Some("v2"))));
    assert!(!target.selects(&endpoint(Some("v1"))) && !target.selects(&endpoint(None)));
}

#[test]
fn f1_an_entry_that_makes_no_sense_by_itself_is_refused_by_field() {
    let refused = |content: ConfigContent, want: &str| {
        let error = check_content(&content).unwrap_err().to_string();
        assert!(error.contains(want), "{error}");
    };
    refused(splitter("a", &[(9_999, "", None)]), "the weights make 99.99, not 100");
    refused(splitter("a", &[(5_000, "", None), (5_000, "a", None)]), "the 2. names what another names already");
    refused(splitter("a", &[(10_000, "", Some("V1"))]), "`V1` is no subset's name");
    let of = |to: RouteDestination| router("a", vec![rule(on_path(PathMatch::Prefix("/x".to_owned())), to)]);
    let plain = RouteDestination::default;
    refused(
        of(RouteDestination { prefix_rewrite: Some("/a/../b".to_owned()), ..plain() }),
        "routes, 1: prefix_rewrite",
    );
    refused(of(RouteDestination { prefix_rewrite: Some("b".to_owned()), ..plain() }), "prefix_rewrite");
    refused(of(RouteDestination { request_timeout_ms: Some(0), ..plain() }), "request_timeout: 0 would leave");
    let retry = |attempts, on_status: &[u16]| RetryRule {
        attempts,
        on: Default::default(),
        on_status: on_status.iter().copied().collect(),
    };
    refused(of(RouteDestination { retry: Some(retry(0, &[503])), ..plain() }), "num_retries: use 1 to 10");
    refused(of(RouteDestination { retry: Some(retry(1, &[])), ..plain() }), "say after what");
    refused(of(RouteDestination { retry: Some(retry(1, &[200])), ..plain() }), "use statuses from 400 to 599");
    let set = |name: &str, value: &str| HeaderEdits {
        set: BTreeMap::from([(name.to_owned(), value.to_owned())]),
        ..HeaderEdits::default()
    };
    for (name, value) in [("X-Up", "a"), ("host", "a"), ("x-weft-port", "a"), ("x-a", "a\r\nb"), ("x-a", "%REQ(x)%")] {
        refused(of(RouteDestination { request_headers: set(name, value), ..plain() }), "request_headers");
        refused(of(RouteDestination { response_headers: set(name, value), ..plain() }), "response_headers");
    }
    let balanced = |change: fn(&mut ServiceResolver)| {
        let mut content = resolver("a");
        change(&mut content);
        ConfigContent::ServiceResolver(content)
    };
    let policy = |by: HashBy| Hashing { policies: vec![HashPolicy { by, terminal: false }], ..Hashing::default() };
    let on_ring = |hashing: Hashing| {
        ConfigContent::ServiceResolver(ServiceResolver { balance: Some(Balance::RingHash), hashing, ..resolver("a") })
    };
    refused(
        ConfigContent::ServiceResolver(ServiceResolver { hashing: policy(HashBy::Source), ..resolver("a") }),
        "set policy to ring_hash",
    );
    refused(balanced(|one| one.choices = Some(1)), "choice_count: use 2 to 10");
    refused(
        balanced(|one| (one.choices, one.balance) = (Some(2), Some(Balance::Random))),
        "only least_request goes by it",
    );
    refused(on_ring(Hashing { ring_min: Some(9), ring_max: Some(8), ..Hashing::default() }), "more places at least");
    refused(on_ring(Hashing { ring_max: Some(8_388_608), ..Hashing::default() }), "a ring has 1 to 65536 places");
    refused(on_ring(policy(HashBy::Header("X-User".to_owned()))), "hash_policies, 1: `X-User` is no header");
    let cookie = |path: &str| HashBy::Cookie {
        name: "s".to_owned(),
        issued: Some(IssuedCookie { ttl_s: None, path: Some(path.to_owned()) }),
    };
    refused(on_ring(policy(cookie("/;secure"))), "a cookie's path");
    assert!(check_content(&on_ring(policy(cookie("/")))).is_ok());
    let regex = RouteMatch {
        query: vec![QueryMatch { name: "q".to_owned(), test: QueryTest::Regex("(".to_owned()) }],
        ..RouteMatch::default()
    };
    refused(router("a", vec![rule(regex, plain())]), "routes, 1: query");
    refused(router("a", vec![rule(on_path(PathMatch::Prefix("x".to_owned())), plain())]), "routes, 1: match");
    let subset = |filter: &str| {
        let subsets =
            BTreeMap::from([("v1".to_owned(), Subset { filter: Some(filter.to_owned()), only_passing: true })]);
        ConfigContent::ServiceResolver(ServiceResolver { subsets, ..resolver("a") })
    };
    refused(subset("Service.Kind == v1"), "subsets.v1.filter: a subset's instances are told apart by Service.ID");
    refused(subset("Service.Meta.version =="), "subsets.v1.filter");
    let default_subset = Some("v1".to_owned());
    refused(ConfigContent::ServiceResolver(ServiceResolver { default_subset, ..resolver("a") }), "no subset `v1`");
    let both = ServiceResolver { redirect: Some(Redirect { service: Some(key("b")), subset: None }), ..versions("a") };
    refused(ConfigContent::ServiceResolver(both), "has nothing else to say");
    assert!(check_content(&subset("Service.Meta.version == v1 and Node.Node != n1")).is_ok());
}

/// Follows a service's entries as they are written, and adds up what ends where.
fn reference(
    all: &ConfigEntries,
    service: &ServiceKey,
    share: u64,
    depth: usize,
    ends: &mut BTreeMap<String, u64>,
) -> bool {
    if depth > 8 {
        return false;
    }
    let content = |key: ConfigKey| all.get(&key).map(|entry| entry.content.clone());
    let Some(ConfigContent::ServiceSplitter(splitter)) = content(ConfigKey::ServiceSplitter(service.clone())) else {
        return end(all, service, None, share, ends);
    };
    if depth == 3 {
        return false;
    }
    splitter.splits.iter().all(|split| {
        let part = share / 10_000 * u64::from(split.weight);
        match (&split.service, &split.subset) {
            (Some(other), None) if other != service => reference(all, other, part, depth + 1, ends),
            (other, subset) => end(all, other.as_ref().unwrap_or(service), subset.as_deref(), part, ends),
        }
    })
}

fn end(
    all: &ConfigEntries,
    service: &ServiceKey,
    subset: Option<&str>,
    share: u64,
    ends: &mut BTreeMap<String, u64>,
) -> bool {
    let (mut service, mut subset) = (service.clone(), subset.map(str::to_owned));
    for _ in 0..20 {
        let own = all.get(&ConfigKey::ServiceResolver(service.clone())).map(|entry| entry.content.clone());
        let Some(ConfigContent::ServiceResolver(resolver)) = own else {
            let name = service.name.to_string();
            *ends.entry(name).or_default() += share;
            return subset.is_none();
        };
        if let Some(redirect) = resolver.redirect {
            (service, subset) = (redirect.service.unwrap(), None);
            continue;
        }
        let subset = subset.or(resolver.default_subset);
        let name = subset.as_ref().map_or(service.name.to_string(), |subset| format!("{}:{subset}", service.name));
        *ends.entry(name).or_default() += share;
        return subset.is_none_or(|subset| resolver.subsets.contains_key(&subset));
    }
    false
}

fn any_entry() -> impl Strategy<Value = ConfigContent> {
    let name = || prop_oneof![Just("a"), Just("b"), Just("c"), Just("d")];
    let subset = || prop_oneof![3 => Just(None), 1 => Just(Some("v1"))];
    let part = || (prop_oneof![3 => name(), 1 => Just("")], subset());
    prop_oneof![
        2 => (name(), part(), part(), 0..=10_000u16).prop_map(|(name, one, other, weight)| {
            splitter(name, &[(weight, one.0, one.1), (10_000 - weight, other.0, other.1)])
        }),
        1 => (name(), name()).prop_map(|(name, to)| redirected(name, to)),
        2 => (name(), any::<bool>()).prop_map(|(name, is_default)| {
            let default_subset = is_default.then(|| "v2".to_owned());
            ConfigContent::ServiceResolver(ServiceResolver { default_subset, ..versions(name) })
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]

    #[test]
    fn routes_divide_as_a_plain_reading_of_the_entries_does(all in proptest::collection::vec(any_entry(), 0..7)) {
        let all = entries(["a", "b", "c", "d"].map(http).into_iter().chain(all).collect());
        for service in ["a", "b", "c", "d"].map(key) {
            let mut wanted = BTreeMap::new();
            let is_whole = reference(&all, &service, WHOLE, 0, &mut wanted);
            match all.routes_of(&service) {
                Err(_) => prop_assert!(!is_whole, "{service}: {wanted:?}"),
                Ok(routes) => {
                    prop_assert!(is_whole, "{service}");
                    wanted.retain(|_, share| *share > 0);
                    let mut found: BTreeMap<String, u64> = BTreeMap::new();
                    let mut from = 0;
                    for Part { until, leg, .. } in &routes.otherwise.0 {
                        *found.entry(shown(&routes.legs[*leg].targets[0])).or_default() += until - from;
                        from = *until;
                    }
                    prop_assert_eq!(from, WHOLE);
                    prop_assert_eq!(found, wanted);
                    // What an agent compiles from what it is sent is the same.
                    let sent: ConfigEntries = all.bearing_on(&service).cloned().collect();
                    let again = sent.routes_of(&service).unwrap();
                    prop_assert_eq!(&again.otherwise, &routes.otherwise);
                    prop_assert_eq!(again.legs, routes.legs);
                }
            }
        }
    }
}

#[test]
fn a_path_fits_in_whatever_case_where_the_route_says_so_and_is_rewritten_all_the_same() {
    let routes = |path: PathMatch, ignore_case| {
        let to = RouteDestination { prefix_rewrite: Some("/v3".to_owned()), ..to("next") };
        let matches = RouteMatch { ignore_case, ..on_path(path) };
        entries(vec![http("api"), http("next"), router("api", vec![rule(matches, to)])]).routes_of(&key("api")).unwrap()
    };
    let prefix = || PathMatch::Prefix("/V2".to_owned());
    assert_eq!(sent(&routes(prefix(), false), "GET", "/v2/x", &[], 0).0, None);
    assert_eq!(sent(&routes(prefix(), true), "GET", "/v2/x", &[], 0).0, Some(0));
    assert_eq!(sent(&routes(prefix(), true), "GET", "/v", &[], 0).0, None);
    let exact = routes(PathMatch::Exact("/v2".to_owned()), true);
    assert_eq!(sent(&exact, "GET", "/V2", &[], 0).0, Some(0));
    assert_eq!(sent(&exact, "GET", "/V2/x", &[], 0).0, None);
    let by_prefix = routes(prefix(), true);
    let path = NormalPath::of("/v2/x").unwrap();
    let request = RoutedRequest { method: "GET", path: &path, query: None, host: None, headers: &[][..] };
    let turn = by_prefix.choose(&request, 0).unwrap();
    assert_eq!(turn.action.unwrap().rewritten("/v2/x").as_deref(), Some("/v3/x"));
    let of_regex = RouteMatch { ignore_case: true, ..on_path(PathMatch::Regex("/a".to_owned())) };
    let ConfigContent::ServiceRouter(written) = router("api", vec![rule(of_regex, to("next"))]) else { panic!() };
    let refusal = check_content(&ConfigContent::ServiceRouter(written)).unwrap_err().to_string();
    assert!(refusal.starts_with("routes, 1: case_insensitive"), "{refusal}");
}

#[test]
fn what_splitters_change_is_of_the_part_that_a_request_went_and_of_all_that_led_there() {
    let mark = |name: &str| HeaderEdits {
        set: BTreeMap::from([("x-part".to_owned(), name.to_owned())]),
        ..HeaderEdits::default()
    };
    let with = |content: ConfigContent, marks: &[&str]| {
        let ConfigContent::ServiceSplitter(mut splitter) = content else { panic!() };
        for (split, name) in splitter.splits.iter_mut().zip(marks).filter(|(_, name)| !name.is_empty()) {
            split.request_headers = mark(name);
        }
        ConfigContent::ServiceSplitter(splitter)
    };
    let all = entries(vec![
        http("api"),
        http("next"),
        http("last"),
        with(splitter("api", &[(5_000, "", None), (5_000, "next", None)]), &["", "next"]),
        with(splitter("next", &[(5_000, "", None), (5_000, "last", None)]), &["", "last"]),
    ]);
    let routes = all.routes_of(&key("api")).unwrap();
    let changed = |draw: u64| {
        let turn = routes.otherwise(draw).unwrap();
        let names = turn.edits.iter().map(|edits| edits.request_headers.set["x-part"].clone()).collect::<Vec<_>>();
        (shown(&turn.leg.targets[0]), names.join(" then "))
    };
    let quarter = WHOLE / 4;
    assert_eq!(changed(0), ("api".to_owned(), String::new()));
    assert_eq!(changed(2 * quarter), ("next".to_owned(), "next".to_owned()));
    assert_eq!(changed(3 * quarter), ("last".to_owned(), "next then last".to_owned()));
    let ConfigContent::ServiceSplitter(mut wrong) = splitter("api", &[(10_000, "", None)]) else { panic!() };
    wrong.splits[0].response_headers =
        HeaderEdits { remove: ["connection".to_owned()].into(), ..HeaderEdits::default() };
    let refusal = check_content(&ConfigContent::ServiceSplitter(wrong)).unwrap_err().to_string();
    assert!(refusal.starts_with("splits, 1: response_headers"), "{refusal}");
}
