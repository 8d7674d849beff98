//! The language in which policies grant: Consul's, in HCL or as JSON.

use catalog::{Access, NamePattern, NameRule, NamespaceRules, Rules, ServiceRule};
use serde_json::Value;

use crate::decode::{DecodeError, Fields, Format, Shape, from_value};

/// Things that rules of Consul's may speak of and weft does not have. A deny on one is kept by there being none.
const ABSENT: [&str; 12] = [
    "event",
    "event_prefix",
    "key",
    "key_prefix",
    "query",
    "query_prefix",
    "session",
    "session_prefix",
    "identity",
    "identity_prefix",
    "partition",
    "partition_prefix",
];

/// Things of that sort that carry no name.
const ABSENT_PLAIN: [&str; 2] = ["keyring", "peering"];

/// Reads the rules of a policy: HCL, or JSON where the text starts with a brace.
///
/// # Errors
///
/// [`DecodeError`] names the line, or the rule, and what is wrong with it.
pub fn parse_rules(text: &str) -> Result<Rules, DecodeError> {
    let format = if text.trim_start().starts_with('{') { Format::Json } else { Format::LabelledHcl };
    from_value::<Document>(format.read(text.as_bytes())?, "").map(|document| document.0)
}

struct Document(Rules);

impl Shape for Document {
    fn read(fields: &mut Fields) -> Result<Self, DecodeError> {
        let mut rules = Rules {
            acl: fields.parsed("acl")?,
            operator: fields.parsed("operator")?,
            mesh: fields.parsed("mesh")?,
            agents: names(fields, "agent", "agent_prefix")?,
            nodes: names(fields, "node", "node_prefix")?,
            services: services(fields)?,
            namespaces: Vec::new(),
        };
        for (name, pattern) in [("namespace", exact as fn(String) -> NamePattern), ("namespace_prefix", prefix)] {
            let blocks = fields.map(name, namespace)?;
            rules
                .namespaces
                .extend(blocks.into_iter().map(|(name, block)| NamespaceRules { namespace: pattern(name), ..block }));
        }
        for name in ABSENT {
            fields.map(name, absent)?;
        }
        for name in ABSENT_PLAIN {
            let access: Option<Access> = fields.parsed(name)?;
            if access.is_some_and(|access| access != Access::Deny) {
                return Err(DecodeError::Unsupported { path: fields.path_to(name) });
            }
        }
        Ok(Self(rules))
    }
}

fn exact(name: String) -> NamePattern {
    NamePattern::Exact(name)
}

fn prefix(name: String) -> NamePattern {
    NamePattern::Prefix(name)
}

/// Reads the body of a rule, all of it.
fn body<T>(
    value: Value,
    path: &str,
    read: impl FnOnce(&mut Fields) -> Result<T, DecodeError>,
) -> Result<T, DecodeError> {
    let mut fields = Fields::new(value, path)?;
    let made = read(&mut fields)?;
    fields.finish()?;
    Ok(made)
}

/// Takes the rules on names of one kind, those of one name first.
fn names(fields: &mut Fields, one: &str, many: &str) -> Result<Vec<NameRule>, DecodeError> {
    let mut rules = Vec::new();
    for (name, pattern) in [(one, exact as fn(String) -> NamePattern), (many, prefix)] {
        let found = fields.map(name, |value, path| body(value, path, |fields| fields.required::<Access>("policy")))?;
        rules.extend(found.into_iter().map(|(name, access)| NameRule { name: pattern(name), access }));
    }
    Ok(rules)
}

fn services(fields: &mut Fields) -> Result<Vec<ServiceRule>, DecodeError> {
    let mut rules = Vec::new();
    for (name, pattern) in [("service", exact as fn(String) -> NamePattern), ("service_prefix", prefix)] {
        let found = fields.map(name, |value, path| {
            body(value, path, |fields| {
                Ok((fields.required::<Access>("policy")?, fields.parsed::<Access>("intentions")?))
            })
        })?;
        rules.extend(found.into_iter().map(|(name, (access, intentions))| ServiceRule {
            name: pattern(name),
            access,
            intentions,
        }));
    }
    Ok(rules)
}

/// Reads a namespace's block; its name is set by whoever knows how it was written.
fn namespace(value: Value, path: &str) -> Result<NamespaceRules, DecodeError> {
    body(value, path, |fields| {
        // Namespaces are no things of their own in weft: nobody makes or removes one.
        if fields.parsed::<Access>("policy")?.is_some_and(|access| access != Access::Deny) {
            return Err(DecodeError::Unsupported { path: fields.path_to("policy") });
        }
        let block = NamespaceRules {
            namespace: prefix(String::new()),
            acl: fields.parsed("acl")?,
            nodes: names(fields, "node", "node_prefix")?,
            services: services(fields)?,
        };
        for name in ABSENT {
            fields.map(name, absent)?;
        }
        Ok(block)
    })
}

