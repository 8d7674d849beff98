//! The rules once more, in their plainest form, and random requests that both must decide alike.
//!
//! A hundred thousand pairs by default; `WEFT_TEST_SCALE=full` tries ten million, and `WEFT_TEST_SEED` others.

use std::collections::BTreeMap;

use proptest::{
    prelude::*,
    strategy::ValueTree,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};
use serde_json::{Map, Value, json};

use super::super::{
    CompiledPolicy, DefaultCause, Headers, NormalAuthority, NormalPath, PermissionOutcome, Request, RequestRule,
    RequestVerdict, TokenState, Tokens,
};
use crate::{
    Action, Caller, CandidateOutcome, Effect, Guardrail, HeaderMatch, HeaderTest, HttpMatch, Intention, IntentionKey,
    JwtProvider, JwtRequirement, PathMatch, Permission, Platform, Policy, TimeWindow, Timestamp, VerifyClaim, Weekday,
};

const NAMES: [&str; 4] = ["a/x", "a/y", "b/x", "b/y"];
const SOURCES: [&str; 8] =
    ["a/x", "a/y", "b/x", "a/*", "b/*", "*/*", "spiffe://other.test/one", "spiffe://other.test/two"];
const DESTINATIONS: [&str; 4] = ["a/x", "a/*", "*/*", "b/x"];
const PATHS: [&str; 6] = ["/", "/v1", "/v1/users", "/v2/admin", "/v1;q", "/caf%C3%A9"];
const METHODS: [&str; 3] = ["GET", "POST", "DELETE"];
/// What rules are about, and behind it what only requests have.
const VALUES: [&str; 6] = ["prod", "dev", "prod, dev", "Prod", "pro", "\"x, prod\""];
const PROVIDERS: [&str; 3] = ["okta", "google", "lost"];
const PLATFORMS: [Platform; 3] = [Platform::Vm, Platform::Ecs, Platform::Kubernetes];
/// How requests name their host, and behind it what that is to rules.
const HOSTS: [(&str, &str); 4] = [
    ("api.example", "api.example"),
    ("API.Example.:8080", "api.example"),
    ("example", "example"),
    ("[2001:DB8::1]:80", "[2001:db8::1]"),
];
/// What rules say of hosts; letters have one case there.
const WANTED_HOSTS: [&str; 4] = ["api.example", "API.", ".Example", "example"];
/// When requests are decided: the last moment before ten on Saturday, 21 November 2026, ten, and the night that follows.
const CLOCKS: [Timestamp; 3] =
    [Timestamp(1_795_255_199_999), Timestamp(1_795_255_200_000), Timestamp(1_795_307_400_000)];
/// When intentions end that do.
const END: Timestamp = CLOCKS[1];
/// Times of the week (UTC), and whether each of the clocks is within them.
const WINDOWS: [(&[Weekday], &str, &str, [bool; 3]); 6] = [
    (&[], "09:00", "10:00", [true, false, false]),
    (&[], "10:00", "09:59", [false, true, true]),
    (&[Weekday::Friday], "22:00", "10:00", [true, false, false]),
    (&[Weekday::Saturday], "22:00", "06:00", [false, false, true]),
    (&[Weekday::Saturday], "00:00", "00:00", [true, true, false]),
    (&[Weekday::Monday, Weekday::Sunday], "00:00", "23:59", [false, false, true]),
];
/// Where a token says that its holder is an admin, if a rule asks for it.
const CLAIMS: [&[&str]; 2] = [&["roles"], &["realm", "access", "roles"]];

/// Is a set of rules. The destination is always `a/x`.
#[derive(Debug, Clone)]
struct Rules {
    allow_by_default: bool,
    guardrails: Vec<(usize, usize)>,
    intentions: Vec<((usize, usize), Rule)>,
}

