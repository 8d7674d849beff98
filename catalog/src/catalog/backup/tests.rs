//! What a restore brings back, what stays, and what is refused.

use serde_json::json;

use super::super::login_tests::{method, rule};
use super::super::tests::{digest, enrol, envelope, instance, intention, join_token, node, open, register};
use super::*;
use crate::{
    AccessorId, Action, Actor, AgentRecord, BACKUP_PIECE_BYTES_MAX, CaIntermediate, CaRoot, Command, LoginChange,
    PathTemplate, SecretHash, ServerMember, Timestamp, Token,
};

/// A mesh that commands are applied to.
struct Group {
    catalog: Catalog,
    at: u64,
}

impl Group {
    fn bootstrapped(cluster: &str) -> Group {
        let mut group = Group { catalog: Catalog::default(), at: 0 };
        let member = ServerMember {
            id: "s1".parse().unwrap(),
            raft_id: 1,
            disk_id: format!("disk of {cluster}"),
            raft_address: "127.0.0.1:8301".to_owned(),
            reads: 2,
        };
        group.done(Command::Bootstrap {
            mesh: Mesh {
                cluster_id: cluster.to_owned(),
                datacenter: "dc1".to_owned(),
                trust_domain: "mesh.example".parse().unwrap(),
                template: PathTemplate::default(),
                servers: vec![member],
            },
        });
        group.done(Command::InstallCa { root: Box::new(root(cluster)), intermediate: Box::new(intermediate(cluster)) });
        group.done(Command::BootstrapAcl { token: token(1) });
        group
    }

    fn apply(&mut self, command: Command) -> Outcome {
        self.at += 1;
        let index = CatalogIndex(self.catalog.index().0 + 1);
        self.catalog.apply(index, &envelope(self.at, command), digest).outcome
    }

    #[track_caller]
    fn done(&mut self, command: Command) -> Outcome {
        match self.apply(command) {
            Outcome::Refused(refusal) => panic!("refused: {refusal}"),
            outcome => outcome,
        }
    }

    #[track_caller]
    fn enrol(&mut self, token: u8, key: &str, node: &str) -> AgentRecord {
        self.done(Command::CreateJoinToken { token: join_token(token, &["web"]) });
        match self.done(enrol(token, key, node)) {
            Outcome::Enrolled { record } => *record,
            outcome => panic!("not enrolled: {outcome:?}"),
        }
    }

    /// Uploads a state in pieces of `piece` bytes and commits it.
    fn restore(&mut self, state: &str, piece: usize, other_cluster: bool) -> Outcome {
        let upload: RequestId = "u1".parse().unwrap();
        let sha256 = crate::AuditHash(digest(state.as_bytes()));
        let begin = BackupStep::Begin { upload: upload.clone(), bytes: state.len() as u64, sha256 };
        self.done(Command::Backup { step: begin });
        for (number, text) in state.as_bytes().chunks(piece).enumerate() {
            let text = String::from_utf8(text.to_vec()).unwrap();
            let step = BackupStep::Piece { upload: upload.clone(), offset: (number * piece) as u64, text };
            step.validate().unwrap();
            self.done(Command::Backup { step });
        }
        self.apply(Command::Backup { step: BackupStep::Commit { upload, other_cluster, form: None } })
    }

    fn backup(&self) -> String {
        String::from_utf8(self.catalog.snapshot()).unwrap()
    }
}

fn root(cluster: &str) -> CaRoot {
    serde_json::from_value(json!({
        "id": format!("root of {cluster}"), "certificate_pem": "(root)", "active": true, "not_before": 1, "not_after": 2,
        "sealed_key": {"key_id": cluster, "nonce": "00", "ciphertext": "AA=="},
    }))
    .unwrap()
}

fn intermediate(cluster: &str) -> CaIntermediate {
    serde_json::from_value(json!({
        "id": format!("intermediate of {cluster}"), "root_id": format!("root of {cluster}"),
        "certificate_pem": "(intermediate)", "active": true, "not_before": 1, "not_after": 2,
        "sealed_key": {"key_id": cluster, "nonce": "00", "ciphertext": "AA=="},
    }))
    .unwrap()
}

fn token(number: u8) -> Token {
    serde_json::from_value(json!({
        "accessor": accessor(number), "secret": format!("secret{number}"), "description": "", "rights": "management",
        "created_at": 1, "expires_at": null,
    }))
    .unwrap()
}

fn accessor(number: u8) -> AccessorId {
    format!("00000000-0000-0000-0000-0000000000{number:02x}").parse().unwrap()
}

