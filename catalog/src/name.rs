//! Names of things: validated once at the edge, then compared by equality and never as patterns.

use std::{fmt, marker::PhantomData, str::FromStr, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, de::Visitor};

/// Explains why a text is not a name of its kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid {kind} `{}`: {rule}", text.escape_debug())]
pub struct NameError {
    /// What the text should have named, such as `service name`.
    pub kind: &'static str,
    /// The text as it was given, cut to 128 characters.
    pub text: String,
    /// The rule that the text breaks, and so what to write instead.
    pub rule: &'static str,
}

impl NameError {
    pub(crate) fn new(kind: &'static str, text: &str, rule: &'static str) -> Self {
        Self { kind, text: text.chars().take(128).collect(), rule }
    }
}

/// Lower-case letters, digits and inner hyphens: what DNS and SPIFFE both accept unescaped.
fn is_label(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// One segment of a SPIFFE path (SPIFFE-ID §2.2).
pub(crate) fn is_segment(text: &str) -> bool {
    !text.is_empty()
        && text != "."
        && text != ".."
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

fn is_opaque(text: &str) -> bool {
    (1..=255).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
}

/// A lower-case UUID.
pub(crate) fn is_uuid(text: &str) -> bool {
    let hyphens = [8, 13, 18, 23];
    text.len() == 36
        && text
            .bytes()
            .enumerate()
            .all(|(at, b)| if hyphens.contains(&at) { b == b'-' } else { matches!(b, b'0'..=b'9' | b'a'..=b'f') })
}

const UUID_RULE: &str = "use a lower-case UUID, as the listing shows it";
const LABEL_RULE: &str = "use 1 to 63 of a-z, 0-9 and `-`, with no `-` at either end";
const OPAQUE_RULE: &str = "use 1 to 255 printable ASCII characters without spaces";

/// Reads a text and makes of it what it says, without a copy of its own in between: names are most of what a log, a
/// snapshot and a stream consist of.
pub(crate) fn from_text<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: fmt::Display>,
{
    struct Text<T>(PhantomData<T>);
    impl<T: FromStr<Err: fmt::Display>> Visitor<'_> for Text<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a string")
        }

        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
            text.parse().map_err(E::custom)
        }
    }
    deserializer.deserialize_str(Text(PhantomData))
}

/// Has a type written as the text that it displays, and read from it.
macro_rules! written_as_text {
    ($name:ident) => {
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                crate::name::from_text(deserializer)
            }
        }
    };
}
pub(crate) use written_as_text;

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $rule:expr, $valid:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        written_as_text!($name);

        impl $name {
            /// Returns the name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                let valid: fn(&str) -> bool = $valid;
                if valid(text) { Ok(Self(Arc::from(text))) } else { Err(NameError::new($kind, text, $rule)) }
            }
        }

        impl TryFrom<&str> for $name {
            type Error = NameError;

            fn try_from(text: &str) -> Result<Self, NameError> {
                text.parse()
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0.as_ref().to_owned()
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }
    };
}

name!(
    /// Names a tenancy boundary: 1 to 63 of `a-z`, `0-9` and inner `-`.
    Namespace,
    "namespace",
    LABEL_RULE,
    is_label
);
name!(
    /// Names a service within its namespace: 1 to 63 of `a-z`, `0-9` and inner `-`.
    ServiceName,
    "service name",
    LABEL_RULE,
    is_label
);
name!(
    /// Names a weft server: 1 to 63 of `a-z`, `0-9` and inner `-`.
    ServerId,
    "server id",
    LABEL_RULE,
    is_label
);
name!(
    /// Names a node. One segment of a SPIFFE path, because an agent's identity ends with it.
    NodeName,
    "node name",
    "use 1 to 128 of A-Z, a-z, 0-9, `.`, `_` and `-`, and neither `.` nor `..`",
    |text| text.len() <= 128 && is_segment(text)
);
name!(
    /// Names an instance of a service on its node.
    InstanceId,
    "instance id",
    OPAQUE_RULE,
    is_opaque
);
name!(
    /// Names a check on its node.
    CheckId,
    "check id",
    OPAQUE_RULE,
    is_opaque
);

