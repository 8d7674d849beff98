//! What changes of config entries promise.

mod providers;

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::super::tests::{Log, intention};
use super::*;
use crate::{
    Action, Command, ConfigContent, Effect, HeaderEdits, HttpMatch, MtlsMode, PathMatch, Permission, PortMtlsMode,
    ProxyDefaults, Redirect, RefusalKind, RetryOn, RetryRule, RouteDestination, RouteMatch, RouteRule, ServiceDefaults,
    ServiceResolver, ServiceRouter, ServiceSplitter, Split, Subset, Topic, WriteMode,
};

pub(in crate::catalog) fn write(content: ConfigContent) -> Command {
    write_if(content, None)
}

fn write_if(content: ConfigContent, compare: Option<u64>) -> Command {
    let entry = Box::new(ConfigEntry::new(content));
    Command::Config { change: ConfigChange::Write { entry, compare: compare.map(CatalogIndex) } }
}

pub(in crate::catalog) fn delete(key: ConfigKey) -> Command {
    Command::Config { change: ConfigChange::Delete { key, compare: None } }
}

pub(in crate::catalog) fn service(name: &str) -> ServiceKey {
    name.parse().unwrap()
}

pub(in crate::catalog) fn defaults(name: &str, protocol: Option<Protocol>) -> ConfigContent {
    ConfigContent::ServiceDefaults(ServiceDefaults { protocol, ..ServiceDefaults::new(service(name)) })
}

/// A service that no agents stand before.
fn outside(name: &str) -> ConfigContent {
    ConfigContent::ServiceDefaults(ServiceDefaults { external: true, ..ServiceDefaults::new(service(name)) })
}

pub(in crate::catalog) fn global(protocol: Option<Protocol>) -> ConfigContent {
    ConfigContent::ProxyDefaults(ProxyDefaults { protocol, ..ProxyDefaults::default() })
}

/// One command of each kind of change, in an order in which all of them take effect.
pub(in crate::catalog) fn every_change() -> Vec<Command> {
    let noted = ConfigEntry {
        meta: BTreeMap::from([("team".to_owned(), "shop".to_owned())]),
        ..ConfigEntry::new(defaults("shop/api", Some(Protocol::Http)))
    };
    vec![
        write_if(global(Some(Protocol::Tcp)), Some(0)),
        Command::Config { change: ConfigChange::Write { entry: Box::new(noted), compare: None } },
        write(defaults("web", Some(Protocol::Grpc))),
        delete(ConfigKey::ServiceDefaults(service("web"))),
        every_condition("shop/api"),
        write(resolver("shop/api", Some(("v1", "Service.Meta.version == v1")), None)),
        write(splitter("shop/api", &[(9_000, "shop/api"), (1_000, "shop/api-next")])),
        write(defaults("shop/api-next", Some(Protocol::Http))),
        write(splitter("shop/api", &[(9_000, "shop/api"), (1_000, "shop/api-next")])),
        write(router("shop/api", "shop/api-next")),
        write(providers::full("okta")),
        write(providers::plain("auth0", "https://auth0.example")),
        providers::asking("shop/api", "okta"),
        delete(providers::key("auth0")),
        write(held_calls("shop/api")),
        write(trial("shop/api", "shop/api-next")),
        write(on_a_ring("shop/api-next")),
    ]
}

/// Returns what came to be said after the golden files had ended, for their end.
pub(in crate::catalog) fn later_forms() -> Vec<Command> {
    vec![write(outside("legacy")), write(of_ports("ledger", MtlsMode::Strict)), write(of_namespaces(MtlsMode::Strict))]
}

/// A service that says of one port whom it takes.
fn of_ports(name: &str, mode: MtlsMode) -> ConfigContent {
    let port_modes = vec![PortMtlsMode { port: 9_090, mode }];
    ConfigContent::ServiceDefaults(ServiceDefaults { port_modes, ..ServiceDefaults::new(service(name)) })
}

/// What is said of one namespace.
fn of_namespaces(mode: MtlsMode) -> ConfigContent {
    let namespace_modes = [("shop".parse().unwrap(), mode)].into();
    ConfigContent::ProxyDefaults(ProxyDefaults { namespace_modes, ..ProxyDefaults::default() })
}

