//! Decisions about requests, row by row, as a reader of the rules would make them.

use serde_json::{Map, Value, json};

use super::super::{CompiledPolicy, NormalAuthority, NormalPath, Request, TokenState, Tokens};
use crate::{
    Action, AuditMode, Caller, Effect, Guardrail, HeaderMatch, HeaderTest, HttpMatch, Intention, JwtProvider,
    JwtRequirement, PathMatch, Permission, Platform, Policy, TimeWindow, Timestamp, VerifyClaim,
};

/// Is a world of rules, in which one request after the other is decided.
struct Rules {
    policy: Policy,
}

/// Is a request, by default `GET /` of `web`.
struct Asked {
    caller: Caller,
    method: &'static str,
    host: Option<&'static str>,
    path: &'static str,
    headers: Vec<(&'static str, &'static str)>,
    tokens: Vec<(&'static str, Map<String, Value>)>,
    platform: Option<Platform>,
    now: Timestamp,
}

impl Tokens for Vec<(&'static str, Map<String, Value>)> {
    /// `lost` is a provider whose keys nobody has.
    fn of(&self, provider: &str) -> TokenState<'_> {
        match self.iter().find(|(name, _)| *name == provider) {
            Some((_, claims)) => TokenState::Valid(claims),
            None if provider == "lost" => TokenState::Unknown,
            None => TokenState::Missing,
        }
    }
}

fn get(path: &'static str) -> Asked {
    Asked {
        caller: Caller::Service("web".parse().unwrap()),
        method: "GET",
        host: None,
        path,
        headers: Vec::new(),
        tokens: Vec::new(),
        platform: None,
        now: Timestamp(0),
    }
}

impl Asked {
    fn by(self, caller: &str) -> Self {
        Self { caller: Caller::Service(caller.parse().unwrap()), ..self }
    }

    fn method(self, method: &'static str) -> Self {
        Self { method, ..self }
    }

    fn header(mut self, name: &'static str, value: &'static str) -> Self {
        self.headers.push((name, value));
        self
    }

    fn token(mut self, provider: &'static str, claims: Value) -> Self {
        let Value::Object(claims) = claims else { panic!("claims are an object") };
        self.tokens.push((provider, claims));
        self
    }
}

impl Rules {
    /// Reads `allow web api`; default deny.
    fn new(rules: &[&str]) -> Self {
        let intentions = rules.iter().map(|rule| {
            let words: Vec<&str> = rule.split(' ').collect();
            Intention::new(words[1].parse().unwrap(), words[2].parse().unwrap(), words[0].parse().unwrap())
        });
        Self { policy: Policy::new(Action::Deny, Vec::new(), intentions.collect()) }
    }

    fn allow_by_default(mut self) -> Self {
        self.policy.default_action = Action::Allow;
        self
    }

    /// Adds an intention of permissions from `source` to `api`.
    fn with(mut self, source: &str, permissions: Vec<Permission>) -> Self {
        let mut intention = Intention::new(source.parse().unwrap(), "api".parse().unwrap(), Action::Deny);
        intention.effect = Effect::Permissions(permissions);
        self.policy.intentions.push(intention);
        self.policy.intentions.sort_by(Intention::order);
        self
    }

    /// Changes the intention of the highest precedence.
    fn first(mut self, change: impl FnOnce(&mut Intention)) -> Self {
        change(&mut self.policy.intentions[0]);
        self
    }

    #[track_caller]
    fn check(&self, asked: &Asked, decision: Action, rule: &str) {
        let compiled = CompiledPolicy::new(self.policy.clone(), "api".parse().unwrap());
        let authority = asked.host.map(|host| NormalAuthority::of(host).unwrap());
        let path = NormalPath::of(asked.path).unwrap();
        let request = Request {
            method: asked.method,
            authority: authority.as_ref(),
            path: &path,
            query: None,
            headers: &asked.headers[..],
            tokens: &asked.tokens,
            source_platform: asked.platform,
            now: asked.now,
        };
        let verdict = compiled.authorize_request(&asked.caller, &request);
        let found = verdict.rule.to_string();
        assert_eq!(verdict.decision, decision, "{} {} {:?}: {found}", asked.method, asked.path, asked.headers);
        assert!(found.contains(rule), "{found}");
    }

