//! Every byte of a backup counts, and nothing but a backup is taken for one.

use catalog::{Actor, Command, Envelope, Mesh, PathTemplate, ServerMember};

use super::*;

fn catalog() -> Catalog {
    let member = ServerMember {
        id: "s1".parse().unwrap(),
        raft_id: 1,
        disk_id: "d1".to_owned(),
        raft_address: "127.0.0.1:8301".to_owned(),
        reads: 2,
    };
    let mesh = Mesh {
        cluster_id: "c1".to_owned(),
        datacenter: "dc1".to_owned(),
        trust_domain: "mesh.example".parse().unwrap(),
        template: PathTemplate::default(),
        servers: vec![member],
    };
    let mut catalog = Catalog::default();
    let envelope = Envelope {
        version: 1,
        request_id: "r1".parse().unwrap(),
        actor: Actor::Server("s1".parse().unwrap()),
        source_address: None,
        proposed_at: Timestamp(1),
        command: Command::Bootstrap { mesh },
    };
    catalog.apply(CatalogIndex(1), &envelope, crypto::sha256);
    catalog
}

fn backup() -> Vec<u8> {
    write(&catalog(), &"s1".parse().unwrap(), Timestamp(1_700_000_000_000)).unwrap()
}

/// Packs members with all sums right, as somebody would who knows the format.
fn packed(members: &[(&str, &[u8])]) -> Vec<u8> {
    archive(members, Timestamp(0)).unwrap()
}

/// Packs any bytes as the tar inside, with all sums of the file right.
fn gzipped(tar: &[u8]) -> Vec<u8> {
    let mut unpacked = Summing { crc: Crc::new(), inner: DeflateEncoder::new(Vec::new(), Compression::new(9)) };
    unpacked.write_all(tar).unwrap();
    let mut rest = unpacked.inner.finish().unwrap();
    rest.extend_from_slice(&unpacked.crc.sum().to_le_bytes());
    rest.extend_from_slice(&unpacked.crc.amount().to_le_bytes());
    [GZIP_HEAD.as_slice(), &crypto::sha256(&rest), &rest].concat()
}

/// Returns the members of a good backup.
fn good() -> Vec<(&'static str, Vec<u8>)> {
    let members = unpack(&backup()).unwrap();
    [META, STATE, SUMS].into_iter().zip(members).collect()
}

fn borrowed<'a>(members: &'a [(&'static str, Vec<u8>)]) -> Vec<(&'a str, &'a [u8])> {
    members.iter().map(|(name, bytes)| (*name, bytes.as_slice())).collect()
}

#[track_caller]
fn refused(file: &[u8], part: &str) {
    let error = read(file).map(|backup| backup.meta).unwrap_err();
    let text = crate::one_line(&error);
    assert!(text.contains(part), "{text}");
}

#[test]
fn what_is_written_is_read() {
    let read = read(&backup()).unwrap();
    assert_eq!(read.catalog, catalog());
    assert_eq!(read.meta.index, 1);
    assert_eq!(read.meta.taken_at, "2023-11-14T22:13:20Z");
    let (again, first) = (packed(&borrowed(&good())), backup());
    assert_eq!(unpack(&again).unwrap(), unpack(&first).unwrap());
}

#[test]
fn p10_every_flipped_bit_and_every_truncation_is_refused() {
    let file = backup();
    for position in 0..file.len() {
        for bit in 0..8 {
            let mut flipped = file.clone();
            flipped[position] ^= 1 << bit;
            assert!(read(&flipped).is_err(), "bit {bit} of byte {position} of {}", file.len());
        }
        assert!(read(&file[..position]).is_err(), "cut to {position}");
    }
    for byte in [0, 0xff] {
        let longer = [file.as_slice(), &[byte]].concat();
        assert!(read(&longer).is_err(), "a byte {byte} follows");
    }
    let doubled = [file.as_slice(), &file].concat();
    assert!(read(&doubled).is_err(), "another gzip member follows");
}

#[test]
fn s1_members_of_other_names_kinds_or_numbers_are_refused() {
    let good = good();
    let named = |at: usize, name: &'static str| {
        let mut members = good.clone();
        members[at].0 = name;
        packed(&borrowed(&members))
    };
    for name in ["etc/meta.json", "META.JSON", "meta.json2"] {
        refused(&named(0, name), "stands where");
    }
    let mut swapped = good.clone();
    swapped.swap(0, 1);
    refused(&packed(&borrowed(&swapped)), "stands where");
    refused(&packed(&borrowed(&good[..2])), "missing");
    let doubled = [good.clone(), good[1..2].to_vec()].concat();
    refused(&packed(&borrowed(&doubled)), "more members");

    for (kind, path) in [
        (tar::EntryType::Symlink, META),
        (tar::EntryType::Link, META),
        (tar::EntryType::Char, META),
        (tar::EntryType::Directory, META),
        (tar::EntryType::XHeader, META),
        (tar::EntryType::GNULongName, META),
        (tar::EntryType::GNUSparse, META),
    ] {
        let mut builder = tar::Builder::new(Vec::new());
        let mut head = tar::Header::new_gnu();
        head.set_entry_type(kind);
        head.set_size(0);
        head.set_mode(0o600);
        head.set_path(path).unwrap();
        head.set_cksum();
        builder.append(&head, io::empty()).unwrap();
        refused(&gzipped(&builder.into_inner().unwrap()), "");
    }
}

