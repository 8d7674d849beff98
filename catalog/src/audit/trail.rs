//! The chain as the servers keep it: bounded, and shared between those whose acts it tells, so that nobody who does much can
//! push out what others did.

use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use serde::{Deserialize, Serialize};

use super::{AuditHash, AuditHead, AuditLine, LINES_BYTES_MAX, LINES_MAX, Link};
use crate::CatalogIndex;

/// Is one place of the chain: a line, or what is left of neighbours that were forgotten.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    line: AuditLine,
    /// Who did it; none where it is forgotten.
    actor: Option<Arc<str>>,
    /// The first of the lines that it stands for.
    from: u64,
    /// The hash before that.
    previous: AuditHash,
}

/// Is how forgotten lines are written, as a line in their place. The order of fields is part of the form.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Gap {
    sequence: u64,
    index: CatalogIndex,
    previous: AuditHash,
    forgotten: Forgotten,
}

/// Says which lines a place stood for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Forgotten {
    /// The first of them; the last has the number of the place.
    pub(crate) from: u64,
    /// The hash of the last.
    pub(crate) hash: AuditHash,
}

/// Holds the newest lines of a chain, and the hash of the one before the oldest of them.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct AuditTrail {
    pub(crate) base: AuditHead,
    pub(crate) head: AuditHead,
    places: OrdMap<CatalogIndex, Place>,
    shares: Shares,
}

/// Says who takes how much room.
#[derive(Debug, Clone, Default, PartialEq)]
struct Shares {
    lines: usize,
    bytes: usize,
    by_kind: OrdMap<Arc<str>, usize>,
    by_actor: OrdMap<Arc<str>, Share>,
    /// Kind, bytes, actor: the last of a kind takes most.
    by_size: OrdSet<(Arc<str>, usize, Arc<str>)>,
}

/// Is what one actor takes.
#[derive(Debug, Clone, Default, PartialEq)]
struct Share {
    bytes: usize,
    lines: OrdSet<CatalogIndex>,
}

/// Returns what sort of actor it is: operators with tokens, agents and those who log in do not compete with each other.
fn kind_of(actor: &str) -> Arc<str> {
    actor.split(':').next().unwrap_or_default().into()
}

impl Shares {
    fn change(&mut self, actor: &Arc<str>, how: impl FnOnce(&mut Share)) {
        let kind = kind_of(actor);
        let mut share = self.by_actor.remove(actor).unwrap_or_default();
        self.by_size.remove(&(kind.clone(), share.bytes, actor.clone()));
        let before = self.by_kind.remove(&kind).unwrap_or_default() - share.bytes;
        how(&mut share);
        if before + share.bytes > 0 {
            self.by_kind.insert(kind.clone(), before + share.bytes);
        }
        if share.bytes > 0 {
            self.by_size.insert((kind, share.bytes, actor.clone()));
            self.by_actor.insert(actor.clone(), share);
        }
    }

    fn add(&mut self, actor: &Arc<str>, index: CatalogIndex, bytes: usize) {
        self.lines += 1;
        self.bytes += bytes;
        self.change(actor, |share| {
            share.bytes += bytes;
            share.lines.insert(index);
        });
    }

    fn remove(&mut self, actor: &Arc<str>, index: CatalogIndex, bytes: usize) {
        self.lines -= 1;
        self.bytes -= bytes;
        self.change(actor, |share| {
            share.bytes -= bytes;
            share.lines.remove(&index);
        });
    }

    /// Returns the oldest line of whoever takes most room, within the sort of actors that does.
    fn next_to_go(&self) -> Option<CatalogIndex> {
        let (kind, _) = self.by_kind.iter().max_by_key(|(_, bytes)| **bytes)?;
        let of_kind = (kind.clone(), 0, Arc::from(""))..(kind.clone(), usize::MAX, Arc::from(""));
        let (_, _, actor) = self.by_size.range(of_kind).next_back()?;
        self.by_actor.get(actor)?.lines.get_min().copied()
    }
}