/// Is a request under them.
#[derive(Debug, Clone)]
struct Case {
    caller: usize,
    path: usize,
    method: usize,
    headers: Vec<usize>,
    host: Option<usize>,
    /// By provider: in which of the claims an admin is named.
    tokens: BTreeMap<usize, [bool; 2]>,
    platform: Option<usize>,
    clock: usize,
}

#[derive(Debug, Clone)]
enum Rule {
    Act { allow: bool, jwt: Option<Asked>, ends: bool },
    Judge { permissions: Vec<Part>, jwt: Option<Asked>, ends: bool },
}

#[derive(Debug, Clone)]
struct Part {
    allow: bool,
    path: Option<(u8, usize)>,
    methods: Vec<usize>,
    header: Option<(u8, usize, bool, bool)>,
    host: Option<(u8, usize, bool, bool)>,
    platforms: Vec<usize>,
    times: Option<usize>,
    jwt: Option<Asked>,
    is_broken: bool,
}

/// Names a provider, and by which claim its token must say that its holder is an admin, if it must.
type Asked = Vec<(usize, Option<usize>)>;

/// Says what the reference answers, and by which intention of the rules it does: a rule that wins wrongly is wrong even where
/// it says what the right one would.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Answer {
    Guardrail,
    ByAction { intention: usize, allow: bool },
    ByPermission { intention: usize, permission: usize, allow: bool },
    ByDefault { intention: Option<usize>, allow: bool },
    Unknown { intention: usize, permission: Option<usize> },
}

fn covers(pattern: &str, name: &str) -> Option<usize> {
    let (namespace, service) = name.split_once('/').unwrap();
    match pattern.split_once('/').unwrap() {
        ("*", "*") => Some(0),
        (n, "*") => (n == namespace).then_some(1),
        (n, s) => (n == namespace && s == service).then_some(2),
    }
}

fn source_covers(source: usize, caller: usize) -> Option<usize> {
    match (SOURCES[source], caller) {
        (pattern, 0..4) if !pattern.starts_with("spiffe") => covers(pattern, NAMES[caller]),
        (pattern, 4) => (pattern == "spiffe://other.test/one").then_some(2),
        _ => None,
    }
}

/// Answers as the rules are told: guardrails, the most specific intention, its first permission, tokens, the default.
fn reference(rules: &Rules, case: &Case) -> Answer {
    let bars = |(from, to): &(usize, usize)| {
        source_covers(*from, case.caller).is_some() && covers(DESTINATIONS[*to], "a/x").is_some()
    };
    if rules.guardrails.iter().any(bars) {
        return Answer::Guardrail;
    }
    let allow_by_default = rules.allow_by_default;
    let mut best: Option<(usize, usize)> = None;
    for (at, ((from, to), rule)) in rules.intentions.iter().enumerate() {
        let (Some(from), Some(to)) = (source_covers(*from, case.caller), covers(DESTINATIONS[*to], "a/x")) else {
            continue;
        };
        // What allows ends by itself, and what it has permissions for ends with it; a deny does not.
        let ends = matches!(rule, Rule::Act { allow: true, ends: true, .. } | Rule::Judge { ends: true, .. });
        if ends && CLOCKS[case.clock] >= END {
            continue;
        }
        let precedence = to * 3 + from;
        if best.is_none_or(|(highest, _)| precedence > highest) {
            best = Some((precedence, at));
        }
    }
    let Some((_, intention)) = best else { return Answer::ByDefault { intention: None, allow: allow_by_default } };
    let default = Answer::ByDefault { intention: Some(intention), allow: allow_by_default };
    let (place, allow, asked) = match &rules.intentions[intention].1 {
        Rule::Act { allow, jwt, .. } => (None, *allow, vec![jwt]),
        Rule::Judge { permissions, jwt, .. } => {
            let judged = permissions.iter().enumerate().map(|(at, part)| (at, part, fits(part, case)));
            match judged.into_iter().find(|(.., fits)| *fits != Some(false)) {
                None if permissions.is_empty() => return Answer::Unknown { intention, permission: None },
                None => return default,
                Some((at, _, None)) => return Answer::Unknown { intention, permission: Some(at) },
                Some((at, part, _)) => (Some(at), part.allow, vec![jwt, &part.jwt]),
            }
        }
    };
    let answer = match place {
        None => Answer::ByAction { intention, allow },
        Some(permission) => Answer::ByPermission { intention, permission, allow },
    };
    let asked: Vec<&Asked> = asked.into_iter().flatten().collect();
    if !allow || asked.is_empty() {
        return answer;
    }
    let unknown = Answer::Unknown { intention, permission: place };
    if allow_by_default {
        return unknown;
    }
    let held: Vec<Option<bool>> = asked.into_iter().map(|asked| holds(asked, case)).collect();
    if held.contains(&Some(false)) {
        default
    } else if held.contains(&None) {
        unknown
    } else {
        answer
    }
}

