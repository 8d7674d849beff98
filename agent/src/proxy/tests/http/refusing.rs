//! What is refused, and how its caller is told.

use std::net::SocketAddr;

use http::{Method, StatusCode};

use super::carrying::connect;
use super::{HttpPair, asking, get, hear, over_http1, over_http2};
use crate::proxy::tests::agents::eventually;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l5_a_denied_request_reaches_no_application_over_any_carrier() {
    let pair = HttpPair::start(&["allow web api"]).await;
    let mut tunnel = over_http2(pair.dial("db", Some(b"h2")).await).await;
    let heard = hear(tunnel.send_request(get("http://api/", &[])).await.unwrap()).await;
    assert_eq!(
        (heard.status, &heard.headers["x-weft-refused"]),
        (StatusCode::FORBIDDEN, &"default_deny".parse().unwrap())
    );
    assert_eq!(heard.body, "weft did not carry this request: default_deny\n");
    let mut plain = over_http1(pair.dial("db", None).await).await;
    let heard = hear(plain.send_request(get("/", &[("host", "api")])).await.unwrap()).await;
    assert_eq!(heard.status, StatusCode::FORBIDDEN);
    let refused = connect(&pair, "db", &pair.application.address.to_string()).await.unwrap_err();
    assert_eq!(refused, StatusCode::UNAUTHORIZED);
    assert_eq!(pair.api.refused("inbound", "decide", "default_deny"), 3);
    assert_eq!((pair.application.accepted(), pair.application.asked().len()), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_caller_learns_that_weft_refused_and_an_application_cannot_say_so() {
    let mut pair = HttpPair::start(&[]).await;
    let mut requests = pair.http1().await;
    let heard = hear(requests.send_request(get("/", &[("host", "api")])).await.unwrap()).await;
    assert_eq!(
        (heard.status, &heard.headers["x-weft-refused"]),
        (StatusCode::FORBIDDEN, &"default_deny".parse().unwrap())
    );
    let grpc = get("http://api/x.Y/Z", &[("content-type", "application/grpc")]);
    let heard = hear(pair.http2().await.send_request(grpc).await.unwrap()).await;
    assert_eq!((heard.status, &heard.headers["grpc-status"]), (StatusCode::OK, &"7".parse().unwrap()));

    pair.rule(&["allow web api"]).await;
    requests.ready().await.unwrap();
    let heard = hear(requests.send_request(get("/", &[("host", "api"), ("x-dear", "1")])).await.unwrap()).await;
    assert_eq!(heard.status, StatusCode::OK);
    for name in ["x-weft-refused", "x-hop"] {
        assert!(!heard.headers.contains_key(name), "{:?}", heard.headers);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expired_leaf_asks_nothing_more_on_a_connection_that_stands() {
    let pair = HttpPair::start(&["allow web api"]).await;
    let mut requests = over_http1(pair.dial("web", None).await).await;
    assert_eq!(hear(requests.send_request(get("/", &[("host", "api")])).await.unwrap()).await.status, StatusCode::OK);
    pair.api.put_clock_forward(std::time::Duration::from_secs(25 * 3600));
    requests.ready().await.unwrap();
    let heard = hear(requests.send_request(get("/", &[("host", "api")])).await.unwrap()).await;
    assert_eq!(
        (heard.status, &heard.headers["x-weft-refused"]),
        (StatusCode::FORBIDDEN, &"peer_leaf_expired".parse().unwrap())
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_makes_a_proxy_of_an_application() {
    let pair = HttpPair::start(&["allow web api"]).await;
    let (request, body) = asking(Method::CONNECT, "elsewhere:443", &[("host", "elsewhere:443")]);
    drop(body);
    let heard = hear(pair.http1().await.send_request(request).await.unwrap()).await;
    assert_eq!(
        (heard.status, &heard.headers["x-weft-refused"]),
        (StatusCode::METHOD_NOT_ALLOWED, &"connect".parse().unwrap())
    );
    let (request, body) = asking(Method::CONNECT, "elsewhere:443", &[("host", "elsewhere:443")]);
    drop(body);
    let mut plain = over_http1(pair.dial("web", None).await).await;
    // What was still to be read of its body may reset the connection before the answer is heard.
    let heard = plain.send_request(request).await;
    assert!(heard.is_err() || heard.is_ok_and(|heard| heard.status() == StatusCode::METHOD_NOT_ALLOWED));
    eventually("it is counted", || pair.api.refused("inbound", "read", "connect") == 1).await;
    assert_eq!(pair.application.accepted(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_reached_is_said_to_be_unavailable() {
    let mut pair = HttpPair::start(&["allow web api"]).await;
    // Nobody listens there.
    let gone: SocketAddr = "127.0.0.1:9".parse().unwrap();
    let mut requests = pair.http1().await;
    let local = &mut pair.api.snapshot.locals.values_mut().next().unwrap()[0];
    (local.port, local.ports) = (gone.port(), [("old".to_owned(), pair.application.address.port())].into());
    pair.api.publish().await;
    let endpoint = &mut pair.web.snapshot.endpoints.values_mut().next().unwrap()[0];
    endpoint.port = gone.port();
    pair.web.publish().await;
    let heard = hear(requests.send_request(get("/", &[("host", "api")])).await.unwrap()).await;
    assert_eq!(
        (heard.status, &heard.headers["x-weft-refused"]),
        (StatusCode::SERVICE_UNAVAILABLE, &"unreachable".parse().unwrap())
    );
    pair.web.snapshot.endpoints.clear();
    pair.web.publish().await;
    requests.ready().await.unwrap();
    let heard = hear(requests.send_request(get("/", &[("host", "api")])).await.unwrap()).await;
    assert_eq!(
        (heard.status, &heard.headers["x-weft-refused"]),
        (StatusCode::SERVICE_UNAVAILABLE, &"no_endpoint".parse().unwrap())
    );
    eventually("it is counted", || pair.web.refused("outbound", "choose", "no_endpoint") == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h8_a_refused_head_has_no_body_and_leaves_the_tunnel_alone() {
    let pair = HttpPair::start(&[]).await;
    let head = |target: &str| {
        let mut request = get(target, &[]);
        *request.method_mut() = Method::HEAD;
        request
    };
    let mut tunnel = over_http2(pair.dial("web", Some(b"h2")).await).await;
    let mut local = pair.http2().await;
    for requests in [&mut tunnel, &mut local] {
        for _ in 0..3 {
            let response = requests.send_request(head("http://api/")).await.unwrap();
            assert!(http_body_util::BodyExt::collect(response.into_body()).await.unwrap().to_bytes().is_empty());
        }
        let heard = hear(requests.send_request(get("http://api/", &[])).await.unwrap()).await;
        assert_eq!((heard.status, heard.body.is_empty()), (StatusCode::FORBIDDEN, false));
    }
}
