//! Groups that began with the first release.

use super::*;

/// What the first release kept of a catalog: it knew neither the audit trail nor when agents were revoked.
fn as_the_first_release_wrote_it(catalog: &Catalog) -> Vec<u8> {
    let mut snapshot: serde_json::Value = serde_json::from_slice(&catalog.snapshot()).unwrap();
    let fields = snapshot.as_object_mut().unwrap();
    for later in ["speaks", "audit", "revoked_at"] {
        fields.remove(later);
    }
    fields.insert("version".to_owned(), 1.into());
    serde_json::to_vec(&snapshot).unwrap()
}

#[test]
fn r6_servers_that_came_of_a_snapshot_or_of_the_whole_log_of_the_first_release_agree() {
    let mut log = Log::default();
    log.done(Command::CreateJoinToken { token: join_token(1, &["web"]) });
    log.done(intention("web", "api", Action::Allow));
    let record = log.enrol(1, "key-a", "n1");
    let mut restored = Catalog::restore(&as_the_first_release_wrote_it(&log.catalog)).unwrap();
    assert_eq!(log.catalog.audit_lines(CatalogIndex(0)).count(), 0, "the first release kept no trail");
    let revoke = Command::RevokeAgent { agent: record.id.clone() };
    let begins = Command::Policy {
        change: crate::PolicyChange::DeleteDestination {
            destination: "api".parse().unwrap(),
            owner: None,
            compare: None,
        },
    };
    for command in [revoke, begins, intention("web", "db", Action::Deny)] {
        log.done(command.clone());
        let index = CatalogIndex(restored.index().0 + 1);
        restored.apply(index, &envelope(index.0, command), digest);
        assert!(restored.snapshot() == log.catalog.snapshot(), "they differ at {index}");
    }
    assert_eq!(log.catalog.audit_head().sequence, 2);
    assert_eq!(log.catalog.revoked_agents().next(), Some((&record.id, None)));
}