name!(
    /// Names an ACL policy or role within its namespace.
    AclName,
    "policy or role name",
    "use 1 to 128 of A-Z, a-z, 0-9, `_` and `-`",
    |text| (1..=128).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'))
);
name!(
    /// Names a connector: 1 to 63 of `a-z`, `0-9` and inner `-`.
    ConnectorName,
    "connector name",
    LABEL_RULE,
    is_label
);
name!(
    /// Names a provider of tokens: a `jwt-provider` config entry.
    ProviderName,
    "jwt-provider name",
    "use 1 to 128 of A-Z, a-z, 0-9, `.`, `_` and `-`",
    |text| (1..=128).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
);
name!(
    /// Names an ACL policy for good, whatever it is called: a random UUID.
    PolicyId,
    "policy id",
    UUID_RULE,
    is_uuid
);
name!(
    /// Names an ACL role for good, whatever it is called: a random UUID.
    RoleId,
    "role id",
    UUID_RULE,
    is_uuid
);

name!(
    /// Names a way of logging in.
    AuthMethodName,
    "auth method name",
    "use 1 to 128 of A-Z, a-z, 0-9, `-` and `_`",
    |text| (1..=128).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
);
name!(
    /// Names a binding rule for good: a random UUID.
    BindingRuleId,
    "binding rule id",
    UUID_RULE,
    is_uuid
);

impl Namespace {
    /// Returns `default`, the namespace of everybody who does not name one.
    #[must_use]
    pub fn default_namespace() -> Self {
        Self(Arc::from("default"))
    }
}

impl Default for Namespace {
    fn default() -> Self {
        Self::default_namespace()
    }
}

/// Names a service in the whole mesh; written `namespace/name`, or `name` within `default`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceKey {
    /// The namespace that the service lives in.
    pub namespace: Namespace,
    /// The service's name within it.
    pub name: ServiceName,
}

written_as_text!(ServiceKey);

impl ServiceKey {
    /// Joins a namespace and a name.
    #[must_use]
    pub fn new(namespace: Namespace, name: ServiceName) -> Self {
        Self { namespace, name }
    }

    /// Names a service of the namespace `default`.
    #[must_use]
    pub fn in_default(name: ServiceName) -> Self {
        Self { namespace: Namespace::default_namespace(), name }
    }
}

impl FromStr for ServiceKey {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        match text.split_once('/') {
            Some((namespace, name)) => Ok(Self::new(namespace.parse()?, name.parse()?)),
            None => Ok(Self::in_default(text.parse()?)),
        }
    }
}

impl TryFrom<String> for ServiceKey {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<ServiceKey> for String {
    fn from(key: ServiceKey) -> Self {
        key.to_string()
    }
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl fmt::Debug for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// Names one instance of a service in the whole mesh.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InstanceKey {
    /// The node that the instance lives on.
    pub node: NodeName,
    /// The namespace of the service that it serves.
    pub namespace: Namespace,
    /// The instance's id, unique on the node within the namespace.
    pub id: InstanceId,
}

impl fmt::Display for InstanceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.node, self.namespace, self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn is_service_name(text: &str, want: bool) {
        assert_eq!(text.parse::<ServiceName>().is_ok(), want, "{text:?}");
    }

    #[test]
    fn h12_service_names_are_lower_case_labels_and_nothing_else() {
        for good in ["web", "a", "0", "cert-manager-io", &"a".repeat(63)] {
            is_service_name(good, true);
        }
        for bad in ["", "Web", "cert-manager.io", "a_b", "web*", "*", "-a", "a-", "wéb", "a b", "a/b", &"a".repeat(64)]
        {
            is_service_name(bad, false);
        }
    }

    #[test]
    fn a_service_key_without_a_namespace_is_in_default() {
        assert_eq!("web".parse::<ServiceKey>().unwrap().to_string(), "default/web");
        assert_eq!("shop/web".parse::<ServiceKey>().unwrap().to_string(), "shop/web");
        assert!("a/b/c".parse::<ServiceKey>().is_err());
    }

    #[test]
    fn a_node_name_is_one_segment_of_a_spiffe_path() {
        assert!("ip-10-0-0-1.eu-west-1.compute.internal".parse::<NodeName>().is_ok());
        for bad in ["", ".", "..", "a/b", "a%2fb", "a b", &"n".repeat(129)] {
            assert!(bad.parse::<NodeName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_error_names_the_kind_the_text_and_the_rule() {
        let error = "A\n".parse::<ServiceName>().unwrap_err().to_string();
        assert!(error.starts_with("invalid service name `A\\n`: use 1 to 63"), "{error}");
    }
}
