//! The server as resolvers meet it, over real sockets.

use std::net::Ipv4Addr;

use catalog::{
    Check, CheckKey, CheckStatus, Command, DeregisterTarget, Instance, InstanceKey, Namespace, Node, Owner, Platform,
    Weights,
};
use hickory_proto::op::{Edns, Message, MessageType, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RData, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;
use crate::testing::agent::{config, eventually};
use crate::testing::server::{ModelServer, OF_NOTHING, OF_WEB, Shared};
use crate::{Agent, start};

fn register(on: &str, address: &str, id: &str, service: &str, status: CheckStatus) -> Command {
    let node = Node {
        name: on.parse().unwrap(),
        id: None,
        address: address.to_owned(),
        platform: Platform::Vm,
        zone: None,
        network: String::new(),
        gateway_port: None,
        owner: Owner::External,
        incarnation: None,
        meta: Default::default(),
        tagged_addresses: Default::default(),
        created: Default::default(),
        modified: Default::default(),
    };
    let key = InstanceKey { node: node.name.clone(), namespace: Namespace::default(), id: id.parse().unwrap() };
    let instance = Instance {
        key,
        service: service.parse().unwrap(),
        address: None,
        port: 8080,
        ports: Default::default(),
        mesh_port: None,
        tags: vec!["v1".to_owned()],
        meta: Default::default(),
        tagged_addresses: Default::default(),
        weights: Weights::default(),
        enable_tag_override: false,
        upstreams: Vec::new(),
        bypassable: None,
        created: Default::default(),
        modified: Default::default(),
    };
    let check = Check {
        key: CheckKey {
            node: node.name.clone(),
            namespace: Namespace::default(),
            id: format!("{id}-up").parse().unwrap(),
        },
        name: "up".to_owned(),
        status,
        notes: String::new(),
        output: String::new(),
        instance: Some(instance.key.id.clone()),
        kind: String::new(),
        created: Default::default(),
        modified: Default::default(),
    };
    let (instances, checks) = (vec![instance], vec![check]);
    Command::Register { node: Box::new(node), instances, checks, skip_node_update: false, incarnation: None }
}

/// An agent that answers names, as these settings say.
async fn agent(server: &ModelServer, settings: DnsSettings) -> Agent {
    let token = server.shared().join_token(&["web"]);
    let mut config = config(&[server.address], Some(token), None);
    config.dns = Some(DnsSettings { port: 0, ..settings });
    let agent = start(config).await.unwrap();
    eventually(async || agent.missing().is_empty()).await;
    agent
}

/// A mesh in which `api` has a healthy and a sick instance.
async fn mesh() -> ModelServer {
    let server = ModelServer::start(Shared::new(&["web"])).await;
    server.shared().cluster().commit(register("db-1", "10.0.0.7", "api-1", "api", CheckStatus::Passing));
    server.shared().cluster().commit(register("db-2", "10.0.0.8", "api-2", "api", CheckStatus::Critical));
    drop(server.shared().cluster());
    server
}

fn question(name: &str, kind: RecordType) -> Message {
    let mut metadata = Metadata::new(4711, MessageType::Query, OpCode::Query);
    metadata.recursion_desired = true;
    let mut message = Message::query();
    message.metadata = metadata;
    message.queries = vec![Query::query(Name::from_ascii(name).unwrap(), kind)];
    message
}

/// Sends bytes over UDP; returns the answer's, or nothing where none comes.
async fn sent(agent: &Agent, bytes: &[u8]) -> Option<Vec<u8>> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    sent_by(&socket, agent.dns_address().unwrap(), bytes).await
}

async fn sent_by(socket: &UdpSocket, address: SocketAddr, bytes: &[u8]) -> Option<Vec<u8>> {
    socket.send_to(bytes, address).await.unwrap();
    let mut answer = vec![0; 65_535];
    let length = tokio::time::timeout(Duration::from_secs(25), socket.recv(&mut answer)).await.ok()?.unwrap();
    Some(answer[..length].to_vec())
}

async fn asked(agent: &Agent, message: &Message) -> Message {
    let answer = sent(agent, &message.to_vec().unwrap()).await.expect("an answer");
    let answer = Message::from_vec(&answer).unwrap();
    assert_eq!((answer.metadata.id, answer.metadata.message_type), (message.metadata.id, MessageType::Response));
    answer
}

async fn ask(agent: &Agent, name: &str, kind: RecordType) -> (ResponseCode, Vec<String>) {
    let answer = asked(agent, &question(name, kind)).await;
    (answer.metadata.response_code, answer.answers.iter().map(|record| record.data.to_string()).collect())
}

