//! The protocol's golden files: what stands there is what released agents and servers say.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use catalog::{
    Action, AgentId, Attestation, CheckKey, CheckStatus, ConfigContent, ConfigEntry, Endpoint, Guardrail, InstanceKey,
    Intention, Item, KeyFingerprint, Namespace, Owner, PathTemplate, Protocol, Refusal, ServiceDefaults, TaggedAddress,
    Upstream, Weights,
};
use serde::de::DeserializeOwned;

use super::*;

/// Compares `value` with the golden file, and checks that the file reads back as `value`.
#[track_caller]
fn golden<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(name: &str, value: &T) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata").join(name);
    let text = serde_json::to_string_pretty(value).unwrap() + "\n";
    if std::env::var_os("WEFT_UPDATE_GOLDEN").is_some_and(|value| value == "1") {
        std::fs::write(&path, &text).unwrap();
    }
    let kept = std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("cannot read {}: {error}; WEFT_UPDATE_GOLDEN=1 writes it", path.display()));
    assert_eq!(kept, text, "{name} differs; a change of the protocol must keep reading what is there");
    assert_eq!(&serde_json::from_str::<T>(&kept).unwrap(), value);
}

/// Reads a file as the first release wrote it; its agents and servers run beside ours during an upgrade.
#[track_caller]
fn of_release_0_1<T: DeserializeOwned>(name: &str) -> T {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata/release-0.1").join(name);
    let text = std::fs::read_to_string(&path).unwrap();
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{name} of release 0.1 is read no longer: {error}"))
}

#[test]
fn fault_22_what_an_agent_one_release_behind_says_is_understood() {
    of_release_0_1::<JoinRequest>("agent_protocol_join_request.json");
    let writes: Vec<WriteRequest> = of_release_0_1("agent_protocol_write_requests.json");
    assert!(writes.iter().all(|write| write.command.clone().into_command().validate().is_ok()));
    let frames: Vec<ClientFrame> = of_release_0_1("agent_protocol_client_frames.json");
    let Some(ClientFrame::Hello { knows }) = frames.first() else { panic!("{frames:?}") };
    assert!(knows.is_empty(), "{knows:?}");
}

/// The frames of the first release, as it reads them: what is sent to a peer that names no capability must be among them.
mod first_form {
    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "kebab-case")]
    pub(super) enum ClientFrame {
        Hello {},
        Subscribe { topic: Topic, from: Option<CatalogIndex> },
        Acknowledge { roots: CatalogIndex, renewed: bool },
        Unsubscribe { topic: Topic },
    }

    #[derive(Debug, PartialEq, Eq, Deserialize)]
    #[serde(rename_all = "kebab-case")]
    pub(super) enum Topic {
        Mesh,
        Roots,
        Revocations,
        Gateways,
        Intentions(ServiceKey),
        Endpoints(ServiceKey),
    }

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "kebab-case")]
    pub(super) enum ServerFrame {
        Welcome { incarnation: Incarnation, server: ServerId, servers: Vec<String> },
    }
}

#[test]
fn fault_22_a_peer_one_release_behind_reads_the_first_frames_of_today() {
    let read = |frame: &ClientFrame| {
        let text = serde_json::to_string(frame).unwrap();
        serde_json::from_str::<first_form::ClientFrame>(&text).map_err(|error| format!("{text}: {error}"))
    };
    assert!(matches!(read(&ClientFrame::hello()), Ok(first_form::ClientFrame::Hello {})));
    let web = || "web".parse().unwrap();
    for topic in [
        Topic::Mesh,
        Topic::Roots,
        Topic::Revocations,
        Topic::Gateways,
        Topic::Intentions(web()),
        Topic::Endpoints(web()),
        Topic::Config(web()),
        Topic::Network("eu".to_owned()),
    ] {
        let subscribe = ClientFrame::Subscribe { topic: topic.clone(), from: Some(CatalogIndex(3)) };
        let is_known = Capabilities::default().has_topic(&topic);
        let asked = read(&subscribe).map(|frame| match frame {
            first_form::ClientFrame::Subscribe { topic, from } => (topic, from),
            other => panic!("{other:?}"),
        });
        let left = read(&ClientFrame::Unsubscribe { topic: topic.clone() }).map(|frame| match frame {
            first_form::ClientFrame::Unsubscribe { topic } => (topic, Some(CatalogIndex(3))),
            other => panic!("{other:?}"),
        });
        assert_eq!((asked.is_ok(), left.is_ok()), (is_known, is_known), "{topic}: {asked:?}");
        assert_eq!(asked.ok(), left.ok());
    }
    let acknowledge = read(&ClientFrame::Acknowledge { roots: CatalogIndex(2), renewed: true });
    assert!(matches!(acknowledge, Ok(first_form::ClientFrame::Acknowledge { roots: CatalogIndex(2), renewed: true })));
    let welcome = ServerFrame::Welcome {
        incarnation: Incarnation(9),
        server: "server-1".parse().unwrap(),
        servers: vec!["10.0.0.1:8300".to_owned()],
        group: Some(GroupEpoch { cluster_id: "c1".to_owned(), epoch: 2 }),
        knows: Capabilities::ours(),
    };
    let text = serde_json::to_string(&welcome).unwrap();
    let first_form::ServerFrame::Welcome { incarnation, server, servers } = serde_json::from_str(&text).unwrap();
    assert_eq!((incarnation, server.as_str(), servers.len()), (Incarnation(9), "server-1", 1));
}

