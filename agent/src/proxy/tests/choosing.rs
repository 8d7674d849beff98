//! Which instance is called, and what happens when it cannot be.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Instant;

use catalog::{Action, CheckStatus, Endpoint};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::agents::{Agent, Echo, Pair, endpoint, eventually};
use super::certificates::{Authority, service_key};

/// An address at which nobody listens, whatever tests run at the same time.
const NOBODY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9);

/// Starts an agent with one more instance of `api`.
async fn another(authority: &Authority, application: SocketAddr) -> (Agent, Endpoint) {
    let mut agent = Agent::start(authority);
    agent.serve(authority, "api", application);
    agent.rule("api", Action::Deny, &["allow web api"]);
    agent.publish().await;
    let endpoint = endpoint("api", agent.proxy.mesh_address(), application);
    (agent, endpoint)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_that_refuses_connections_is_passed_over_and_put_aside() {
    let mut pair = Pair::start(&["allow web api"]).await;
    let mut gone = endpoint("api", NOBODY, NOBODY);
    gone.weights.passing = 1_000_000;
    pair.web.snapshot.endpoints.get_mut(&service_key("api")).unwrap().push(gone);
    pair.web.publish().await;
    let before = Instant::now();
    for _ in 0..20 {
        pair.connected().await;
    }
    // It is put aside for a second, and longer each time.
    let (ejected, elapsed) = (pair.web.ejected("unreachable"), before.elapsed());
    assert!(ejected >= 1 && ejected <= 1 + elapsed.as_secs(), "{ejected} in {elapsed:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_whose_application_is_down_is_passed_over() {
    let mut pair = Pair::start(&["allow web api"]).await;
    let (down, mut endpoint) = another(&pair.authority, NOBODY).await;
    endpoint.weights.passing = 1_000_000;
    pair.web.snapshot.endpoints.get_mut(&service_key("api")).unwrap().push(endpoint);
    pair.web.publish().await;
    for _ in 0..10 {
        pair.connected().await;
    }
    assert!(down.refused("inbound", "dial", "unreachable") >= 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_by_intention_is_not_tried_elsewhere() {
    let mut pair = Pair::start(&[]).await;
    let second = Echo::start().await;
    let (mut other, endpoint) = another(&pair.authority, second.address).await;
    other.rule("api", Action::Deny, &[]);
    other.publish().await;
    pair.web.snapshot.endpoints.get_mut(&service_key("api")).unwrap().push(endpoint);
    pair.web.publish().await;
    pair.web.expect_refusal().await;
    let asked =
        pair.api.refused("inbound", "decide", "default_deny") + other.refused("inbound", "decide", "default_deny");
    assert_eq!(asked, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instances_that_cannot_be_called_are_not_and_the_reason_is_counted() {
    let mut pair = Pair::start(&["allow web api"]).await;
    let good = pair.web.snapshot.endpoints[&service_key("api")][0].clone();
    let critical = Endpoint { status: CheckStatus::Critical, ..good.clone() };
    let elsewhere = Endpoint { network: "other".to_owned(), ..good.clone() };
    let unmeshed = Endpoint { mesh_port: None, ..good.clone() };
    let portless = Endpoint { port: 0, ..good.clone() };
    for (endpoints, reason) in [
        (vec![], "no_endpoint"),
        (vec![critical.clone()], "no_healthy_endpoint"),
        (vec![critical.clone(), elsewhere], "other_network"),
        (vec![critical.clone(), unmeshed], "no_mesh_port"),
        (vec![portless], "no_port"),
    ] {
        pair.web.snapshot.endpoints.insert(service_key("api"), endpoints);
        pair.web.publish().await;
        pair.web.expect_refusal().await;
        assert_eq!(pair.web.refused("outbound", "choose", reason), 1, "{reason}");
    }
    assert_eq!(pair.echo.accepted(), 0, "never in plaintext");
    let warning = Endpoint { status: CheckStatus::Warning, ..good };
    pair.web.snapshot.endpoints.insert(service_key("api"), vec![critical, warning]);
    pair.web.publish().await;
    pair.connected().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_33_when_most_instances_fail_at_once_their_checks_are_not_believed() {
    let mut pair = Pair::start(&["allow web api"]).await;
    let good = pair.web.snapshot.endpoints[&service_key("api")][0].clone();
    let numbered = |number: usize, status| {
        let mut endpoint = Endpoint { status, ..good.clone() };
        endpoint.key.id = format!("api-{number}").parse().unwrap();
        endpoint
    };
    // Six of ten fail within a moment; the four that are left would not bear what all ten did.
    let statuses = |critical: usize| (0..10).map(move |number| (number, number < critical));
    let failing = |critical| {
        let status = |is_critical| if is_critical { CheckStatus::Critical } else { CheckStatus::Passing };
        statuses(critical).map(|(number, is_critical)| numbered(number, status(is_critical))).collect::<Vec<_>>()
    };
    for (critical, panics) in [(5, 0), (6, 1), (10, 1), (0, 0)] {
        pair.web.snapshot.endpoints.insert(service_key("api"), failing(critical));
        pair.web.publish().await;
        pair.connected().await;
        assert_eq!(pair.web.metric("weft_proxy_panicking_services"), panics, "{critical} of ten");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_of_another_network_is_called_through_its_gateway() {
    let mut pair = Pair::start(&["allow web api"]).await;
    // What a gateway does, for a single destination: it passes on what it cannot read.
    let gateway = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let (way_in, destination) = (gateway.local_addr().unwrap(), pair.api.proxy.mesh_address());
    let passing = tokio::spawn(async move {
        let (mut from, _) = gateway.accept().await.unwrap();
        let mut to = tokio::net::TcpStream::connect(destination).await.unwrap();
        tokio::io::copy_bidirectional(&mut from, &mut to).await.unwrap();
    });
    let mut far = pair.web.snapshot.endpoints[&service_key("api")][0].clone();
    (far.network, far.address) = ("elsewhere".to_owned(), "192.0.2.7".to_owned());
    pair.api.snapshot.locals.get_mut(&service_key("api")).unwrap()[0].advertised_address = far.address.clone();
    pair.api.publish().await;
    pair.web.snapshot.endpoints.insert(service_key("api"), vec![far]);
    pair.web.publish().await;
    pair.web.expect_refusal().await;
    assert_eq!(pair.web.refused("outbound", "choose", "other_network"), 1);
    pair.web.snapshot.gateways.push(catalog::Gateway {
        node: "gateway-1".parse().unwrap(),
        network: "elsewhere".to_owned(),
        address: way_in.ip().to_string(),
        port: way_in.port(),
    });
    pair.web.publish().await;
    pair.connected().await;
    assert_eq!(pair.echo.accepted(), 1);
    passing.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_spread_over_the_instances() {
    let mut pair = Pair::start(&["allow web api"]).await;
    let second = Echo::start().await;
    let (_other, endpoint) = another(&pair.authority, second.address).await;
    pair.web.snapshot.endpoints.get_mut(&service_key("api")).unwrap().push(endpoint);
    pair.web.publish().await;
    let mut streams = Vec::new();
    for _ in 0..40 {
        streams.push(pair.connected().await);
    }
    let counts = (pair.echo.accepted(), second.accepted());
    assert!(counts.0.abs_diff(counts.1) <= 2, "the less loaded of two is taken: {counts:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_instances_behind_one_agent_are_told_apart() {
    let authority = Authority::new("mesh.test");
    let (one, two) = (Echo::start().await, Echo::start().await);
    let mut api = Agent::start(&authority);
    api.serve(&authority, "api", one.address);
    api.serve(&authority, "api", two.address);
    api.rule("api", Action::Deny, &["allow web api"]);
    api.publish().await;
    let mut web = Agent::start(&authority);
    web.call(&authority, "web", "api", &[endpoint("api", api.proxy.mesh_address(), two.address)]);
    web.publish().await;
    for _ in 0..4 {
        let mut stream = web.connect().await;
        stream.write_all(b"hello").await.unwrap();
        stream.read_exact(&mut [0; 5]).await.unwrap();
    }
    assert_eq!((one.accepted(), two.accepted()), (0, 4));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_calls_another_of_its_own_agent_goes_through_the_mesh_listener() {
    let mut pair = Pair::start(&[]).await;
    let here = endpoint("api", pair.api.proxy.mesh_address(), pair.echo.address);
    pair.api.call(&pair.authority, "db", "api", &[here]);
    pair.api.rule("api", Action::Deny, &["allow db api"]);
    pair.api.publish().await;
    let mut stream = pair.api.connect().await;
    stream.write_all(b"hello").await.unwrap();
    stream.read_exact(&mut [0; 5]).await.unwrap();
    // But never back into a listener of its own, however it was registered.
    let mut looped = endpoint("api", pair.api.upstream(), pair.echo.address);
    looped.key.id = "looped".parse().unwrap();
    pair.api.snapshot.endpoints.insert(service_key("api"), vec![looped]);
    pair.api.publish().await;
    pair.api.expect_refusal().await;
    eventually("counted", || pair.api.refused("outbound", "connect", "forbidden_address") == 1).await;
}
