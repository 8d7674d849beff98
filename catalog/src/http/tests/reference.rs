//! The rules once more, in their plainest form, and random requests that both must decide alike.
//!
//! A hundred thousand pairs by default; `WEFT_TEST_SCALE=full` tries ten million.

use std::collections::BTreeMap;

use proptest::{
    prelude::*,
    strategy::ValueTree,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};
use serde_json::{Map, Value, json};

use super::super::{
    CompiledPolicy, DefaultCause, Headers, NormalPath, PermissionOutcome, Request, RequestRule, RequestVerdict,
    TokenState, Tokens,
};
use crate::{
    Action, Caller, CandidateOutcome, Effect, Guardrail, HeaderMatch, HeaderTest, HttpMatch, Intention, JwtProvider,
    JwtRequirement, PathMatch, Permission, Platform, Policy, Timestamp, VerifyClaim,
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
    tokens: BTreeMap<usize, bool>,
    platform: Option<usize>,
    late: bool,
}

#[derive(Debug, Clone)]
enum Rule {
    Act { allow: bool, jwt: Option<Asked>, ends: bool },
    Judge { permissions: Vec<Part>, jwt: Option<Asked> },
}

#[derive(Debug, Clone)]
struct Part {
    allow: bool,
    path: Option<(u8, usize)>,
    methods: Vec<usize>,
    header: Option<(u8, usize, bool, bool)>,
    platforms: Vec<usize>,
    jwt: Option<Asked>,
    is_broken: bool,
}

/// Names a provider, and whether its token must say that its holder is an admin.
type Asked = Vec<(usize, bool)>;

/// Says what the reference answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Answer {
    Guardrail,
    ByAction(bool),
    ByPermission(usize, bool),
    ByDefault(bool),
    Unknown,
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
    let default = Answer::ByDefault(rules.allow_by_default);
    let mut best: Option<(usize, &Rule)> = None;
    for ((from, to), rule) in &rules.intentions {
        let (Some(from), Some(to)) = (source_covers(*from, case.caller), covers(DESTINATIONS[*to], "a/x")) else {
            continue;
        };
        if case.late && matches!(rule, Rule::Act { allow: true, ends: true, .. }) {
            continue;
        }
        let precedence = to * 3 + from;
        if best.is_none_or(|(highest, _)| precedence > highest) {
            best = Some((precedence, rule));
        }
    }
    let (answer, asked) = match best {
        None => return default,
        Some((_, Rule::Act { allow, jwt, .. })) => (Answer::ByAction(*allow), vec![jwt]),
        Some((_, Rule::Judge { permissions, jwt })) => {
            let judged = permissions.iter().enumerate().map(|(at, part)| (at, part, fits(part, case)));
            match judged.into_iter().find(|(.., fits)| *fits != Some(false)) {
                None if permissions.is_empty() => return Answer::Unknown,
                None => return default,
                Some((.., None)) => return Answer::Unknown,
                Some((at, part, _)) => (Answer::ByPermission(at, part.allow), vec![jwt, &part.jwt]),
            }
        }
    };
    let is_deny = matches!(answer, Answer::ByAction(false) | Answer::ByPermission(_, false));
    let asked: Vec<&Asked> = asked.into_iter().flatten().collect();
    if is_deny || asked.is_empty() {
        return answer;
    }
    if rules.allow_by_default {
        return Answer::Unknown;
    }
    let held: Vec<Option<bool>> = asked.into_iter().map(|asked| holds(asked, case)).collect();
    if held.contains(&Some(false)) {
        default
    } else if held.contains(&None) {
        Answer::Unknown
    } else {
        answer
    }
}

