//! Intentions: who may call whom.

use std::{cmp::Ordering, collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

use crate::{
    CatalogIndex, JwtRequirement, NameError, Permission, ServicePattern, SourcePattern, Timestamp,
    node::{UnknownWord, words},
};

/// Says what happens to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// It is let through.
    Allow,
    /// It is refused.
    Deny,
}
words!(Action, "action", "`allow` or `deny`", { Allow = "allow", Deny = "deny" });

use std::str::FromStr;

/// Says what an intention does: the same for every connection, or by request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Effect {
    /// One action for everything.
    Action(Action),
    /// The first permission that matches a request decides it; where none does, the default action.
    Permissions(Vec<Permission>),
}

/// Names an intention: the pair that it speaks of, as it is written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IntentionKey {
    /// The services that are called.
    pub destination: ServicePattern,
    /// Who calls.
    pub source: SourcePattern,
}

impl IntentionKey {
    /// Returns Consul's precedence, 9 (both exact) to 1 (all to all); see [`Intention::precedence`].
    #[must_use]
    pub fn precedence(&self) -> u8 {
        let highest = match self.destination.exact_parts() {
            2 => 9,
            1 => 6,
            _ => 3,
        };
        highest - (2 - self.source.exact_parts())
    }
}

impl fmt::Display for IntentionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} => {}", self.source, self.destination)
    }
}

/// Is permission for a source to call a destination, or its refusal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Intention {
    /// The services that are called.
    pub destination: ServicePattern,
    /// Who calls.
    pub source: SourcePattern,
    /// What happens.
    pub effect: Effect,
    /// What the operator noted about it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// Free facts about it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub meta: BTreeMap<String, String>,
    /// What every request's token must say besides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwt: Option<JwtRequirement>,
    /// When an allow ends, by the agent's own clock. A deny ends only when it is removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// The team that alone changes it; anybody may where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<IntentionOwner>,
    /// Whether its denial is only logged and counted.
    #[serde(default)]
    pub audit: bool,
    /// The index at which it was first written.
    #[serde(default)]
    pub created: CatalogIndex,
    /// The index of the last change.
    #[serde(default)]
    pub modified: CatalogIndex,
}

/// Names the team, or whatever else, that alone changes an intention: 1 to 63 of `a-z`, `0-9`, `-`, `_`, `.` and `/`.
///
/// It is a claim and grants nothing: that two teams do not overwrite one another by mistake. What a token may write, its
/// policies say.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct IntentionOwner(String);

impl IntentionOwner {
    /// Returns the name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for IntentionOwner {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        let is_plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_' | b'.' | b'/');
        if (1..=63).contains(&text.len()) && text.bytes().all(is_plain) {
            Ok(Self(text))
        } else {
            Err(NameError::new("owner", &text, "use 1 to 63 of a-z, 0-9, `-`, `_`, `.` and `/`"))
        }
    }
}

impl FromStr for IntentionOwner {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        text.to_owned().try_into()
    }
}

impl From<IntentionOwner> for String {
    fn from(owner: IntentionOwner) -> Self {
        owner.0
    }
}

impl fmt::Display for IntentionOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl Intention {
    /// Makes an intention with an action and nothing else.
    #[must_use]
    pub fn new(source: SourcePattern, destination: ServicePattern, action: Action) -> Self {
        Self {
            destination,
            source,
            effect: Effect::Action(action),
            description: String::new(),
            meta: BTreeMap::new(),
            jwt: None,
            expires_at: None,
            owner: None,
            audit: false,
            created: CatalogIndex::default(),
            modified: CatalogIndex::default(),
        }
    }

    /// Returns the pair that the intention speaks of.
    #[must_use]
    pub fn key(&self) -> IntentionKey {
        IntentionKey { destination: self.destination.clone(), source: self.source.clone() }
    }

    /// Returns Consul's precedence: 9, 6 or 3 for a destination with two, one or no exact parts, less one for each part of
    /// the source that is not exact.
    #[must_use]
    pub fn precedence(&self) -> u8 {
        self.key().precedence()
    }

    /// Reports whether the intention asks for a token, for every request or for some.
    #[must_use]
    pub fn has_jwt(&self) -> bool {
        let of_requests = match &self.effect {
            Effect::Action(_) => false,
            Effect::Permissions(permissions) => permissions.iter().any(|permission| permission.jwt.is_some()),
        };
        self.jwt.is_some() || of_requests
    }

    /// Reports whether it, or a permission of it, counts at some times and not at others.
    #[must_use]
    pub fn ends_in_part(&self) -> bool {
        let has_times = match &self.effect {
            Effect::Action(_) => false,
            Effect::Permissions(permissions) => permissions.iter().any(|permission| permission.times.is_some()),
        };
        self.expires_at.is_some() || has_times
    }

    /// Returns the names of the providers whose tokens it asks for, perhaps several times each.
    pub fn providers(&self) -> impl Iterator<Item = &str> {
        let permissions = match &self.effect {
            Effect::Action(_) => &[][..],
            Effect::Permissions(permissions) => permissions,
        };
        let asked = self.jwt.iter().chain(permissions.iter().filter_map(|permission| permission.jwt.as_ref()));
        asked.flat_map(|requirement| &requirement.providers).map(|provider| provider.name.as_str())
    }

    /// Reports whether the intention decides request by request.
    #[must_use]
    pub fn judges_requests(&self) -> bool {
        matches!(self.effect, Effect::Permissions(_)) || self.jwt.is_some()
    }

    /// Orders intentions as they are tried: precedence first, then Consul's order of names.
    #[must_use]
    pub fn order(&self, other: &Self) -> Ordering {
        let names = |intention: &Self| {
            let (namespace, name) = match &intention.source {
                SourcePattern::Service(pattern) => {
                    (pattern.namespace_text().to_owned(), pattern.name_text().to_owned())
                }
                SourcePattern::Spiffe(id) => (String::new(), id.to_string()),
            };
            let destination = &intention.destination;
            (namespace, name, destination.namespace_text().to_owned(), destination.name_text().to_owned())
        };
        other.precedence().cmp(&self.precedence()).then_with(|| names(self).cmp(&names(other)))
    }
}

/// Is a deny of the platform team that no intention overrides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Guardrail {
    /// The name that explanations use.
    pub name: String,
    /// Who must not call.
    pub source: SourcePattern,
    /// Who must not be called.
    pub destination: ServicePattern,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn precedence_is_consuls_table() {
        let rows = [
            ("a/b", "a/b", 9),
            ("a/*", "a/b", 8),
            ("*/*", "a/b", 7),
            ("a/b", "a/*", 6),
            ("a/*", "a/*", 5),
            ("*/*", "a/*", 4),
            ("a/b", "*/*", 3),
            ("a/*", "*/*", 2),
            ("*/*", "*/*", 1),
        ];
        for (source, destination, want) in rows {
            let intention = Intention::new(source.parse().unwrap(), destination.parse().unwrap(), Action::Allow);
            assert_eq!(intention.precedence(), want, "{source} => {destination}");
        }
    }

    #[test]
    fn without_namespaces_only_nine_eight_six_and_five_occur() {
        for (source, destination, want) in [("web", "api", 9), ("*", "api", 8), ("web", "*", 6), ("*", "*", 5)] {
            let intention = Intention::new(source.parse().unwrap(), destination.parse().unwrap(), Action::Allow);
            assert_eq!(intention.precedence(), want, "{source} => {destination}");
        }
    }
}
