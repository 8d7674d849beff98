//! What a CONNECT may name: the tunnel's own destination and nothing else.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};

use catalog::Action;
use http::Method;

use super::agents::Pair;
use super::certificates::{ask, service_key};
use crate::proxy::LocalInstance;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connect_names_the_service_and_a_port_or_the_registered_address() {
    let pair = Pair::start(&["allow web api"]).await;
    let mut tunnel = pair.authority.tunnel("web", "api", pair.api.proxy.mesh_address()).await;
    let port = pair.echo.address.port();
    for mine in [
        "api:http",
        "api.default:http",
        "API.Default:http",
        "api:default",
        "api.:http",
        &format!("127.0.0.1:{port}"),
        &format!("[::ffff:127.0.0.1]:{port}"),
    ] {
        assert_eq!(ask(&mut tunnel, Method::CONNECT, mine).await, 200, "{mine}");
    }
    for foreign in [
        "db:http",
        "api.other:http",
        "api.default.svc:http",
        "api:admin",
        "10.0.0.1:80",
        "127.0.0.1:1",
        &format!("api:{port}"),
        &format!("localhost:{port}"),
        &format!("127.0.0.2:{port}"),
        "169.254.169.254:80",
        "user@api:http",
        "api",
    ] {
        assert_eq!(ask(&mut tunnel, Method::CONNECT, foreign).await, 400, "{foreign}");
    }
    assert_eq!(pair.api.refused("inbound", "identify", "foreign_authority"), 12);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_is_no_connect_is_refused_on_a_tcp_service() {
    let pair = Pair::start(&["allow web api"]).await;
    let mut tunnel = pair.authority.tunnel("web", "api", pair.api.proxy.mesh_address()).await;
    assert_eq!(ask(&mut tunnel, Method::GET, "http://api:80/").await, 400);
    assert_eq!(ask(&mut tunnel, Method::POST, "https://api/").await, 400);
    assert_eq!(pair.api.refused("inbound", "identify", "not_connect"), 2);
    assert_eq!(pair.echo.accepted(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tunnel_answers_what_a_ztunnel_expects() {
    let mut pair = Pair::start(&[]).await;
    let mesh = pair.api.proxy.mesh_address();
    let mut tunnel = pair.authority.tunnel("web", "api", mesh).await;
    assert_eq!(ask(&mut tunnel, Method::CONNECT, "api:http").await, 401);
    pair.api.rule("api", Action::Allow, &[]);
    pair.api.publish().await;
    assert_eq!(ask(&mut tunnel, Method::CONNECT, "api:http").await, 200);
    let Pair { authority: _authority, echo, api, .. } = pair;
    echo.stop().await;
    assert_eq!(ask(&mut tunnel, Method::CONNECT, "api:http").await, 503);
    assert_eq!(api.refused("inbound", "dial", "unreachable"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l8_an_instance_registered_at_the_agents_own_port_is_not_dialled() {
    let mut pair = Pair::start(&[]).await;
    let mesh = pair.api.proxy.mesh_address();
    for own in [mesh, SocketAddr::from((Ipv4Addr::UNSPECIFIED, 80)), SocketAddr::from(([169, 254, 169, 254], 80))] {
        pair.api.snapshot.locals.insert(
            service_key("api"),
            vec![LocalInstance {
                takes_proxy_header: false,
                key: catalog::InstanceKey {
                    node: "n".parse().unwrap(),
                    namespace: "default".parse().unwrap(),
                    id: "api".parse().unwrap(),
                },
                advertised_address: own.ip().to_string(),
                local_address: own.ip(),
                port: own.port(),
                ports: BTreeMap::new(),
            }],
        );
        pair.api.rule("api", Action::Allow, &[]);
        pair.api.publish().await;
        let mut tunnel = pair.authority.tunnel("web", "api", mesh).await;
        assert_eq!(ask(&mut tunnel, Method::CONNECT, &own.to_string()).await, 503, "{own}");
    }
    assert_eq!(pair.api.refused("inbound", "dial", "forbidden_address"), 3);
}