/// Whether one of the providers vouches; none where that cannot be told.
fn holds(asked: &Asked, case: &Case) -> Option<bool> {
    let vouches = |(provider, admin): &(usize, Option<usize>)| match case.tokens.get(provider) {
        _ if PROVIDERS[*provider] == "lost" => None,
        Some(names_admin) => Some(admin.is_none_or(|claim| names_admin[claim])),
        None => Some(false),
    };
    let all: Vec<Option<bool>> = asked.iter().map(vouches).collect();
    if all.contains(&Some(true)) {
        Some(true)
    } else if all.contains(&None) || all.is_empty() {
        None
    } else {
        Some(false)
    }
}

/// Whether the request is what the permission speaks of; none where that cannot be told.
fn fits(part: &Part, case: &Case) -> Option<bool> {
    let path = ["/", "/v1", "/v1/users", "/v2/admin", "/v1;q", "/café"][case.path];
    let mut all = vec![Some(part.methods.is_empty() || part.methods.contains(&case.method))];
    if let Some((kind, wanted)) = part.path {
        let wanted = PATHS[wanted % 4];
        all.push(if path.contains(';') {
            None
        } else {
            Some(match kind {
                0 => path == wanted,
                1 => path.starts_with(wanted),
                // The expression is the path, and anything behind it after a slash.
                _ => path == wanted || path.starts_with(&format!("{wanted}/")),
            })
        });
    }
    if let Some((kind, wanted, invert, ignore_case)) = part.header {
        let lines: Vec<&str> = case.headers.iter().map(|at| VALUES[*at]).collect();
        all.push(Some(header_fits((kind, VALUES[wanted], invert, ignore_case), part.allow, &lines)));
    }
    if let Some((kind, wanted, invert, _)) = part.host {
        let host: Vec<&str> = case.host.iter().map(|at| HOSTS[*at].1).collect();
        all.push(Some(header_fits((kind, WANTED_HOSTS[wanted], invert, true), part.allow, &host)));
    }
    if let Some(window) = part.times {
        all.push(Some(WINDOWS[window].3[case.clock]));
    }
    if !part.platforms.is_empty() {
        all.push(case.platform.map(|platform| part.platforms.contains(&platform)));
    }
    if part.is_broken {
        all.push(None);
    }
    if all.contains(&Some(false)) {
        Some(false)
    } else if all.contains(&None) {
        None
    } else {
        Some(true)
    }
}

