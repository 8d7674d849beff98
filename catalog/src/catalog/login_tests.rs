//! What logins do to the state, told by commands.

mod revocation;

use std::collections::BTreeMap;
use std::time::Duration;

use super::tests::digest;
use super::*;
use crate::{
    Actor, Admission, Attestation, AuthConfig, AwsIamConfig, Banned, BindKind, Command, JoinToken, JwtAlgorithm,
    JwtConfig, JwtKeys, LoginChange, Namespace, Owner, Platform, RevocationChange, Rights, SessionChange, SessionRef,
    Token,
};

pub(crate) fn method(name: &str) -> AuthMethod {
    let jwt = JwtConfig {
        issuer: "https://issuer.example".to_owned(),
        audiences: vec!["weft".to_owned()],
        algorithms: vec![JwtAlgorithm::ES256],
        keys: JwtKeys::Url { url: "https://issuer.example/keys".to_owned(), ca_pem: None },
        claims: BTreeMap::from([("sub".to_owned(), "name".to_owned()), ("/a/team".to_owned(), "team".to_owned())]),
        list_claims: BTreeMap::from([("groups".to_owned(), "groups".to_owned())]),
        clock_skew: Duration::from_secs(30),
    };
    AuthMethod {
        name: name.parse().unwrap(),
        display_name: String::new(),
        description: "for the cluster".to_owned(),
        namespace: Namespace::default_namespace(),
        token_ttl: crate::LOGIN_TOKEN_TTL,
        config: AuthConfig::Jwt(Box::new(jwt)),
        rules_modified: CatalogIndex(0),
        created: CatalogIndex(0),
        modified: CatalogIndex(0),
    }
}

pub(super) fn rule(number: u8, method: &str, bind: BindKind, name: &str, selector: &str) -> BindingRule {
    BindingRule {
        id: format!("00000000-0000-0000-0000-0000000001{number:02x}").parse().unwrap(),
        description: String::new(),
        method: method.parse().unwrap(),
        selector: selector.to_owned(),
        bind,
        name: name.parse().unwrap(),
        created: CatalogIndex(0),
        modified: CatalogIndex(0),
    }
}

fn admission(judged_at: u64, bearer: &str, key: &str, node: &str, services: &[&str]) -> Admission {
    Admission {
        method: "jwt".parse().unwrap(),
        subject: "web-7".to_owned(),
        judged_at: CatalogIndex(judged_at),
        services: services.iter().map(|service| service.parse().unwrap()).collect(),
        nodes: Vec::new(),
        bearer: SecretHash(bearer.to_owned()),
        provisional: None,
        gateway: None,
        bearer_ends: Timestamp(10_000),
        is_of_one_key: false,
        key: KeyFingerprint(key.to_owned()),
        node: node.parse().unwrap(),
        platform: Platform::Kubernetes,
    }
}

fn login(change: LoginChange) -> Command {
    Command::Login { change }
}

fn admit(admission: Admission) -> Command {
    login(LoginChange::Admit { admission: Box::new(admission) })
}

fn write_method(method: AuthMethod, replace: bool) -> Command {
    login(LoginChange::WriteMethod { method: Box::new(method), replace })
}

fn write_rule(rule: BindingRule, replace: bool) -> Command {
    login(LoginChange::WriteRule { rule: Box::new(rule), replace })
}

/// Returns the method of a type that came later.
fn aws_method() -> Command {
    let principals =
        ["role/web", "user/ops/*"].map(|name| format!("arn:aws:iam::123456789012:{name}").parse().unwrap());
    let endpoint = "https://sts.eu-west-1.amazonaws.com".to_owned();
    let config = AwsIamConfig { principals: principals.to_vec(), sts_endpoint: Some(endpoint) };
    write_method(AuthMethod { config: AuthConfig::AwsIam(Box::new(config)), ..method("aws") }, false)
}

/// Returns the methods of another type that came later.
fn kubernetes_methods() -> [Command; 2] {
    [Some("https://10.0.0.1:6443"), None].map(|host| {
        let config = crate::KubernetesConfig { host: host.map(str::to_owned), audiences: vec!["weft".to_owned()] };
        let name = if host.is_some() { "east" } else { "own" };
        write_method(AuthMethod { config: AuthConfig::Kubernetes(Box::new(config)), ..method(name) }, false)
    })
}

