//! One command of each kind, for the golden files.

use super::*;

fn facts() -> crate::MemberFacts {
    crate::MemberFacts {
        raft_address: "10.0.0.2:8301".to_owned(),
        agent_address: "10.0.0.2:8300".to_owned(),
        release: "0.1.0".to_owned(),
        reads: 2,
        keys: Vec::new(),
    }
}

fn member_change(change: crate::MembershipChange) -> Command {
    Command::Membership { change }
}

fn token(number: u8) -> Token {
    let secret = SecretHash(format!("secret{number}"));
    Token {
        description: "for the operator".to_owned(),
        expires_at: (number > 1).then_some(Timestamp(9)),
        ..Token::new(accessor(number), secret, Rights::Management, Timestamp(1))
    }
}

/// A group that has an authority, and whom its operator lets in.
fn foundation() -> Vec<Command> {
    let (root, intermediate) = authority();
    let member = crate::ServerMember {
        id: "s1".parse().unwrap(),
        raft_id: 1,
        disk_id: "d1".to_owned(),
        raft_address: "127.0.0.1:8301".to_owned(),
        reads: 1,
    };
    let mesh = Mesh {
        cluster_id: "c1".to_owned(),
        datacenter: "dc1".to_owned(),
        trust_domain: "mesh.example".parse().unwrap(),
        template: crate::PathTemplate::default(),
        servers: vec![member],
    };
    vec![
        Command::Bootstrap { mesh },
        Command::InstallCa { root: Box::new(root), intermediate: Box::new(intermediate) },
        Command::BootstrapAcl { token: token(1) },
        Command::WriteToken { token: token(2) },
        Command::CreateJoinToken { token: join_token(1, &["default/web", "shop/api"]) },
        Command::CreateJoinToken { token: join_token(2, &["db"]) },
    ]
}

fn authority() -> (CaRoot, CaIntermediate) {
    let sealed = crate::SealedSecret { key_id: "k1".to_owned(), nonce: "00".to_owned(), ciphertext: "AA==".to_owned() };
    let root = CaRoot {
        id: "root".to_owned(),
        certificate_pem: "(root)".to_owned(),
        sealed_key: Some(sealed.clone()),
        active: true,
        cross: None,
        replaced_at: None,
        retired: false,
        not_before: Timestamp(1),
        not_after: Timestamp(2),
        created: CatalogIndex(0),
        modified: CatalogIndex(0),
    };
    let intermediate = CaIntermediate {
        id: "intermediate".to_owned(),
        root_id: "root".to_owned(),
        certificate_pem: "(intermediate)".to_owned(),
        sealed_key: Some(sealed),
        active: true,
        not_before: Timestamp(1),
        not_after: Timestamp(2),
        created: CatalogIndex(0),
        modified: CatalogIndex(0),
    };
    (root, intermediate)
}

/// An agent, and what it and others register.
fn registrations() -> Vec<Command> {
    let agent = AgentId::enrolled_at(CatalogIndex(7));
    let (owner, session) = (Owner::Agent(agent.clone()), Some(8));
    let checks = vec![
        check("n1", "alive", Some("web-1"), CheckStatus::Passing),
        check("n1", "node", None, CheckStatus::Warning),
    ];
    let update = CheckUpdate {
        key: checks[0].key.clone(),
        status: CheckStatus::Critical,
        output: "connection refused".to_owned(),
    };
    vec![
        enrol(1, "key-a", "n1"),
        open(&agent),
        register(node("n1", owner), vec![instance("n1", "web", "web-1")], checks, session),
        Command::UpdateChecks { updates: vec![update], incarnation: session.map(Incarnation) },
        register(node("n2", Owner::External), vec![instance("n2", "db", "db-1")], vec![], None),
        Command::Deregister {
            node: "n2".parse().unwrap(),
            target: DeregisterTarget::Check { namespace: Namespace::default(), id: "none".parse().unwrap() },
            incarnation: None,
        },
    ]
}

