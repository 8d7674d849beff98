//! Whether what a server says of a topic can be true.
//!
//! An agent that took nonsense would lose the good state it has. So everything is looked at before anything is taken:
//! an event that fails here is dropped whole, the last good state stays in force, and the operator hears of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use catalog::{ConfigContent, ConfigEntries, ConfigEntry, Item, ServiceKey, Topic};
use wire::tls::TrustAnchors;

use super::TopicState;

/// Judges all that a topic would hold, beside what it holds now.
///
/// # Errors
///
/// One line on the first item that cannot be true.
pub(super) fn items(topic: &Topic, items: &BTreeMap<String, Item>, held: Option<&TopicState>) -> Result<(), String> {
    for (key, item) in items {
        item_of(topic, item).map_err(|reason| format!("item `{}`: {reason}", key.escape_debug()))?;
    }
    match topic {
        Topic::Mesh => mesh(items, held),
        Topic::Roots => roots(items),
        Topic::Config(service) => config(service, items),
        Topic::Intentions(_) => under_own_names(items),
        Topic::Revocations | Topic::Gateways | Topic::Endpoints(_) | Topic::Network(_) | Topic::Node(_) => Ok(()),
    }
}

fn item_of(topic: &Topic, item: &Item) -> Result<(), String> {
    match (topic, item) {
        (Topic::Mesh, Item::Mesh(_))
        | (Topic::Roots, Item::Root { .. })
        | (Topic::Config(_), Item::Config(_))
        | (Topic::Network(_), Item::Service(_))
        | (Topic::Endpoints(_), Item::Address(_))
        | (Topic::Node(_), Item::Node { .. })
        | (
            Topic::Revocations,
            Item::RevokedRecord { .. } | Item::RevokedService { .. } | Item::DistrustedRoot { .. },
        ) => Ok(()),
        (Topic::Gateways, Item::Gateway(gateway)) => {
            if gateway.address.is_empty() || gateway.port == 0 {
                Err("it has no address or no port".to_owned())
            } else {
                Ok(())
            }
        }
        (Topic::Intentions(_), Item::Config(entry)) if matches!(entry.content, ConfigContent::JwtProvider(_)) => Ok(()),
        // Beside how calls to it go, callers of a service outside the mesh are told its rules.
        (Topic::Intentions(service) | Topic::Config(service), Item::Intention(intention)) => {
            if intention.destination.matches(service) {
                Ok(())
            } else {
                Err(format!("its destination is {}", intention.destination))
            }
        }
        (Topic::Endpoints(service), Item::Endpoint(endpoint)) => {
            if endpoint.key.namespace != service.namespace {
                Err(format!("it lives in namespace {}", endpoint.key.namespace))
            } else if endpoint.address.is_empty() {
                Err("it has no address".to_owned())
            } else {
                Ok(())
            }
        }
        (_, Item::Mesh(_)) => Err("facts about the mesh do not belong here".to_owned()),
        (_, Item::Root { .. }) => Err("a root does not belong here".to_owned()),
        (_, Item::Gateway(_)) => Err("a gateway does not belong here".to_owned()),
        (_, Item::RevokedRecord { .. } | Item::RevokedService { .. } | Item::DistrustedRoot { .. }) => {
            Err("a revocation does not belong here".to_owned())
        }
        (_, Item::Intention(_)) => Err("an intention does not belong here".to_owned()),
        (_, Item::Service(_)) => Err("a service does not belong here".to_owned()),
        (_, Item::Node { .. }) => Err("a node does not belong here".to_owned()),
        (_, Item::Address(_)) => Err("a service's number does not belong here".to_owned()),
        (_, Item::Endpoint(_)) => Err("an endpoint does not belong here".to_owned()),
        (_, Item::Config(_)) => Err("a config entry does not belong here".to_owned()),
    }
}

/// Exactly one item, of the same mesh as before: every identity would mean something else in another one.
fn mesh(items: &BTreeMap<String, Item>, held: Option<&TopicState>) -> Result<(), String> {
    let mut all = items.values();
    let (Some(Item::Mesh(now)), None) = (all.next(), all.next()) else {
        return Err(format!("{} items, not one", items.len()));
    };
    let Some(Item::Mesh(before)) = held.and_then(|held| held.items.values().next()) else { return Ok(()) };
    if now.cluster_id != before.cluster_id || now.scheme() != before.scheme() {
        return Err(format!("the mesh became another: `{}`, was `{}`", now.trust_domain, before.trust_domain));
    }
    Ok(())
}

/// At least one root, each of them readable: without roots nobody could be recognised any more.
fn roots(items: &BTreeMap<String, Item>) -> Result<(), String> {
    let certificates: Vec<String> = items
        .values()
        .filter_map(|item| match item {
            Item::Root { certificate_pem, .. } => Some(certificate_pem.clone()),
            _ => None,
        })
        .collect();
    if certificates.is_empty() {
        return Err("no root is left".to_owned());
    }
    TrustAnchors::check(&certificates).map_err(|error| error.to_string())
}

