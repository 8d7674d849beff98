//! Finds the rules that speak of a caller without trying them all.

use std::collections::BTreeMap;

use crate::{Caller, Namespace, ServiceKey, ServicePattern, SourcePattern, SpiffeId};

/// Holds the places of a list of rules by their source. Each list of places ascends.
#[derive(Debug, Clone, Default)]
pub(super) struct Sources {
    services: BTreeMap<ServiceKey, Vec<usize>>,
    namespaces: BTreeMap<Namespace, Vec<usize>>,
    any: Vec<usize>,
    foreign: BTreeMap<SpiffeId, Vec<usize>>,
}

impl Sources {
    /// Enters rules by their sources, in their order.
    pub(super) fn new<'a>(sources: impl IntoIterator<Item = &'a SourcePattern>) -> Self {
        let mut entered = Self::default();
        for (at, source) in sources.into_iter().enumerate() {
            match source {
                SourcePattern::Service(ServicePattern::Exact(key)) => {
                    entered.services.entry(key.clone()).or_default().push(at);
                }
                SourcePattern::Service(ServicePattern::Namespace(namespace)) => {
                    entered.namespaces.entry(namespace.clone()).or_default().push(at);
                }
                SourcePattern::Service(ServicePattern::Any) => entered.any.push(at),
                SourcePattern::Spiffe(id) => entered.foreign.entry(id.clone()).or_default().push(at),
            }
        }
        entered
    }

    /// Returns the first rule that speaks of the caller and still counts.
    pub(super) fn first(&self, caller: &Caller, counts: impl Fn(usize) -> bool) -> Option<usize> {
        let first = |places: Option<&Vec<usize>>| places.and_then(|all| all.iter().copied().find(|at| counts(*at)));
        match caller {
            Caller::Service(service) => [
                first(self.services.get(service)),
                first(self.namespaces.get(&service.namespace)),
                first(Some(&self.any)),
            ]
            .into_iter()
            .flatten()
            .min(),
            Caller::Foreign(id) => first(self.foreign.get(id)),
            Caller::Unauthenticated => None,
        }
    }
}