fn header_fits((kind, wanted, invert, ignore_case): (u8, &str, bool, bool), allow: bool, lines: &[&str]) -> bool {
    let fold = |text: &str| if ignore_case { text.to_lowercase() } else { text.to_owned() };
    let wanted = fold(wanted);
    let lines: Vec<String> = lines.iter().map(|line| fold(line)).collect();
    if kind == 0 {
        return lines.is_empty() == invert;
    }
    let test = |value: &str| match kind {
        1 => value == wanted,
        2 => value.starts_with(&wanted),
        3 => value.ends_with(&wanted),
        _ => value.contains(&wanted),
    };
    // Quotes hold a list together for some, and for others they do not.
    let quoted = lines.iter().map(String::as_str).filter(|line| line.contains('"'));
    let parts: Vec<&str> = lines.iter().flat_map(|line| line.split(", ")).chain(quoted).collect();
    let whole: Vec<&str> = lines.iter().map(String::as_str).collect();
    let joined = [whole.join(", "), whole.join(",")];
    let joined = joined.iter().filter(|_| !whole.is_empty()).map(String::as_str);
    let unquoted = parts.iter().map(|part| {
        let part = part.strip_prefix('"').unwrap_or(part);
        part.strip_suffix('"').unwrap_or(part)
    });
    let any = parts.iter().chain(&whole).copied().chain(unquoted).chain(joined).any(test);
    let chosen = if wanted.contains(',') { &whole } else { &parts };
    let every = !chosen.is_empty() && chosen.iter().all(|value| test(value));
    match (allow, invert) {
        (true, false) => every,
        (true, true) => !any,
        (false, false) => any,
        (false, true) => !every,
    }
}

impl Tokens for BTreeMap<usize, Map<String, Value>> {
    fn of(&self, provider: &str) -> TokenState<'_> {
        let at = PROVIDERS.iter().position(|name| *name == provider).unwrap();
        match self.get(&at) {
            _ if provider == "lost" => TokenState::Unknown,
            Some(claims) => TokenState::Valid(claims),
            None => TokenState::Missing,
        }
    }
}

fn requirement(asked: &Asked) -> JwtRequirement {
    let admin = |claim: usize| VerifyClaim {
        path: CLAIMS[claim].iter().map(|step| (*step).to_owned()).collect(),
        value: "admin".to_owned(),
    };
    let provider = |(at, claim): &(usize, Option<usize>)| JwtProvider {
        name: PROVIDERS[*at].to_owned(),
        verify_claims: claim.map(admin).into_iter().collect(),
    };
    JwtRequirement { providers: asked.iter().map(provider).collect() }
}

fn permission(part: &Part) -> Permission {
    let path = part.path.map(|(kind, at)| match (kind, PATHS[at % 4].to_owned()) {
        (0, path) => PathMatch::Exact(path),
        (1, path) => PathMatch::Prefix(path),
        (_, path) => PathMatch::Regex(format!("{path}(/.*)?")),
    });
    let condition = |name: &str, (kind, text, invert, ignore_case): (u8, &str, bool, bool)| {
        let text = text.to_owned();
        let test = match kind {
            0 => HeaderTest::Present,
            1 => HeaderTest::Exact(text),
            2 => HeaderTest::Prefix(text),
            3 => HeaderTest::Suffix(text),
            4 => HeaderTest::Contains(text),
            _ => HeaderTest::Regex(format!(".*{text}.*")),
        };
        HeaderMatch { name: name.to_owned(), test, invert, ignore_case }
    };
    let of_env =
        |(kind, at, invert, fold): (u8, usize, bool, bool)| condition("x-env", (kind, VALUES[at], invert, fold));
    // The host has two names, and its case is folded whatever the rule says.
    let of_host = |(kind, at, invert, fold): (u8, usize, bool, bool)| {
        condition(if fold { ":authority" } else { "host" }, (kind, WANTED_HOSTS[at], invert, fold))
    };
    let headers = part.header.map(of_env).into_iter().chain(part.host.map(of_host));
    let broken = || HeaderMatch {
        name: "x-env".to_owned(),
        test: HeaderTest::Regex("(".to_owned()),
        invert: false,
        ignore_case: false,
    };
    let methods = part.methods.iter().map(|at| METHODS[*at].to_owned()).collect();
    let headers = headers.chain(part.is_broken.then(broken)).collect();
    let window = |at: usize| {
        let (days, from, until, _) = WINDOWS[at];
        TimeWindow { days: days.to_vec(), from: from.parse().unwrap(), until: until.parse().unwrap() }
    };
    Permission {
        source_platforms: part.platforms.iter().map(|at| PLATFORMS[*at]).collect(),
        jwt: part.jwt.as_ref().map(requirement),
        times: part.times.map(window),
        ..Permission::new(if part.allow { Action::Allow } else { Action::Deny }, HttpMatch { path, methods, headers })
    }
}

