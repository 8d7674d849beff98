//! What a server writes down of those whom it admits alone, before it tells them: one that crashes meanwhile has the mesh
//! decide about them all the same. It is read to be handed in, and nobody is served by it.
//!
//! A line is `checksum json`. What was torn off at the end is an admission that nobody was answered.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use catalog::CatalogIndex;
use serde::{Deserialize, Serialize};
use tracing::warn;

use super::Held;

const FILE: &str = "admissions";
const FILE_BEFORE_RENAME: &str = "admissions.new";
/// What another release wrote, or nobody: it is kept for people.
const FILE_UNREAD: &str = "admissions.unread";
/// From so many lines on the file is written anew, with those who are still held.
const LINES_MAX: usize = 16_384;
const VERSION: u16 = 1;

/// One line.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) enum Entry {
    /// Somebody was admitted.
    Admitted(Box<Held>),
    /// The mesh was asked about whom has this number.
    Settled(CatalogIndex),
}

#[derive(Serialize, Deserialize)]
struct Line {
    version: u16,
    entry: Entry,
}

/// What is to become of the file.
#[derive(Debug)]
pub(super) enum Work {
    Append(Vec<Entry>),
    /// It has become long: only those are left who are held.
    Rewrite(Vec<Held>),
    /// Nobody is held any more.
    Clear,
}

/// The file.
#[derive(Debug)]
pub(super) struct Journal {
    directory: PathBuf,
    file: Option<File>,
    lines: usize,
}

/// Reads who is held by a file of an earlier process, in the order of their admissions, and leaves a file with these alone; the
/// second part is why that could not be, as the operating system says. What this release cannot read is put aside.
pub(super) fn recover(directory: &Path) -> (Vec<Held>, io::Result<()>) {
    let bytes = match fs::read(directory.join(FILE)) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return (Vec::new(), Ok(())),
        Err(error) => return (Vec::new(), Err(error)),
    };
    let (held, is_whole) = read(&bytes);
    let tidied = tidy(directory, &held, is_whole);
    (held, tidied)
}

fn tidy(directory: &Path, held: &[Held], is_whole: bool) -> io::Result<()> {
    if !is_whole {
        let aside = directory.join(FILE_UNREAD);
        warn!(path = %aside.display(), "not all of what was noted of agents that were admitted without a quorum can be read");
        fs::copy(directory.join(FILE), &aside)?;
        File::open(&aside)?.sync_all()?;
    }
    let mut journal = Journal::new(directory.to_owned());
    if held.is_empty() { journal.clear() } else { journal.rewrite(held) }
}

/// Reads lines; the second part says whether each could be read, but for one that was torn off at the end.
fn read(bytes: &[u8]) -> (Vec<Held>, bool) {
    let mut held: BTreeMap<CatalogIndex, (usize, Held)> = BTreeMap::new();
    let mut is_whole = true;
    // What stands behind the last end of a line is nothing, or was torn off.
    let ends = bytes.iter().filter(|byte| **byte == b'\n').count();
    for (number, line) in bytes.split(|byte| *byte == b'\n').take(ends).enumerate() {
        match decode(line) {
            Some(Entry::Admitted(one)) => {
                for superseded in &one.superseded {
                    held.remove(superseded);
                }
                held.insert(one.record.enrolled, (number, *one));
            }
            Some(Entry::Settled(enrolled)) => drop(held.remove(&enrolled)),
            None => is_whole = false,
        }
    }
    let mut held: Vec<(usize, Held)> = held.into_values().collect();
    held.sort_by_key(|(number, _)| *number);
    (held.into_iter().map(|(_, held)| held).collect(), is_whole)
}

fn encode(entry: Entry) -> Vec<u8> {
    let json = serde_json::to_vec(&Line { version: VERSION, entry }).expect("an entry has only what JSON can hold");
    let mut line = format!("{:08x} ", crc32fast::hash(&json)).into_bytes();
    line.extend(json);
    line.push(b'\n');
    line
}

fn decode(line: &[u8]) -> Option<Entry> {
    let (checksum, json) = line.split_at_checked(9)?;
    let checksum = u32::from_str_radix(std::str::from_utf8(checksum).ok()?.strip_suffix(' ')?, 16).ok()?;
    if checksum != crc32fast::hash(json) {
        return None;
    }
    serde_json::from_slice::<Line>(json).ok().filter(|line| line.version == VERSION).map(|line| line.entry)
}

impl Journal {
    /// Returns the journal in a data directory.
    pub(super) fn new(directory: PathBuf) -> Journal {
        Journal { directory, file: None, lines: 0 }
    }

    /// Reports whether so many lines more are too many.
    pub(super) fn is_long(&self, more: usize) -> bool {
        self.lines + more > LINES_MAX
    }

    /// Does that; durable on return.
    ///
    /// # Errors
    /// As the operating system says. What the file holds is not known then: nothing may be appended to it any more.
    pub(super) fn carry_out(&mut self, work: Work) -> io::Result<()> {
        match work {
            Work::Append(entries) => self.append(entries),
            Work::Rewrite(held) => self.rewrite(&held),
            Work::Clear => self.clear(),
        }
    }

    fn append(&mut self, entries: Vec<Entry>) -> io::Result<()> {
        self.lines += entries.len();
        let bytes: Vec<u8> = entries.into_iter().flat_map(encode).collect();
        let file = match &mut self.file {
            Some(file) => file,
            none => {
                let path = self.directory.join(FILE);
                let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
                File::open(&self.directory)?.sync_all()?;
                none.insert(file)
            }
        };
        file.write_all(&bytes)?;
        file.sync_data()
    }

