//! What a key is, and what it opens.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use proptest::prelude::*;

use super::*;

const CONTEXT: SealContext<'_> = SealContext { cluster_id: "c1", kind: "ca-root", id: "r1" };

#[test]
fn what_keygen_prints_is_read_back() {
    let key = ClusterKey::generate();
    assert_eq!(key.to_text().expose().parse(), Ok(key.clone()));
    assert_ne!(key, ClusterKey::generate());
}

#[test]
fn anything_that_keygen_does_not_print_is_refused() {
    let text = ClusterKey::generate().to_text().expose().to_owned();
    let encoded = text.strip_prefix(PREFIX).unwrap();
    let (prefix, form) = (ClusterKeyTextError::Prefix, ClusterKeyTextError::Form);
    let rows = [
        (String::new(), prefix),
        ("correct horse battery staple".to_owned(), prefix),
        (encoded.to_owned(), prefix),
        (text.to_uppercase(), prefix),
        (format!(" {text}"), prefix),
        (PREFIX.to_owned(), form),
        (format!("{PREFIX}correct horse battery staple"), form),
        (text[..text.len() - 1].to_owned(), form),
        (text[..text.len() - 4].to_owned(), form),
        (format!("{text}="), form),
        (format!("{text}AAAA"), form),
        (format!("{text}\n"), form),
        (format!("{PREFIX}{}", BASE64URL_NOPAD.encode(&[0; KEY_BYTES])), form),
        (format!("{PREFIX}{}", BASE64URL_NOPAD.encode(&[0; 36])), ClusterKeyTextError::Checksum),
    ];
    for (row, want) in rows {
        assert_eq!(row.parse::<ClusterKey>(), Err(want), "{row:?}");
    }
}

#[test]
fn a_wrong_character_anywhere_is_noticed() {
    let text = ClusterKey::generate().to_text().expose().to_owned();
    for position in PREFIX.len()..text.len() {
        let mut wrong = text.clone().into_bytes();
        wrong[position] = if wrong[position] == b'A' { b'B' } else { b'A' };
        let wrong = String::from_utf8(wrong).unwrap();
        assert_eq!(wrong.parse::<ClusterKey>(), Err(ClusterKeyTextError::Checksum), "position {position}");
    }
}

#[test]
fn a_key_file_must_be_its_owners_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("cluster.key");
    let key = ClusterKey::generate();
    fs::write(&path, format!("{}\n", key.to_text().expose())).unwrap();
    for (mode, accepted) in [(0o600, true), (0o400, true), (0o640, false), (0o604, false), (0o644, false)] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        match ClusterKey::load(&path) {
            Ok(loaded) => assert!(accepted && loaded == key, "{mode:o}"),
            Err(error) => assert!(!accepted && matches!(error, ClusterKeyFileError::File(_)), "{mode:o}: {error}"),
        }
    }
}

#[test]
fn a_key_file_with_a_passphrase_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("cluster.key");
    fs::write(&path, "correct horse battery staple\n").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let error = ClusterKey::load(&path).unwrap_err();
    assert!(matches!(error, ClusterKeyFileError::Text { source: ClusterKeyTextError::Prefix, .. }), "{error}");
}

#[test]
fn a_sealed_secret_opens_in_its_own_place_only() {
    let key = ClusterKey::generate();
    let sealed = key.seal(&CONTEXT, b"private");
    assert_eq!(key.open(&CONTEXT, &sealed).unwrap().as_slice(), b"private");
    let elsewhere = [
        SealContext { cluster_id: "c2", ..CONTEXT },
        SealContext { kind: "ca-intermediate", ..CONTEXT },
        SealContext { id: "r2", ..CONTEXT },
        // The same characters, cut differently.
        SealContext { cluster_id: "c1c", kind: "a-root", id: "r1" },
    ];
    for context in elsewhere {
        let error = key.open(&context, &sealed).unwrap_err();
        assert!(matches!(error, SealError::NotAuthentic { .. }), "{context:?}: {error}");
    }
}

#[test]
fn an_altered_sealed_secret_does_not_open() {
    let key = ClusterKey::generate();
    let sealed = key.seal(&CONTEXT, b"private");
    let altered = [
        SealedSecret { nonce: "00".repeat(NONCE_BYTES), ..sealed.clone() },
        SealedSecret { nonce: "zz".to_owned(), ..sealed.clone() },
        SealedSecret { nonce: "00".to_owned(), ..sealed.clone() },
        SealedSecret { ciphertext: String::new(), ..sealed.clone() },
        SealedSecret { ciphertext: "?".to_owned(), ..sealed.clone() },
        SealedSecret { ciphertext: BASE64.encode(b"private"), ..sealed.clone() },
    ];
    for row in altered {
        assert!(matches!(key.open(&CONTEXT, &row), Err(SealError::NotAuthentic { .. })), "{row:?}");
    }
}

#[test]
fn the_primary_key_seals_and_both_open() {
    let (new, old) = (ClusterKey::generate(), ClusterKey::generate());
    let keys = ClusterKeys { primary: new.clone(), previous: Some(old.clone()) };
    assert_eq!(keys.seal(&CONTEXT, b"private").key_id, new.key_id());
    for sealed in [new.seal(&CONTEXT, b"private"), old.seal(&CONTEXT, b"private")] {
        assert_eq!(keys.open(&CONTEXT, &sealed).unwrap().as_slice(), b"private");
    }
    let foreign = ClusterKey::generate().seal(&CONTEXT, b"private");
    assert!(matches!(keys.open(&CONTEXT, &foreign), Err(SealError::OtherKey { .. })));
}

#[test]
fn possession_is_proved_by_a_mac_over_the_challenge() {
    let key = ClusterKey::generate();
    let keys = ClusterKeys { primary: ClusterKey::generate(), previous: Some(key.clone()) };
    let mac = key.acl_bootstrap_mac(b"challenge");
    assert!(keys.verify_acl_bootstrap_mac(b"challenge", &mac));
    assert!(!keys.verify_acl_bootstrap_mac(b"another challenge", &mac));
    assert!(!keys.verify_acl_bootstrap_mac(b"challenge", &mac[..31]));
    assert!(!ClusterKeys::single(ClusterKey::generate()).verify_acl_bootstrap_mac(b"challenge", &mac));
}

#[test]
fn debug_shows_the_id_of_a_key_and_nothing_of_the_key() {
    let key = ClusterKey::generate();
    assert_eq!(format!("{key:?}"), format!("ClusterKey({})", key.key_id()));
    assert!(!key.to_text().expose().contains(&key.key_id()));
}

proptest! {
    #[test]
    fn every_key_survives_its_text(bytes in any::<[u8; KEY_BYTES]>()) {
        let key = ClusterKey(Zeroizing::new(bytes));
        prop_assert_eq!(key.to_text().expose().parse(), Ok(key));
    }

    #[test]
    fn no_text_makes_the_parser_panic(text in ".*") {
        prop_assert!(text.parse::<ClusterKey>().is_err());
        let prefixed = format!("{PREFIX}{text}");
        prop_assert!(prefixed.parse::<ClusterKey>().is_err());
    }
}
