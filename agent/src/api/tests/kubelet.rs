//! The listener for the kubelet.

use std::time::Duration;

use http::Method;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::testing::agent::{config, eventually, send};
use crate::testing::server::{ModelServer, Shared};
use crate::{ApplicationProbe, start};

#[tokio::test]
async fn k1_a_kubelet_asks_the_agent_in_place_of_the_application() {
    let application = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = application.local_addr().unwrap();
    let once = tokio::spawn(async move {
        let (mut stream, _) = application.accept().await.unwrap();
        let _ = stream.read(&mut [0; 1024]).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
    });
    let server = ModelServer::start(Shared::new(&["web"])).await;
    let token = server.shared().join_token(&["web"]);
    let mut config = config(&[server.address], Some(token), None);
    config.health_port = Some(0);
    let timeout = Duration::from_secs(20);
    config.application_probes =
        vec![ApplicationProbe::http("app/readiness", &format!("http://{address}/"), [], timeout).unwrap()];
    let agent = start(config).await.unwrap();
    let health = agent.health_address().unwrap();
    let ask =
        async |path: &str| send(health, Method::GET, path, &[("host", "10.0.0.9:19001")], "").await.status.as_u16();

    assert_eq!(ask("/live").await, 200);
    eventually(async || ask("/ready").await == 200).await;
    assert_eq!(ask("/app-health/app/liveness").await, 404);
    for elsewhere in ["/metrics", "/connections", "/v1/agent/self"] {
        assert_eq!(ask(elsewhere).await, 404, "{elsewhere} is not for the network");
    }
    assert_eq!(ask("/app-health/app/readiness").await, 200);
    once.await.unwrap();
    assert_eq!(ask("/app-health/app/readiness").await, 503, "the application has ended");
}