fn policy(rules: &Rules) -> Policy {
    let action = |allow| if allow { Action::Allow } else { Action::Deny };
    let guardrails = rules.guardrails.iter().map(|(from, to)| Guardrail {
        name: "g".to_owned(),
        source: SOURCES[*from].parse().unwrap(),
        destination: DESTINATIONS[*to].parse().unwrap(),
    });
    let intentions = rules.intentions.iter().map(|((from, to), rule)| {
        let mut intention =
            Intention::new(SOURCES[*from].parse().unwrap(), DESTINATIONS[*to].parse().unwrap(), Action::Deny);
        match rule {
            Rule::Act { allow, jwt, ends } => {
                intention.effect = Effect::Action(action(*allow));
                intention.jwt = jwt.as_ref().map(requirement);
                intention.expires_at = ends.then_some(END);
            }
            Rule::Judge { permissions, jwt, ends } => {
                intention.effect = Effect::Permissions(permissions.iter().map(permission).collect());
                intention.jwt = jwt.as_ref().map(requirement);
                intention.expires_at = ends.then_some(END);
            }
        }
        intention
    });
    Policy::new(action(rules.allow_by_default), guardrails.collect(), intentions.collect())
}

/// Names the intentions in the order that they have in the rules, which is not that of a policy.
fn keys(rules: &Rules) -> Vec<IntentionKey> {
    let key = |(from, to): (usize, usize)| IntentionKey {
        destination: DESTINATIONS[to].parse().unwrap(),
        source: SOURCES[from].parse().unwrap(),
    };
    rules.intentions.iter().map(|(of, _)| key(*of)).collect()
}

/// Answers as the engine does.
fn answer(compiled: &CompiledPolicy, keys: &[IntentionKey], case: &Case) -> Answer {
    let caller = match case.caller {
        4 => Caller::Foreign("spiffe://other.test/one".parse().unwrap()),
        at => Caller::Service(NAMES[at].parse().unwrap()),
    };
    let path = NormalPath::of(PATHS[case.path]).unwrap();
    let headers: Vec<(&str, &str)> = case.headers.iter().map(|at| ("x-env", VALUES[*at])).collect();
    let roles = |is_admin: bool| if is_admin { json!(["user", "admin"]) } else { json!("user") };
    let claims = |[flat, nested]: &[bool; 2]| {
        let said = json!({"roles": roles(*flat), "realm": {"access": {"roles": roles(*nested)}, "roles": "admin"}});
        let Value::Object(claims) = said else { unreachable!("an object was written") };
        claims
    };
    let tokens: BTreeMap<usize, Map<String, Value>> =
        case.tokens.iter().map(|(at, names_admin)| (*at, claims(names_admin))).collect();
    let authority = case.host.map(|at| NormalAuthority::of(HOSTS[at].0).unwrap());
    let request = Request {
        method: METHODS[case.method],
        authority: authority.as_ref(),
        path: &path,
        query: None,
        headers: &headers[..],
        tokens: &tokens,
        source_platform: case.platform.map(|at| PLATFORMS[at]),
        now: CLOCKS[case.clock],
    };
    let verdict = compiled.authorize_request(&caller, &request);
    if case.clock > 0 {
        is_explained(compiled, &caller, &request, verdict);
    }
    let allow = verdict.decision == Action::Allow;
    let place = |key: &IntentionKey| keys.iter().position(|known| known == key).expect("an intention of these rules");
    match verdict.rule {
        RequestRule::Guardrail { .. } if !allow => Answer::Guardrail,
        RequestRule::Intention { key, permission: None } => Answer::ByAction { intention: place(key), allow },
        RequestRule::Intention { key, permission: Some(permission) } => {
            Answer::ByPermission { intention: place(key), permission, allow }
        }
        RequestRule::Default { cause: DefaultCause::NoIntention, .. } => Answer::ByDefault { intention: None, allow },
        RequestRule::Default {
            cause: DefaultCause::NoPermission { key } | DefaultCause::Token { key, .. }, ..
        } => Answer::ByDefault { intention: Some(place(key)), allow },
        RequestRule::Undecidable { key, permission, .. } if !allow => {
            Answer::Unknown { intention: place(key), permission }
        }
        other => panic!("{other}"),
    }
}