fn rules() -> Vec<Command> {
    let guardrail = crate::Guardrail {
        name: "no-prod".to_owned(),
        source: "dev/*".parse().unwrap(),
        destination: "prod/*".parse().unwrap(),
    };
    vec![
        intention("web", "shop/api", Action::Allow),
        intention("spiffe://other.example/ns/a/sa/b", "*/*", Action::Deny),
        Command::DeleteIntention {
            key: IntentionKey {
                destination: "*/*".parse().unwrap(),
                source: "spiffe://other.example/ns/a/sa/b".parse().unwrap(),
            },
            compare: Some(CatalogIndex(14)),
        },
        Command::WriteMesh {
            entry: MeshEntry { guardrails: vec![guardrail], ..MeshEntry::default() },
            compare: Some(CatalogIndex(0)),
        },
        Command::DeleteMesh { compare: None },
    ]
}

fn backups() -> Vec<Command> {
    vec![
        Command::Backup { step: BackupStep::Saved { index: CatalogIndex(3) } },
        Command::Backup {
            step: BackupStep::Begin {
                upload: "u1".parse().unwrap(),
                bytes: 7,
                sha256: crate::AuditHash(digest(b"{ half }")),
            },
        },
        Command::Backup {
            step: BackupStep::Piece { upload: "u1".parse().unwrap(), offset: 0, text: "{ half".to_owned() },
        },
        Command::Backup { step: BackupStep::Commit { upload: "u2".parse().unwrap(), other_cluster: true, form: None } },
        Command::Backup { step: BackupStep::Abandon { upload: "u2".parse().unwrap() } },
    ]
}

fn members() -> Vec<Command> {
    vec![
        member_change(crate::MembershipChange::Add {
            id: "s2".parse().unwrap(),
            disk_id: "d2".to_owned(),
            facts: facts(),
        }),
        member_change(crate::MembershipChange::Describe { raft_id: 1, facts: facts() }),
        member_change(crate::MembershipChange::Promote { raft_id: 2 }),
        member_change(crate::MembershipChange::Remove { raft_id: 2 }),
        member_change(crate::MembershipChange::Retire { raft_id: 2 }),
        member_change(crate::MembershipChange::SetAutopilot {
            autopilot: crate::Autopilot::default(),
            compare: Some(CatalogIndex(0)),
        }),
        member_change(crate::MembershipChange::Witness {
            raft_id: 1,
            index: CatalogIndex(16),
            found: crate::StateDigest { release: "0.1.0".to_owned(), digest: "ab".to_owned() },
        }),
    ]
}

/// One envelope of each kind of command, in an order in which most of them take effect.
pub(crate) fn every_kind() -> Vec<Envelope> {
    let mut commands = [foundation(), registrations(), rules(), backups(), members()].concat();
    commands.extend([
        Command::DeleteToken { accessor: accessor(2) },
        Command::DeleteJoinToken { accessor: accessor(2) },
        Command::RevokeAgent { agent: AgentId::enrolled_at(CatalogIndex(99)) },
    ]);
    commands.extend(crate::catalog::login_tests::every_login(token(3)));
    commands.extend(crate::catalog::ca::tests::every_kind());
    let commit = BackupStep::Commit { upload: "u3".parse().unwrap(), other_cluster: false, form: Some(2) };
    let takeover = JoinToken { replace_node: true, maker: Some(accessor(1)), ..join_token(4, &["web"]) };
    let more = acl::kinds()
        .into_iter()
        .chain(crate::catalog::session_tests::every_change())
        .chain(policy::tests::every_change())
        .chain(config::tests::every_change())
        .chain([Command::CreateJoinToken { token: takeover }, Command::Backup { step: commit }])
        .chain([Some(2), None].map(|to| member_change(crate::MembershipChange::HandOver { to })))
        .chain([crate::catalog::login_tests::admitted_alone()]);
    let mut all: Vec<Command> = commands.into_iter().chain(more).collect();
    all.extend(crate::catalog::connector::tests::every_change(all.len() as u64));
    all.extend(crate::catalog::login_tests::later_forms());
    all.extend(config::tests::later_forms());
    all.into_iter().zip(1..).map(|(command, number)| envelope(number, command)).collect()
}