/// Whether one of the providers vouches; none where that cannot be told.
fn holds(asked: &Asked, case: &Case) -> Option<bool> {
    let vouches = |(provider, admin): &(usize, bool)| match case.tokens.get(provider) {
        _ if PROVIDERS[*provider] == "lost" => None,
        Some(is_admin) => Some(!admin || *is_admin),
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
    if let Some(rule) = part.header {
        all.push(Some(header_fits(rule, part.allow, case)));
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

fn header_fits((kind, wanted, invert, ignore_case): (u8, usize, bool, bool), allow: bool, case: &Case) -> bool {
    let fold = |text: &str| if ignore_case { text.to_lowercase() } else { text.to_owned() };
    let wanted = fold(VALUES[wanted]);
    let lines: Vec<String> = case.headers.iter().map(|at| fold(VALUES[*at])).collect();
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
    let admin = || VerifyClaim { path: vec!["roles".to_owned()], value: "admin".to_owned() };
    let provider = |(at, is_admin): &(usize, bool)| JwtProvider {
        name: PROVIDERS[*at].to_owned(),
        verify_claims: is_admin.then(admin).into_iter().collect(),
    };
    JwtRequirement { providers: asked.iter().map(provider).collect() }
}

fn permission(part: &Part) -> Permission {
    let path = part.path.map(|(kind, at)| match (kind, PATHS[at % 4].to_owned()) {
        (0, path) => PathMatch::Exact(path),
        (1, path) => PathMatch::Prefix(path),
        (_, path) => PathMatch::Regex(format!("{path}(/.*)?")),
    });
    let header = part.header.map(|(kind, at, invert, ignore_case)| {
        let text = VALUES[at].to_owned();
        let test = match kind {
            0 => HeaderTest::Present,
            1 => HeaderTest::Exact(text),
            2 => HeaderTest::Prefix(text),
            3 => HeaderTest::Suffix(text),
            4 => HeaderTest::Contains(text),
            _ => HeaderTest::Regex(format!(".*{text}.*")),
        };
        HeaderMatch { name: "x-env".to_owned(), test, invert, ignore_case }
    });
    let broken = || HeaderMatch {
        name: "x-env".to_owned(),
        test: HeaderTest::Regex("(".to_owned()),
        invert: false,
        ignore_case: false,
    };
    let methods = part.methods.iter().map(|at| METHODS[*at].to_owned()).collect();
    let headers = header.into_iter().chain(part.is_broken.then(broken)).collect();
    Permission {
        source_platforms: part.platforms.iter().map(|at| PLATFORMS[*at]).collect(),
        jwt: part.jwt.as_ref().map(requirement),
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
                intention.expires_at = ends.then_some(Timestamp(100));
            }
            Rule::Judge { permissions, jwt } => {
                intention.effect = Effect::Permissions(permissions.iter().map(permission).collect());
                intention.jwt = jwt.as_ref().map(requirement);
            }
        }
        intention
    });
    Policy::new(action(rules.allow_by_default), guardrails.collect(), intentions.collect())
}

