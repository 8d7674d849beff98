//! What an agent of an earlier release is told instead: the same without what it could not read.

use std::sync::Arc;

use catalog::{ConfigContent, Event, Item, Topic};
use wire::agent_protocol::{Capabilities, Capability, ServerFrame};

use super::feed::Frame;

/// How the names of providers of tokens begin among the items of a destination's rules.
const PROVIDER: &str = "jwt-provider/";

/// What stands between the two ends in the name of an intention, and in that of no config entry.
const ARROW: &str = " => ";

/// Returns what an item asks of its reader; nothing of those that every agent knows.
fn asks(topic: &Topic, item: &Item) -> Option<Capability> {
    match item {
        Item::Intention(_) if matches!(topic, Topic::Config(_)) => Some(Capability::ExternalRules),
        Item::Config(entry) if matches!(entry.content, ConfigContent::JwtProvider(_)) => {
            Some(Capability::TokenProviders)
        }
        Item::Address(_) => Some(Capability::Addresses),
        // Named one by one: what is new has to say here who can read it.
        Item::Mesh(_)
        | Item::Root { .. }
        | Item::DistrustedRoot { .. }
        | Item::RevokedRecord { .. }
        | Item::RevokedService { .. }
        | Item::Gateway(_)
        | Item::Intention(_)
        | Item::Endpoint(_)
        | Item::Config(_)
        | Item::Service(_)
        | Item::Node { .. } => None,
    }
}

/// Returns what the item of this name asked of its reader before it was gone. A name says so within its topic only: a gateway
/// may well be called as something else is elsewhere.
fn asked(topic: &Topic, name: &str) -> Option<Capability> {
    match topic {
        Topic::Endpoints(_) if name == Item::ADDRESS => Some(Capability::Addresses),
        Topic::Config(_) if name.contains(ARROW) => Some(Capability::ExternalRules),
        Topic::Config(_) | Topic::Intentions(_) if name.starts_with(PROVIDER) => Some(Capability::TokenProviders),
        _ => None,
    }
}