/// Checks that an explanation says what was decided, and that at most one intention did.
fn is_explained<H: Headers + ?Sized, T: Tokens>(
    compiled: &CompiledPolicy,
    caller: &Caller,
    request: &Request<'_, H, T>,
    verdict: RequestVerdict<'_>,
) {
    let explanation = compiled.explain_request(caller, request);
    assert_eq!(explanation.verdict, verdict);
    let decided: Vec<_> =
        explanation.intentions.iter().filter(|one| one.outcome == CandidateOutcome::Decided).collect();
    match (decided.as_slice(), verdict.rule) {
        ([], RequestRule::Guardrail { .. } | RequestRule::Default { cause: DefaultCause::NoIntention, .. }) => {}
        ([one], rule) => {
            assert_eq!(one.says, Some((verdict.decision, rule)));
            let chosen = |outcome: &&PermissionOutcome<'_>| {
                !matches!(outcome, PermissionOutcome::Missed(_) | PermissionOutcome::NotReached)
            };
            assert!(one.permissions.iter().filter(chosen).count() <= 1, "{:?}", one.permissions);
        }
        other => panic!("{other:?}"),
    }
}

fn any_asked() -> impl Strategy<Value = Option<Asked>> {
    let one = (prop_oneof![4 => 0usize..2, 2 => Just(2usize)], proptest::option::weighted(0.5, 0..CLAIMS.len()));
    proptest::option::weighted(0.3, proptest::collection::vec(one, 1..3))
}

fn any_part() -> impl Strategy<Value = Part> {
    let path = proptest::option::weighted(0.45, (0u8..3, prop_oneof![Just(0usize), 0usize..4]));
    let methods = prop_oneof![2 => Just(Vec::new()), 1 => proptest::collection::vec(0usize..3, 1..3)];
    let header = proptest::option::weighted(0.25, (0u8..6, 0usize..5, any::<bool>(), any::<bool>()));
    let host = proptest::option::weighted(0.1, (0u8..6, 0..WANTED_HOSTS.len(), any::<bool>(), any::<bool>()));
    let platforms = prop_oneof![4 => Just(Vec::new()), 1 => proptest::collection::vec(0usize..3, 1..3)];
    let times = proptest::option::weighted(0.1, 0..WINDOWS.len());
    let conditions = (path, methods, header, host, platforms, times);
    (proptest::bool::weighted(0.65), conditions, any_asked(), proptest::bool::weighted(0.03)).prop_map(
        |(allow, (path, methods, header, host, platforms, times), jwt, is_broken)| Part {
            allow,
            path,
            methods,
            header,
            host,
            platforms,
            times,
            jwt,
            is_broken,
        },
    )
}

fn any_rule() -> impl Strategy<Value = Rule> {
    let act = (any::<bool>(), any_asked(), any::<bool>()).prop_map(|(allow, jwt, ends)| Rule::Act { allow, jwt, ends });
    let judge = (proptest::collection::vec(any_part(), 1..5), any_asked(), proptest::bool::weighted(0.3))
        .prop_map(|(permissions, jwt, ends)| Rule::Judge { permissions, jwt, ends });
    let empty = Just(Rule::Judge { permissions: Vec::new(), jwt: None, ends: false });
    prop_oneof![10 => act, 30 => judge, 1 => empty]
}