/// The outcome of a restore that brought nothing back that had been deleted, and left nothing out.
fn nothing_to_look_at() -> Outcome {
    Outcome::Restored { restored: Restored::default() }
}

/// Grants a token to whom the method `jwt` calls `subject`.
fn grant(number: u8, subject: &str) -> Command {
    let token = Token {
        rights: crate::Rights::Rules,
        auth_method: Some("jwt".to_owned()),
        login_subject: Some(subject.to_owned()),
        expires_at: None,
        ..token(number)
    };
    let change = LoginChange::GrantToken {
        token: Box::new(token),
        method: "jwt".parse().unwrap(),
        judged_at: CatalogIndex(u64::MAX),
    };
    Command::Login { change }
}

fn write_method() -> Command {
    Command::Login { change: LoginChange::WriteMethod { method: Box::new(method("jwt")), replace: false } }
}

#[test]
fn c14_p10_a_restore_puts_no_token_of_a_revoked_login_in_force_again_and_counts_those_that_were_deleted() {
    let mut group = Group::bootstrapped("one");
    group.done(write_method());
    group.done(grant(2, "mallory"));
    group.done(grant(3, "alice"));
    group.done(Command::Acl { change: crate::AclChange::CreateToken { token: Box::new(token(4)) } });
    let backup = group.backup();
    let revoke = crate::RevocationChange::Login { method: "jwt".parse().unwrap(), subject: Some("mallory".to_owned()) };
    group.done(Command::Revoke { change: revoke });
    // It leaked.
    group.done(Command::DeleteToken { accessor: accessor(4) });
    let restored = group.restore(&backup, 4096, false);
    let found = Restored { tokens_back: 1, tokens_left_out: 1, nodes_left_out: 0, nodes_forsaken: 0 };
    assert_eq!(restored, Outcome::Restored { restored: found });
    let held = |group: &Group, number| group.catalog.token(&accessor(number)).is_some();
    assert!(!held(&group, 2), "mallory's is out");
    assert!(group.catalog.token_by_secret(&SecretHash("secret2".to_owned())).is_none());
    assert!(held(&group, 3) && held(&group, 4));
    assert!(group.catalog.bans().count() == 1, "and she stays banned");
    assert_eq!(Catalog::restore(&group.catalog.snapshot()).unwrap(), group.catalog);

    // The method as a whole was deleted: what it gave went with it, and does not come back.
    group.done(Command::Login { change: LoginChange::DeleteMethod { name: "jwt".parse().unwrap() } });
    let restored = group.restore(&backup, 4096, false);
    let found = Restored { tokens_left_out: 2, ..Restored::default() };
    assert_eq!(restored, Outcome::Restored { restored: found });
    assert!(!held(&group, 2) && !held(&group, 3));
}

#[test]
fn p10_a_node_of_the_backup_does_not_lock_an_agent_out_that_has_enrolled_under_its_name() {
    let mut group = Group::bootstrapped("one");
    group.done(register(node("n1", Owner::External), vec![instance("n1", "db", "db-1")], vec![], None));
    group.done(register(node("outside", Owner::External), vec![], vec![], None));
    let backup = group.backup();
    let target = crate::DeregisterTarget::Node;
    group.done(Command::Deregister { node: "n1".parse().unwrap(), target, incarnation: None });
    let record = group.enrol(1, "key-a", "n1");
    let found = Restored { nodes_left_out: 1, ..Restored::default() };
    assert_eq!(group.restore(&backup, 4096, false), Outcome::Restored { restored: found });
    assert!(group.catalog.node(&"n1".parse().unwrap()).is_none());
    assert!(group.catalog.node(&"outside".parse().unwrap()).is_some());
    assert_eq!(group.catalog.instances_of(&"db".parse().unwrap()).count(), 0);
    let Outcome::SessionOpened { incarnation } = group.done(open(&record.id)) else { panic!("no session") };
    let owner = Owner::Agent(record.id.clone());
    group.done(register(node("n1", owner), vec![instance("n1", "web", "web-1")], vec![], Some(incarnation.0)));
}