    #[track_caller]
    fn allows(&self, asked: Asked, rule: &str) {
        self.check(&asked, Action::Allow, rule);
    }

    #[track_caller]
    fn denies(&self, asked: Asked, rule: &str) {
        self.check(&asked, Action::Deny, rule);
    }
}

fn on(action: Action, http: HttpMatch) -> Permission {
    Permission::new(action, http)
}

fn path(action: Action, path: PathMatch) -> Permission {
    on(action, HttpMatch { path: Some(path), ..HttpMatch::default() })
}

fn prefix(action: Action, text: &str) -> Permission {
    path(action, PathMatch::Prefix(text.to_owned()))
}

fn methods(action: Action, methods: &[&str]) -> Permission {
    on(
        action,
        HttpMatch { methods: methods.iter().map(|method| (*method).to_owned()).collect(), ..HttpMatch::default() },
    )
}

/// Reads `name exact value`, `!name prefix value` (inverted), `~name present` (regardless of case).
fn header(action: Action, rule: &str) -> Permission {
    let mut words = rule.splitn(3, ' ');
    let (name, test, text) =
        (words.next().unwrap(), words.next().unwrap(), words.next().unwrap_or_default().to_owned());
    let test = match test {
        "present" => HeaderTest::Present,
        "exact" => HeaderTest::Exact(text),
        "prefix" => HeaderTest::Prefix(text),
        "suffix" => HeaderTest::Suffix(text),
        "contains" => HeaderTest::Contains(text),
        "regex" => HeaderTest::Regex(text),
        other => panic!("{other}"),
    };
    let bare = name.trim_start_matches(['!', '~']).to_owned();
    let header = HeaderMatch { name: bare, test, invert: name.contains('!'), ignore_case: name.contains('~') };
    on(action, HttpMatch { headers: vec![header], ..HttpMatch::default() })
}

/// Is a claim's path, and what it must be.
type Claim<'a> = (&'a [&'a str], &'a str);