#[test]
fn s1_a_name_that_leads_out_of_a_directory_is_no_members_name() {
    for path in ["../meta.json", "/meta.json", "./meta.json", "meta.json/"] {
        let mut head = tar::Header::new_ustar();
        head.set_size(0);
        head.set_mode(0o600);
        let name = &mut head.as_old_mut().name;
        name[..path.len()].copy_from_slice(path.as_bytes());
        head.set_cksum();
        let mut builder = tar::Builder::new(Vec::new());
        builder.append(&head, io::empty()).unwrap();
        refused(&gzipped(&builder.into_inner().unwrap()), "stands where");
    }
}

#[test]
fn s1_what_unpacks_to_far_more_than_it_is_is_refused_unread() {
    let mut members = good();
    members[1].1 = vec![b' '; 64 << 20];
    let bomb = packed(&borrowed(&members));
    assert!(bomb.len() < 1 << 20);
    refused(&bomb, "too large");
    // The head may lie, too.
    let mut head = tar::Header::new_ustar();
    head.set_path(META).unwrap();
    head.set_size(u64::MAX >> 3);
    head.set_cksum();
    refused(&gzipped(head.as_bytes()), "");
}

#[test]
fn s1_sums_states_and_metas_that_do_not_belong_together_are_refused() {
    let mut members = good();
    members[2].1[0] ^= 1;
    refused(&packed(&borrowed(&members)), "sum");

    let resummed = |mut members: Vec<(&'static str, Vec<u8>)>| {
        members[2].1 = sums(&members[0].1, &members[1].1).into_bytes();
        packed(&borrowed(&members))
    };
    let mut other_cluster = good();
    let meta = String::from_utf8(other_cluster[0].1.clone()).unwrap();
    other_cluster[0].1 = meta.replace("\"c1\"", "\"c2\"").into_bytes();
    refused(&resummed(other_cluster), "another state");
    let mut newer = good();
    newer[0].1 = meta.replace("\"Format\": 1", "\"Format\": 2").into_bytes();
    refused(&resummed(newer), "format 2");
    let mut longer = good();
    longer[1].1.push(b'x');
    refused(&resummed(longer), "not as long");
    let mut no_state = good();
    no_state[1].1.fill(b'{');
    refused(&resummed(no_state), "cannot be read");
    let mut trailing = good();
    trailing[0].1.extend_from_slice(b"{}");
    refused(&resummed(trailing), "meta.json");
}

#[test]
fn s1_what_follows_the_archive_inside_the_gzip_is_refused() {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, bytes) in good() {
        let mut head = tar::Header::new_ustar();
        head.set_size(bytes.len() as u64);
        builder.append_data(&mut head, name, bytes.as_slice()).unwrap();
    }
    let mut tar = builder.into_inner().unwrap();
    read(&gzipped(&tar)).unwrap();
    tar.extend_from_slice(b"and more");
    refused(&gzipped(&tar), "follows");
}

#[test]
fn what_is_no_backup_is_called_so() {
    refused(b"", "not a backup");
    refused(b"\x1f\x8b\x08\x00 another gzip file", "not a backup");
    refused(&GZIP_HEAD, "cut short");
    assert!(matches!(
        write(&Catalog::default(), &"s1".parse().unwrap(), Timestamp(1)),
        Err(BackupError::Members { .. })
    ));
}