/// Answers as the engine does.
fn answer(compiled: &CompiledPolicy, case: &Case) -> Answer {
    let caller = match case.caller {
        4 => Caller::Foreign("spiffe://other.test/one".parse().unwrap()),
        at => Caller::Service(NAMES[at].parse().unwrap()),
    };
    let path = NormalPath::of(PATHS[case.path]).unwrap();
    let headers: Vec<(&str, &str)> = case.headers.iter().map(|at| ("x-env", VALUES[*at])).collect();
    let claims = |is_admin: &bool| {
        let Value::Object(claims) = json!({"roles": if *is_admin { vec!["user", "admin"] } else { vec!["user"] }})
        else {
            unreachable!("an object was written")
        };
        claims
    };
    let tokens: BTreeMap<usize, Map<String, Value>> =
        case.tokens.iter().map(|(at, is_admin)| (*at, claims(is_admin))).collect();
    let request = Request {
        method: METHODS[case.method],
        authority: None,
        path: &path,
        query: None,
        headers: &headers[..],
        tokens: &tokens,
        source_platform: case.platform.map(|at| PLATFORMS[at]),
        now: Timestamp(if case.late { 100 } else { 99 }),
    };
    let verdict = compiled.authorize_request(&caller, &request);
    if case.late {
        is_explained(compiled, &caller, &request, verdict);
    }
    let allowed = verdict.decision == Action::Allow;
    match verdict.rule {
        RequestRule::Guardrail { .. } if !allowed => Answer::Guardrail,
        RequestRule::Intention { permission: None, .. } => Answer::ByAction(allowed),
        RequestRule::Intention { permission: Some(at), .. } => Answer::ByPermission(at, allowed),
        RequestRule::Default { .. } => Answer::ByDefault(allowed),
        RequestRule::Undecidable { .. } if !allowed => Answer::Unknown,
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
    let one = (prop_oneof![4 => 0usize..2, 2 => Just(2usize)], any::<bool>());
    proptest::option::weighted(0.3, proptest::collection::vec(one, 1..3))
}

fn any_part() -> impl Strategy<Value = Part> {
    let path = proptest::option::weighted(0.45, (0u8..3, prop_oneof![Just(0usize), 0usize..4]));
    let methods = prop_oneof![2 => Just(Vec::new()), 1 => proptest::collection::vec(0usize..3, 1..3)];
    let header = proptest::option::weighted(0.25, (0u8..6, 0usize..5, any::<bool>(), any::<bool>()));
    let platforms = prop_oneof![4 => Just(Vec::new()), 1 => proptest::collection::vec(0usize..3, 1..3)];
    (proptest::bool::weighted(0.65), path, methods, header, platforms, any_asked(), proptest::bool::weighted(0.03))
        .prop_map(|(allow, path, methods, header, platforms, jwt, is_broken)| Part {
            allow,
            path,
            methods,
            header,
            platforms,
            jwt,
            is_broken,
        })
}

fn any_rule() -> impl Strategy<Value = Rule> {
    let act = (any::<bool>(), any_asked(), any::<bool>()).prop_map(|(allow, jwt, ends)| Rule::Act { allow, jwt, ends });
    let judge = (proptest::collection::vec(any_part(), 1..5), any_asked())
        .prop_map(|(permissions, jwt)| Rule::Judge { permissions, jwt });
    let empty = Just(Rule::Judge { permissions: Vec::new(), jwt: None });
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
    let request = (0usize..5, path, 0usize..3, proptest::collection::vec(0usize..6, 0..3));
    let tokens = proptest::collection::btree_map(0usize..2, proptest::bool::weighted(0.8), 0..3);
    (request, tokens, proptest::option::weighted(0.8, 0usize..3), proptest::bool::weighted(0.2)).prop_map(
        |((caller, path, method, headers), tokens, platform, late)| Case {
            caller,
            path,
            method,
            headers,
            tokens,
            platform,
            late,
        },
    )
}

/// How many requests are tried under each set of rules: to make the rules is what takes the time.
const REQUESTS: u32 = 50;

#[test]
fn h11_requests_are_decided_as_a_naive_reference_does_and_every_kind_of_outcome_occurs() {
    let pairs: u32 =
        if std::env::var("WEFT_TEST_SCALE").is_ok_and(|scale| scale == "full") { 10_000_000 } else { 100_000 };
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let requests = proptest::collection::vec(any_case(), REQUESTS as usize);
    let mut outcomes: BTreeMap<&str, u32> = BTreeMap::new();
    for _ in 0..pairs / REQUESTS {
        let rules = any_rules().new_tree(&mut runner).unwrap().current();
        let compiled = CompiledPolicy::new(policy(&rules), "a/x".parse().unwrap());
        for case in requests.new_tree(&mut runner).unwrap().current() {
            let want = reference(&rules, &case);
            assert_eq!(answer(&compiled, &case), want, "{rules:#?} {case:#?}");
            let kind = match want {
                Answer::Guardrail => "guardrail",
                Answer::ByAction(_) => "action",
                Answer::ByPermission(_, true) => "permission allows",
                Answer::ByPermission(_, false) => "permission denies",
                Answer::ByDefault(_) => "default",
                Answer::Unknown => "undecidable",
            };
            *outcomes.entry(kind).or_default() += 1;
        }
    }
    assert!(outcomes.len() == 6 && outcomes.values().all(|count| *count >= pairs / 10), "{outcomes:?}");
}