fn jwt(providers: &[(&str, &[Claim<'_>])]) -> JwtRequirement {
    let claim = |(path, value): &Claim<'_>| VerifyClaim {
        path: path.iter().map(|step| (*step).to_owned()).collect(),
        value: (*value).to_owned(),
    };
    let providers = providers.iter().map(|(name, claims)| JwtProvider {
        name: (*name).to_owned(),
        verify_claims: claims.iter().map(claim).collect(),
    });
    JwtRequirement { providers: providers.collect() }
}

use Action::{Allow, Deny};

#[test]
fn h11_an_intention_with_permissions_captures_its_source() {
    let rules = Rules::new(&["allow * api"]).with("web", vec![prefix(Allow, "/v1"), prefix(Deny, "/v2")]);
    rules.allows(get("/v1/users"), "default/web => default/api, precedence 9, permissions[0]");
    rules.denies(get("/v2"), "permissions[1]");
    rules.denies(get("/v3"), "no permission of intention default/web => default/api matches; the default is deny");
    rules.allows(get("/v3").by("db"), "intention default/* => default/api, precedence 8");
    rules.denies(get("/v1").by("shop/web"), "no intention matches; the default is deny");
    let rules = rules.allow_by_default();
    rules.allows(get("/v3"), "the default is allow");
    rules.denies(get("/v2"), "permissions[1]");
}

#[test]
fn the_first_permission_that_matches_decides() {
    let rules = Rules::new(&[]).with("web", vec![prefix(Deny, "/v2/admin"), prefix(Allow, "/v2")]);
    rules.denies(get("/v2/admin/x"), "permissions[0]");
    rules.allows(get("/v2/users"), "permissions[1]");
    let turned = Rules::new(&[]).with("web", vec![prefix(Allow, "/v2"), prefix(Deny, "/v2/admin")]);
    turned.allows(get("/v2/admin/x"), "permissions[0]");
}

#[test]
fn h11_a_guardrail_outranks_every_permission() {
    let mut rules = Rules::new(&[]).with("web", vec![prefix(Allow, "/")]);
    rules.policy.guardrails.push(Guardrail {
        name: "not-shop".to_owned(),
        source: "shop/*".parse().unwrap(),
        destination: "*/*".parse().unwrap(),
    });
    rules.denies(get("/").by("shop/web"), "guardrail `not-shop`");
    rules.allows(get("/"), "permissions[0]");
    let nobody = Asked { caller: Caller::Unauthenticated, ..get("/") };
    rules.denies(nobody, "proved no identity");
}

#[test]
fn h5_rules_on_paths_see_one_spelling() {
    let rules = Rules::new(&[]).with("web", vec![prefix(Deny, "/admin"), prefix(Allow, "/")]);
    for spelling in ["/admin", "//admin", "/a/../admin", "/%61dmin", "/./admin/", "/administrator", "/a/%2e%2e/admin"] {
        rules.denies(get(spelling), "permissions[0]");
    }
    rules.allows(get("/ADMIN"), "permissions[1]");
    rules.denies(get("/admin;x=1"), "permissions[0] cannot be decided: the path has parameters");
    rules.denies(get("/ok;x=1"), "permissions[0] cannot be decided");
    let exact = Rules::new(&[]).with("web", vec![path(Deny, PathMatch::Exact("/a@b".to_owned())), prefix(Allow, "/")]);
    exact.denies(get("/a%40b"), "permissions[0]");
    exact.denies(get("/a@b"), "permissions[0]");
    exact.allows(get("/a@b/"), "permissions[1]");
    let no_path = Rules::new(&[]).with("web", vec![methods(Allow, &["GET"])]);
    no_path.allows(get("/ok;x=1"), "permissions[0]");
}

#[test]
fn h5_an_expression_is_held_against_the_whole_path_line_ends_and_all() {
    let rules = |pattern: &str| {
        Rules::new(&[]).with("web", vec![path(Deny, PathMatch::Regex(pattern.to_owned())), prefix(Allow, "/")])
    };
    rules("/v[0-9]+/admin.*").denies(get("/v2/admin/x"), "permissions[0]");
    rules("/v[0-9]+/admin.*").allows(get("/x/v2/admin"), "permissions[1]");
    rules("/admin").allows(get("/admin/x"), "permissions[1]");
    rules("/a|/b").denies(get("/b"), "permissions[0]");
    rules("/a|/b").allows(get("/a/x"), "permissions[1]");
    rules("/admin/.*").denies(get("/admin/caf%C3%A9"), "permissions[0]");
    rules("/admin/.*").denies(get("/admin/%E2%80%A8x"), "permissions[0]");
    rules("(?i)/admin").denies(get("/ADMIN"), "permissions[0]");
    // What does not compile cannot be decided, and nothing gets past it.
    rules("/a)|(/b").denies(get("/c"), "permissions[0] cannot be decided");
    rules("/(").denies(get("/c"), "cannot be decided: a part of the permission");
    rules("").denies(get("/c"), "cannot be decided");
}

#[test]
fn methods_are_as_they_are_written() {
    let rules =
        Rules::new(&[]).with("web", vec![methods(Deny, &["DELETE"]), methods(Allow, &["GET", "POST", "DELETE"])]);
    rules.allows(get("/"), "permissions[1]");
    rules.allows(get("/").method("POST"), "permissions[1]");
    rules.denies(get("/").method("DELETE"), "permissions[0]");
    rules.denies(get("/").method("HEAD"), "no permission");
}

#[test]
fn h6_an_allow_on_a_header_wants_all_of_its_values() {
    let allow = |rule: &str| Rules::new(&[]).with("web", vec![header(Allow, rule)]);
    let exact = allow("x-env exact prod");
    exact.allows(get("/").header("x-env", "prod"), "permissions[0]");
    exact.allows(get("/").header("X-Env", " prod "), "permissions[0]");
    exact.allows(get("/").header("x-env", "prod").header("x-env", "prod"), "permissions[0]");
    exact.allows(get("/").header("x-env", "prod, prod"), "permissions[0]");
    exact.denies(get("/").header("x-env", "prod").header("x-env", "dev"), "no permission");
    exact.denies(get("/").header("x-env", "dev").header("x-env", "prod"), "no permission");
    exact.denies(get("/").header("x-env", "prod, dev"), "no permission");
    exact.denies(get("/").header("x-env", "dev,prod"), "no permission");
    exact.denies(get("/").header("x-env", "PROD"), "no permission");
    exact.denies(get("/").header("x-env", ""), "no permission");
    exact.denies(get("/"), "no permission");
    allow("~x-env exact prod").allows(get("/").header("x-env", "PROD"), "permissions[0]");
    allow("x-env prefix prod").denies(get("/").header("x-env", "prod-1, dev"), "no permission");
    allow("x-env suffix -eu").allows(get("/").header("x-env", "prod-eu"), "permissions[0]");
    allow("x-env contains rod").allows(get("/").header("x-env", "prod"), "permissions[0]");
    allow("x-env contains production").denies(get("/").header("x-env", "prod"), "no permission");
    allow("x-env regex prod(-[a-z]+)?").allows(get("/").header("x-env", "prod-eu"), "permissions[0]");
    allow("x-env regex prod").denies(get("/").header("x-env", "prod-eu"), "no permission");
    allow("~x-env regex prod").allows(get("/").header("x-env", "Prod"), "permissions[0]");
    allow("x-env present").allows(get("/").header("x-env", ""), "permissions[0]");
    allow("x-env present").denies(get("/"), "no permission");
}

#[test]
fn h6_a_deny_on_a_header_needs_one_value_that_matches() {
    let deny = |rule: &str| Rules::new(&[]).with("web", vec![header(Deny, rule), prefix(Allow, "/")]);
    let exact = deny("x-role exact admin");
    exact.denies(get("/").header("x-role", "admin"), "permissions[0]");
    exact.denies(get("/").header("x-role", "user").header("x-role", "admin"), "permissions[0]");
    exact.denies(get("/").header("x-role", "admin").header("x-role", "user"), "permissions[0]");
    exact.denies(get("/").header("x-role", "user, admin"), "permissions[0]");
    exact.denies(get("/").header("x-role", "\"a,b\", admin"), "permissions[0]");
    exact.allows(get("/").header("x-role", "user"), "permissions[1]");
    exact.allows(get("/"), "permissions[1]");
    deny("x-role regex .*admin.*").denies(get("/").header("x-role", "user, superadmin"), "permissions[0]");
    deny("x-role exact a, b").denies(get("/").header("x-role", "a, b"), "permissions[0]");
    deny("x-role regex a{1,3}").denies(get("/").header("x-role", "aa, b"), "permissions[0]");
    deny("user-agent prefix curl").denies(get("/").header("user-agent", "curl/8 (a, b)"), "permissions[0]");
}

#[test]
fn h6_a_deny_takes_a_header_however_an_application_may_join_or_split_it() {
    let deny = |rule: &str| Rules::new(&[]).with("web", vec![header(Deny, rule), prefix(Allow, "/")]);
    let joined = deny("x-tags exact a, b");
    joined.denies(get("/").header("x-tags", "a").header("x-tags", "b"), "permissions[0]");
    joined.allows(get("/").header("x-tags", "b").header("x-tags", "a"), "permissions[1]");
    deny("x-tags exact a,b").denies(get("/").header("x-tags", "a").header("x-tags", "b"), "permissions[0]");
    deny("cookie contains a=1; b=2").denies(get("/").header("cookie", "a=1").header("cookie", "b=2"), "permissions[0]");
    let admin = deny("x-role exact admin");
    for hidden in ["\"x, admin", "\"x,admin,y\"", "x, \"admin, y", "\"\\\", admin"] {
        admin.denies(get("/").header("x-role", hidden), "permissions[0]");
    }
    let allow = |rule: &str| Rules::new(&[]).with("web", vec![header(Allow, rule)]);
    allow("!x-role exact admin").denies(get("/").header("x-role", "\"x, admin"), "no permission");
    allow("!x-tags exact a, b").denies(get("/").header("x-tags", "a").header("x-tags", "b"), "no permission");
    allow("x-role prefix \"user").denies(get("/").header("x-role", "\"user, admin\""), "no permission");
}

#[test]
fn h6_an_absent_header_fails_a_test_and_so_passes_its_inversion() {
    let deny = Rules::new(&[]).with("web", vec![header(Deny, "!x-env exact prod"), prefix(Allow, "/")]);
    deny.denies(get("/"), "permissions[0]");
    deny.denies(get("/").header("x-env", "prod").header("x-env", "dev"), "permissions[0]");
    deny.denies(get("/").header("x-env", "prod, dev"), "permissions[0]");
    deny.allows(get("/").header("x-env", "prod"), "permissions[1]");
    let allow = Rules::new(&[]).with("web", vec![header(Allow, "!x-debug exact on")]);
    allow.allows(get("/"), "permissions[0]");
    allow.allows(get("/").header("x-debug", "off"), "permissions[0]");
    allow.denies(get("/").header("x-debug", "off, on"), "no permission");
    allow.denies(get("/").header("x-debug", "on").header("x-debug", "off"), "no permission");
    let present = Rules::new(&[]).with("web", vec![header(Allow, "!x-debug present")]);
    present.allows(get("/"), "permissions[0]");
    present.denies(get("/").header("x-debug", ""), "no permission");
}

#[test]
fn h6_a_value_that_is_no_text_hides_nothing() {
    let rules = Rules::new(&[]).with("web", vec![header(Deny, "x-role regex .*admin.*"), prefix(Allow, "/")]);
    let compiled = CompiledPolicy::new(rules.policy, "api".parse().unwrap());
    struct Raw;
    impl super::super::Headers for Raw {
        fn values<'s>(&'s self, _name: &'s str) -> impl Iterator<Item = &'s [u8]> {
            std::iter::once(&b"\xFF\xFEadmin\n\x80"[..])
        }
    }
    let path = NormalPath::of("/").unwrap();
    let request = Request {
        method: "GET",
        authority: None,
        path: &path,
        query: None,
        headers: &Raw,
        tokens: &super::super::NoTokens,
        source_platform: None,
        now: Timestamp(0),
    };
    let verdict = compiled.authorize_request(&Caller::Service("web".parse().unwrap()), &request);
    assert_eq!(verdict.decision, Deny);
}

#[test]
fn h7_a_rule_on_the_host_sees_its_one_spelling_however_it_is_named() {
    for name in ["host", ":authority"] {
        let rules =
            Rules::new(&[]).with("web", vec![header(Deny, &format!("{name} exact Admin.Shop")), prefix(Allow, "/")]);
        for host in ["admin.shop", "ADMIN.shop.", "admin.shop:8080"] {
            rules.denies(Asked { host: Some(host), ..get("/") }, "permissions[0]");
        }
        rules.allows(Asked { host: Some("shop"), ..get("/") }, "permissions[1]");
        // A header that only looks like the host is none.
        rules.allows(get("/").header("host", "admin.shop"), "permissions[1]");
    }
}

#[test]
fn all_conditions_of_a_permission_hold_together() {
    let http = HttpMatch {
        path: Some(PathMatch::Prefix("/v2".to_owned())),
        methods: vec!["GET".to_owned()],
        headers: header(Allow, "x-env exact prod").http.headers,
    };
    let rules = Rules::new(&[]).with("web", vec![on(Allow, http)]);
    rules.allows(get("/v2/x").header("x-env", "prod"), "permissions[0]");
    rules.denies(get("/v1/x").header("x-env", "prod"), "no permission");
    rules.denies(get("/v2/x").header("x-env", "prod").method("POST"), "no permission");
    rules.denies(get("/v2/x").header("x-env", "dev"), "no permission");
    rules.denies(get("/v2/x;a").header("x-env", "prod"), "cannot be decided");
    rules.denies(get("/v2/x;a").header("x-env", "dev"), "no permission");
}

#[test]
fn h11_a_condition_on_the_platform_cannot_be_decided_without_proof_of_it() {
    let of = |action, platforms: &[Platform]| Permission {
        source_platforms: platforms.to_vec(),
        ..on(action, HttpMatch::default())
    };
    let on_platform = |platform| Asked { platform, ..get("/") };
    let allow = Rules::new(&[]).with("web", vec![of(Allow, &[Platform::Ecs, Platform::Vm])]);
    allow.allows(on_platform(Some(Platform::Ecs)), "permissions[0]");
    allow.denies(on_platform(Some(Platform::Kubernetes)), "no permission");
    allow.denies(on_platform(None), "cannot be decided: the caller's certificate");
    let deny = Rules::new(&[]).with("web", vec![of(Deny, &[Platform::Vm]), prefix(Allow, "/")]).allow_by_default();
    deny.denies(on_platform(Some(Platform::Vm)), "permissions[0]");
    deny.allows(on_platform(Some(Platform::Ecs)), "permissions[1]");
    deny.denies(on_platform(None), "cannot be decided");
}

#[test]
fn a_permission_counts_in_its_window_only() {
    let times = Some(TimeWindow { days: Vec::new(), from: "09:00".parse().unwrap(), until: "17:00".parse().unwrap() });
    let rules = Rules::new(&[]).with("web", vec![Permission { times, ..prefix(Allow, "/") }]);
    let at = |hour: u64| Asked { now: Timestamp(hour * 3_600_000), ..get("/") };
    rules.allows(at(9), "permissions[0]");
    rules.denies(at(17), "no permission");
}

#[test]
fn j3_a_token_counts_beside_the_source_and_for_its_own_provider_only() {
    let admin: &[Claim<'_>] = &[(&["role"], "admin")];
    let asks = |providers: &[(&str, &[Claim<'_>])]| Permission { jwt: Some(jwt(providers)), ..prefix(Allow, "/admin") };
    let rules = Rules::new(&[]).with("web", vec![asks(&[("okta", admin)]), prefix(Allow, "/")]);
    rules.allows(get("/admin").token("okta", json!({"role": "admin"})), "permissions[0]");
    rules.allows(get("/admin").token("okta", json!({"role": ["user", "admin"]})), "permissions[0]");
    rules.allows(get("/x"), "permissions[1]");
    // The permission was chosen by its path: without the token the request gets the default, not the next permission.
    let why = "permissions[0] asks for a token that the request does not have; the default is deny";
    rules.denies(get("/admin"), why);
    rules.denies(get("/admin").token("okta", json!({"role": "user"})), why);
    rules.denies(get("/admin").token("okta", json!({"role": 7})), why);
    rules.denies(get("/admin").token("okta", json!({"role": {"admin": true}})), why);
    rules.denies(get("/admin").token("okta", json!({})), why);
    rules.denies(get("/admin").token("google", json!({"role": "admin"})), why);
    rules.denies(get("/admin").by("db").token("okta", json!({"role": "admin"})), "no intention matches");
    let nested = Rules::new(&[]).with("web", vec![asks(&[("okta", &[(&["realm", "roles"], "admin")])])]);
    nested.allows(get("/admin").token("okta", json!({"realm": {"roles": ["admin"]}})), "permissions[0]");
    nested.denies(get("/admin").token("okta", json!({"realm": "roles"})), why);
    let either = Rules::new(&[]).with("web", vec![asks(&[("okta", admin), ("google", &[])])]);
    either.allows(get("/admin").token("google", json!({})), "permissions[0]");
    either.denies(get("/admin").token("okta", json!({})), why);
}

#[test]
fn j3_tokens_asked_for_on_both_levels_are_both_needed() {
    let both = Rules::new(&[])
        .with("web", vec![Permission { jwt: Some(jwt(&[("okta", &[])])), ..prefix(Allow, "/") }])
        .first(|one| one.jwt = Some(jwt(&[("google", &[])])));
    both.allows(get("/").token("okta", json!({})).token("google", json!({})), "permissions[0]");
    both.denies(get("/").token("okta", json!({})), "asks for a token");
    both.denies(get("/").token("google", json!({})), "asks for a token");
    let action = Rules::new(&["allow web api"]).first(|one| one.jwt = Some(jwt(&[("okta", &[])])));
    action.allows(get("/").token("okta", json!({})), "intention default/web => default/api, precedence 9");
    action.denies(get("/"), "intention default/web => default/api, precedence 9 asks for a token");
}

#[test]
fn j4_a_token_that_nobody_can_judge_is_refused_whatever_the_default() {
    let lost = Rules::new(&["allow web api"]).first(|one| one.jwt = Some(jwt(&[("lost", &[])])));
    lost.denies(get("/"), "cannot be decided: the provider");
    let either = Rules::new(&["allow web api"]).first(|one| one.jwt = Some(jwt(&[("lost", &[]), ("okta", &[])])));
    either.allows(get("/").token("okta", json!({})), "precedence 9");
    either.denies(get("/"), "cannot be decided");
    // A token that is asked for under a default of allow would keep nobody out.
    let open = Rules::new(&["allow web api"]).first(|one| one.jwt = Some(jwt(&[("okta", &[])]))).allow_by_default();
    open.denies(get("/").token("okta", json!({})), "asks for a token while the default is allow");
    // On a deny it changes nothing.
    let deny = Rules::new(&["deny web api"]).first(|one| one.jwt = Some(jwt(&[("okta", &[])])));
    deny.denies(get("/").token("okta", json!({})), "precedence 9");
}

#[test]
fn h11_audit_lets_denials_through_but_nothing_undecidable() {
    let verdict = |rules: &Rules, path: &'static str, caller: &Caller| {
        let policy = rules.policy.clone().with_audit(AuditMode { mesh: true, ..AuditMode::default() }, Vec::new());
        let compiled = CompiledPolicy::new(policy, "api".parse().unwrap());
        let path = NormalPath::of(path).unwrap();
        let request = Request {
            method: "GET",
            authority: None,
            path: &path,
            query: None,
            headers: &super::super::NoHeaders,
            tokens: &super::super::NoTokens,
            source_platform: None,
            now: Timestamp(0),
        };
        let verdict = compiled.authorize_request(caller, &request);
        (verdict.decision, verdict.passes())
    };
    let web = Caller::Service("web".parse().unwrap());
    let rules = Rules::new(&[]).with("web", vec![prefix(Deny, "/admin"), prefix(Allow, "/")]);
    assert_eq!(verdict(&rules, "/admin", &web), (Deny, true));
    assert_eq!(verdict(&rules, "/x", &web), (Allow, true));
    assert_eq!(verdict(&rules, "/x;y", &web), (Deny, false), "it cannot be decided");
    assert_eq!(verdict(&rules, "/x", &Caller::Unauthenticated), (Deny, false));
    let foreign = Caller::Foreign("spiffe://other.test/ns/a/sa/b".parse().unwrap());
    assert_eq!(verdict(&rules, "/x", &foreign), (Deny, false));
    let empty = Rules::new(&[]).with("web", Vec::new());
    assert_eq!(verdict(&empty, "/x", &web), (Deny, false), "an intention of no permissions says nothing");
}

#[test]
fn permissions_end_with_their_intention() {
    let rules = Rules::new(&["deny * api"]).with("web", vec![prefix(Allow, "/")]).first(|one| {
        one.expires_at = Some(Timestamp(100));
    });
    rules.allows(Asked { now: Timestamp(99), ..get("/") }, "permissions[0]");
    rules.denies(Asked { now: Timestamp(100), ..get("/") }, "default/* => default/api");
}

#[test]
fn every_permission_is_told_why_it_did_not_decide() {
    let http = HttpMatch { methods: vec!["POST".to_owned()], ..HttpMatch::default() };
    let rules = Rules::new(&["deny * api", "allow db api"]).with(
        "web",
        vec![
            on(Allow, http),
            header(Allow, "x-env exact prod"),
            Permission { source_platforms: vec![Platform::Ecs], ..on(Deny, HttpMatch::default()) },
            prefix(Deny, "/v2"),
            prefix(Allow, "/v1"),
            prefix(Deny, "/"),
        ],
    );
    let compiled = CompiledPolicy::new(rules.policy, "api".parse().unwrap());
    let path = NormalPath::of("/v1/users").unwrap();
    let request = Request {
        method: "GET",
        authority: None,
        path: &path,
        query: None,
        headers: &super::super::NoHeaders,
        tokens: &super::super::NoTokens,
        source_platform: Some(Platform::Vm),
        now: Timestamp(0),
    };
    let explanation = compiled.explain_request(&Caller::Service("web".parse().unwrap()), &request);
    let want = [
        "the method is another",
        "header `x-env` is not as it says",
        "the caller runs on something else",
        "the path is another",
        "decided",
        "one before it was chosen",
    ];
    let web = explanation.intentions.iter().find(|one| !one.permissions.is_empty()).unwrap();
    let web: Vec<String> = web.permissions.iter().map(ToString::to_string).collect();
    assert_eq!(web, want);
    let runner_up = explanation.runner_up().unwrap();
    assert_eq!(runner_up.intention.key().to_string(), "default/* => default/api");
    assert_eq!(runner_up.says.map(|(action, _)| action), Some(Deny));
}
