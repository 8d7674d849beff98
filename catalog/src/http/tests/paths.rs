//! Paths, hosts and methods: one spelling each, or none.

use proptest::prelude::*;

use super::super::{NormalAuthority, NormalPath, NotNormal, check_method};

#[track_caller]
fn normal(path: &str, forwarded: &str, decoded: &str) {
    let normal = NormalPath::of(path).unwrap_or_else(|problem| panic!("{path}: {problem}"));
    assert_eq!((normal.as_str(), normal.decoded()), (forwarded, decoded), "{path}");
}

#[track_caller]
fn refused(path: &str, want: NotNormal) {
    assert_eq!(NormalPath::of(path).unwrap_err(), want, "{}", path.escape_debug());
}

#[test]
fn h5_a_path_has_one_spelling() {
    normal("/", "/", "/");
    normal("/v1/users/7", "/v1/users/7", "/v1/users/7");
    normal("/ADMIN", "/ADMIN", "/ADMIN");
    // Escapes that are not needed are undone, those that are needed are upper case.
    normal("/%61dmin", "/admin", "/admin");
    normal("/%41%2d%2E%5f%7e", "/A-._~", "/A-._~");
    normal("/a%40b", "/a%40b", "/a@b");
    normal("/a@b", "/a@b", "/a@b");
    normal("/caf%c3%a9", "/caf%C3%A9", "/café");
    normal("/café", "/caf%C3%A9", "/café");
    normal("/a%20b", "/a%20b", "/a b");
    normal("/a{b}|\"<>^`[]", "/a%7Bb%7D%7C%22%3C%3E%5E%60%5B%5D", "/a{b}|\"<>^`[]");
    normal("/100%25", "/100%25", "/100%");
    normal("/100%25/x", "/100%25/x", "/100%/x");
    // Slashes are merged and dot segments removed, whichever way they are written.
    normal("//admin", "/admin", "/admin");
    normal("/a///b//", "/a/b/", "/a/b/");
    normal("/a/../admin", "/admin", "/admin");
    normal("/a/%2e%2E/admin", "/admin", "/admin");
    normal("/a/./b/.", "/a/b/", "/a/b/");
    normal("/a/b/..", "/a/", "/a/");
    normal("/..", "/", "/");
    normal("/../../etc/passwd", "/etc/passwd", "/etc/passwd");
    normal("/a//../b", "/b", "/b");
    normal("/.well-known/x", "/.well-known/x", "/.well-known/x");
    normal("/a/...", "/a/...", "/a/...");
    normal("/a/..b", "/a/..b", "/a/..b");
}

#[test]
fn h5_what_applications_read_in_more_than_one_way_is_refused() {
    for path in ["/a%2Fb", "/a%2fb", "/a%5Cb", "/a%5cb", "/a%00", "/a%0d%0aX: y", "/a%7f", "/a%09"] {
        refused(path, NotNormal::EscapedSeparator);
    }
    for path in ["/a\\b", "/\\..\\admin", "/a b", "/a\tb", "/a\0", "/a\u{7f}"] {
        refused(path, NotNormal::PathCharacter);
    }
    refused("/admin#f", NotNormal::Fragment);
    for path in ["/%", "/%4", "/%zz", "/%u0041", "/%%41", "/% 41"] {
        refused(path, NotNormal::Escape);
    }
    for path in ["/%2561dmin", "/%252e%252e/x", "/%252Fetc", "/%25%34%31"] {
        refused(path, NotNormal::DoublyEscaped);
    }
    // Overlong forms of `/` and `.`, a lone continuation byte, and half of a pair.
    for path in ["/%C0%AF", "/%C0%AE%C0%AE/x", "/%80", "/%ED%A0%80", "/caf%E9"] {
        refused(path, NotNormal::NotUtf8);
    }
    for path in ["/admin/..;/x", "/a/.;x=1/b", "/a/..%3b/x", "/a/%2e%2E;x", "/..;"] {
        refused(path, NotNormal::DotParameters);
    }
    for path in ["", "*", "admin", "http://api/admin", "pkg.Service/Method", "%2Fadmin", "?x"] {
        refused(path, NotNormal::Target);
    }
}

#[test]
fn h5_parameters_of_segments_are_seen_and_passed_on() {
    for (path, forwarded) in [("/a;x=1/b", "/a;x=1/b"), ("/a%3Bx/b", "/a%3Bx/b"), ("/a;/../b;c", "/b;c")] {
        let normal = NormalPath::of(path).unwrap();
        assert!(normal.has_parameters(), "{path}");
        assert_eq!(normal.as_str(), forwarded);
    }
    assert!(!NormalPath::of("/a/../b").unwrap().has_parameters());
    assert!(!NormalPath::of("/a;x/../b").unwrap().has_parameters(), "what is not forwarded is not seen");
}

