//! What tokens may do, by what they are linked to.

use super::Catalog;
use crate::{Authority, Namespace, Rights, Rules, TemplatedPolicy, Token};

impl Catalog {
    /// Returns what the holder of a token may do now; whether the token has expired is not asked here.
    #[must_use]
    pub fn authority(&self, token: &Token) -> Authority {
        if token.rights == Rights::Management {
            return Authority::management();
        }
        let mut authority = Authority::default();
        for name in &token.service_identities {
            authority.add(&Rules::of_service(name), &token.namespace);
        }
        for name in &token.node_identities {
            authority.add(&Rules::of_node(name), &Namespace::default_namespace());
        }
        for policy in &token.templated_policies {
            authority.add(&policy.rules(), &token.namespace);
        }
        authority
    }
}

impl TemplatedPolicy {
    /// Returns what it grants.
    #[must_use]
    pub fn rules(&self) -> Rules {
        match self {
            Self::Service { name } => Rules::of_service(name),
            Self::Node { name } => Rules::of_node(name),
            Self::Dns => Rules::of_dns(),
        }
    }
}