    /// Replaces the file, so that a crash leaves the old one or the new one.
    fn rewrite(&mut self, held: &[Held]) -> io::Result<()> {
        let new = self.directory.join(FILE_BEFORE_RENAME);
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        for one in held {
            file.write_all(&encode(Entry::Admitted(Box::new(one.clone()))))?;
        }
        file.sync_all()?;
        fs::rename(&new, self.directory.join(FILE))?;
        (self.file, self.lines) = (None, held.len());
        File::open(&self.directory)?.sync_all()
    }

    fn clear(&mut self) -> io::Result<()> {
        (self.file, self.lines) = (None, 0);
        match fs::remove_file(self.directory.join(FILE)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => File::open(&self.directory)?.sync_all(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::held;
    use super::*;

    fn numbers(held: &[Held]) -> Vec<u64> {
        held.iter().map(|one| one.record.enrolled.0).collect()
    }

    #[track_caller]
    fn recovered(directory: &Path) -> Vec<Held> {
        let (held, tidied) = recover(directory);
        tidied.unwrap();
        held
    }

    fn lines(entries: Vec<Entry>) -> Vec<u8> {
        entries.into_iter().flat_map(encode).collect()
    }

    fn admitted(number: u64) -> Entry {
        Entry::Admitted(Box::new(held(number)))
    }

    #[test]
    fn what_was_admitted_and_not_settled_is_read_back_in_order() {
        let first = held(40);
        let entries = [Entry::Admitted(Box::new(first.clone())), admitted(8), admitted(24)];
        let (read, is_whole) = read(&lines(entries.into_iter().chain([Entry::Settled(CatalogIndex(8))]).collect()));
        assert_eq!((numbers(&read), is_whole), (vec![40, 24], true));
        assert_eq!(serde_json::to_value(&read[0]).unwrap(), serde_json::to_value(&first).unwrap());
        // Whoever took the place of another one brings its number along.
        let later = Held { superseded: vec![CatalogIndex(40)], ..held(56) };
        let entries = vec![admitted(40), admitted(24), Entry::Admitted(Box::new(later))];
        assert_eq!(numbers(&self::read(&lines(entries)).0), [24, 56]);
    }

    #[test]
    fn a_journal_that_is_torn_anywhere_keeps_what_stands_before_and_a_flipped_bit_costs_one_line() {
        let (first, second) = (lines(vec![admitted(8)]), lines(vec![admitted(24)]));
        let both = [first.clone(), second].concat();
        for length in 0..both.len() {
            let want: &[u64] = if length < first.len() { &[] } else { &[8] };
            let (held, is_whole) = read(&both[..length]);
            assert_eq!((numbers(&held), is_whole), (want.to_vec(), true), "torn at {length}");
        }
        for at in 0..first.len() {
            let mut flipped = both.clone();
            flipped[at] ^= 1;
            let (held, is_whole) = read(&flipped);
            assert!(!numbers(&held).contains(&8) && !is_whole, "flipped at {at}: {held:?}");
        }
    }

    #[test]
    fn the_file_holds_those_who_are_held_and_is_gone_with_the_last_of_them() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE);
        assert!(recovered(directory.path()).is_empty());
        let mut journal = Journal::new(directory.path().to_owned());
        journal.carry_out(Work::Append(vec![admitted(8)])).unwrap();
        journal.carry_out(Work::Append(vec![admitted(24), Entry::Settled(CatalogIndex(8))])).unwrap();
        assert!(!journal.is_long(0) && journal.is_long(LINES_MAX));
        assert_eq!(numbers(&recovered(directory.path())), [24]);
        assert_eq!(fs::read(&path).unwrap().split(|byte| *byte == b'\n').count(), 2, "one line is left, and its end");
        let mode = std::os::unix::fs::MetadataExt::mode(&fs::metadata(&path).unwrap());
        assert_eq!(mode & 0o777, 0o600);
        let mut journal = Journal::new(directory.path().to_owned());
        journal.carry_out(Work::Append(vec![admitted(40)])).unwrap();
        journal.carry_out(Work::Rewrite(vec![held(40)])).unwrap();
        journal.carry_out(Work::Append(vec![admitted(56)])).unwrap();
        assert_eq!(numbers(&recovered(directory.path())), [40, 56]);
        journal.carry_out(Work::Clear).unwrap();
        journal.carry_out(Work::Clear).unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn what_another_release_wrote_is_put_aside_and_the_rest_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let later = serde_json::to_vec(&serde_json::json!({"version": 2, "entry": "dance"})).unwrap();
        let line = format!("{:08x} {}\n", crc32fast::hash(&later), String::from_utf8(later).unwrap());
        let bytes = [lines(vec![admitted(8)]), line.into_bytes(), lines(vec![admitted(24)])].concat();
        fs::write(directory.path().join(FILE), &bytes).unwrap();
        assert_eq!(numbers(&recovered(directory.path())), [8, 24]);
        assert_eq!(fs::read(directory.path().join(FILE_UNREAD)).unwrap(), bytes);
    }

    #[test]
    fn what_was_read_counts_where_the_file_cannot_be_tidied() {
        let directory = tempfile::tempdir().unwrap();
        let bytes = lines(vec![admitted(8), admitted(24), Entry::Settled(CatalogIndex(8))]);
        fs::write(directory.path().join(FILE), &bytes).unwrap();
        // As on a full disk: the new file cannot be written.
        fs::create_dir(directory.path().join(FILE_BEFORE_RENAME)).unwrap();
        let (held, tidied) = recover(directory.path());
        assert_eq!(numbers(&held), [24]);
        assert!(tidied.is_err());
        assert_eq!(fs::read(directory.path().join(FILE)).unwrap(), bytes, "nothing is lost of it");
    }
}