async fn over_tcp(agent: &Agent, message: &Message) -> Message {
    let bytes = message.to_vec().unwrap();
    let mut stream = TcpStream::connect(agent.dns_address().unwrap()).await.unwrap();
    stream.write_u16(bytes.len() as u16).await.unwrap();
    stream.write_all(&bytes).await.unwrap();
    let mut answer = vec![0; usize::from(stream.read_u16().await.unwrap())];
    stream.read_exact(&mut answer).await.unwrap();
    Message::from_vec(&answer).unwrap()
}

fn nothing() -> (ResponseCode, Vec<String>) {
    (ResponseCode::NoError, Vec::new())
}

#[tokio::test]
async fn d4_names_are_answered_from_what_is_known_and_go_on_being_with_every_server_dead() {
    use RecordType::{A, AAAA, SOA, SRV, TXT};
    let server = mesh().await;
    let alt_domain = Some("corp.example".to_owned());
    let agent = agent(&server, DnsSettings { alt_domain, ..DnsSettings::default() }).await;
    let told = |data: &str| (ResponseCode::NoError, vec![data.to_owned()]);
    let missing = || (ResponseCode::NXDomain, Vec::new());
    server.shared().cluster().commit(register("DB-Large", "10.0.0.10", "big-1", "big", CheckStatus::Passing));
    let number = server.shared().cluster().leader().address_number(&"api".parse().unwrap()).unwrap();
    let table = [
        ("api.service.mesh.", A, told("10.0.0.7")),
        ("API.Service.MESH.", A, told("10.0.0.7")),
        ("api.service.corp.example.", A, told("10.0.0.7")),
        ("v1.api.service.mesh.", A, told("10.0.0.7")),
        ("v2.api.service.mesh.", A, missing()),
        ("api.service.mesh.", AAAA, nothing()),
        ("api.service.mesh.", TXT, nothing()),
        ("_api._tcp.service.mesh.", SRV, told("1 1 8080 0a000007.addr.dc1.mesh.")),
        ("0a000007.addr.dc1.mesh.", A, told("10.0.0.7")),
        ("api.virtual.mesh.", A, told(&number.virtual_v4().to_string())),
        ("api.virtual.mesh.", AAAA, told(&number.virtual_v6().to_string())),
        ("db-2.node.mesh.", A, told("10.0.0.8")),
        ("dB-2.Node.mesh.", A, told("10.0.0.8")),
        ("DB-Large.node.mesh.", A, told("10.0.0.10")),
        ("db-large.node.mesh.", A, missing()),
        ("none.node.mesh.", A, missing()),
        ("none.service.mesh.", A, missing()),
        ("none.virtual.mesh.", AAAA, missing()),
        ("api.service.team.ns.mesh.", A, missing()),
        ("www.mesh.", A, missing()),
        ("service.mesh.", A, nothing()),
        ("mesh.", A, nothing()),
    ];
    for (name, kind, want) in &table {
        assert_eq!(ask(&agent, name, *kind).await, *want, "{name} {kind}");
    }
    let soa = ask(&agent, "mesh.", SOA).await;
    assert!(soa.1[0].starts_with("ns.mesh. hostmaster.mesh."), "{soa:?}");
    let negative = asked(&agent, &question("none.service.mesh.", A)).await;
    assert!(matches!(&negative.authorities[..], [soa] if soa.ttl == 5 && soa.record_type() == SOA), "{negative}");
    assert!(negative.metadata.authoritative && !negative.metadata.recursion_available);

    let gone = DeregisterTarget::Node;
    server.shared().cluster().commit(Command::Deregister {
        node: "db-1".parse().unwrap(),
        target: gone,
        incarnation: None,
    });
    drop(server.shared().cluster());
    eventually(async || ask(&agent, "api.service.mesh.", A).await == nothing()).await;
    server.shared().cluster().commit(register("db-3", "10.0.0.9", "api-3", "api", CheckStatus::Passing));
    drop(server.shared().cluster());
    eventually(async || ask(&agent, "api.service.mesh.", A).await == told("10.0.0.9")).await;
    drop(server);
    assert_eq!(ask(&agent, "api.service.mesh.", A).await, told("10.0.0.9"));
    assert_eq!(ask(&agent, "api.virtual.mesh.", A).await, told(&number.virtual_v4().to_string()));
    assert_eq!(ask(&agent, "never-asked.service.mesh.", A).await.0, ResponseCode::ServFail, "nobody can say");
}

#[tokio::test]
async fn d4_names_that_are_nothing_change_nothing_that_the_proxy_decides_by() {
    let server = mesh().await;
    let agent = agent(&server, DnsSettings::default()).await;
    let generation = || agent.proxy.status().generation;
    let before = generation();
    for number in 0..40 {
        let missing = (ResponseCode::NXDomain, Vec::new());
        assert_eq!(ask(&agent, &format!("x{number}.service.mesh."), RecordType::A).await, missing);
    }
    assert!(generation() - before < 10, "{} times for 40 names", generation() - before);
    // One that is something does.
    let before = generation();
    assert_eq!(ask(&agent, "api.service.mesh.", RecordType::A).await.1, ["10.0.0.7"]);
    eventually(async || generation() > before).await;
}