impl AuditTrail {
    /// Adds a line at the head, and forgets some of whoever takes most room where there are too many.
    pub(crate) fn push(&mut self, line: AuditLine, actor: &str) {
        let (from, previous, actor) = (line.sequence, self.head.hash, Arc::from(actor));
        self.shares.add(&actor, line.index, line.text.len());
        self.append(Place { line, actor: Some(actor), from, previous });
        while self.shares.lines > LINES_MAX || self.shares.bytes > LINES_BYTES_MAX {
            let Some(index) = self.shares.next_to_go() else { break };
            self.forget(index);
        }
    }

    fn append(&mut self, place: Place) {
        self.head = AuditHead { sequence: place.line.sequence, hash: place.line.hash };
        self.places.insert(place.line.index, place);
    }

    /// Puts in the place of a line what it takes to follow the chain over it. At the beginning that is the base.
    fn forget(&mut self, index: CatalogIndex) {
        let Some(mut gap) = self.places.remove(&index) else { return };
        let Some(actor) = gap.actor.take() else { return };
        self.shares.remove(&actor, index, gap.line.text.len());
        let is_gap = |place: &&Place| place.actor.is_none();
        let before = self.places.range(..index).next_back().map(|(_, place)| place).filter(is_gap).cloned();
        if let Some(before) = before {
            (gap.from, gap.previous) = (before.from, before.previous);
            self.places.remove(&before.line.index);
        }
        let after = self.places.range(index..).next().map(|(_, place)| place).filter(is_gap).cloned();
        if let Some(after) = after {
            self.places.remove(&after.line.index);
            gap.line = after.line;
        }
        let AuditLine { index, sequence, hash, .. } = gap.line;
        if self.places.get_min().is_none_or(|(first, _)| *first > index) {
            self.base = AuditHead { sequence, hash };
            return;
        }
        let forgotten = Forgotten { from: gap.from, hash };
        let text = serde_json::to_string(&Gap { sequence, index, previous: gap.previous, forgotten });
        gap.line.text = text.expect("a gap has only what JSON can hold").into();
        self.places.insert(index, gap);
    }

    /// Returns how many lines were ever forgotten.
    pub(crate) fn forgotten(&self) -> u64 {
        self.head.sequence - self.shares.lines as u64
    }

    /// Returns the lines from a log index on, and what is left of forgotten ones, oldest first.
    pub(crate) fn lines(&self, from: CatalogIndex) -> impl Iterator<Item = &AuditLine> {
        self.places.range(from..).map(|(_, place)| &place.line)
    }
}

/// Is the chain as a snapshot holds it. The lines say their own place and their predecessor's hash.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct StoredTrail {
    base: AuditHead,
    head: AuditHead,
    lines: Vec<Arc<str>>,
}

impl From<&AuditTrail> for StoredTrail {
    fn from(trail: &AuditTrail) -> Self {
        let lines = trail.places.values().map(|place| place.line.text.clone()).collect();
        Self { base: trail.base, head: trail.head, lines }
    }
}

