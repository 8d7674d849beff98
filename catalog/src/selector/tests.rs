use proptest::prelude::*;
use serde_json::{Value, json};

use super::{Selector, SelectorError};

fn document() -> Value {
    json!({
        "Node": "vm-1",
        "Service": {"ID": "web-1", "Tags": ["v1", "blue"], "Meta": {"env": "prod", "my-key": "a", "a.b/c": "x"},
                    "Port": 8080, "Weight": 0.5, "Proxy": null, "Connect": {}},
        "Passing": true,
        "Empty": [],
        "Name": "",
        "Checks": [{"Status": "passing"}, {"Status": "critical"}],
        "Ports": [80, 443],
    })
}

#[track_caller]
fn check(text: &str, want: bool) {
    let selector = Selector::parse(text).unwrap_or_else(|error| panic!("`{text}` does not parse: {error}"));
    assert_eq!(selector.selects(&document()), Ok(want), "{text}");
}

#[test]
fn texts_numbers_and_booleans_are_compared() {
    check(r#"Node == "vm-1""#, true);
    check(r#"Node != "vm-1""#, false);
    check("Service.Port == 8080", true);
    check(r#"Service.Port == "8080""#, true);
    check("Service.Port == 8080.0", true);
    check("Service.Weight == 0.5", true);
    check("Service.Port == eighty", false);
    check("Passing == true", true);
    check("Passing == false", false);
    check("Service.Meta.env == prod", true);
    check(r#"Service.Meta["my-key"] == `a`"#, true);
    check(r#"Service.Meta["a.b/c"] == "x""#, true);
    check(r#""/Service/Meta/my-key" == "a""#, true);
    check(r#""/Service/Meta/a.b~1c" == "x""#, true);
    check(r#"Checks.1.Status == "critical""#, true);
    check(r#"Checks.7.Status == "critical""#, false);
}

#[test]
fn lists_objects_and_texts_are_searched() {
    check(r#""v1" in Service.Tags"#, true);
    check(r#"v1 in Service.Tags"#, true);
    check(r#""v2" in Service.Tags"#, false);
    check(r#""v2" not in Service.Tags"#, true);
    check(r#"Service.Tags contains "blue""#, true);
    check(r#"Service.Tags not contains "blue""#, false);
    check(r#""env" in Service.Meta"#, true);
    check(r#"Service.Meta contains "absent""#, false);
    check(r#"Node contains "vm""#, true);
    check("443 in Ports", true);
    check(r#"Node in ["vm-1", "vm-2"]"#, true);
    check(r#"Node not in ["vm-1", "vm-2"]"#, false);
    check(r#"Node matches "^vm-[0-9]+$""#, true);
    check(r"Node matches `^vm-\d$`", true);
    check(r#"Node not matches "^web""#, true);
}

#[test]
fn what_is_not_there_is_empty_and_equals_nothing() {
    check("Absent.Deep is empty", true);
    check("Absent is not empty", false);
    check(r#"Absent == """#, false);
    check(r#"Absent != "x""#, true);
    check(r#""x" in Absent"#, false);
    check(r#""x" not in Absent"#, true);
    check(r#"Absent matches ".*""#, false);
    check("Service.Proxy is empty", true);
    check("Service.Connect is empty", true);
    check("Service.Tags is empty", false);
    check("Empty is empty", true);
    check("Name is empty", true);
}

#[test]
fn not_binds_closer_than_and_which_binds_closer_than_or() {
    check("Passing == true or Passing == false and Node == x", true);
    check("(Passing == true or Passing == false) and Node == x", false);
    check("not Passing == false and Node == `vm-1`", true);
    check("not (Passing == false or Node == `vm-1`)", false);
    check("not not Passing == true", true);
    check("\n\tPassing==true\n and  Node!=x ", true);
}

#[test]
fn a_question_that_does_not_fit_has_no_answer_unless_it_was_not_asked() {
    let ask = |text: &str| Selector::parse(text).unwrap().selects(&document());
    let mismatch = ask(r#"Service.Tags == "v1""#).unwrap_err();
    assert_eq!(mismatch.to_string(), "`Service.Tags` is a list, which `==` cannot be asked of: compare it otherwise");
    for text in ["Passing is empty", "8 in Service.Port", "Ports matches `8`", "Service == `x`", "x in Checks"] {
        assert!(ask(text).is_err(), "{text}");
        assert!(ask(&format!("not {text}")).is_err(), "no answer is not turned into a yes: {text}");
    }
    assert_eq!(ask("Passing == true or Passing is empty"), Ok(true));
}

#[test]
fn the_paths_of_a_selector_are_known() {
    let selector =
        Selector::parse(r#"value.team == a and not ("x" in list["the.groups"] or "/c/d" is empty)"#).unwrap();
    assert_eq!(selector.paths(), [["value", "team"], ["list", "the.groups"], ["c", "d"]]);
    assert_eq!(selector.to_string().parse::<Selector>().as_ref(), Ok(&selector));
}

#[test]
fn a_malformed_selector_is_refused_with_its_place() {
    for (text, want) in [
        ("", "at byte 0: a path is missing"),
        ("a", "at byte 1: a comparison is missing"),
        ("a = b", "at byte 2: `=` has no meaning"),
        ("a == ", "at byte 5: a path is missing"),
        ("a == \"b", "at byte 5: the text that begins here has no end"),
        ("a == `b", "at byte 5: the text that begins here has no end"),
        (r#"a == "\d""#, r"at byte 6: `\d` is no escape"),
        ("a is b", "write `is empty`"),
        ("(a == b", "at byte 7: a closing parenthesis is missing"),
        ("a == b c == d", "at byte 7: the selector is complete here"),
        ("a == b and", "at byte 10: a path is missing"),
        ("\"a\" == b", "is a text where a path belongs"),
        ("\"a\" in [\"a\"]", "name a path on the left"),
        ("a in [\"a\"", "a comma or `]` is missing"),
        ("a[0] == 1", "`[` holds a name in double quotes"),
        ("a. == 1", "a field's name is missing"),
        ("a-b == 1", "put a name with a dash"),
        ("80x == 1", "a name begins with a letter"),
        ("a == 1.", "ends with its dot"),
        ("ä == 1", "`ä` has no meaning"),
        ("a matches `(`", "cannot be used: unclosed group"),
    ] {
        let error = Selector::parse(text).unwrap_err().to_string();
        assert!(error.contains(want), "`{text}`: {error}");
    }
}

#[test]
fn a_selector_stays_small() {
    let long = format!("a == `{}`", "x".repeat(Selector::BYTES_MAX));
    assert!(matches!(Selector::parse(&long), Err(SelectorError::TooLong { .. })));
    let many = vec!["a == b"; Selector::COMPARISONS_MAX + 1].join(" and ");
    assert_eq!(Selector::parse(&many), Err(SelectorError::TooMany));
    let deep = format!("{}a == b{}", "(".repeat(200), ")".repeat(200));
    assert_eq!(Selector::parse(&deep), Err(SelectorError::TooDeep));
    assert_eq!(Selector::parse(&format!("{}a == b", "not ".repeat(500))), Err(SelectorError::TooDeep));
    for pattern in ["(a{1000}){1000}", r"\w{5000}"] {
        let error = Selector::parse(&format!("a matches `{pattern}`")).unwrap_err().to_string();
        assert!(error.contains("too large"), "{error}");
    }
}

/// Makes documents and selectors over the same few names, so that they meet.
fn arbitrary_selector() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        ("[abc]", "[xyz]").prop_map(|(path, text)| format!("{path} == {text}")),
        ("[abc]", "[xyz]").prop_map(|(path, text)| format!("{path} != \"{text}\"")),
        ("[abc]", "[xyz]").prop_map(|(path, text)| format!("\"{text}\" in {path}")),
        ("[abc]").prop_map(|path| format!("{path} is empty")),
    ];
    leaf.prop_recursive(4, 24, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 2..4).prop_map(|parts| format!("({})", parts.join(" and "))),
            prop::collection::vec(inner.clone(), 2..4).prop_map(|parts| format!("({})", parts.join(" or "))),
            inner.prop_map(|part| format!("not {part}")),
        ]
    })
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused_and_never_panics(text in r#"([a-c.()\[\]"`\\ =!0-9-]|and|or|not|in|is|empty|matches|é){0,40}"#) {
        if let Ok(selector) = Selector::parse(&text) {
            let _ = selector.selects(&document());
        }
    }

    #[test]
    fn a_negation_answers_the_opposite(
        text in arbitrary_selector(),
        fields in prop::collection::btree_map("[abc]", prop_oneof!["[xyz]".prop_map(Value::from), Just(json!(["x", "y"])), Just(json!(null))], 0..4),
    ) {
        let document = json!(fields);
        let plain = Selector::parse(&text).unwrap().selects(&document);
        let opposite = Selector::parse(&format!("not ({text})")).unwrap().selects(&document);
        prop_assert_eq!(plain.map(|answer| !answer), opposite);
    }
}