fn any_rules() -> impl Strategy<Value = Rules> {
    let destination = || prop_oneof![8 => Just(0usize), 3 => 1usize..4];
    let guardrails = prop_oneof![2 => proptest::collection::vec((0usize..8, 0usize..4), 1..3), 3 => Just(Vec::new())];
    let intentions = proptest::collection::btree_map((0usize..8, destination()), any_rule(), 3..12);
    (proptest::bool::weighted(0.3), guardrails, intentions).prop_map(|(allow_by_default, guardrails, intentions)| {
        Rules { allow_by_default, guardrails, intentions: intentions.into_iter().collect() }
    })
}

fn any_case() -> impl Strategy<Value = Case> {
    let path = prop_oneof![12 => 0usize..4, 1 => 4usize..6];
    let host = proptest::option::weighted(0.8, 0..HOSTS.len());
    let request = (0usize..5, path, 0usize..3, proptest::collection::vec(0usize..6, 0..3), host);
    let names_admin = [proptest::bool::weighted(0.8), proptest::bool::weighted(0.8)];
    let tokens = proptest::collection::btree_map(0usize..2, names_admin, 0..3);
    let clock = prop_oneof![7 => Just(0usize), 1 => Just(1usize), 1 => Just(2usize)];
    (request, tokens, proptest::option::weighted(0.8, 0usize..3), clock).prop_map(
        |((caller, path, method, headers, host), tokens, platform, clock)| Case {
            caller,
            path,
            method,
            headers,
            host,
            tokens,
            platform,
            clock,
        },
    )
}

/// How many requests are tried under each set of rules: to make the rules is what takes the time.
const REQUESTS: u32 = 80;

/// Returns what the pairs are drawn by: the same ones each time, unless `WEFT_TEST_SEED` says otherwise.
fn seed() -> [u8; 32] {
    let number =
        std::env::var("WEFT_TEST_SEED").ok().map(|text| text.parse::<u64>().expect("WEFT_TEST_SEED is a number"));
    let mut seed = [7; 32];
    if let Some(number) = number {
        seed[..8].copy_from_slice(&number.to_le_bytes());
    }
    seed
}

#[test]
fn h11_requests_are_decided_as_a_naive_reference_does_and_every_kind_of_outcome_occurs() {
    let pairs: u32 =
        if std::env::var("WEFT_TEST_SCALE").is_ok_and(|scale| scale == "full") { 10_000_000 } else { 100_000 };
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seed());
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let requests = proptest::collection::vec(any_case(), REQUESTS as usize);
    let mut outcomes: BTreeMap<&str, u32> = BTreeMap::new();
    let mut by_times = 0;
    for _ in 0..pairs / REQUESTS {
        let rules = any_rules().new_tree(&mut runner).unwrap().current();
        let keys = keys(&rules);
        let compiled = CompiledPolicy::new(policy(&rules), "a/x".parse().unwrap());
        for (at, case) in requests.new_tree(&mut runner).unwrap().current().into_iter().enumerate() {
            let want = reference(&rules, &case);
            assert_eq!(answer(&compiled, &keys, &case), want, "{rules:#?} {case:#?}");
            // Of each set's first request: whether it is decided otherwise at another time.
            if at == 0 {
                let (earlier, later) = (Case { clock: 0, ..case.clone() }, Case { clock: 1, ..case });
                by_times += u32::from(reference(&rules, &earlier) != reference(&rules, &later));
            }
            let kind = match want {
                Answer::Guardrail => "guardrail",
                Answer::ByAction { .. } => "action",
                Answer::ByPermission { allow: true, .. } => "permission allows",
                Answer::ByPermission { allow: false, .. } => "permission denies",
                Answer::ByDefault { .. } => "default",
                Answer::Unknown { .. } => "undecidable",
            };
            *outcomes.entry(kind).or_default() += 1;
        }
    }
    assert!(outcomes.len() == 6 && outcomes.values().all(|count| *count >= pairs / 10), "{outcomes:?}");
    assert!(by_times >= pairs / REQUESTS / 10, "times matter: {by_times}");
}
