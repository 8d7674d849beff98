//! The form of permissions: what is refused when it is written, and how it is told.

use super::super::check_permission;
use crate::{
    Action, HeaderMatch, HeaderTest, HttpMatch, JwtProvider, JwtRequirement, PathMatch, Permission, Platform,
    TimeWindow, VerifyClaim, Weekday,
};

#[track_caller]
fn check(permission: &Permission, want: &str) {
    let found = check_permission(permission).map_err(|error| error.to_string());
    match want {
        "" => assert_eq!(found, Ok(())),
        want => assert!(found.as_ref().is_err_and(|error| error.contains(want)), "{found:?} has no {want}"),
    }
}

fn on(http: HttpMatch) -> Permission {
    Permission::new(Action::Allow, http)
}

fn path(path: PathMatch) -> Permission {
    on(HttpMatch { path: Some(path), ..HttpMatch::default() })
}

fn methods(methods: &[&str]) -> Permission {
    on(HttpMatch { methods: methods.iter().map(|method| (*method).to_owned()).collect(), ..HttpMatch::default() })
}

fn header(name: &str, test: HeaderTest) -> Permission {
    let header = HeaderMatch { name: name.to_owned(), test, invert: false, ignore_case: false };
    on(HttpMatch { headers: vec![header], ..HttpMatch::default() })
}

#[test]
fn h11_a_permission_says_something() {
    check(&on(HttpMatch::default()), "it matches on nothing");
    check(&Permission { source_platforms: vec![Platform::Ecs], ..on(HttpMatch::default()) }, "");
    let platforms = vec![Platform::Ecs, Platform::Ecs];
    check(&Permission { source_platforms: platforms, ..on(HttpMatch::default()) }, "`ecs` stands twice");
    let window = |days: &[Weekday]| TimeWindow {
        days: days.to_vec(),
        from: "09:00".parse().unwrap(),
        until: "17:00".parse().unwrap(),
    };
    check(&Permission { times: Some(window(&[])), ..on(HttpMatch::default()) }, "");
    let twice = window(&[Weekday::Monday, Weekday::Monday]);
    check(&Permission { times: Some(twice), ..on(HttpMatch::default()) }, "`monday` stands twice");
}

#[test]
fn h5_a_path_that_no_request_can_have_is_refused_when_it_is_written() {
    for text in ["/v1", "/", "/v1/.well-known", "/caf%C3%A9", "/café", "/a%40b"] {
        check(&path(PathMatch::Exact(text.to_owned())), "");
    }
    for text in ["/v1/../admin", "/v1//x", "/v1/.", "/v1;x", "//"] {
        check(&path(PathMatch::Prefix(text.to_owned())), "matches no request");
    }
    for text in ["v1", "", "/v1%2Fx", "/v1%", "/v1 x", "/v1\\x", "/%2561"] {
        check(&path(PathMatch::Prefix(text.to_owned())), "is not one that a request can have");
    }
    check(&path(PathMatch::Exact(format!("/{}", "a".repeat(2048)))), "use at most 2048");
}

#[test]
fn an_expression_compiles_by_itself_and_stays_small() {
    check(&path(PathMatch::Regex("/v[0-9]+(/.*)?".to_owned())), "");
    check(&path(PathMatch::Regex(String::new())), "empty or longer than 1024 bytes");
    check(&path(PathMatch::Regex("a".repeat(1025))), "empty or longer than 1024 bytes");
    check(&path(PathMatch::Regex("/a)|(/b".to_owned())), "cannot be used");
    check(&path(PathMatch::Regex("(a{1000}){1000}".to_owned())), "becomes too large");
    check(&header("x-env", HeaderTest::Regex("(?=a)".to_owned())), "cannot be used: look-around");
}

#[test]
fn h6_a_header_that_no_request_can_have_is_refused_when_it_is_written() {
    for name in ["x-env", "host", ":authority", "x.y"] {
        check(&header(name, HeaderTest::Present), "");
    }
    for name in ["", "X-Env", "x_env", "x env", ":path", "x:y"] {
        check(&header(name, HeaderTest::Present), "is no header that a request can have");
    }
    for text in ["", " prod", "prod "] {
        check(&header("x-env", HeaderTest::Exact(text.to_owned())), "is empty or has blanks around it");
    }
    let many = (0..33).map(|number| HeaderMatch {
        name: format!("x-{number}"),
        test: HeaderTest::Present,
        invert: false,
        ignore_case: false,
    });
    check(&on(HttpMatch { headers: many.collect(), ..HttpMatch::default() }), "33 headers: use at most 32");
}

#[test]
fn methods_are_in_capitals_and_stand_once() {
    check(&methods(&["GET", "M-SEARCH"]), "");
    check(&methods(&["get"]), "`get` is not a method");
    check(&methods(&["GET", "POST", "GET"]), "`GET` stands twice");
}

#[test]
fn j3_a_condition_on_tokens_names_its_providers_and_claims_and_is_on_an_allow() {
    let asking = |action, providers: &[&str], path: &[&str]| {
        let claim = VerifyClaim { path: path.iter().map(|step| (*step).to_owned()).collect(), value: "v".to_owned() };
        let provider = |name: &&str| JwtProvider { name: (*name).to_owned(), verify_claims: vec![claim.clone()] };
        let jwt = Some(JwtRequirement { providers: providers.iter().map(provider).collect() });
        Permission { action, jwt, ..methods(&["GET"]) }
    };
    check(&asking(Action::Allow, &["okta"], &["role"]), "");
    check(&asking(Action::Deny, &["okta"], &["role"]), "on a deny means nothing");
    for (providers, path) in [(&[][..], &["role"][..]), (&[""], &["role"]), (&["okta"], &[]), (&["okta"], &[""])] {
        check(&asking(Action::Allow, providers, path), "names at least one provider, and a path for each claim");
    }
    check(&asking(Action::Allow, &["okta"; 33], &["role"]), "33 providers: use at most 32");
}
