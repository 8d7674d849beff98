//! What objects of a cluster say by their annotations: in weft's words, and in Consul's as other spellings of the same.

use std::collections::BTreeMap;

/// Begins weft's own annotations.
pub(super) const OWN: &str = "weft.dev/";
/// Begins Consul's, which are read and never written.
pub(super) const CONSULS: &str = "consul.hashicorp.com/";

/// Names one annotation, or what begins several, in weft's words and in Consul's where it has any for that.
pub(super) struct Spelling(pub(super) &'static str, pub(super) Option<&'static str>);

impl Spelling {
    /// Finds what is said under weft's name, else under Consul's; returns it with the name that it was found by.
    pub(super) fn find<'a>(&self, said: impl Fn(&str) -> Option<&'a str>) -> Option<(String, &'a str)> {
        self.names().find_map(|name| said(&name).map(|value| (name, value)))
    }

    /// Returns all that is said under names that begin so, by the rest of their names; weft's spelling of one wins.
    pub(super) fn begun<'a>(&self, said: impl Iterator<Item = (&'a str, &'a str)> + Clone) -> BTreeMap<String, String> {
        let mut facts = BTreeMap::new();
        for prefix in self.names().rev() {
            let found = said.clone().filter_map(|(name, value)| Some((name.strip_prefix(&prefix)?, value)));
            let named = found.filter(|(name, _)| !name.is_empty());
            facts.extend(named.map(|(name, value)| (name.to_owned(), value.to_owned())));
        }
        facts
    }

    /// Returns its names in full; those that win come first.
    fn names(&self) -> impl DoubleEndedIterator<Item = String> {
        let consuls = self.1.map(|name| format!("{CONSULS}{name}"));
        [Some(format!("{OWN}{}", self.0)), consuls].into_iter().flatten()
    }
}

/// Splits tags at commas, but not at those behind a backslash.
pub(super) fn tags(text: &str) -> Vec<String> {
    let mut tags = vec![String::new()];
    let mut rest = text.chars();
    while let Some(next) = rest.next() {
        match next {
            '\\' => tags.last_mut().expect("there is always one").extend(rest.next()),
            ',' => tags.push(String::new()),
            other => tags.last_mut().expect("there is always one").push(other),
        }
    }
    tags.into_iter().map(|tag| tag.trim().to_owned()).filter(|tag| !tag.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wefts_spelling_wins_over_the_other_one() {
        let said = BTreeMap::from([
            ("weft.dev/meta-team", "shop"),
            ("consul.hashicorp.com/service-meta-team", "other"),
            ("consul.hashicorp.com/service-meta-tier", "front"),
            ("weft.dev/meta-", "nothing"),
        ]);
        let meta = Spelling("meta-", Some("service-meta-"));
        let facts = meta.begun(said.iter().map(|(name, value)| (*name, *value)));
        let want = [("team", "shop"), ("tier", "front")].map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(facts, want.into());
        let find = |spelling: Spelling| spelling.find(|name| said.get(name).copied());
        assert_eq!(
            find(Spelling("meta-team", Some("service-meta-team"))),
            Some(("weft.dev/meta-team".to_owned(), "shop"))
        );
        assert_eq!(
            find(Spelling("tier", Some("service-meta-tier"))).unwrap().0,
            "consul.hashicorp.com/service-meta-tier"
        );
        assert_eq!(find(Spelling("tier", None)), None);
    }

    #[test]
    fn a_tag_may_hold_a_comma_behind_a_backslash() {
        assert_eq!(tags(" v1 ,a\\,b,,"), ["v1", "a,b"]);
    }
}