#[test]
fn fault_22_what_a_server_one_release_behind_says_is_understood() {
    of_release_0_1::<JoinResponse>("agent_protocol_join_response.json");
    of_release_0_1::<Vec<WriteResponse>>("agent_protocol_write_responses.json");
    let frames: Vec<ServerFrame> = of_release_0_1("agent_protocol_server_frames.json");
    assert!(frames.iter().any(|frame| matches!(frame, ServerFrame::Event(_))), "{frames:?}");
}

fn agent() -> AgentId {
    AgentId::enrolled_at(CatalogIndex(7))
}

fn mesh() -> MeshItem {
    MeshItem {
        cluster_id: "0b1f3c52-9f7e-4c1b-8a52-3f2f0c6f0a11".to_owned(),
        trust_domain: "mesh.test".parse().unwrap(),
        template: PathTemplate::default(),
        datacenter: "dc1".to_owned(),
        default_action: Action::Deny,
        guardrails: vec![Guardrail {
            name: "no-legacy".to_owned(),
            source: "legacy/*".parse().unwrap(),
            destination: "*/*".parse().unwrap(),
        }],
        audit: catalog::AuditMode::default(),
        min_key_exchange: catalog::KeyExchange::default(),
        mesh_destinations_only: false,
        allows_permissive: false,
        relaxations: Vec::new(),
    }
}

fn record() -> AgentRecord {
    AgentRecord {
        id: agent(),
        node: "vm-1".parse().unwrap(),
        platform: Platform::Vm,
        key: KeyFingerprint("ab".repeat(32)),
        services: vec!["web".parse().unwrap()],
        attestation: Attestation::JoinToken("0b1f3c52-9f7e-4c1b-8a52-3f2f0c6f0a11".parse().unwrap()),
        earlier: Vec::new(),
        gateway: None,
        enrolled: CatalogIndex(7),
        incarnation: Some(Incarnation(9)),
        server: Some("server-1".parse().unwrap()),
        presence: Default::default(),
        modified: CatalogIndex(9),
    }
}

fn leaf() -> Leaf {
    Leaf { chain_pem: vec!["<leaf>".to_owned(), "<intermediate>".to_owned()], not_after: Timestamp(1_700_000_000_000) }
}

fn node() -> Node {
    Node {
        name: "vm-1".parse().unwrap(),
        id: Some("i-0123".to_owned()),
        address: "10.0.0.5".to_owned(),
        platform: Platform::Vm,
        zone: Some("eu-1a".to_owned()),
        network: String::new(),
        gateway_port: None,
        owner: Owner::Agent(agent()),
        incarnation: Some(Incarnation(9)),
        meta: BTreeMap::from([("rack".to_owned(), "r1".to_owned())]),
        tagged_addresses: BTreeMap::from([("lan".to_owned(), "10.0.0.5".to_owned())]),
        created: CatalogIndex::default(),
        modified: CatalogIndex::default(),
    }
}

fn instance_key() -> InstanceKey {
    InstanceKey {
        node: "vm-1".parse().unwrap(),
        namespace: Namespace::default_namespace(),
        id: "web-1".parse().unwrap(),
    }
}

fn instance() -> Instance {
    Instance {
        key: instance_key(),
        service: "web".parse().unwrap(),
        address: None,
        port: 8080,
        ports: BTreeMap::from([("admin".to_owned(), 9090)]),
        mesh_port: Some(20000),
        tags: vec!["v1".to_owned()],
        meta: BTreeMap::from([("version".to_owned(), "1".to_owned())]),
        tagged_addresses: BTreeMap::from([(
            "lan".to_owned(),
            TaggedAddress { address: "10.0.0.5".to_owned(), port: 8080 },
        )]),
        weights: Weights { passing: 10, warning: 1 },
        enable_tag_override: false,
        upstreams: vec![Upstream {
            destination: "db".parse().unwrap(),
            local_bind_address: None,
            local_bind_port: 9191,
        }],
        bypassable: Some(false),
        created: CatalogIndex::default(),
        modified: CatalogIndex::default(),
    }
}