#[tokio::test]
async fn d4_names_are_answered_on_the_loopback_of_both_families() {
    let server = mesh().await;
    let agent = agent(&server, DnsSettings::default()).await;
    let message = question("api.service.mesh.", RecordType::A).to_vec().unwrap();
    let there = SocketAddr::new(LOOPBACK[1], agent.dns_address().unwrap().port());
    let answer = match UdpSocket::bind((LOOPBACK[1], 0)).await {
        Ok(socket) => sent_by(&socket, there, &message).await,
        // Nobody asks over IPv6 where there is none; the agent has started all the same.
        Err(error) => {
            assert!(is_absent(&error), "{error}");
            sent(&agent, &message).await
        }
    };
    let answer = Message::from_vec(&answer.expect("an answer")).unwrap();
    assert_eq!(answer.answers.iter().map(|record| record.data.to_string()).collect::<Vec<_>>(), ["10.0.0.7"]);
}

#[tokio::test]
async fn d3_what_does_not_fit_is_cut_and_whole_over_tcp_and_no_answer_is_larger_than_a_packet() {
    let server = mesh().await;
    for number in 0..120 {
        let (node, address) = (format!("n-{number}"), format!("10.1.0.{number}"));
        server.shared().cluster().commit(register(
            &node,
            &address,
            &format!("big-{number}"),
            "big",
            CheckStatus::Passing,
        ));
    }
    drop(server.shared().cluster());
    let agent = agent(&server, DnsSettings::default()).await;
    for kind in [RecordType::A, RecordType::SRV] {
        let plain = question("big.service.mesh.", kind);
        let bytes = sent(&agent, &plain.to_vec().unwrap()).await.unwrap();
        assert!(bytes.len() <= 512, "{}", bytes.len());
        assert!(Message::from_vec(&bytes).unwrap().metadata.truncation);
        let mut large = plain.clone();
        let mut edns = Edns::new();
        edns.set_max_payload(65_000);
        large.edns = Some(edns);
        let bytes = sent(&agent, &large.to_vec().unwrap()).await.unwrap();
        assert!((512..=1232).contains(&bytes.len()), "{}", bytes.len());
        assert!(Message::from_vec(&bytes).unwrap().metadata.truncation);
        let whole = over_tcp(&agent, &plain).await;
        assert_eq!((whole.answers.len(), whole.metadata.truncation), (120, false));
    }
    let all = asked(&agent, &question("big.service.mesh.", RecordType::ANY)).await;
    assert!(matches!(&all.answers[..], [one] if matches!(one.data, RData::HINFO(_))), "{all}");
}

#[tokio::test]
async fn d1_what_is_no_question_is_refused_or_dropped_and_nobody_else_is_held_up() {
    let server = mesh().await;
    let agent = agent(&server, DnsSettings::default()).await;
    let good = question("api.service.mesh.", RecordType::A);
    for (op_code, want) in [(OpCode::Update, ResponseCode::NotImp), (OpCode::Notify, ResponseCode::NotImp)] {
        let mut message = good.clone();
        message.metadata.op_code = op_code;
        let answer = sent(&agent, &message.to_vec().unwrap()).await.unwrap();
        assert_eq!(answer[3] & 0xf, u16::from(want) as u8, "{op_code:?}");
    }
    let mut chaos = good.clone();
    chaos.queries[0].query_class = DNSClass::CH;
    assert_eq!(asked(&agent, &chaos).await.metadata.response_code, ResponseCode::Refused);
    let transfer = question("mesh.", RecordType::AXFR);
    assert_eq!(asked(&agent, &transfer).await.metadata.response_code, ResponseCode::Refused);
    let other = question("www.example.com.", RecordType::A);
    assert_eq!(asked(&agent, &other).await.metadata.response_code, ResponseCode::Refused);

    let bytes = good.to_vec().unwrap();
    let mut many = bytes.clone();
    many[4..6].copy_from_slice(&u16::MAX.to_be_bytes());
    let mut loops = bytes[..12].to_vec();
    loops.extend([0xc0, 12, 0, 1, 0, 1]);
    let mut long = bytes[..12].to_vec();
    for _ in 0..5 {
        long.push(63);
        long.extend([b'a'; 63]);
    }
    long.extend([0, 0, 1, 0, 1]);
    for (what, message) in [("a count that lies", many), ("a loop", loops), ("a long name", long)] {
        let answer = sent(&agent, &message).await.unwrap_or_else(|| panic!("no answer to {what}"));
        assert_eq!(answer[3] & 0xf, u16::from(ResponseCode::FormErr) as u8, "{what}");
    }
    let mut two = good.clone();
    two.queries.push(good.queries[0].clone());
    assert_eq!(asked(&agent, &two).await.metadata.response_code, ResponseCode::FormErr);
    // Neither who lies about a length nor who sends nothing more holds anybody up.
    let mut liar = TcpStream::connect(agent.dns_address().unwrap()).await.unwrap();
    liar.write_all(&[0xff, 0xff, 1]).await.unwrap();
    let silent = TcpStream::connect(agent.dns_address().unwrap()).await.unwrap();
    assert_eq!(over_tcp(&agent, &good).await.answers.len(), 1);
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(3 * TCP_PATIENCE, liar.read_to_end(&mut rest)).await;
    assert!(ended.is_ok() && rest.is_empty(), "whoever sends half a question is shown out");
    drop(silent);
}