#[test]
fn p10_what_operators_wrote_comes_back_and_what_the_group_learned_stays() {
    let mut group = Group::bootstrapped("one");
    let kept = group.enrol(1, "key-a", "n1");
    let revoked = group.enrol(2, "key-b", "n2");
    group.done(intention("web", "api", Action::Deny));
    group.done(register(node("outside", Owner::External), vec![instance("outside", "db", "db-1")], vec![], None));
    let backup = group.backup();
    let unused = join_token(7, &["web"]);

    group.done(Command::RevokeAgent { agent: revoked.id.clone() });
    group.done(intention("web", "api", Action::Allow));
    group.done(intention("evil", "api", Action::Allow));
    group.done(register(node("late", Owner::External), vec![instance("late", "db", "db-2")], vec![], None));
    let newcomer = group.enrol(3, "key-c", "n3");
    group.done(Command::CreateJoinToken { token: unused.clone() });
    let session = match group.done(open(&newcomer.id)) {
        Outcome::SessionOpened { incarnation } => incarnation,
        outcome => panic!("{outcome:?}"),
    };
    let owner = Owner::Agent(newcomer.id.clone());
    group.done(register(node("n3", owner), vec![instance("n3", "web", "web-3")], vec![], Some(session.0)));

    assert_eq!(group.restore(&backup, 100, false), nothing_to_look_at());
    let catalog = &group.catalog;
    let policy = catalog.policy_for(&"api".parse().unwrap());
    let actions: Vec<_> = policy.intentions.iter().map(|intention| intention.source.to_string()).collect();
    assert_eq!(actions.len(), 1, "what was written after the backup is gone: {actions:?}");
    assert_eq!(policy.intentions[0].effect, crate::Effect::Action(Action::Deny));
    assert!(catalog.node(&"late".parse().unwrap()).is_none() && catalog.node(&"outside".parse().unwrap()).is_some());
    assert_eq!(catalog.instances_of(&"db".parse().unwrap()).count(), 1);
    // Who is alive goes on; what was closed stays closed.
    assert!(catalog.agent_record(&kept.id).is_some() && catalog.agent_record(&newcomer.id).is_some());
    assert_eq!(catalog.instances_of(&"web".parse().unwrap()).count(), 1, "a live agent's instance is still there");
    assert!(catalog.agent_record(&revoked.id).is_none() && catalog.is_revoked(revoked.enrolled));
    assert!(catalog.join_token_by_secret(&unused.secret).is_some());
    let used = catalog.join_token_by_secret(&SecretHash("join3".to_owned())).unwrap();
    assert!(used.used_by.is_some(), "a used join token stays used");
    assert_eq!(Catalog::restore(&catalog.snapshot()).unwrap(), *catalog, "the result is a catalog like any other");
}

#[test]
fn p10_a_restore_wakes_everybody_and_moves_no_index_back() {
    let mut group = Group::bootstrapped("one");
    group.done(intention("web", "api", Action::Deny));
    let backup = group.backup();
    group.done(intention("web", "later", Action::Deny));
    let before = group.catalog.index();
    group.restore(&backup, 4096, false);
    let catalog = &group.catalog;
    for key in [
        WatchKey::Intentions,
        WatchKey::Destination("api".parse().unwrap()),
        WatchKey::Destination("later".parse().unwrap()),
        WatchKey::Tokens,
        WatchKey::Mesh,
        WatchKey::Nodes,
    ] {
        assert_eq!(catalog.index_of(std::slice::from_ref(&key)), catalog.index(), "{key:?}");
    }
    assert!(catalog.index() > before);
    let modified = catalog.policy_for(&"api".parse().unwrap()).intentions[0].modified;
    assert!(modified <= catalog.index());
}

#[test]
fn s1_a_backup_of_another_cluster_needs_to_be_meant() {
    let mut other = Group::bootstrapped("other");
    for number in 10..40 {
        other.done(intention(&format!("s{number}"), "api", Action::Deny));
    }
    let far = other.enrol(5, "key-far", "far");
    let backup = other.backup();
    let mut group = Group::bootstrapped("one");
    let before = group.catalog.clone();
    let refused = group.restore(&backup, 4096, false);
    assert!(matches!(refused, Outcome::Refused(Refusal::Invalid { .. })), "{refused:?}");
    assert_eq!(group.catalog.intentions, before.intentions);
    group.done(Command::Backup { step: BackupStep::Abandon { upload: "u1".parse().unwrap() } });

    assert_eq!(group.restore(&backup, 4096, true), nothing_to_look_at());
    let catalog = &group.catalog;
    assert_eq!(catalog.mesh().unwrap().cluster_id, "one", "the group stays itself");
    assert_eq!(catalog.mesh().unwrap().servers[0].disk_id, "disk of one");
    assert_eq!(catalog.active_root().unwrap().id, "root of other");
    assert!(catalog.agent_record(&far.id).is_some());
    // The other log had gone further than this one: nothing of it may be younger than now, and no number comes twice.
    assert!(catalog.intentions().all(|intention| intention.modified <= catalog.index()));
    let next = group.enrol(9, "key-next", "next");
    assert!(next.enrolled > far.enrolled && next.id != far.id, "{} after {}", next.id, far.id);
    match group.done(open(&next.id)) {
        Outcome::SessionOpened { incarnation } => assert!(incarnation.0 > far.enrolled.0),
        outcome => panic!("{outcome:?}"),
    }
}