fn check_key() -> CheckKey {
    CheckKey {
        node: "vm-1".parse().unwrap(),
        namespace: Namespace::default_namespace(),
        id: "service:web-1".parse().unwrap(),
    }
}

fn check() -> Check {
    Check {
        key: check_key(),
        name: "web answers".to_owned(),
        status: CheckStatus::Critical,
        notes: String::new(),
        output: "not made yet".to_owned(),
        instance: Some("web-1".parse().unwrap()),
        kind: "http".to_owned(),
        created: CatalogIndex::default(),
        modified: CatalogIndex::default(),
    }
}

#[test]
fn golden_join_and_sign() {
    golden(
        "agent_protocol_join_request.json",
        &JoinRequest {
            secret: Secret::new("c2VjcmV0"),
            csr: vec![0x30, 0x03, 0x02, 0x01, 0xff],
            node: "vm-1".parse().unwrap(),
            platform: Platform::Vm,
            zone: Some("eu-1a".to_owned()),
            network: String::new(),
        },
    );
    golden(
        "agent_protocol_join_response.json",
        &JoinResponse {
            record: record(),
            mesh: mesh(),
            roots_pem: vec!["<root>".to_owned()],
            leaf: leaf(),
            servers: vec!["10.0.0.1:8300".to_owned()],
            provisional: false,
        },
    );
    golden(
        "agent_protocol_sign.json",
        &(
            SignRequest { csr: vec![0x30, 0x00], subject: Subject::Agent },
            SignRequest { csr: vec![0x30, 0x00], subject: Subject::Service("shop/web".parse().unwrap()) },
            SignResponse { leaf: leaf() },
        ),
    );
}

#[test]
fn golden_writes() {
    let incarnation = Incarnation(9);
    let requests: Vec<WriteRequest> = [
        AgentWrite::Register {
            node: Box::new(node()),
            instances: vec![instance()],
            checks: vec![check()],
            incarnation,
        },
        AgentWrite::Deregister { node: "vm-1".parse().unwrap(), target: DeregisterTarget::Node, incarnation },
        AgentWrite::Deregister {
            node: "vm-1".parse().unwrap(),
            target: DeregisterTarget::Instance {
                namespace: Namespace::default_namespace(),
                id: "web-1".parse().unwrap(),
            },
            incarnation,
        },
        AgentWrite::UpdateChecks {
            updates: vec![CheckUpdate { key: check_key(), status: CheckStatus::Passing, output: "200 OK".to_owned() }],
            incarnation,
        },
        AgentWrite::Drain { node: "vm-1".parse().unwrap(), agent: record().id, incarnation },
    ]
    .into_iter()
    .map(|command| WriteRequest { request_id: "agent-1-1".parse().unwrap(), command })
    .collect();
    golden("agent_protocol_write_requests.json", &requests);
    golden(
        "agent_protocol_write_responses.json",
        &vec![
            WriteResponse { index: CatalogIndex(12), outcome: Outcome::Done },
            WriteResponse {
                index: CatalogIndex(13),
                outcome: Outcome::Refused(Refusal::NodeTaken { node: "vm-1".parse().unwrap() }),
            },
        ],
    );
}

