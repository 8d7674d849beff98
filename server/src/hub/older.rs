//! What an agent of an earlier release is told instead: the same without what it could not read.

use std::sync::Arc;

use catalog::{ConfigContent, Event, Item};
use wire::agent_protocol::{Capabilities, Capability, ServerFrame};

use super::feed::Frame;

/// How the names of providers of tokens begin among the items of a destination's rules.
const PROVIDER: &str = "jwt-provider/";

/// Returns a frame as an agent can read it that understands this much.
///
/// Without the providers of tokens that its rules name, it cannot decide these, which is a denial.
pub(super) fn readable(frame: Arc<Frame>, knows: &Capabilities) -> Arc<Frame> {
    if knows.has(Capability::TokenProviders) {
        return frame;
    }
    let ServerFrame::Event(event) = frame.content() else { return frame };
    let is_new =
        |item: &Item| matches!(item, Item::Config(entry) if matches!(entry.content, ConfigContent::JwtProvider(_)));
    let event = match event {
        Event::Snapshot { topic, index, items } if items.values().any(is_new) => {
            let kept = items.iter().filter(|(_, item)| !is_new(item));
            let items = kept.map(|(name, item)| (name.clone(), item.clone())).collect();
            Event::Snapshot { topic: topic.clone(), index: *index, items }
        }
        Event::Delta { topic, from, index, upserts, removes }
            if upserts.values().any(is_new) || removes.iter().any(|name| name.starts_with(PROVIDER)) =>
        {
            let kept = upserts.iter().filter(|(_, item)| !is_new(item));
            Event::Delta {
                topic: topic.clone(),
                from: *from,
                index: *index,
                upserts: kept.map(|(name, item)| (name.clone(), item.clone())).collect(),
                removes: removes.iter().filter(|name| !name.starts_with(PROVIDER)).cloned().collect(),
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

    use catalog::{CatalogIndex, ConfigEntry, JwtKeys, TokenProvider, Topic};

    use super::*;

    #[test]
    fn fault_22_an_agent_one_release_behind_is_told_of_no_provider_of_tokens() {
        let keys = JwtKeys::Set("{}".to_owned());
        let provider = TokenProvider::new("okta".parse().unwrap(), "https://okta.example".to_owned(), keys);
        let entry = ConfigEntry::new(ConfigContent::JwtProvider(Box::new(provider)));
        let (name, item) = (entry.key().to_string(), Item::Config(Box::new(entry)));
        let topic = Topic::Intentions("api".parse().unwrap());
        let items = BTreeMap::from([(name.clone(), item), ("other".to_owned(), Item::Service("api".parse().unwrap()))]);
        let removes = BTreeSet::from([name, "gone".to_owned()]);
        let index = CatalogIndex(7);
        let snapshot = Event::Snapshot { topic: topic.clone(), index, items: items.clone() };
        let delta = Event::Delta { topic, from: CatalogIndex(6), index, upserts: items, removes };
        for event in [snapshot, delta] {
            let frame = Arc::new(Frame::new(ServerFrame::Event(event)).unwrap());
            let same = readable(Arc::clone(&frame), &Capabilities::ours());
            assert!(Arc::ptr_eq(&same, &frame));
            let older = readable(frame, &Capabilities::default());
            let text = String::from_utf8_lossy(older.encoded()).into_owned();
            assert!(
                !text.contains("jwt-provider") && text.contains("other") && text.contains(r#""index":7"#),
                "{text}"
            );
        }
    }
}