#[test]
fn p10_after_a_restore_logins_go_on_and_those_judged_before_it_are_judged_again() {
    let grant = |number: u8, judged_at: u64| {
        let change = LoginChange::GrantToken {
            token: Box::new(Token { rights: crate::Rights::Rules, ..token(number) }),
            method: "jwt".parse().unwrap(),
            judged_at: CatalogIndex(judged_at),
        };
        Command::Login { change }
    };
    let write = |replace| {
        let change = LoginChange::WriteMethod { method: Box::new(method("jwt")), replace };
        Command::Login { change }
    };
    let with_rule = |group: &mut Group| {
        let rule = Box::new(rule(1, "jwt", crate::BindKind::Service, "web", ""));
        group.done(Command::Login { change: LoginChange::WriteRule { rule, replace: false } })
    };
    let mut far = Group::bootstrapped("one");
    for number in 10..60 {
        far.done(intention(&format!("s{number}"), "api", Action::Deny));
    }
    far.done(write(false));
    with_rule(&mut far);
    for backup in [far.backup(), {
        let mut near = Group::bootstrapped("one");
        near.done(write(false));
        with_rule(&mut near);
        near.backup()
    }] {
        let mut group = Group::bootstrapped("one");
        group.done(write(false));
        let judged_at = group.catalog.index().0;
        assert_eq!(group.restore(&backup, 4096, false), nothing_to_look_at());
        let refused = group.apply(grant(7, judged_at));
        assert!(matches!(refused, Outcome::Refused(Refusal::LoginRulesChanged { .. })), "{refused:?}");
        let now = group.catalog.index().0;
        group.done(grant(7, now));
    }
}

#[test]
fn s1_a_backup_whose_identities_mean_something_else_never_fits() {
    let mut group = Group::bootstrapped("one");
    let backup = group.backup().replace("mesh.example", "mesh.invalid");
    let refused = group.restore(&backup, 4096, true);
    assert!(
        matches!(&refused, Outcome::Refused(refusal) if refusal.to_string().contains("trust domain")),
        "{refused:?}"
    );
}

#[test]
fn s1_pieces_that_are_missing_doubled_or_changed_change_nothing() {
    let mut group = Group::bootstrapped("one");
    let state = group.backup();
    let upload: RequestId = "u1".parse().unwrap();
    let step = |step| Command::Backup { step };
    let piece = |offset: u64, text: &str| {
        step(BackupStep::Piece { upload: "u1".parse().unwrap(), offset, text: text.to_owned() })
    };
    let commit = || step(BackupStep::Commit { upload: "u1".parse().unwrap(), other_cluster: false, form: None });
    let sha256 = crate::AuditHash(digest(state.as_bytes()));
    let begin = || step(BackupStep::Begin { upload: "u1".parse().unwrap(), bytes: state.len() as u64, sha256 });
    let refused = |outcome: Outcome| assert!(matches!(outcome, Outcome::Refused(_)), "{outcome:?}");

    refused(group.apply(piece(0, &state)));
    refused(group.apply(commit()));
    group.done(begin());
    group.done(piece(0, "given up"));
    group.done(begin());
    refused(group.apply(piece(1, &state[1..])));
    group.done(piece(0, &state[..10]));
    refused(group.apply(piece(0, &state[..10])));
    refused(group.apply(commit()));
    refused(group.apply(piece(10, &format!("{} ", &state[10..]))));
    // As long as it should be, and another text.
    group.done(piece(10, &format!("{} ", &state[10..state.len() - 1])));
    refused(group.apply(commit()));
    // Somebody else does not go on with it.
    let index = CatalogIndex(group.catalog.index().0 + 1);
    let stranger = Envelope {
        actor: Actor::Token(accessor(1)),
        ..envelope(1000, step(BackupStep::Abandon { upload: upload.clone() }))
    };
    refused(group.catalog.apply(index, &stranger, digest).outcome);
    assert_eq!(group.catalog.tokens().count(), 1);
    group.done(step(BackupStep::Abandon { upload }));
    assert_eq!(group.restore(&state, 333, false), nothing_to_look_at());
}

