//! A gateway between two agents that cannot reach one another.

use std::net::SocketAddr;
use std::time::Duration;

use catalog::{Action, Endpoint, Gateway};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::agents::{Agent, Echo, Pair, endpoint, eventually, expect_reset, say};
use super::certificates::service_key;
use crate::proxy::Limits;
use crate::proxy::outbound::endpoints::label_of;

/// What the application's host is called in its own network.
const FAR: &str = "192.0.2.7";

/// Two agents in two networks, and the gateway that leads from the one's into the other's.
struct Far {
    pair: Pair,
    gateway: Agent,
    address: SocketAddr,
}

impl Far {
    async fn start(limits: Limits) -> Self {
        let mut pair = Pair::start(&["allow web api"]).await;
        let (mut gateway, address) = Agent::start_gateway(&pair.authority, limits);
        let near = pair.web.snapshot.endpoints[&service_key("api")][0].clone();
        gateway.snapshot.network = "aws".to_owned();
        let here = Endpoint { network: "aws".to_owned(), ..near.clone() };
        gateway.snapshot.endpoints.insert(service_key("api"), vec![here]);
        gateway.publish().await;
        // The caller knows of an address that leads nowhere from where it is.
        let far = Endpoint { network: "aws".to_owned(), address: FAR.to_owned(), ..near };
        pair.api.snapshot.locals.get_mut(&service_key("api")).unwrap()[0].advertised_address = FAR.to_owned();
        pair.api.publish().await;
        pair.web.snapshot.endpoints.insert(service_key("api"), vec![far]);
        pair.web.snapshot.gateways.push(way_in(address));
        pair.web.publish().await;
        Self { pair, gateway, address }
    }

    async fn expect_refusal(&self, hello: &[u8], phase: &str, reason: &str) {
        let before = self.gateway.refused("gateway", phase, reason);
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(hello).await.unwrap();
        expect_reset(&mut stream).await;
        assert_eq!(self.gateway.refused("gateway", phase, reason), before + 1, "{phase} {reason}");
    }
}

fn way_in(address: SocketAddr) -> Gateway {
    let (node, network) = ("gateway-1".parse().unwrap(), "aws".to_owned());
    Gateway { node, network, address: address.ip().to_string(), port: address.port() }
}

