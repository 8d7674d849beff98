//! What one side says that it understands beyond the protocol's first form, so that two releases can talk.
//!
//! The rules, for whoever adds a frame or a topic:
//!
//! - Its capability is named here, and it is said only to a peer that named it: in the hello, or in the welcome.
//! - Who says nothing is of the first form and knows none of it.
//! - A name that nobody here knows is dropped: it is for a later release.
//! - A frame that a reader may pass over altogether has a kind that starts with
//!   [`OPTIONAL_KIND`](crate::frame::OPTIONAL_KIND); any other unknown kind ends the stream.

use std::collections::BTreeSet;

use catalog::Topic;
use serde::{Deserialize, Deserializer, Serialize};

/// Names something that a peer of the first form does not understand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Capability {
    /// An agent takes the rules for a service outside the mesh among the items of [`Topic::Config`].
    ExternalRules,
    /// An agent takes a service's number among the items of [`Topic::Endpoints`].
    Addresses,
    /// A server takes [`ClientFrame::Rejected`](super::ClientFrame::Rejected).
    Rejected,
    /// An agent takes [`ServerFrame::Servers`](super::ServerFrame::Servers).
    Servers,
    /// An agent takes [`ServerFrame::Settled`](super::ServerFrame::Settled), and waits for it.
    Settled,
    /// An agent takes providers of tokens among the items of [`Topic::Intentions`].
    TokenProviders,
    /// An agent takes [`ServerFrame::Tap`](super::ServerFrame::Tap).
    Tap,
    /// The topic [`Topic::Config`].
    TopicConfig,
    /// The topic [`Topic::Network`].
    TopicNetwork,
    /// The topic [`Topic::Node`].
    TopicNode,
}

impl Capability {
    /// Is every capability of this release.
    pub const ALL: [Self; 10] = [
        Self::ExternalRules,
        Self::Addresses,
        Self::Rejected,
        Self::Servers,
        Self::Settled,
        Self::TokenProviders,
        Self::TopicConfig,
        Self::TopicNetwork,
        Self::TopicNode,
        Self::Tap,
    ];

    /// Returns what a server has to understand to be asked for a topic; none for those of the first form.
    #[must_use]
    pub fn of_topic(topic: &Topic) -> Option<Self> {
        match topic {
            Topic::Mesh
            | Topic::Roots
            | Topic::Revocations
            | Topic::Gateways
            | Topic::Intentions(_)
            | Topic::Endpoints(_) => None,
            Topic::Config(_) => Some(Self::TopicConfig),
            Topic::Network(_) => Some(Self::TopicNetwork),
            Topic::Node(_) => Some(Self::TopicNode),
        }
    }

    fn named(name: &str) -> Option<Self> {
        Self::deserialize(serde::de::value::StrDeserializer::<serde::de::value::Error>::new(name)).ok()
    }
}

/// Lists what a peer understands; none for a peer of the first form.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Capabilities(BTreeSet<Capability>);

impl Capabilities {
    /// Returns what this release understands.
    #[must_use]
    pub fn ours() -> Self {
        Capability::ALL.into_iter().collect()
    }

    /// Reports whether the peer understands this.
    #[must_use]
    pub fn has(&self, capability: Capability) -> bool {
        self.0.contains(&capability)
    }

    /// Reports whether the peer can be asked for a topic.
    #[must_use]
    pub fn has_topic(&self, topic: &Topic) -> bool {
        Capability::of_topic(topic).is_none_or(|capability| self.has(capability))
    }

    /// Reports whether the peer is of the first form.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<Capability> for Capabilities {
    fn from_iter<T: IntoIterator<Item = Capability>>(all: T) -> Self {
        Self(all.into_iter().collect())
    }
}

impl<'de> Deserialize<'de> for Capabilities {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let names = Vec::<String>::deserialize(deserializer)?;
        Ok(names.iter().filter_map(|name| Capability::named(name)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fault_22_a_capability_of_a_later_release_is_passed_over() {
        let said = r#"["servers","dance","topic-config"]"#;
        let read: Capabilities = serde_json::from_str(said).unwrap();
        assert_eq!(read, [Capability::Servers, Capability::TopicConfig].into_iter().collect());
        serde_json::from_str::<Capabilities>(r#"{"servers":true}"#).unwrap_err();
    }

    #[test]
    fn every_capability_is_ours_and_reads_back() {
        let ours = Capabilities::ours();
        let text = serde_json::to_string(&ours).unwrap();
        assert_eq!(serde_json::from_str::<Capabilities>(&text).unwrap(), ours);
        assert!(Capability::ALL.into_iter().all(|capability| ours.has(capability)));
        let network = Topic::Network("eu".to_owned());
        assert!(ours.has_topic(&network) && !Capabilities::default().has_topic(&network));
        assert!(Capabilities::default().has_topic(&Topic::Roots));
    }
}