#[test]
fn whom_a_port_takes_is_said_by_the_nearest_and_permissive_needs_the_meshs_leave() {
    let mut log = Log::default();
    for content in [of_ports("shop/api", MtlsMode::Permissive), of_namespaces(MtlsMode::Permissive)] {
        let refusal = log.refused(write(content)).to_string();
        assert!(refusal.contains("allow_enabling_permissive_mutual_tls"), "{refusal}");
    }
    let entry = crate::MeshEntry { allows_permissive: true, ..crate::MeshEntry::default() };
    log.done(Command::WriteMesh { entry, compare: None });
    log.done(write(of_namespaces(MtlsMode::Permissive)));
    log.done(write(of_ports("shop/ledger", MtlsMode::Strict)));
    log.done(write(of_ports("office/api", MtlsMode::Permissive)));
    let of = |name: &str, port| log.catalog.config.mtls_modes_of(&service(name)).of_port(port);
    let rows = [
        ("shop/api", 9_090, MtlsMode::Permissive),
        ("shop/ledger", 8_080, MtlsMode::Permissive),
        ("shop/ledger", 9_090, MtlsMode::Strict),
        ("office/api", 9_090, MtlsMode::Permissive),
        ("office/api", 8_080, MtlsMode::Strict),
    ];
    for (name, port, want) in rows {
        assert_eq!(of(name, port), want, "{name} {port}");
    }
    let strict = ServiceDefaults { mtls_mode: Some(MtlsMode::Strict), ..ServiceDefaults::new(service("shop/api")) };
    log.done(write(ConfigContent::ServiceDefaults(strict)));
    assert_eq!(log.catalog.config.mtls_modes_of(&service("shop/api")).of_port(9_090), MtlsMode::Strict);

    let twice = vec![PortMtlsMode { port: 80, mode: MtlsMode::Strict }; 2];
    let many = (1..=65).map(|port| PortMtlsMode { port, mode: MtlsMode::Strict }).collect();
    for port_modes in [twice, many, vec![PortMtlsMode { port: 0, mode: MtlsMode::Strict }]] {
        let content = ServiceDefaults { port_modes, ..ServiceDefaults::new(service("api")) };
        let refusal = write(ConfigContent::ServiceDefaults(content)).validate().unwrap_err().to_string();
        assert!(refusal.contains("mutual_tls_mode_by_port"), "{refusal}");
    }
    let namespace_modes = (0..257).map(|number| (format!("n{number}").parse().unwrap(), MtlsMode::Strict)).collect();
    let content = ConfigContent::ProxyDefaults(ProxyDefaults { namespace_modes, ..ProxyDefaults::default() });
    let refusal = write(content).validate().unwrap_err().to_string();
    assert!(refusal.contains("mutual_tls_mode_by_namespace"), "{refusal}");
}

/// What holds of calls, with everything that can be said of it.
fn held_calls(name: &str) -> ConfigContent {
    use crate::{
        CallLimits, PassiveHealthCheck, Rate, RateLimit, RateLimits, RouteRate, UpstreamConfig, UpstreamOverride,
        UpstreamSettings,
    };
    let limits = CallLimits { connections_max: Some(100), pending_max: Some(10), requests_max: Some(50) };
    let passive = PassiveHealthCheck {
        interval_ms: Some(10_000),
        max_failures: Some(3),
        enforcing_percent: Some(100),
        max_ejection_percent: Some(20),
        base_ejection_ms: Some(30_000),
    };
    let rate = Rate { per_second: 100, burst: Some(200) };
    let slow = RouteRate { path: PathMatch::Prefix("/slow".to_owned()), rate: Rate { per_second: 1, burst: None } };
    let settings = UpstreamSettings { limits: None, passive: Some(passive), connect_timeout_ms: None };
    ConfigContent::ServiceDefaults(ServiceDefaults {
        protocol: Some(Protocol::Http),
        upstreams: UpstreamConfig {
            defaults: UpstreamSettings { limits: Some(limits), passive: None, connect_timeout_ms: None },
            overrides: vec![UpstreamOverride { service: service("shop/db"), settings }],
        },
        rate_limits: RateLimits {
            instance: Some(RateLimit { general: Some(rate), routes: vec![slow] }),
            source: Some(RateLimit { general: Some(rate), routes: Vec::new() }),
        },
        ..ServiceDefaults::new(service(name))
    })
}