/// Returns the first flight of a TLS client that asks for a server name.
fn hello(name: &str) -> Vec<u8> {
    let config = wire::tls::web_client_config(rustls::RootCertStore::empty());
    let name = rustls::pki_types::ServerName::try_from(name.to_owned()).unwrap();
    let mut client = rustls::ClientConnection::new(std::sync::Arc::new(config), name).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_passes_tunnels_on_by_their_server_name_and_a_deny_cuts_through_it() {
    let mut far = Far::start(Limits::default()).await;
    let mut stream = far.pair.connected().await;
    say(&mut stream, "through the gateway").await;
    assert_eq!(far.gateway.metric("weft_proxy_connections_opened_total{direction=\"gateway\"}"), 1);
    assert!(far.gateway.metric("weft_proxy_sent_bytes_total{direction=\"gateway\"}") > 0);
    far.pair.api.rule("api", Action::Deny, &[]);
    far.pair.api.publish().await;
    expect_reset(&mut stream).await;

    // When it stops, what it carries is given its time and then cut.
    assert!(!far.gateway.proxy.drain(Duration::from_millis(10)).await);
    assert!(TcpStream::connect(far.address).await.is_err());
    eventually("counted", || far.gateway.closed("gateway", "cut") == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l1_l2_l3_a_gateway_passes_nothing_on_that_does_not_ask_for_a_service_of_its_network() {
    let limits = Limits { handshake_timeout: Duration::from_secs(1), ..Limits::default() };
    let late = Far::start(limits).await;
    let sni = late.pair.authority.scheme.sni(&service_key("api"));
    late.expect_refusal(&hello(&sni)[..100], "hello", "timeout").await;
    let mut far = Far::start(Limits::default()).await;
    let scheme = far.pair.authority.scheme.clone();
    let api = scheme.sni(&service_key("api"));
    far.expect_refusal(b"GET / HTTP/1.1\r\n\r\n", "hello", "not_tls").await;
    far.expect_refusal(&hello("api.default.dc1.internal.other.example"), "identify", "unknown_server_name").await;
    far.expect_refusal(&hello("www.example.org"), "identify", "unknown_server_name").await;
    far.expect_refusal(&hello(&scheme.sni(&service_key("web"))), "choose", "no_endpoint").await;

    // Not into a third network, and not to an address at which a gateway stands, be it this one.
    let here = far.gateway.snapshot.endpoints[&service_key("api")][0].clone();
    let elsewhere = Endpoint { network: "office".to_owned(), ..here.clone() };
    let itself = Endpoint { mesh_port: Some(far.address.port()), ..here };
    for (endpoint, gateways, reason) in [
        (elsewhere, vec![Gateway { network: "office".to_owned(), ..way_in(far.address) }], "other_network"),
        (itself.clone(), vec![way_in(far.address)], "other_network"),
    ] {
        far.gateway.snapshot.endpoints.insert(service_key("api"), vec![endpoint]);
        far.gateway.snapshot.gateways = gateways;
        far.gateway.publish().await;
        far.expect_refusal(&hello(&api), "choose", reason).await;
    }
    far.gateway.snapshot.endpoints.insert(service_key("api"), vec![itself]);
    far.gateway.snapshot.gateways.clear();
    far.gateway.publish().await;
    far.expect_refusal(&hello(&api), "connect", "forbidden_address").await;
    assert_eq!(far.pair.echo.accepted(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_leads_to_the_very_instance_that_its_caller_chose() {
    let mut far = Far::start(Limits::default()).await;
    let (second, api) = (Echo::start().await, service_key("api"));
    let mut other = Agent::start(&far.pair.authority);
    other.serve(&far.pair.authority, "api", second.address);
    other.rule("api", Action::Deny, &["allow web api"]);
    other.publish().await;
    // The gateway knows both, and would choose any; the caller knows of one, as one who calls a subset does.
    let both = far.gateway.snapshot.endpoints.get_mut(&api).unwrap();
    both.push(Endpoint { network: "aws".to_owned(), ..endpoint("api", other.proxy.mesh_address(), second.address) });
    far.gateway.publish().await;
    for _ in 0..8 {
        say(&mut far.pair.connected().await, "chosen").await;
    }
    assert_eq!((far.pair.echo.accepted(), second.accepted()), (8, 0));

    // Nobody stands in for one that the gateway does not know, or that is elsewhere.
    let scheme = far.pair.authority.scheme.clone();
    let key = far.gateway.snapshot.endpoints[&api][0].key.clone();
    let asked = scheme.sni_of_instance(&api, &label_of(&key));
    far.gateway.snapshot.endpoints.get_mut(&api).unwrap()[0].network = "office".to_owned();
    far.gateway.publish().await;
    far.expect_refusal(&hello(&asked), "choose", "other_network").await;
    far.gateway.snapshot.endpoints.get_mut(&api).unwrap().remove(0);
    far.gateway.publish().await;
    far.expect_refusal(&hello(&asked), "choose", "no_endpoint").await;
    assert_eq!(second.accepted(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_says_nothing_holds_a_gateway_no_longer_than_a_handshake_may_take() {
    let limits = Limits { handshake_timeout: Duration::from_secs(2), ..Limits::default() };
    let mut far = Far::start(limits).await;
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = &mut far.gateway.snapshot.endpoints.get_mut(&service_key("api")).unwrap()[0];
    endpoint.mesh_port = Some(silent.local_addr().unwrap().port());
    far.gateway.publish().await;
    far.expect_refusal(&hello(&far.pair.authority.scheme.sni(&service_key("api"))), "open", "no_answer").await;
}