#[test]
fn golden_stream() {
    golden(
        "agent_protocol_client_frames.json",
        &vec![
            ClientFrame::Hello { knows: Capabilities::default() },
            ClientFrame::Subscribe { topic: Topic::Mesh, from: None },
            ClientFrame::Subscribe {
                topic: Topic::Endpoints("shop/db".parse().unwrap()),
                from: Some(CatalogIndex(11)),
            },
            ClientFrame::Unsubscribe { topic: Topic::Intentions("web".parse().unwrap()) },
            ClientFrame::Acknowledge { roots: CatalogIndex(12), renewed: true },
            ClientFrame::Rejected { topic: Topic::Roots, error: "no root is left".to_owned() },
            ClientFrame::hello(),
        ],
    );
    let endpoint = Endpoint {
        key: instance_key(),
        address: "10.0.0.5".to_owned(),
        mesh_port: Some(20000),
        port: 8080,
        ports: BTreeMap::new(),
        status: CheckStatus::Passing,
        zone: None,
        network: String::new(),
        platform: Platform::Ecs,
        weights: Weights::default(),
        meta: BTreeMap::new(),
        tags: Vec::new(),
        node_meta: BTreeMap::new(),
    };
    let intention = Intention::new("web".parse().unwrap(), "db".parse().unwrap(), Action::Allow);
    let entry = ConfigEntry::new(ConfigContent::ServiceDefaults(ServiceDefaults {
        protocol: Some(Protocol::Http),
        ..ServiceDefaults::new("db".parse().unwrap())
    }));
    let events = [
        Event::Snapshot {
            topic: Topic::Mesh,
            index: CatalogIndex(3),
            items: BTreeMap::from([("mesh".to_owned(), Item::Mesh(Box::new(mesh())))]),
        },
        Event::Snapshot {
            topic: Topic::Roots,
            index: CatalogIndex(4),
            items: BTreeMap::from([(
                "ab".repeat(32),
                Item::Root { certificate_pem: "<root>".to_owned(), active: true, signer: None },
            )]),
        },
        Event::Delta {
            topic: Topic::Endpoints("web".parse().unwrap()),
            from: CatalogIndex(4),
            index: CatalogIndex(12),
            upserts: BTreeMap::from([("vm-1/default/web-1".to_owned(), Item::Endpoint(Box::new(endpoint)))]),
            removes: BTreeSet::from(["vm-2/default/web-2".to_owned()]),
        },
        Event::Delta {
            topic: Topic::Intentions("db".parse().unwrap()),
            from: CatalogIndex(4),
            index: CatalogIndex(13),
            upserts: BTreeMap::from([("default/web => default/db".to_owned(), Item::Intention(Box::new(intention)))]),
            removes: BTreeSet::new(),
        },
        Event::Snapshot {
            topic: Topic::Revocations,
            index: CatalogIndex(14),
            items: BTreeMap::from([("a7".to_owned(), Item::RevokedRecord { enrolled: CatalogIndex(7) })]),
        },
        Event::UpToDate { topic: Topic::Roots, index: CatalogIndex(4) },
        Event::Snapshot {
            topic: Topic::Config("db".parse().unwrap()),
            index: CatalogIndex(15),
            items: BTreeMap::from([(entry.key().to_string(), Item::Config(Box::new(entry)))]),
        },
    ];
    let mut frames = vec![ServerFrame::Welcome {
        incarnation: Incarnation(9),
        server: "server-1".parse().unwrap(),
        servers: vec!["10.0.0.1:8300".to_owned()],
        group: None,
        knows: Capabilities::default(),
    }];
    frames.extend(events.into_iter().map(ServerFrame::Event));
    frames.push(ServerFrame::Ping);
    frames.push(ServerFrame::Welcome {
        incarnation: Incarnation(9),
        server: "server-1".parse().unwrap(),
        servers: Vec::new(),
        group: Some(GroupEpoch { cluster_id: "c1".to_owned(), epoch: 2 }),
        knows: Capabilities::default(),
    });
    frames.push(ServerFrame::Servers { servers: vec!["10.0.0.2:8300".to_owned()] });
    frames.push(ServerFrame::Settled { index: CatalogIndex(15) });
    frames.push(ServerFrame::Goodbye { reason: "the server stops".to_owned() });
    frames.push(ServerFrame::Welcome {
        incarnation: Incarnation(9),
        server: "server-1".parse().unwrap(),
        servers: Vec::new(),
        group: None,
        knows: Capabilities::ours(),
    });
    frames.push(ServerFrame::Tap(Box::new(crate::tap::TapOrder {
        id: "0a0b".to_owned(),
        service: "api".parse().unwrap(),
        wanted: crate::tap::TapFilter {
            method: Some("GET".to_owned()),
            status: Some("5xx".parse().unwrap()),
            headers: vec!["x-env".to_owned()],
            ..Default::default()
        },
        lasts_ms: 60_000,
        server: "10.0.0.1:8300".to_owned(),
    })));
    golden("agent_protocol_server_frames.json", &frames);
}

#[test]
fn a_kind_that_nobody_knows_is_an_error() {
    serde_json::from_str::<ClientFrame>(r#"{"dance":{}}"#).unwrap_err();
    serde_json::from_str::<ServerFrame>(r#""dance""#).unwrap_err();
    serde_json::from_str::<AgentWrite>(r#"{"kind":"dance"}"#).unwrap_err();
    serde_json::from_str::<Subject>(r#""server""#).unwrap_err();
}

#[test]
fn the_secret_of_a_join_request_is_not_shown() {
    let request = JoinRequest {
        secret: Secret::new("hunter2"),
        csr: Vec::new(),
        node: "vm-1".parse().unwrap(),
        platform: Platform::Vm,
        zone: None,
        network: String::new(),
    };
    assert!(!format!("{request:?}").contains("hunter2"));
}

#[test]
fn a_write_becomes_a_command_with_its_incarnation() {
    let write = AgentWrite::Deregister {
        node: "vm-1".parse().unwrap(),
        target: DeregisterTarget::Node,
        incarnation: Incarnation(9),
    };
    assert_eq!((write.node().map(NodeName::as_str), write.incarnation()), (Some("vm-1"), Incarnation(9)));
    assert!(matches!(write.into_command(), Command::Deregister { incarnation: Some(Incarnation(9)), .. }));
}