/// Returns a frame as an agent can read it that understands this much.
///
/// Without the providers of tokens that its rules name, it cannot decide these, which is a denial.
pub(super) fn readable(frame: Arc<Frame>, knows: &Capabilities) -> Arc<Frame> {
    if Capability::ALL.into_iter().all(|capability| knows.has(capability)) {
        return frame;
    }
    let ServerFrame::Event(event) = frame.content() else { return frame };
    let topic = event.topic();
    let is_new = |item: &Item| asks(topic, item).is_some_and(|asks| !knows.has(asks));
    let was_new = |name: &String| asked(topic, name).is_some_and(|asked| !knows.has(asked));
    let event = match event {
        Event::Snapshot { topic, index, items } if items.values().any(is_new) => {
            let kept = items.iter().filter(|(_, item)| !is_new(item));
            let items = kept.map(|(name, item)| (name.clone(), item.clone())).collect();
            Event::Snapshot { topic: topic.clone(), index: *index, items }
        }
        Event::Delta { topic, from, index, upserts, removes }
            if upserts.values().any(is_new) || removes.iter().any(was_new) =>
        {
            let kept = upserts.iter().filter(|(_, item)| !is_new(item));
            Event::Delta {
                topic: topic.clone(),
                from: *from,
                index: *index,
                upserts: kept.map(|(name, item)| (name.clone(), item.clone())).collect(),
                removes: removes.iter().filter(|name| !was_new(name)).cloned().collect(),
            }
        }
        _ => return frame,
    };
    // What is shorter than a frame that fits, fits.
    Frame::new(ServerFrame::Event(event)).map_or(frame, Arc::new)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use catalog::{Action, CatalogIndex, ConfigEntry, Intention, JwtKeys, ProxyDefaults, TokenProvider, Topic};

    use super::*;

    #[test]
    fn fault_22_an_agent_one_release_behind_is_told_of_nothing_that_it_could_not_read() {
        let keys = JwtKeys::Set("{}".to_owned());
        let provider = TokenProvider::new("okta".parse().unwrap(), "https://okta.example".to_owned(), keys);
        let entry = ConfigEntry::new(ConfigContent::JwtProvider(Box::new(provider)));
        let (name, item) = (entry.key().to_string(), Item::Config(Box::new(entry)));
        let topic = Topic::Intentions("api".parse().unwrap());
        let number = Item::Address(catalog::AddressNumber::new(7).unwrap());
        let endpoints = Topic::Endpoints("api".parse().unwrap());
        let index = CatalogIndex(7);
        let events = [(topic, name, item), (endpoints, Item::ADDRESS.to_owned(), number)].map(|(topic, name, item)| {
            let other = ("other".to_owned(), Item::Service("api".parse().unwrap()));
            let items = BTreeMap::from([(name.clone(), item), other]);
            let removes = BTreeSet::from([name, "gone".to_owned()]);
            let snapshot = Event::Snapshot { topic: topic.clone(), index, items: items.clone() };
            [snapshot, Event::Delta { topic, from: CatalogIndex(6), index, upserts: items, removes }]
        });
        for event in events.into_iter().flatten() {
            let frame = Arc::new(Frame::new(ServerFrame::Event(event)).unwrap());
            let same = readable(Arc::clone(&frame), &Capabilities::ours());
            assert!(Arc::ptr_eq(&same, &frame));
            let older = readable(frame, &Capabilities::default());
            let text = String::from_utf8_lossy(older.encoded()).into_owned();
            assert!(
                !text.contains("jwt-provider") && text.contains("other") && text.contains(r#""index":7"#),
                "{text}"
            );
            assert!(!text.contains("address"), "{text}");
        }
    }

    #[test]
    fn fault_22_an_agent_one_release_behind_hears_that_a_gateway_is_gone_whatever_its_name() {
        let removes = BTreeSet::from([Item::ADDRESS.to_owned()]);
        let (from, index, upserts) = (CatalogIndex(6), CatalogIndex(7), BTreeMap::new());
        let event = Event::Delta { topic: Topic::Gateways, from, index, upserts, removes };
        let frame = Arc::new(Frame::new(ServerFrame::Event(event)).unwrap());
        assert!(Arc::ptr_eq(&readable(Arc::clone(&frame), &Capabilities::default()), &frame));
    }

    #[test]
    fn fault_22_an_agent_one_release_behind_is_not_told_the_rules_for_what_is_outside_the_mesh() {
        let (web, legacy) = ("web".parse().unwrap(), "legacy".parse().unwrap());
        let rule = Intention::new(web, legacy, Action::Allow);
        let (topic, name) = (Topic::Config("legacy".parse().unwrap()), rule.key().to_string());
        let global = ConfigEntry::new(ConfigContent::ProxyDefaults(ProxyDefaults::default()));
        let (kept, entry) = (global.key().to_string(), Item::Config(Box::new(global)));
        let items = BTreeMap::from([(name.clone(), Item::Intention(Box::new(rule))), (kept.clone(), entry)]);
        let (from, index) = (CatalogIndex(6), CatalogIndex(7));
        let removes = BTreeSet::from([name, kept]);
        let delta = Event::Delta { topic: topic.clone(), from, index, upserts: BTreeMap::new(), removes };
        for event in [Event::Snapshot { topic, index, items }, delta] {
            let frame = Arc::new(Frame::new(ServerFrame::Event(event)).unwrap());
            assert!(Arc::ptr_eq(&readable(Arc::clone(&frame), &Capabilities::ours()), &frame));
            let older = readable(frame, &Capabilities::default());
            let text = String::from_utf8_lossy(older.encoded()).into_owned();
            assert!(!text.contains("=>") && text.contains("proxy-defaults/global"), "{text}");
        }
    }
}
