//! Where calls of local services go: compiled when it changes, and put in force once there is somewhere to go.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use catalog::{Endpoint, Routes, ServiceKey, TargetKey, Topic};

use super::publish::{config_entries, endpoints};
use crate::sync::{TopicState, View};

/// Holds where calls to each upstream go.
#[derive(Debug, Default)]
pub(super) struct Routing {
    held: BTreeMap<ServiceKey, Held>,
}

#[derive(Debug)]
struct Held {
    /// What the newest routes were compiled from.
    from: Arc<TopicState>,
    newest: Arc<Routes>,
    /// What calls go by: older ones as long as the instances of the newest are not known.
    in_force: Arc<Routes>,
    /// What these were compiled from.
    in_force_from: Arc<TopicState>,
    /// Those of the services that calls may end at by the newest that are outside the mesh.
    external: BTreeSet<ServiceKey>,
}

impl Routing {
    /// Follows what is known of the services that are called.
    pub(super) fn follow(&mut self, called: &BTreeSet<ServiceKey>, view: &View) {
        self.held.retain(|service, _| called.contains(service));
        for service in called {
            let Some(from) = view.get(&Topic::Config(service.clone())) else { continue };
            let held = self.held.get_mut(service);
            let is_new = held.as_ref().is_none_or(|held| !Arc::ptr_eq(&held.from, from));
            // It was looked at before it was taken. Were it wrong after all, what is in force stays.
            let newest = is_new.then(|| compiled(service, from)).flatten();
            match (held, newest) {
                (Some(held), newest) => {
                    if let Some((newest, external)) = newest {
                        (held.newest, held.from, held.external) = (newest, Arc::clone(from), external);
                    }
                    if is_known(&held.newest, view) {
                        held.in_force = Arc::clone(&held.newest);
                        held.in_force_from = Arc::clone(&held.from);
                    }
                }
                (None, Some((newest, external))) => {
                    let (in_force, in_force_from) = (Arc::clone(&newest), Arc::clone(from));
                    let held = Held { from: Arc::clone(from), newest, in_force, in_force_from, external };
                    self.held.insert(service.clone(), held);
                }
                (None, None) => {}
            }
        }
    }

    /// Reports whether the routes of another service lead to this one.
    pub(super) fn lead_to(&self, service: &ServiceKey) -> bool {
        let others = self.held.iter().filter(|(called, _)| *called != service);
        let routes = others.flat_map(|(_, held)| [&held.newest, &held.in_force]);
        routes.flat_map(|routes| routes.targets()).any(|target| target.key.service == *service)
    }

    /// Returns the services whose instances calls may end at, now or as soon as they are known.
    pub(super) fn targets(&self) -> BTreeSet<ServiceKey> {
        let routes = self.held.values().flat_map(|held| [&held.newest, &held.in_force]);
        routes.flat_map(|routes| routes.targets()).map(|target| target.key.service.clone()).collect()
    }

    /// Returns those of them that are outside the mesh.
    pub(super) fn external(&self) -> BTreeSet<ServiceKey> {
        self.held.values().flat_map(|held| &held.external).cloned().collect()
    }

    /// Returns what calls go by.
    pub(super) fn in_force(&self) -> BTreeMap<ServiceKey, Arc<Routes>> {
        self.held.iter().map(|(service, held)| (service.clone(), Arc::clone(&held.in_force))).collect()
    }

    /// Returns what is said of each upstream by what calls go by.
    pub(super) fn entries_in_force(&self) -> BTreeMap<ServiceKey, Arc<TopicState>> {
        self.held.iter().map(|(service, held)| (service.clone(), Arc::clone(&held.in_force_from))).collect()
    }

    /// Returns the instances of each subset that calls may end at.
    pub(super) fn subsets(&self, view: &View) -> BTreeMap<TargetKey, Vec<Endpoint>> {
        let mut subsets = BTreeMap::new();
        let targets = self.held.values().flat_map(|held| held.in_force.targets());
        for target in targets.filter(|target| !target.is_whole()) {
            let all = view.get(&Topic::Endpoints(target.key.service.clone())).map(|state| endpoints(state));
            let selected = all.unwrap_or_default().into_iter().filter(|endpoint| target.selects(endpoint));
            subsets.insert(target.key.clone(), selected.collect());
        }
        subsets
    }
}

/// Returns where calls to a service go by its entries, and which of the services there are outside the mesh.
fn compiled(service: &ServiceKey, from: &TopicState) -> Option<(Arc<Routes>, BTreeSet<ServiceKey>)> {
    let entries = config_entries(from);
    let routes = entries.routes_of(service).ok()?;
    let targets = routes.targets().map(|target| &target.key.service);
    let external = targets.filter(|target| entries.is_external(target)).cloned().collect();
    Some((Arc::new(routes), external))
}

/// Reports whether the instances of everything that routes lead to are known.
fn is_known(routes: &Routes, view: &View) -> bool {
    routes.targets().all(|target| view.contains_key(&Topic::Endpoints(target.key.service.clone())))
}

#[cfg(test)]
mod tests {
    use catalog::{CatalogIndex, ConfigContent, ConfigEntry, Item, Redirect, ServiceResolver};

    use super::*;

    fn key(name: &str) -> ServiceKey {
        name.parse().unwrap()
    }

    fn config(to: Option<&str>) -> Arc<TopicState> {
        let entry = to.map(|to| {
            ConfigEntry::new(ConfigContent::ServiceResolver(ServiceResolver {
                redirect: Some(Redirect { service: Some(key(to)), subset: None }),
                ..ServiceResolver::new(key("api"))
            }))
        });
        let items = entry.map(|entry| (entry.key().to_string(), Item::Config(Box::new(entry)))).into_iter().collect();
        Arc::new(TopicState { index: CatalogIndex(1), items })
    }

    fn goes_to(routing: &Routing) -> String {
        routing.in_force()[&key("api")].targets().next().unwrap().key.service.to_string()
    }

    #[test]
    fn calls_go_where_they_went_until_the_instances_of_the_new_place_are_known() {
        let called = BTreeSet::from([key("api")]);
        let nothing = Arc::new(TopicState { index: CatalogIndex(1), items: BTreeMap::new() });
        let mut view = View::new();
        let mut routing = Routing::default();
        routing.follow(&called, &view);
        assert!(routing.in_force().is_empty(), "nothing is known yet");
        view.insert(Topic::Config(key("api")), config(None));
        view.insert(Topic::Endpoints(key("api")), Arc::clone(&nothing));
        routing.follow(&called, &view);
        assert_eq!(goes_to(&routing), "default/api");

        view.insert(Topic::Config(key("api")), config(Some("next")));
        routing.follow(&called, &view);
        assert_eq!(goes_to(&routing), "default/api");
        assert!(routing.entries_in_force()[&key("api")].items.is_empty(), "nor do the entries hold yet");
        assert_eq!(routing.targets(), BTreeSet::from([key("api"), key("next")]), "both are followed meanwhile");
        view.insert(Topic::Endpoints(key("next")), nothing);
        routing.follow(&called, &view);
        assert_eq!(goes_to(&routing), "default/next");
        assert_eq!(routing.targets(), BTreeSet::from([key("next")]));
        assert!(Arc::ptr_eq(&routing.entries_in_force()[&key("api")], &view[&Topic::Config(key("api"))]));
        routing.follow(&BTreeSet::new(), &view);
        assert!(routing.in_force().is_empty());
    }
}