/// Returns every kind of login command, for the golden files.
pub(super) fn every_login(token: Token) -> Vec<Command> {
    let granted = Token { rights: Rights::Rules, auth_method: Some("jwt".to_owned()), ..token };
    vec![
        write_method(method("jwt"), false),
        write_method(method("other"), false),
        write_rule(rule(1, "jwt", BindKind::Service, "${value.team}-web", "value.team == \"a\""), false),
        write_rule(rule(2, "jwt", BindKind::Role, "ops", "\"ops\" in list.groups"), false),
        login(LoginChange::DeleteRule { id: rule(2, "jwt", BindKind::Role, "ops", "").id }),
        login(LoginChange::GrantToken {
            token: Box::new(granted),
            method: "jwt".parse().unwrap(),
            judged_at: CatalogIndex(1_000),
        }),
        admit(Admission {
            nodes: vec!["n7".parse().unwrap()],
            ..admission(1_000, "bearer", "key-7", "n7", &["a-web"])
        }),
        login(LoginChange::RevokeProvisional { enrolled: CatalogIndex(3) }),
        login(LoginChange::DeleteMethod { name: "other".parse().unwrap() }),
    ]
}

/// Returns a login that a server judged alone before, for the golden files.
pub(super) fn admitted_alone() -> Command {
    admit(Admission { provisional: Some(CatalogIndex(4)), ..admission(1_000, "bearer-8", "key-8", "n8", &["a-web"]) })
}

/// Returns what came later, for the golden files: methods of other types, and a login whose credential is of one key.
pub(super) fn later_forms() -> Vec<Command> {
    let own_key = Admission { is_of_one_key: true, ..admission(1_000, "bearer-9", "key-9", "n9", &["a-web"]) };
    [aws_method()].into_iter().chain(kubernetes_methods()).chain([admit(own_key)]).collect()
}

struct Log(Catalog);

impl Log {
    fn with_method() -> Self {
        let mut log = Self(Catalog::default());
        log.done(write_method(method("jwt"), false));
        log
    }

    fn at(&mut self, time: u64, command: Command) -> Outcome {
        command.validate().unwrap_or_else(|refusal| panic!("{command:?}: {refusal}"));
        let index = CatalogIndex(self.0.index().0 + 1);
        let envelope = Envelope {
            version: crate::ENVELOPE_VERSION,
            request_id: format!("r{index}").parse().unwrap(),
            actor: Actor::Login("jwt".parse().unwrap()),
            source_address: None,
            proposed_at: Timestamp(time),
            command,
        };
        self.0.apply(index, &envelope, digest).outcome
    }

    #[track_caller]
    fn done(&mut self, command: Command) {
        let outcome = self.at(1, command);
        assert!(matches!(outcome, Outcome::Done | Outcome::AgentRevoked { .. }), "{outcome:?}");
    }