impl StoredTrail {
    /// Reads the chain back. Its hashes are taken from the lines; that they fit is not judged here, for a snapshot has a
    /// checksum of its own.
    pub(crate) fn open(self) -> Result<AuditTrail, String> {
        let links: Vec<Link> = self
            .lines
            .iter()
            .map(|text| serde_json::from_str(text))
            .collect::<Result<_, _>>()
            .map_err(|error| format!("an audit line cannot be read: {error}"))?;
        let hashes = links.iter().skip(1).map(|link| link.previous).chain([self.head.hash]);
        let mut trail = AuditTrail { base: self.base, head: self.base, ..AuditTrail::default() };
        for ((text, link), hash) in self.lines.iter().zip(&links).zip(hashes) {
            if link.from() != trail.head.sequence + 1
                || link.sequence < link.from()
                || trail.places.get_max().is_some_and(|(last, _)| *last >= link.index)
            {
                return Err(format!("audit line {} is out of order", link.sequence));
            }
            let line = AuditLine { index: link.index, sequence: link.sequence, text: text.clone(), hash };
            if link.forgotten.is_some() {
                trail.append(Place { line, actor: None, from: link.from(), previous: link.previous });
            } else {
                trail.push(line, &link.actor);
            }
        }
        if trail.head != self.head {
            return Err("the head of the audit trail is not its last line".to_owned());
        }
        Ok(trail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AuditVerifier, catalog::tests::digest};

    fn push(trail: &mut AuditTrail, actor: &str, filler: usize) {
        let (sequence, previous) = (trail.head.sequence + 1, trail.head.hash);
        let text = format!(
            "{{\"Sequence\":{sequence},\"Index\":{sequence},\"Actor\":\"{actor}\",\"Previous\":\"{previous}\",\"Filler\":\"{}\"}}",
            "x".repeat(filler)
        );
        let hash = AuditHash(digest(text.as_bytes()));
        trail.push(AuditLine { index: CatalogIndex(sequence), sequence, hash, text: text.into() }, actor);
    }

    fn count(trail: &AuditTrail, actor: &str) -> usize {
        let name = format!("\"Actor\":\"{actor}\"");
        trail.lines(CatalogIndex(0)).filter(|line| line.text.contains(&name)).count()
    }

    /// What a snapshot brings back is the same trail, and what is exported is a chain.
    #[track_caller]
    fn is_sound(trail: &AuditTrail) -> u64 {
        let stored = serde_json::to_vec(&StoredTrail::from(trail)).unwrap();
        assert_eq!(serde_json::from_slice::<StoredTrail>(&stored).unwrap().open().as_ref(), Ok(trail));
        let mut verifier = AuditVerifier::new(digest, Some(trail.head));
        trail.lines(CatalogIndex(0)).for_each(|line| verifier.line(&line.text).unwrap());
        let forgotten = verifier.forgotten();
        assert_eq!(verifier.finish(), Ok(trail.head));
        forgotten
    }

    #[test]
    fn the_oldest_lines_are_forgotten_by_number_and_by_size_and_the_chain_goes_on() {
        for (filler, kept) in [(0, LINES_MAX), (4000, LINES_BYTES_MAX / 4300)] {
            let mut trail = AuditTrail::default();
            for _ in 0..LINES_MAX + 100 {
                push(&mut trail, "token:a", filler);
            }
            assert!(trail.shares.lines >= kept && trail.shares.lines <= LINES_MAX, "{}", trail.shares.lines);
            assert!(trail.shares.bytes <= LINES_BYTES_MAX);
            assert_eq!((trail.forgotten(), trail.places.len()), (trail.base.sequence, trail.shares.lines));
            assert_eq!(is_sound(&trail), 0, "what is gone before the base is no gap");
        }
    }

    #[test]
    fn who_does_much_pushes_out_nobody_else() {
        let mut trail = AuditTrail::default();
        for number in 0..3 * LINES_MAX / 2 {
            // Others act now and then, so that gaps lie between their lines.
            match number % 100 {
                7 => push(&mut trail, "token:admin", 0),
                13 => push(&mut trail, "server:s1", 0),
                _ => push(&mut trail, "token:noisy", 0),
            }
        }
        let quiet = 3 * LINES_MAX / 200;
        for actor in ["token:admin", "server:s1"] {
            assert!(count(&trail, actor) >= quiet, "{actor} has {} of {quiet}", count(&trail, actor));
        }
        assert_eq!(trail.shares.lines, LINES_MAX);
        assert!(trail.places.len() <= 2 * LINES_MAX + 1);
        assert_eq!(trail.base.sequence + is_sound(&trail), trail.forgotten());
        // Many who act little are one sort among others.
        for number in 0..LINES_MAX {
            push(&mut trail, &format!("login:m{number}"), 0);
        }
        assert!(count(&trail, "token:admin") >= quiet / 2, "{}", count(&trail, "token:admin"));
        is_sound(&trail);
    }

    #[test]
    fn a_line_in_the_middle_leaves_a_gap_that_neighbours_join() {
        let mut trail = AuditTrail::default();
        (0..6).for_each(|_| push(&mut trail, "token:a", 0));
        for (index, gaps, base) in [(3, 1, 0), (5, 2, 0), (4, 1, 0), (1, 1, 1), (2, 0, 5)] {
            trail.forget(CatalogIndex(index));
            let found = trail.places.values().filter(|place| place.actor.is_none()).count();
            assert_eq!((found, trail.base.sequence), (gaps, base), "after {index}");
            is_sound(&trail);
        }
        assert_eq!((trail.forgotten(), trail.shares.lines), (5, 1));
    }
}