/// A router that sends copies elsewhere and has some requests fail.
fn trial(name: &str, copies: &str) -> ConfigContent {
    use crate::{AbortFault, DelayFault, Fault, Mirror};
    let to = RouteDestination {
        mirror: Some(Mirror { service: Some(service(copies)), subset: None, share: 1_250 }),
        fault: Some(Fault {
            delay: Some(DelayFault { delay_ms: 100, share: 10_000 }),
            abort: Some(AbortFault { status: 503, share: 1 }),
        }),
        ..RouteDestination::default()
    };
    let routes = vec![RouteRule { matches: RouteMatch::default(), to }];
    ConfigContent::ServiceRouter(ServiceRouter { service: service(name), routes })
}

/// A resolver that has instances chosen by everything that a hash can be made of.
fn on_a_ring(name: &str) -> ConfigContent {
    use crate::{Balance, HashBy, HashPolicy, Hashing, IssuedCookie};
    let issued = Some(IssuedCookie { ttl_s: Some(3600), path: Some("/".to_owned()) });
    let by = [
        HashBy::Header("x-user".to_owned()),
        HashBy::Query("user".to_owned()),
        HashBy::Cookie { name: "user".to_owned(), issued },
        HashBy::Source,
    ];
    let policies = by.into_iter().map(|by| HashPolicy { by, terminal: true }).collect();
    ConfigContent::ServiceResolver(ServiceResolver {
        balance: Some(Balance::RingHash),
        hashing: Hashing { policies, ring_min: Some(64), ring_max: Some(256) },
        by_locality: Some(true),
        ..ServiceResolver::new(service(name))
    })
}

/// An intention whose permissions have every condition that there is.
fn every_condition(destination: &str) -> Command {
    use crate::{HeaderMatch, HeaderTest, Platform, TimeWindow, Weekday};
    let text = || "prod".to_owned();
    let tests = [
        HeaderTest::Present,
        HeaderTest::Exact(text()),
        HeaderTest::Prefix(text()),
        HeaderTest::Suffix(text()),
        HeaderTest::Contains(text()),
        HeaderTest::Regex(text()),
    ];
    let header = |(test, invert): (HeaderTest, bool)| HeaderMatch {
        name: "x-env".to_owned(),
        test,
        invert,
        ignore_case: !invert,
    };
    let headers = tests.into_iter().zip([true, false].into_iter().cycle()).map(header).collect();
    let on_path = |path| HttpMatch { path: Some(path), ..HttpMatch::default() };
    let http =
        HttpMatch { headers, methods: vec!["GET".to_owned()], ..on_path(PathMatch::Regex("/v[0-9]+".to_owned())) };
    let window = TimeWindow {
        days: vec![Weekday::Monday, Weekday::Sunday],
        from: "22:00".parse().unwrap(),
        until: "06:00".parse().unwrap(),
    };
    let full = Permission {
        source_platforms: vec![Platform::Ecs, Platform::Kubernetes],
        times: Some(window),
        ..Permission::new(Action::Allow, http)
    };
    let mut intention = Intention::new("shop/web".parse().unwrap(), destination.parse().unwrap(), Action::Allow);
    intention.effect = Effect::Permissions(vec![
        Permission::new(Action::Deny, on_path(PathMatch::Exact("/admin".to_owned()))),
        Permission::new(Action::Deny, on_path(PathMatch::Prefix("/internal/".to_owned()))),
        full,
    ]);
    Command::WriteIntention { intention: Box::new(intention), mode: WriteMode::Upsert }
}

#[test]
fn h11_rules_on_requests_are_not_written_where_nobody_reads_requests() {
    let mut log = Log::default();
    let refusal = log.refused(rule_on_requests("api")).to_string();
    assert!(refusal.contains("default/web => default/api") && refusal.contains("`service-defaults`"), "{refusal}");
    log.done(write(defaults("api", Some(Protocol::Http))));
    log.done(rule_on_requests("api"));
    let list = |destination: &str| {
        let Command::WriteIntention { intention, .. } = rule_on_requests(destination) else { unreachable!() };
        let destination = intention.destination.clone();
        let change = crate::PolicyChange::WriteDestination {
            destination,
            owner: None,
            intentions: vec![*intention],
            compare: None,
        };
        Command::Policy { change }
    };
    log.refused(list("db"));
    log.done(list("api"));
    assert_eq!(every_condition("api").validate(), Ok(()));
    log.done(every_condition("api"));
}