/// Every entry under its own name: of two that say they are one, only the later would count.
fn under_own_names(items: &BTreeMap<String, Item>) -> Result<(), String> {
    let misnamed = items.iter().find_map(|(key, item)| match item {
        Item::Config(entry) if entry.key().to_string() != *key => Some((key, entry.key())),
        _ => None,
    });
    match misnamed {
        Some((key, own)) => Err(format!("item `{}` is the entry {own}", key.escape_debug())),
        None => Ok(()),
    }
}

/// Entries that together make routes.
fn config(service: &ServiceKey, items: &BTreeMap<String, Item>) -> Result<(), String> {
    under_own_names(items)?;
    let entries = items.values().filter_map(|item| match item {
        Item::Config(entry) => Some(Arc::new(ConfigEntry::clone(entry))),
        _ => None,
    });
    let routes = entries.collect::<ConfigEntries>().routes_of(service);
    routes.map(drop).map_err(|error| format!("calls to `{service}`: {error}"))
}

#[cfg(test)]
mod tests {
    use catalog::{
        CatalogIndex, ConfigContent, ConfigEntry, Intention, ProxyDefaults, ServiceKey, ServicePattern, SourcePattern,
    };

    use super::*;
    use crate::testing::TestMesh;

    fn keyed(all: Vec<Item>) -> BTreeMap<String, Item> {
        all.into_iter().enumerate().map(|(number, item)| (number.to_string(), item)).collect()
    }

    #[track_caller]
    fn refused(topic: &Topic, all: Vec<Item>, held: Option<&TopicState>, says: &str) {
        let reason = items(topic, &keyed(all), held).unwrap_err();
        assert!(reason.contains(says), "{reason}");
    }

    fn intention(destination: &str) -> Item {
        let source = SourcePattern::Service(ServicePattern::Any);
        Item::Intention(Box::new(Intention::new(source, destination.parse().unwrap(), catalog::Action::Allow)))
    }

    fn web() -> ServiceKey {
        "web".parse().unwrap()
    }

    #[test]
    fn a_config_entry_stands_under_its_own_name() {
        let entry = ConfigEntry::new(ConfigContent::ProxyDefaults(ProxyDefaults::default()));
        let topic = Topic::Config(web());
        let named = BTreeMap::from([(entry.key().to_string(), Item::Config(Box::new(entry.clone())))]);
        assert_eq!(items(&topic, &named, None), Ok(()));
        assert_eq!(items(&topic, &BTreeMap::new(), None), Ok(()));
        refused(&topic, vec![Item::Config(Box::new(entry.clone()))], None, "is the entry proxy-defaults/global");
        refused(&Topic::Endpoints(web()), vec![Item::Config(Box::new(entry))], None, "does not belong here");
    }

    #[test]
    fn an_agent_never_ends_up_without_roots() {
        let mesh = TestMesh::new();
        let root = |certificate_pem: &str| Item::Root {
            certificate_pem: certificate_pem.to_owned(),
            active: true,
            signer: None,
        };
        let good = root(&mesh.roots_pem()[0]);
        assert_eq!(items(&Topic::Roots, &keyed(vec![good.clone()]), None), Ok(()));
        refused(&Topic::Roots, vec![], None, "no root is left");
        refused(&Topic::Roots, vec![good, root("rubbish")], None, "root certificate");
    }

    #[test]
    fn the_mesh_does_not_become_another() {
        let mut item = TestMesh::new().item;
        let as_item = |item: &catalog::MeshItem| Item::Mesh(Box::new(item.clone()));
        let held = TopicState { index: CatalogIndex(1), items: keyed(vec![as_item(&item)]) };
        item.default_action = catalog::Action::Allow;
        assert_eq!(items(&Topic::Mesh, &keyed(vec![as_item(&item)]), Some(&held)), Ok(()));
        item.trust_domain = "elsewhere.test".parse().unwrap();
        assert_eq!(items(&Topic::Mesh, &keyed(vec![as_item(&item)]), None), Ok(()));
        refused(&Topic::Mesh, vec![as_item(&item)], Some(&held), "became another");
        refused(&Topic::Mesh, vec![], None, "0 items, not one");
        refused(&Topic::Mesh, vec![as_item(&item), as_item(&item)], None, "2 items, not one");
    }

    #[test]
    fn an_item_belongs_to_its_topic() {
        let toward_web = Topic::Intentions(web());
        let fitting = vec![intention("web"), intention("*"), intention("*/*")];
        assert_eq!(items(&toward_web, &keyed(fitting), None), Ok(()));
        refused(&toward_web, vec![intention("api")], None, "its destination is default/api");
        assert_eq!(items(&Topic::Config(web()), &keyed(vec![intention("*")]), None), Ok(()));
        refused(&Topic::Config(web()), vec![intention("api")], None, "its destination is default/api");
        let revoked = || Item::RevokedRecord { enrolled: CatalogIndex(1) };
        refused(&toward_web, vec![revoked()], None, "a revocation does not belong here");
        refused(&Topic::Endpoints(web()), vec![intention("web")], None, "an intention does not belong here");
        assert_eq!(items(&Topic::Revocations, &keyed(vec![revoked()]), None), Ok(()));
        assert_eq!(items(&Topic::Revocations, &keyed(vec![]), None), Ok(()));
    }
}