    #[track_caller]
    fn enrolled(&mut self, admission: Admission) -> AgentRecord {
        match self.at(1, admit(admission)) {
            Outcome::Enrolled { record } => *record,
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    fn refused(&mut self, time: u64, command: Command) -> Refusal {
        let before = self.0.clone();
        let Outcome::Refused(refusal) = self.at(time, command) else { panic!("it was not refused") };
        let kept = |catalog: &Catalog| (catalog.agents.clone(), catalog.bearers.clone(), catalog.tokens.clone());
        assert_eq!(kept(&before), kept(&self.0), "a refused login changed something");
        refusal
    }
}

#[test]
fn c9_a_login_becomes_one_record_and_its_repeat_the_same_one() {
    let mut log = Log::with_method();
    let first = log.enrolled(admission(9, "bearer", "key", "n1", &["web"]));
    assert!(matches!(&first.attestation, Attestation::Login { subject, .. } if subject == "web-7"));
    assert_eq!(log.enrolled(admission(9, "bearer", "key", "n1", &["web"])), first);
    // A new credential for the same key is the same agent, which logs in again.
    assert_eq!(log.enrolled(admission(9, "bearer-2", "key", "n1", &["web"])), first);
    let restored = Catalog::restore(&log.0.snapshot()).unwrap();
    assert_eq!(restored, log.0);
}

#[test]
fn c9_a_credential_that_another_key_used_is_refused() {
    let mut log = Log::with_method();
    log.enrolled(admission(9, "bearer", "key", "n1", &["web"]));
    let stolen = log.refused(1, admit(admission(9, "bearer", "key-2", "n2", &["web"])));
    assert_eq!(stolen, Refusal::BearerUsed);
    let late = log.refused(10_000, admit(admission(9, "bearer-3", "key-3", "n3", &["web"])));
    assert_eq!(late, Refusal::BearerExpired);
    // Remembered for longer than it counts, and no longer than that.
    let ended = Admission { bearer_ends: Timestamp(90_000_000), ..admission(99, "bearer-4", "key-4", "n4", &["web"]) };
    for minute in 0..20 {
        log.at(10_000 + minute * 60_000, login(LoginChange::DeleteMethod { name: "none".parse().unwrap() }));
    }
    assert!(matches!(log.at(1_200_000, admit(ended)), Outcome::Enrolled { .. }));
    assert_eq!((log.0.bearers.len(), log.0.bearer_ends.len()), (1, 1));
}

#[test]
fn c9_c13_no_identity_fills_the_memory_of_credentials_that_others_need() {
    let mut log = Log::with_method();
    // What is made for one key is worth nothing under another, and is not remembered.
    let own = |number: u64| Admission {
        is_of_one_key: true,
        ..admission(9, &format!("own-{number}"), "key", "n1", &["web"])
    };
    let first = log.enrolled(own(0));
    for number in 0..100 {
        assert_eq!(log.enrolled(own(number)).id, first.id);
    }
    assert_eq!((log.0.bearers.len(), log.0.bearer_ends.len(), log.0.bearers_of.len()), (0, 0, 0));
    // One identity has a share of what is remembered.
    let whose = ("jwt".parse().unwrap(), "web-7".to_owned());
    log.enrolled(admission(9, "bearer", "key", "n1", &["web"]));
    assert_eq!(log.0.bearers_of.get(&whose), Some(&1));
    log.0.bearers_of.insert(whose.clone(), super::login::BEARERS_OF_ONE_MAX);
    let refusal = log.refused(1, admit(admission(9, "bearer-2", "key-2", "n2", &["web"])));
    assert!(matches!(&refusal, Refusal::TooManyBearersOf { subject, .. } if subject == "web-7"), "{refusal}");
    log.enrolled(admission(9, "bearer", "key", "n1", &["web"]));
    let other = Admission { subject: "web-8".to_owned(), ..admission(9, "bearer-3", "key-3", "n3", &["web"]) };
    log.enrolled(other);
}

#[test]
fn c9_what_is_forgotten_of_credentials_counts_for_nobody() {
    let mut log = Log::with_method();
    for number in 0..3 {
        log.enrolled(admission(9, &format!("bearer-{number}"), "key", "n1", &["web"]));
    }
    let whose = ("jwt".parse().unwrap(), "web-7".to_owned());
    assert_eq!(log.0.bearers_of.get(&whose), Some(&3));
    assert_eq!(Catalog::restore(&log.0.snapshot()).unwrap(), log.0);
    for minute in 0..20 {
        log.at(10_000 + minute * 60_000, login(LoginChange::DeleteMethod { name: "none".parse().unwrap() }));
    }
    let later = Admission { bearer_ends: Timestamp(90_000_000), ..admission(99, "bearer-9", "key", "n1", &["web"]) };
    assert!(matches!(log.at(1_200_000, admit(later)), Outcome::Enrolled { .. }));
    assert_eq!(log.0.bearers_of.get(&whose), Some(&1));
}

#[test]
fn c11_a_rule_that_names_by_roles_says_of_which_account_where_there_are_several() {
    let takes = |principals: &[&str]| {
        let principals = principals.iter().map(|it| format!("arn:aws:iam::{it}").parse().unwrap()).collect();
        let config = AuthConfig::AwsIam(Box::new(AwsIamConfig { principals, sts_endpoint: None }));
        AuthMethod { config, ..method("aws") }
    };
    let names = |number: u8, name: &str, selector: &str| {
        write_rule(rule(number, "aws", BindKind::Service, name, selector), false)
    };
    let one = ["123456789012:role/*"];
    let accounts = ["123456789012:role/*", "210987654321:role/web"];
    let kinds = ["123456789012:role/*", "123456789012:user/*"];
    let mut log = Log(Catalog::default());
    log.done(write_method(takes(&one), false));
    log.done(names(1, "${entity_name}", ""));
    // What was told apart by there being one account is not, once there are two.
    for (principals, lacks) in [(&accounts, "account_id"), (&kinds, "entity_type")] {
        let refusal = log.refused(1, write_method(takes(principals), true)).to_string();
        assert!(refusal.starts_with("BoundIAMPrincipalARNs") && refusal.contains(lacks), "{refusal}");
    }
    log.done(login(LoginChange::DeleteRule { id: rule(1, "aws", BindKind::Service, "web", "").id }));
    log.done(write_method(takes(&accounts), true));
    let refusal = log.refused(1, names(2, "shop-${entity_name}", "session_name == \"x\"")).to_string();
    assert!(refusal.starts_with("Selector") && refusal.contains("account_id"), "{refusal}");
    log.done(names(2, "${entity_name}", "account_id == \"123456789012\""));
    log.done(names(3, "a${account_id}-${entity_name}", ""));
    log.done(names(4, "${entity_name}", "entity_id == \"AROAEXAMPLE\""));
    log.done(names(5, "web", "entity_name == \"web\""));
    assert!(
        log.refused(1, write_method(takes(&[accounts[0], kinds[1], accounts[1]]), true))
            .to_string()
            .contains("entity_type")
    );
}

#[test]
fn a_login_that_was_judged_by_rules_of_before_is_judged_again() {
    let mut log = Log::with_method();
    let judged_at = log.0.index().0;
    log.done(write_rule(rule(1, "jwt", BindKind::Service, "web", ""), false));
    let stale = log.refused(1, admit(admission(judged_at, "bearer", "key", "n1", &["web"])));
    assert!(matches!(stale, Refusal::LoginRulesChanged { .. }), "{stale}");
    let judged_at = log.0.index().0;
    log.enrolled(admission(judged_at, "bearer", "key", "n1", &["web"]));
    log.done(login(LoginChange::DeleteRule { id: rule(1, "jwt", BindKind::Service, "web", "").id }));
    let stale = log.refused(1, admit(admission(judged_at, "bearer-2", "key-2", "n2", &["web"])));
    assert!(matches!(stale, Refusal::LoginRulesChanged { .. }), "{stale}");
    log.done(login(LoginChange::DeleteMethod { name: "jwt".parse().unwrap() }));
    let gone = log.refused(1, admit(admission(99, "bearer-2", "key-2", "n2", &["web"])));
    assert!(matches!(gone, Refusal::NotFound { .. }), "{gone}");
}

#[test]
fn c11_no_role_of_aws_takes_the_node_of_another_whatever_it_calls_its_session() {
    let mut log = Log::with_method();
    log.done(aws_method());
    let by = |role: &str, key: &str| Admission {
        method: "aws".parse().unwrap(),
        subject: format!("arn:aws:iam::123456789012:role/{role}"),
        nodes: vec!["n1".parse().unwrap()],
        ..admission(1_000, key, key, "n1", &["web"])
    };
    log.enrolled(by("web", "key-1"));
    let refusal = log.refused(1, admit(by("shop-api", "key-2")));
    assert!(matches!(refusal, Refusal::NodeTaken { .. }), "{refusal}");
    log.enrolled(by("web", "key-3"));
}

#[test]
fn a_node_name_is_taken_over_only_where_its_own_method_names_the_node() {
    let mut log = Log::with_method();
    let first = log.enrolled(admission(9, "bearer", "key", "n1", &["web"]));
    let other = admission(9, "bearer-2", "key-2", "n1", &["web"]);
    assert!(matches!(log.refused(1, admit(other.clone())), Refusal::NodeTaken { .. }));
    let named = Admission { nodes: vec!["n1".parse().unwrap()], ..other };
    // Whoever starts a task or a pod chooses what it is called, and is no more than who they are.
    let stranger = Admission { subject: "batch-1".to_owned(), ..named.clone() };
    assert!(matches!(log.refused(1, admit(stranger)), Refusal::NodeTaken { .. }));
    let second = log.enrolled(named.clone());
    assert_ne!(second.id, first.id);
    assert!(log.0.is_revoked(first.enrolled), "whoever held the name with another key is out");
    let elsewhere = Admission { node: "n9".parse().unwrap(), key: KeyFingerprint("key-9".to_owned()), ..named };
    let bearer = |name: &str| SecretHash(name.to_owned());
    let elsewhere = log.refused(1, admit(Admission { bearer: bearer("bearer-9"), ..elsewhere }));
    assert!(matches!(elsewhere, Refusal::LoginElsewhere { .. }), "{elsewhere}");
    // An agent that came by a join token is no business of a platform's.
    let record = AgentRecord {
        attestation: Attestation::JoinToken("00000000-0000-0000-0000-000000000001".parse().unwrap()),
        ..second
    };
    log.0.agents.insert(record.id.clone(), Arc::new(record));
    let foreign =
        Admission { nodes: vec!["n1".parse().unwrap()], ..admission(99, "bearer-3", "key-3", "n1", &["web"]) };
    assert!(matches!(log.refused(1, admit(foreign)), Refusal::NodeTaken { .. }));
}

#[test]
fn the_name_of_a_node_that_is_no_agents_is_no_agents_to_take() {
    let mut log = Log::with_method();
    let external = super::tests::node("db-1", Owner::External);
    log.done(super::tests::register(external, vec![super::tests::instance("db-1", "db", "db")], vec![], None));
    // Not even where the platform vouches for the node by that name: it is another one's word.
    let named = Admission { nodes: vec!["db-1".parse().unwrap()], ..admission(9, "b", "key", "db-1", &["web"]) };
    assert!(matches!(log.refused(1, admit(named.clone())), Refusal::NotOwner { .. }));
    let token = super::tests::join_token(1, &["web"]);
    log.done(Command::CreateJoinToken { token: JoinToken { node: Some("db-1".parse().unwrap()), ..token } });
    let refusal = log.refused(1, super::tests::enrol(1, "key-b", "db-1"));
    assert!(matches!(refusal, Refusal::NotOwner { owner: Owner::External, .. }), "{refusal}");
    let (node, target) = ("db-1".parse().unwrap(), crate::DeregisterTarget::Node);
    log.done(Command::Deregister { node, target, incarnation: None });
    log.enrolled(named);
}

#[test]
fn what_a_new_login_no_longer_grants_is_revoked() {
    let mut log = Log::with_method();
    let first = log.enrolled(admission(9, "bearer", "key", "n1", &["api", "web"]));
    let more = log.enrolled(admission(9, "bearer-2", "key", "n1", &["api", "db", "web"]));
    assert!(!log.0.is_revoked(first.enrolled) && more.id != first.id);
    log.enrolled(admission(9, "bearer-3", "key", "n1", &["db"]));
    assert!(log.0.is_revoked(more.enrolled));
}

#[test]
fn a_method_takes_its_rules_and_tokens_with_it_and_leaves_its_agents() {
    let mut log = Log::with_method();
    log.done(write_rule(rule(1, "jwt", BindKind::Service, "web", ""), false));
    let token = Token {
        auth_method: Some("jwt".to_owned()),
        ..Token::new(
            "00000000-0000-0000-0000-000000000009".parse().unwrap(),
            SecretHash("secret".to_owned()),
            Rights::Rules,
            Timestamp(1),
        )
    };
    let granted = LoginChange::GrantToken {
        token: Box::new(token.clone()),
        method: "jwt".parse().unwrap(),
        judged_at: log.0.index(),
    };
    log.done(login(granted));
    assert!(log.0.token_by_secret(&token.secret).is_some());
    log.enrolled(admission(9, "bearer", "key", "n1", &["web"]));
    log.done(login(LoginChange::DeleteMethod { name: "jwt".parse().unwrap() }));
    assert_eq!((log.0.binding_rules().count(), log.0.tokens().count(), log.0.agent_records().count()), (0, 0, 1));
    assert!(log.0.token_by_secret(&token.secret).is_none());
}

#[test]
fn of_one_subject_only_so_many_login_tokens_live_at_once() {
    let mut log = Log::with_method();
    let judged_at = log.0.index();
    let grant = |number: u64, subject: &str| {
        let token = Token {
            auth_method: Some("jwt".to_owned()),
            login_subject: Some(subject.to_owned()),
            expires_at: Some(Timestamp(100)),
            ..Token::new(
                format!("00000000-0000-0000-0000-{number:012}").parse().unwrap(),
                SecretHash(format!("secret-{number}")),
                Rights::Rules,
                Timestamp(1),
            )
        };
        let method = "jwt".parse().unwrap();
        login(LoginChange::GrantToken { token: Box::new(token), method, judged_at })
    };
    for number in 0..16 {
        log.done(grant(number, "ci"));
    }
    let refusal = log.refused(1, grant(16, "ci"));
    assert!(matches!(&refusal, Refusal::TooManyLogins { subject, .. } if subject == "ci"), "{refusal}");
    log.done(grant(17, "another"));
    log.enrolled(admission(9, "bearer", "key", "n1", &["web"]));
    assert_eq!(log.at(100, grant(18, "ci")), Outcome::Done, "those that have ended count no more");
}

#[test]
fn a_login_token_has_only_links_that_grant_something() {
    let mut log = Log::with_method();
    let judged_at = log.0.index();
    let grant = |change: &dyn Fn(Token) -> Token| {
        let accessor = "00000000-0000-0000-0000-000000000007".parse().unwrap();
        let token = Token::new(accessor, SecretHash("secret".to_owned()), Rights::Rules, Timestamp(1));
        let token = change(Token { namespace: "shop".parse().unwrap(), auth_method: Some("jwt".to_owned()), ..token });
        login(LoginChange::GrantToken { token: Box::new(token), method: "jwt".parse().unwrap(), judged_at })
    };
    let readers =
        AclPolicy::builtin().into_iter().find(|policy| policy.name.to_string() == "global-read-only").unwrap();
    for command in [
        grant(&|token| Token { policies: vec![readers.id.clone()], ..token }),
        grant(&|token| Token { policies: vec!["00000000-0000-0000-0000-0000000000ff".parse().unwrap()], ..token }),
        grant(&|token| Token { roles: vec!["00000000-0000-0000-0000-0000000000ff".parse().unwrap()], ..token }),
        // Nodes belong to no namespace.
        grant(&|token| Token { node_identities: vec!["n1".parse().unwrap()], ..token }),
    ] {
        log.refused(1, command);
    }
    log.done(grant(&|token| Token { service_identities: vec!["web".parse().unwrap()], ..token }));
}

#[test]
fn a_rule_asks_only_for_what_its_method_knows() {
    let mut log = Log::with_method();
    for (selector, name) in [
        ("value.region == \"x\"", "web"),
        ("\"x\" in list.teams", "web"),
        ("team == \"x\"", "web"),
        ("", "${value.region}"),
        ("", "${entity_name}"),
    ] {
        let refusal = log.refused(1, write_rule(rule(1, "jwt", BindKind::Service, name, selector), false));
        assert!(refusal.to_string().contains("it has value.team, value.name, list.groups"), "{refusal}");
    }
    log.done(write_rule(rule(1, "jwt", BindKind::Service, "${value.team}", ""), false));
    let mut poorer = method("jwt");
    let AuthConfig::Jwt(jwt) = &mut poorer.config else { panic!("it is of type jwt") };
    jwt.claims.remove("/a/team");
    let refusal = log.refused(1, write_method(poorer, true));
    assert!(refusal.to_string().contains("needs `value.team`"), "{refusal}");
    assert!(matches!(log.refused(1, write_method(method("jwt"), false)), Refusal::Exists { .. }));
    assert!(matches!(log.refused(1, write_method(method("none"), true)), Refusal::NotFound { .. }));
    assert!(matches!(
        log.refused(1, write_rule(rule(3, "none", BindKind::Service, "web", ""), false)),
        Refusal::NotFound { .. }
    ));
}

#[test]
fn only_an_index_without_a_record_is_revoked_for_agents_that_had_none() {
    let mut log = Log::with_method();
    let record = log.enrolled(admission(9, "bearer", "key", "n1", &["web"]));
    let refused = log.refused(1, login(LoginChange::RevokeProvisional { enrolled: record.enrolled }));
    assert!(matches!(refused, Refusal::Invalid { .. }), "{refused}");
    assert!(matches!(
        log.refused(1, login(LoginChange::RevokeProvisional { enrolled: CatalogIndex(9_999) })),
        Refusal::Invalid { .. }
    ));
    log.done(login(LoginChange::RevokeProvisional { enrolled: CatalogIndex(1) }));
    assert!(log.0.is_revoked(CatalogIndex(1)) && !log.0.is_revoked(record.enrolled));
}

#[test]
fn a_method_has_no_more_rules_than_a_login_can_ask() {
    let mut log = Log::with_method();
    let numbered = |number: usize| BindingRule {
        id: format!("00000000-0000-0000-0000-{number:012}").parse().unwrap(),
        ..rule(1, "jwt", BindKind::Service, "web", "")
    };
    for number in 0..1_024 {
        log.done(write_rule(numbered(number), false));
    }
    let refusal = log.refused(1, write_rule(numbered(1_024), false));
    assert!(refusal.to_string().contains("1024 rules"), "{refusal}");
    log.done(write_rule(numbered(7), true));
}