pub(in crate::catalog) fn resolver(name: &str, subset: Option<(&str, &str)>, redirect: Option<&str>) -> ConfigContent {
    let subset =
        subset.map(|(name, filter)| (name.to_owned(), Subset { filter: Some(filter.to_owned()), only_passing: false }));
    ConfigContent::ServiceResolver(ServiceResolver {
        subsets: subset.into_iter().collect(),
        redirect: redirect.map(|to| Redirect { service: Some(service(to)), subset: None }),
        request_timeout_ms: Some(15_000),
        ..ServiceResolver::new(service(name))
    })
}

pub(in crate::catalog) fn splitter(name: &str, parts: &[(u16, &str)]) -> ConfigContent {
    let splits = parts.iter().map(|(weight, to)| Split {
        weight: *weight,
        service: Some(service(to)),
        subset: None,
        request_headers: HeaderEdits::default(),
        response_headers: HeaderEdits::default(),
    });
    ConfigContent::ServiceSplitter(ServiceSplitter { service: service(name), splits: splits.collect() })
}

pub(in crate::catalog) fn router(name: &str, to: &str) -> ConfigContent {
    let http = HttpMatch { path: Some(PathMatch::Prefix("/next".to_owned())), ..HttpMatch::default() };
    let retry = RetryRule { attempts: 2, on: [RetryOn::ServerError].into(), on_status: [429].into() };
    let to = RouteDestination {
        service: Some(service(to)),
        prefix_rewrite: Some("/".to_owned()),
        request_timeout_ms: Some(500),
        retry: Some(retry),
        request_headers: HeaderEdits { remove: ["x-debug".to_owned()].into(), ..HeaderEdits::default() },
        ..RouteDestination::default()
    };
    let routes = vec![RouteRule { matches: RouteMatch { http, ..RouteMatch::default() }, to }];
    ConfigContent::ServiceRouter(ServiceRouter { service: service(name), routes })
}

/// Draws changes over few names.
pub(in crate::catalog) fn any_change() -> impl Strategy<Value = Command> {
    let name = || prop_oneof![Just("s0"), Just("s1"), Just("other/s0")];
    let protocol = || prop_oneof![Just(None), Just(Some(Protocol::Tcp)), Just(Some(Protocol::Http))];
    prop_oneof![
        protocol().prop_map(|protocol| write(global(protocol))),
        Just(delete(ConfigKey::ProxyDefaults)),
        (name(), protocol()).prop_map(|(name, protocol)| write(defaults(name, protocol))),
        name().prop_map(|name| write(outside(name))),
        (name(), 0..4_usize).prop_map(|(name, kind)| delete(ConfigKey::all_of(&service(name))[kind].clone())),
        (name(), name(), name(), 0..=10_000_u16)
            .prop_map(|(name, one, other, weight)| write(splitter(name, &[(weight, one), (10_000 - weight, other)]))),
        (name(), name()).prop_map(|(name, to)| write(resolver(name, None, Some(to)))),
        name().prop_map(|name| write(resolver(name, Some(("v1", "Service.ID == i0")), None))),
        (name(), name()).prop_map(|(name, to)| write(router(name, to))),
        (0..2_u8).prop_map(|issuer| write(providers::plain("okta", &format!("https://okta.example/{issuer}")))),
        Just(delete(providers::key("okta"))),
        name().prop_map(|name| providers::asking(name, "okta")),
    ]
}

fn rule_on_requests(destination: &str) -> Command {
    let mut intention = Intention::new("web".parse().unwrap(), destination.parse().unwrap(), Action::Allow);
    let http = HttpMatch { path: Some(PathMatch::Prefix("/v1".to_owned())), ..HttpMatch::default() };
    intention.effect = Effect::Permissions(vec![Permission::new(Action::Allow, http)]);
    Command::WriteIntention { intention: Box::new(intention), mode: WriteMode::Upsert }
}