#[test]
fn p10_an_upload_survives_a_snapshot_and_is_forgotten_when_nobody_goes_on_with_it() {
    let mut group = Group::bootstrapped("one");
    let sha256 = crate::AuditHash(digest(b"x"));
    group.done(Command::Backup { step: BackupStep::Begin { upload: "u1".parse().unwrap(), bytes: 4, sha256 } });
    let step = BackupStep::Piece { upload: "u1".parse().unwrap(), offset: 0, text: "{\"a".to_owned() };
    group.done(Command::Backup { step });
    assert_eq!(Catalog::restore(&group.catalog.snapshot()).unwrap(), group.catalog);
    assert!(group.catalog.upload.is_some());
    let idle = Timestamp(UPLOAD_IDLE_MAX.as_millis() as u64 + 10_000);
    for number in 0..12 {
        let index = CatalogIndex(group.catalog.index().0 + 1);
        let late = Envelope { proposed_at: idle, ..envelope(2000 + number, intention("a", "b", Action::Deny)) };
        group.catalog.apply(index, &late, digest);
    }
    assert!(group.catalog.upload.is_none());
}

#[test]
fn s1_a_piece_or_a_state_that_is_too_large_is_not_even_proposed() {
    let piece = |bytes: usize| BackupStep::Piece { upload: "u".parse().unwrap(), offset: 0, text: "x".repeat(bytes) };
    assert!(piece(BACKUP_PIECE_BYTES_MAX).validate().is_ok());
    assert!(piece(BACKUP_PIECE_BYTES_MAX + 1).validate().is_err() && piece(0).validate().is_err());
    let begin = |bytes| BackupStep::Begin { upload: "u".parse().unwrap(), bytes, sha256: crate::AuditHash::default() };
    assert!(begin(crate::BACKUP_BYTES_MAX).validate().is_ok());
    assert!(begin(crate::BACKUP_BYTES_MAX + 1).validate().is_err() && begin(0).validate().is_err());
}

#[test]
fn r6_equal_logs_with_a_restore_in_them_give_equal_catalogs() {
    let backup = Group::bootstrapped("one").backup();
    let run = || {
        let mut group = Group::bootstrapped("one");
        group.enrol(1, "key-a", "n1");
        group.restore(&backup, 777, false);
        group.catalog.snapshot()
    };
    assert_eq!(run(), run());
}

#[test]
fn r6_a_backup_that_was_read_before_it_is_put_in_force_makes_no_other_catalog() {
    let backup = Group::bootstrapped("one").backup();
    let run = |reads_first: bool| {
        let mut group = Group::bootstrapped("one");
        let upload: RequestId = "u1".parse().unwrap();
        let sha256 = crate::AuditHash(digest(backup.as_bytes()));
        let begin = BackupStep::Begin { upload: upload.clone(), bytes: backup.len() as u64, sha256 };
        group.done(Command::Backup { step: begin });
        assert!(group.catalog.arrived_backup().is_none(), "nothing of it is here yet");
        let step = BackupStep::Piece { upload: upload.clone(), offset: 0, text: backup.clone() };
        group.done(Command::Backup { step });
        let arrived = group.catalog.arrived_backup().unwrap();
        assert_eq!(*arrived.id(), upload);
        if reads_first {
            arrived.read(digest);
            assert!(format!("{:?}", group.catalog.upload).contains("done: true"), "every copy knows that it is read");
        }
        let commit = BackupStep::Commit { upload, other_cluster: false, form: Some(crate::SNAPSHOT_VERSION) };
        group.done(Command::Backup { step: commit });
        assert!(group.catalog.arrived_backup().is_none());
        group.catalog.snapshot()
    };
    assert!(run(true) == run(false), "they differ");
}

#[test]
fn r6_a_restore_is_proposed_only_where_everybody_reads_the_form_of_the_state() {
    let commit = |form| Command::Backup {
        step: BackupStep::Commit { upload: "u1".parse().unwrap(), other_cluster: false, form },
    };
    for (form, reads) in [(None, 2), (Some(1), 2), (Some(2), 2), (Some(7), 7)] {
        assert_eq!(commit(form).reads_from(), reads, "{form:?}");
    }
    let backup = Group::bootstrapped("one").backup();
    assert_eq!(Catalog::form_of(backup.as_bytes()).unwrap(), crate::SNAPSHOT_VERSION);
}
