//! A new version is tried: a tenth of the calls, those who ask for it, copies of all; and what fails is left alone until it is
//! well again. Beside it everything else that a mesh carries goes on.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use tokio::runtime::Runtime;
use tokio_tungstenite::tungstenite::Message;

use crate::harness::{
    Conversation, GrpcServer, Mesh, PROMISE_FACTOR, Postgres, Service, eventually, free_port, nghttpd, nginx,
    serve_echo, tool,
};
use crate::routing::{App, ask, tally, write};

/// How long a change of where calls go may take to be felt.
const FELT: Duration = Duration::from_secs(2);
/// How long an instance that failed is left alone.
const EJECTED: Duration = Duration::from_secs(3);

fn here(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

fn service(name: &str, port: u16) -> Service<'_> {
    Service { name, port, upstreams: vec![] }
}

#[test]
fn a_new_version_is_tried_and_what_fails_is_left_alone_for_a_while() {
    let test = "a_new_version_is_tried_and_what_fails_is_left_alone_for_a_while";
    let Some(nginx_program) = tool("nginx", test) else { return };
    let runtime = Runtime::new().unwrap();
    let [old, new, db, grpc, echo] = [(); 5].map(|()| free_port());
    let mut mesh = Mesh::start(1);
    let _old = nginx(&nginx_program, mesh.directory.path(), old);
    let Some(_new) = nghttpd(test, mesh.directory.path(), new, "the new version\n") else { return };
    let Some(postgres) = Postgres::start(test, mesh.directory.path(), db) else { return };
    let served = runtime.block_on(async {
        serve_echo(here(echo)).await;
        GrpcServer::start(here(grpc)).await
    });
    let shadow = App::start("shadow");
    for (name, protocol) in
        [("api", "http"), ("api-next", "http2"), ("shadow", "http"), ("health", "grpc"), ("echo", "http")]
    {
        let defaults = format!("kind = \"service-defaults\"\nname = \"{name}\"\nprotocol = \"{protocol}\"\n");
        write(&mesh, "defaults", &defaults);
    }
    mesh.join("v1", &[service("api", old)]);
    mesh.join("v2", &[service("api-next", new), service("shadow", shadow.port)]);
    mesh.join("others", &[service("health", grpc), service("echo", echo), service("db", db)]);
    let called = ["api", "health", "echo", "db"].map(|name| (name, free_port()));
    let [to_api, to_health, to_echo, to_db] = called.map(|(_, port)| here(port));
    let web = mesh.join("web-1", &[Service { name: "web", port: free_port(), upstreams: called.to_vec() }]);
    for destination in ["api", "api-next", "shadow", "health", "echo", "db"] {
        mesh.done(&["intention", "create", "--allow", "web", destination]);
    }
    let deadline = FELT * PROMISE_FACTOR;
    let says = |what: &'static str, headers: &'static [(&str, &str)]| {
        move || ask(to_api, "/", headers).filter(|answer| answer.status == 200 && answer.body.contains(what))
    };
    eventually("the old version to answer", deadline, says("served by nginx", &[]));

    // A tenth, and those who ask for it; and of everything else a copy to a service that nobody hears.
    write(
        &mesh,
        "splitter",
        "kind = \"service-splitter\"\nname = \"api\"\nsplits = [{ weight = 90 }, { weight = 10, service = \"api-next\" }]\n",
    );
    write(
        &mesh,
        "router",
        r#"kind = "service-router"
           name = "api"
           routes = [
             { match = { http = { header = [{ name = "x-canary", exact = "true" }] } }
               destination = { service = "api-next" } },
             { match = { http = { path_exact = "/copied" } }, destination = { mirror { service = "shadow" } } },
             { match = { http = { path_prefix = "/saved" } }
               destination = { prefix_rewrite = "/", num_retries = 3, retry_on = ["5xx"] } },
           ]"#,
    );
    for _ in 0..3 {
        eventually("the canary to be routed", deadline, says("the new version", &[("x-canary", "true")]));
    }
    eventually("the split to be felt", deadline, || (tally(to_api, 50, "/").len() == 2).then_some(()));
    let requests = if std::env::var("WEFT_TEST_SCALE").is_ok_and(|scale| scale == "full") { 10_000 } else { 2_000 };
    let counted = tally(to_api, requests, "/");
    let share = counted.get("the").copied().unwrap_or(0) as f64 / requests as f64;
    // Five times the deviation that 2,000 draws have.
    assert!((share - 0.1).abs() < 0.034 && counted.values().sum::<usize>() == requests, "{counted:?}");
    let copied = || mesh.agents[web].metrics().sum("weft_proxy_requests_mirrored_total", &[("outcome", "answered")]);
    assert_eq!(copied(), 0, "only what the route names");
    assert!(ask(to_api, "/copied", &[]).is_some_and(|answer| answer.status == 404), "nginx has no such page");
    eventually("the copy to be answered", deadline, || (copied() == 1).then_some(()));

    // Everything else goes its way meanwhile.
    eventually("gRPC to be carried", deadline, || runtime.block_on(served.call_all(to_health)).ok());
    let mut conversation =
        eventually("the upgrade to be allowed", deadline, || runtime.block_on(Conversation::open(to_echo)).ok());
    runtime.block_on(conversation.exchange(Message::text("hello"))).unwrap();
    eventually("the database to answer", deadline, || postgres.ask(to_db.port(), "select 1"));

    // A second instance of the old version fails: retries save whoever may be saved, and it is left alone for a while.
    mesh.done(&["config", "delete", "service-splitter", "api"]);
    let in_turn = "kind = \"service-resolver\"\nname = \"api\"\nload_balancer { policy = \"round_robin\" }\n";
    write(&mesh, "resolver", in_turn);
    let second = App::start("second");
    second.answers(503);
    mesh.join("v1-second", &[service("api", second.port)]);
    eventually("the second to be called", deadline, || ask(to_api, "/", &[]).filter(|answer| answer.status == 503));
    let saved = tally(to_api, 12, "/saved");
    assert_eq!(saved.keys().collect::<Vec<_>>(), ["served"], "{saved:?}");
    assert!(mesh.agents[web].metrics().sum("weft_proxy_requests_repeated_total", &[]) > 0);
    write(
        &mesh,
        "web",
        &format!(
            "kind = \"service-defaults\"\nname = \"web\"\nupstream_config {{ overrides = [{{ name = \"api\",\n\
             passive_health_check {{ max_failures = 2, base_ejection_time = \"{}s\", max_ejection_percent = 50 }} }}] }}\n",
            EJECTED.as_secs()
        ),
    );
    let ejected = || mesh.agents[web].metrics().sum("weft_proxy_endpoints_ejected_total", &[]);
    eventually("the second to be ejected", deadline, || {
        let _some_fail = tally(to_api, 20, "/");
        (ejected() >= 1).then_some(())
    });
    second.answers(200);
    eventually("the second to come back", EJECTED * PROMISE_FACTOR, || {
        tally(to_api, 20, "/").contains_key("second").then_some(())
    });
    runtime.block_on(conversation.exchange(Message::text("still there"))).unwrap();
}