#[test]
fn a_service_says_how_it_is_read_before_the_mesh_does() {
    let mut log = Log::default();
    let read = |log: &Log| ["api", "shop/api"].map(|name| log.catalog.protocol_of(&service(name)));
    assert_eq!(read(&log), [Protocol::Tcp, Protocol::Tcp]);
    log.done(write(global(Some(Protocol::Http))));
    log.done(write(defaults("api", Some(Protocol::Grpc))));
    assert_eq!(read(&log), [Protocol::Grpc, Protocol::Http]);
    log.done(write(defaults("api", None)));
    assert_eq!(read(&log), [Protocol::Http, Protocol::Http]);
    log.done(delete(ConfigKey::ProxyDefaults));
    assert_eq!(read(&log), [Protocol::Tcp, Protocol::Tcp]);
}

#[test]
fn a_write_counts_only_if_nobody_was_faster_where_it_says_so() {
    let mut log = Log::default();
    let entry = || defaults("api", Some(Protocol::Http));
    assert_eq!(log.refused(write_if(entry(), Some(7))).kind(), RefusalKind::Conflict);
    log.done(write_if(entry(), Some(0)));
    let written = log.catalog.index();
    let refusal = log.refused(write_if(defaults("api", None), Some(0)));
    assert_eq!(
        refusal.to_string(),
        format!("config entry `service-defaults/default/api` was changed at index {written}, not 0: read it again")
    );
    assert!(log.done(write(entry())).is_empty(), "what says the same changes nothing");
    log.done(write_if(defaults("api", None), Some(written.0)));
    let held = log.catalog.config().get(&ConfigKey::ServiceDefaults(service("api"))).unwrap();
    assert_eq!((held.created, held.modified), (written, log.catalog.index()));
    log.done(delete(ConfigKey::ServiceDefaults(service("api"))));
    assert!(log.done(delete(ConfigKey::ServiceDefaults(service("api")))).is_empty());
}

#[test]
fn h11_rules_on_requests_keep_the_protocol_that_they_need() {
    let mut log = Log::default();
    log.done(write(global(Some(Protocol::Http))));
    log.done(write(defaults("shop/api", Some(Protocol::Http2))));
    log.done(rule_on_requests("shop/api"));
    log.done(rule_on_requests("db"));
    let to_tcp = log.refused(write(defaults("shop/api", Some(Protocol::Tcp))));
    assert_eq!(
        to_tcp.to_string(),
        "service-defaults/shop/api: protocol: the rules on requests of default/web => shop/api need an HTTP protocol: \
         change these first"
    );
    let refusal = log.refused(delete(ConfigKey::ProxyDefaults)).to_string();
    assert!(refusal.contains("default/web => default/db") && !refusal.contains("shop/api"), "{refusal}");
    log.done(write(defaults("shop/api", Some(Protocol::Grpc))));
    log.done(delete(ConfigKey::ServiceDefaults(service("shop/api"))));
    log.refused(write(global(Some(Protocol::Tcp))));
    log.done(write(defaults("db", Some(Protocol::Http))));
    log.refused(write(global(None)));
    log.done(write(defaults("shop/api", Some(Protocol::Http))));
    log.done(write(global(None)));
}

#[test]
fn watchers_of_a_service_wake_for_its_entries_and_for_those_of_all() {
    let mut log = Log::default();
    let of = |name: &str| WatchKey::ConfigOf(service(name));
    let touched = log.done(write(defaults("api", Some(Protocol::Http))));
    let numbered = WatchKey::Service(service("api"));
    assert_eq!(touched, BTreeSet::from([WatchKey::Config, of("api"), numbered]));
    let touched = log.done(write(global(Some(Protocol::Http))));
    assert!(touched.contains(&WatchKey::ProxyDefaults) && !touched.contains(&of("api")));
    let items: Vec<String> = log.catalog.view(&Topic::Config(service("api"))).into_keys().collect();
    assert_eq!(items, ["proxy-defaults/global", "service-defaults/default/api"]);
    assert_eq!(log.catalog.view(&Topic::Config(service("db"))).len(), 1);
}