#[tokio::test]
async fn d5_a_token_shows_only_the_names_that_it_may_know() {
    let server = mesh().await;
    server.shared().cluster().commit(register("db-3", "10.0.0.9", "web-9", "web", CheckStatus::Passing));
    drop(server.shared().cluster());
    for (token, api, web) in [
        (OF_NOTHING, ResponseCode::NXDomain, ResponseCode::NXDomain),
        ("unknown", ResponseCode::NXDomain, ResponseCode::NXDomain),
        (OF_WEB, ResponseCode::NoError, ResponseCode::NoError),
    ] {
        let settings = DnsSettings { token: Some(Secret::new(token)), ..DnsSettings::default() };
        let agent = agent(&server, settings).await;
        for (name, want) in [("api.service.mesh.", api), ("api.virtual.mesh.", api), ("web.service.mesh.", web)] {
            assert_eq!(ask(&agent, name, RecordType::A).await.0, want, "{name} by {token}");
        }
    }
}

/// A resolver that answers each question with what `forge` makes of the right answer.
async fn recursor(forge: impl Fn(&mut Message, &mut std::net::SocketAddr) + Send + 'static) -> std::net::SocketAddr {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut bytes = [0; 4096];
        while let Ok((length, mut from)) = socket.recv_from(&mut bytes).await {
            let Ok(question) = Message::from_vec(&bytes[..length]) else { continue };
            let mut answer = Message::query();
            answer.metadata = Metadata::response_from_request(&question.metadata);
            answer.queries = question.queries.clone();
            let name = question.queries[0].name.clone();
            let data = RData::A(Ipv4Addr::new(192, 0, 2, 1).into());
            answer.answers = vec![hickory_proto::rr::Record::from_rdata(name, 60, data)];
            forge(&mut answer, &mut from);
            let _ = socket.send_to(&answer.to_vec().unwrap(), from).await;
        }
    });
    address
}

#[tokio::test]
async fn d2_other_names_are_passed_on_and_what_nobody_asked_for_is_left_behind() {
    let server = mesh().await;
    let extras = recursor(|answer, _| {
        let name: Name = "bank.example.".parse().unwrap();
        let data = RData::A(Ipv4Addr::new(203, 0, 113, 9).into());
        answer.additionals = vec![hickory_proto::rr::Record::from_rdata(name, 60, data)];
    });
    let with = |recursor| DnsSettings { recursors: vec![recursor], ..DnsSettings::default() };
    let agent_of_extras = agent(&server, with(extras.await)).await;
    let answer = asked(&agent_of_extras, &question("www.example.com.", RecordType::A)).await;
    assert_eq!(answer.answers.len(), 1, "{answer}");
    assert!(answer.additionals.is_empty() && answer.metadata.recursion_available && !answer.metadata.authoritative);
    assert_eq!(ask(&agent_of_extras, "api.service.mesh.", RecordType::A).await.1, ["10.0.0.7"]);

    // One that guesses: another number, another name, or the letters' case.
    for forge in [
        (|answer: &mut Message, _: &mut _| answer.metadata.id ^= 1) as fn(&mut Message, &mut std::net::SocketAddr),
        |answer, _| {
            let name: Name = "bank.example.".parse().unwrap();
            answer.queries[0].name = name.clone();
            answer.answers[0].name = name;
        },
        |answer, _| answer.queries[0].name = answer.queries[0].name.to_lowercase(),
    ] {
        let forged = agent(&server, with(recursor(forge).await)).await;
        let started = std::time::Instant::now();
        let answer = ask(&forged, "some-longer-name.example.com.", RecordType::A).await;
        assert_eq!(answer, (ResponseCode::ServFail, Vec::new()));
        assert!(started.elapsed() < Duration::from_secs(10), "it took {:?}", started.elapsed());
        assert_eq!(
            ask(&forged, "api.service.mesh.", RecordType::A).await.1,
            ["10.0.0.7"],
            "our own names are not held up"
        );
    }
}