#[test]
fn h5_a_query_is_passed_on_as_it_is_and_has_no_fragment() {
    let (path, query) = NormalPath::with_query("/a//b?x=%2F..%2f&y=a/../b?z").unwrap();
    assert_eq!((path.as_str(), query), ("/a/b", Some("x=%2F..%2f&y=a/../b?z")));
    assert_eq!(NormalPath::with_query("/a").unwrap().1, None);
    assert_eq!(NormalPath::with_query("/a?").unwrap().1, Some(""));
    for target in ["/a?x#f", "/a?x y", "/a?x\r\ny", "/a?\0"] {
        assert_eq!(NormalPath::with_query(target).unwrap_err(), NotNormal::Query, "{}", target.escape_debug());
    }
}

#[test]
fn a_path_that_is_normal_already_costs_no_copy() {
    let path = "/v1/users/7/orders.json";
    assert!(std::ptr::eq(NormalPath::of(path).unwrap().as_str(), path));
    let escaped = "/v1/caf%C3%A9";
    assert!(std::ptr::eq(NormalPath::of(escaped).unwrap().as_str(), escaped));
}

#[test]
fn h7_a_host_has_one_spelling() {
    let rows = [
        ("api", "api"),
        ("API.Shop", "api.shop"),
        ("api.", "api"),
        ("api:8080", "api:8080"),
        ("Api.:80", "api:80"),
        ("api:", "api"),
        ("10.0.0.1:1", "10.0.0.1:1"),
        ("[::1]:8080", "[::1]:8080"),
        ("[0:0::1]", "[::1]"),
        ("my_service", "my_service"),
    ];
    for (text, want) in rows {
        assert_eq!(NormalAuthority::of(text).unwrap().to_string(), want, "{text}");
    }
    let long = "a".repeat(256);
    let wrong = [
        "", ".", "..", "a..b", ".a", "user@api", "a@b:80", "a:b", "a:80:81", "a:99999", "a:0", "a:+80", "a b", "a/b",
        "a%2e", "é", "[::1", "::1", "[::1]80", "[a]", "a\0", "a,b", &long,
    ];
    for text in wrong {
        assert_eq!(NormalAuthority::of(text).unwrap_err(), NotNormal::Host, "{}", text.escape_debug());
    }
}

#[test]
fn h7_a_request_names_one_host() {
    let one = |target: Option<&'static str>, fields: &[&'static str]| {
        NormalAuthority::one_of(target, fields.iter().map(|field| field.as_bytes()))
            .map(|found| found.map(|host| host.to_string()))
    };
    assert_eq!(one(None, &[]), Ok(None));
    assert_eq!(one(None, &["API"]), Ok(Some("api".to_owned())));
    assert_eq!(one(Some("api"), &[]), Ok(Some("api".to_owned())));
    assert_eq!(one(Some("api"), &["API."]), Ok(Some("api".to_owned())));
    assert_eq!(one(Some("api"), &["api:80"]), Ok(Some("api".to_owned())));
    assert_eq!(one(Some("api"), &["db"]), Err(NotNormal::Hosts));
    assert_eq!(one(Some("api"), &["api:81"]), Err(NotNormal::Hosts));
    assert_eq!(one(None, &["api", "db"]), Err(NotNormal::Hosts));
    assert_eq!(one(None, &["api", "api"]), Err(NotNormal::Hosts), "RFC 9112, section 3.2");
    assert_eq!(one(Some("api"), &["a@api"]), Err(NotNormal::Host));
}

#[test]
fn a_method_is_in_capitals() {
    for method in ["GET", "DELETE", "M-SEARCH", "PROPFIND"] {
        assert_eq!(check_method(method), Ok(()));
    }
    for method in ["", "get", "Get", "GET ", "G3T", "A_B", &"A".repeat(33)] {
        assert_eq!(check_method(method), Err(NotNormal::Method), "{method}");
    }
}

/// Paths of what makes paths hard to read.
fn any_path() -> impl Strategy<Value = String> {
    const PIECES: [&str; 24] = [
        "/", "//", ".", "..", "a", "admin", "%2e", "%2F", "%61", "%25", "%c3%a9", "%C3%A9", "%40", "@", ";", "%3b",
        "é", "{", "%", "41", "~", " ", "\\", "%00",
    ];
    proptest::collection::vec(proptest::sample::select(&PIECES[..]), 0..12)
        .prop_map(|pieces| format!("/{}", pieces.concat()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]
    #[test]
    fn h5_a_normal_path_is_normal_and_stays_so(path in any_path()) {
        if let Ok(normal) = NormalPath::of(&path) {
            let again = NormalPath::of(normal.as_str()).unwrap();
            prop_assert_eq!(again.as_str(), normal.as_str());
            prop_assert_eq!(again.decoded(), normal.decoded());
            for spelling in [normal.as_str(), normal.decoded()] {
                prop_assert!(spelling.starts_with('/') && !spelling.contains("//") && !spelling.contains('\\'));
                prop_assert!(spelling.split('/').all(|segment| segment != "." && segment != ".."));
                prop_assert!(!spelling.contains(|c: char| c.is_ascii_control()));
            }
            prop_assert!(normal.as_str().is_ascii());
            prop_assert_eq!(normal.as_str().matches('/').count(), normal.decoded().matches('/').count());
        }
    }
}