#[test]
fn callers_of_a_service_outside_the_mesh_are_told_its_rules_with_the_word_that_it_is() {
    let mut log = Log::default();
    log.done(write(global(Some(Protocol::Http))));
    log.done(intention("web", "legacy", Action::Allow));
    log.done(intention("*", "*", Action::Deny));
    let topic = Topic::Config(service("legacy"));
    assert_eq!(log.catalog.view(&topic).len(), 1, "rules of the mesh's own are for those who stand beside");
    let touched = log.done(write(outside("legacy")));
    assert!(Catalog::reads(&topic).iter().any(|key| touched.contains(key)), "{touched:?}");
    let items: Vec<String> = log.catalog.view(&topic).into_keys().collect();
    let rules = ["default/* => default/*", "default/web => default/legacy"];
    assert_eq!(items, [rules[0], rules[1], "proxy-defaults/global", "service-defaults/default/legacy"]);
    assert_eq!(log.catalog.protocol_of(&service("legacy")), Protocol::Tcp, "nobody reads what leaves the mesh");
    let touched = log.done(intention("web", "legacy", Action::Deny));
    assert!(Catalog::reads(&topic).iter().any(|key| touched.contains(key)), "{touched:?}");
}

#[test]
fn a_change_that_would_leave_calls_without_a_way_is_refused_and_names_them() {
    let mut log = Log::default();
    log.refused(write(splitter("web", &[(10_000, "api")])));
    for name in ["web", "api"] {
        log.done(write(defaults(name, Some(Protocol::Http))));
    }
    log.done(write(splitter("web", &[(10_000, "api")])));
    log.done(write(resolver("api", Some(("v1", "Service.ID == a")), None)));
    let refusal = log.refused(write(splitter("api", &[(10_000, "web")]))).to_string();
    assert!(
        refusal.starts_with("service-splitter/default/api: calls to `default/api`: `default/api` leads back"),
        "{refusal}"
    );
    let refusal = log.refused(write(defaults("api", None))).to_string();
    assert!(refusal.contains("calls to `default/web`: `default/api` is read as tcp"), "{refusal}");
    log.refused(delete(ConfigKey::ServiceDefaults(service("web"))));
    log.done(delete(ConfigKey::ServiceSplitter(service("web"))));
    log.done(delete(ConfigKey::ServiceDefaults(service("web"))));
}

#[test]
fn watchers_of_whoever_leads_to_a_service_wake_for_its_entries() {
    let mut log = Log::default();
    log.done(write(resolver("www", None, Some("api"))));
    let touched = log.done(write(resolver("api", Some(("v1", "Service.ID == a")), None)));
    assert!(touched.contains(&WatchKey::ConfigOf(service("www"))), "{touched:?}");
    assert_eq!(log.catalog.view(&Topic::Config(service("www"))).len(), 2);
    assert_eq!(log.catalog.view(&Topic::Config(service("api"))).len(), 1);
    let touched = log.done(delete(ConfigKey::ServiceResolver(service("api"))));
    assert!(touched.contains(&WatchKey::ConfigOf(service("www"))), "{touched:?}");
}

#[test]
fn rates_are_of_http_services_and_copies_go_where_they_are_read_alike() {
    let mut log = Log::default();
    let mut of_tcp = held_calls("api");
    if let ConfigContent::ServiceDefaults(defaults) = &mut of_tcp {
        defaults.protocol = None;
    }
    let refusal = log.refused(write(of_tcp)).to_string();
    assert!(refusal.contains("a rate limit needs an HTTP protocol, and `default/api` is read as tcp"), "{refusal}");
    log.done(write(held_calls("api")));
    let refusal = log.refused(write(trial("api", "next"))).to_string();
    assert!(refusal.contains("`default/next` is read as tcp"), "{refusal}");
    log.done(write(defaults("next", Some(Protocol::Http))));
    log.done(write(trial("api", "next")));
    let refusal = log.refused(delete(ConfigKey::ServiceDefaults(service("next")))).to_string();
    assert!(refusal.contains("calls to `default/api`"), "{refusal}");
    let items = log.catalog.view(&Topic::Config(service("api")));
    assert!(items.contains_key("service-defaults/default/next"), "what copies lead to is followed: {:?}", items.keys());
    let routes = log.catalog.config().routes_of(&service("api")).unwrap();
    let targets: Vec<String> = routes.targets().map(|target| target.key.service.to_string()).collect();
    assert_eq!(targets, ["default/next", "default/api"]);
}