/// Accepts a deny on what there is none of, and nothing else.
fn absent(value: Value, path: &str) -> Result<(), DecodeError> {
    match body(value, path, |fields| fields.required::<Access>("policy")) {
        Ok(Access::Deny) => Ok(()),
        _ => Err(DecodeError::Unsupported { path: path.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
        # What the payments team may do.
        operator = "read"
        mesh     = "deny"
        agent_prefix "pay-" { policy = "read" }
        node "pay-1" {
          policy = "write"
        }
        service "payments" {
          policy     = "write"
          intentions = "deny"
        }
        service_prefix "" { policy = "read" }
        namespace "team-a" {
          acl = "write"
          node_prefix "" { policy = "read" }
          service_prefix "" { policy = "write" }
        }
        namespace_prefix "team-" { service "shared" { policy = "read" } }
        key_prefix "" { policy = "deny" }
    "#;

    fn named(name: NamePattern, access: Access) -> NameRule {
        NameRule { name, access }
    }

    fn want() -> Rules {
        let text = str::to_owned;
        let rule = |name, access, intentions| ServiceRule { name, access, intentions };
        Rules {
            acl: None,
            operator: Some(Access::Read),
            mesh: Some(Access::Deny),
            agents: vec![named(prefix(text("pay-")), Access::Read)],
            nodes: vec![named(exact(text("pay-1")), Access::Write)],
            services: vec![
                rule(exact(text("payments")), Access::Write, Some(Access::Deny)),
                rule(prefix(text("")), Access::Read, None),
            ],
            namespaces: vec![
                NamespaceRules {
                    namespace: exact(text("team-a")),
                    acl: Some(Access::Write),
                    nodes: vec![named(prefix(text("")), Access::Read)],
                    services: vec![rule(prefix(text("")), Access::Write, None)],
                },
                NamespaceRules {
                    namespace: prefix(text("team-")),
                    acl: None,
                    nodes: Vec::new(),
                    services: vec![rule(exact(text("shared")), Access::Read, None)],
                },
            ],
        }
    }

    #[test]
    fn hcl_and_json_say_the_same() {
        assert_eq!(parse_rules(TEXT).unwrap(), want());
        let json = serde_json::json!({
            "operator": "read",
            "mesh": "deny",
            "agent_prefix": { "pay-": { "policy": "read" } },
            "node": { "pay-1": { "policy": "write" } },
            "service": { "payments": { "policy": "write", "intentions": "deny" } },
            "service_prefix": { "": { "policy": "read" } },
            "namespace": { "team-a": {
                "acl": "write",
                "node_prefix": { "": { "policy": "read" } },
                "service_prefix": { "": { "policy": "write" } },
            } },
            "namespace_prefix": { "team-": { "service": { "shared": { "policy": "read" } } } },
        });
        assert_eq!(parse_rules(&json.to_string()).unwrap(), want());
        assert_eq!(parse_rules("").unwrap(), Rules::default());
    }

    #[test]
    fn the_policies_that_weft_comes_with_mean_what_they_say() {
        for policy in catalog::AclPolicy::builtin() {
            assert_eq!(parse_rules(&policy.text).unwrap(), policy.rules, "{}", policy.name);
        }
    }

    #[test]
    fn a4_a_rule_that_is_not_understood_is_refused_by_name() {
        let rows = [
            (r#"service "web" { policy = "list" }"#, "list"),
            (r#"service "web" { }"#, "`service.web.policy` is missing"),
            (r#"service "web" { policy = "read" intentins = "write" }"#, "end of the line or a comma"),
            (r#"service "web" { policy = "read", intentins = "write" }"#, "unknown field `service.web.intentins`"),
            (
                "service \"web\" { policy = \"read\" }\nservice \"web\" { policy = \"deny\" }",
                "`service \"web\"` stands twice",
            ),
            (r#"services "web" { policy = "read" }"#, "unknown field `services`"),
            (r#"service { policy = "read" }"#, "service"),
            (r#"service "web" "api" { policy = "read" }"#, "expected `{`"),
            (r#"key_prefix "" { policy = "read" }"#, "`key_prefix.` is not supported"),
            (r#"keyring = "write""#, "`keyring` is not supported"),
            (r#"namespace "a" { policy = "write" }"#, "`namespace.a.policy` is not supported"),
            (r#"namespace "a" { operator = "read" }"#, "unknown field `namespace.a.operator`"),
            (r#"namespace "a" { namespace "b" { acl = "read" } }"#, "unknown field `namespace.a.namespace`"),
            (r#"acl = "WRITE""#, "WRITE"),
            (r#"{"service": {"web": {"policy": "read"}}, "service": {}}"#, "service"),
        ];
        for (text, says) in rows {
            let error = parse_rules(text).unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    #[test]
    fn a7_rules_nest_no_deeper_than_any_other_text() {
        let deep = "a \"b\" {\n".repeat(100_000);
        assert!(parse_rules(&deep).unwrap_err().to_string().contains("nested deeper"));
    }
}
