//! The forms on disk, held still: a later release must read what this one wrote.
//!
//! `WEFT_UPDATE_GOLDEN=1 cargo test -p catalog golden` writes the files anew; do so only when a form is added.

use super::tests::{every_kind, log_of};
use crate::{Catalog, CatalogIndex, Envelope};

const COMMANDS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/commands.jsonl");
const SNAPSHOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/snapshot.json");
const AUDIT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/audit.jsonl");

fn golden(path: &str, written: &[u8]) -> Vec<u8> {
    if std::env::var_os("WEFT_UPDATE_GOLDEN").is_some() {
        std::fs::write(path, written).unwrap();
    }
    std::fs::read(path).unwrap()
}

#[test]
fn f3_every_kind_of_command_is_written_and_read_as_the_golden_file_has_it() {
    let envelopes = every_kind();
    let lines: Vec<u8> = envelopes.iter().flat_map(|envelope| [envelope.encode(), b"\n".to_vec()].concat()).collect();
    let held = golden(COMMANDS, &lines);
    assert_eq!(String::from_utf8(held.clone()).unwrap(), String::from_utf8(lines).unwrap());
    let read: Vec<Envelope> = held
        .split(|b| *b == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| Envelope::decode(line).unwrap())
        .collect();
    assert_eq!(read, envelopes);
}

#[test]
fn f3_a_snapshot_is_written_and_read_as_the_golden_file_has_it() {
    let catalog: Catalog = log_of(&every_kind());
    let held = golden(SNAPSHOT, &catalog.snapshot());
    assert_eq!(String::from_utf8(held.clone()).unwrap(), String::from_utf8(catalog.snapshot()).unwrap());
    let read = Catalog::restore(&held).unwrap();
    assert_eq!(read.index(), CatalogIndex(every_kind().len() as u64));
    assert_eq!(read, catalog);
}

/// Servers of two releases must derive the same lines from the same log.
#[test]
fn f3_the_audit_trail_of_a_log_is_what_the_golden_file_has() {
    let catalog: Catalog = log_of(&every_kind());
    let lines: String = catalog.audit_lines(CatalogIndex(0)).map(|line| format!("{}\n", line.text)).collect();
    assert_eq!(String::from_utf8(golden(AUDIT, lines.as_bytes())).unwrap(), lines);
}

#[test]
fn f3_a_snapshot_of_the_first_release_is_read_and_its_servers_are_its_founders() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/snapshot-first.json");
    let read = Catalog::restore(&std::fs::read(path).unwrap()).unwrap();
    let mesh = read.mesh().unwrap();
    assert_eq!(read.membership().members.len(), mesh.servers.len());
    assert_eq!(read.membership().member(1).map(|member| &member.id), Some(&mesh.servers[0].id));
}
