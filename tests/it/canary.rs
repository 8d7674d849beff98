//! A new version is tried: a tenth of the calls, those who ask for it, copies of all; and what fails is left alone until it is
//! well again. Beside it everything else that a mesh carries goes on, users show their tokens, and of each request there is a
//! line in the logs, a trace and a count.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio_tungstenite::tungstenite::Message;

use crate::harness::{
    Collector, Conversation, GrpcServer, Mesh, PROMISE_FACTOR, Postgres, Seen, Service, eventually, free_port, nghttpd,
    nginx, serve_echo, tool,
};
use crate::routing::{Answer, App, ask, tally, write};
use crate::user_tokens::{
    issuer::{AUDIENCE, ISSUER, Issuer},
    signed,
};

/// How long a change of where calls go may take to be felt.
const FELT: Duration = Duration::from_secs(2);
/// How long an instance that failed is left alone.
const EJECTED: Duration = Duration::from_secs(3);
/// The id of the request that begins a conversation.
const CONVERSATION: &str = "conversation-1";
/// How long what happened to a request may take to be told: spans are sent in batches.
const TOLD: Duration = Duration::from_secs(5);

fn here(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// Returns the line of an agent's access log about a request, by its id.
fn line(mesh: &Mesh, agent: usize, direction: &str, id: &str) -> Option<Value> {
    line_that(mesh, agent, id, |line| line["direction"] == direction)
}

fn line_that(mesh: &Mesh, agent: usize, id: &str, is_meant: impl Fn(&Value) -> bool) -> Option<Value> {
    let log = mesh.agents[agent].log();
    let mut lines = log.lines().filter(|line| line.contains(id)).filter_map(|line| serde_json::from_str(line).ok());
    lines.find(|line: &Value| line["request_id"] == id && is_meant(line))
}

/// Waits until a request has been told of by the agents of both sides: a line in either's log, a span of either in one trace.
/// Returns the line of the side that decided.
#[track_caller]
fn told(mesh: &Mesh, collector: &Collector, [caller, called]: [usize; 2], id: &str) -> Value {
    let deadline = TOLD * PROMISE_FACTOR;
    eventually(&format!("the caller's line of {id}"), deadline, || line(mesh, caller, "outbound", id));
    told_by_the_called(mesh, collector, called, id, |_| true)
}

/// Waits until the side that was called has told of a request, or of a copy of it: a line and a span that say the same, in the
/// trace that the caller's span is of. Returns the line.
#[track_caller]
fn told_by_the_called(
    mesh: &Mesh,
    collector: &Collector,
    called: usize,
    id: &str,
    is_meant: impl Fn(&Value) -> bool,
) -> Value {
    let deadline = TOLD * PROMISE_FACTOR;
    let line = eventually(&format!("the line of {id}"), deadline, || {
        line_that(mesh, called, id, |line| line["direction"] == "inbound" && is_meant(line))
    });
    assert!(line["rule"].as_str().is_some_and(|rule| rule.contains("default/web")), "{line}");
    let status = line["status"].to_string();
    eventually(&format!("the trace of {id}"), deadline, || {
        let spans = collector.of(id);
        let tells_the_same = |span: &&Seen| {
            let says = |key: &str, field: &str| Some(span.attribute(key).as_str()) == line[field].as_str();
            span.attribute("http.response.status_code") == status
                && says("weft.rule", "rule")
                && says("weft.destination", "destination")
                && says("weft.source", "source")
                && says("url.path", "path")
        };
        let mut servers = spans.iter().filter(|span| span.kind == SpanKind::Server).filter(tells_the_same);
        // Whoever was refused at first has asked in another trace.
        let is_of_a_call =
            |server: &Seen| spans.iter().any(|span| span.kind == SpanKind::Client && span.trace == server.trace);
        servers.any(is_of_a_call).then_some(())
    });
    line
}

fn service(name: &str, port: u16) -> Service<'_> {
    Service { name, port, upstreams: vec![] }
}

/// What the story is told of: who carries what, and where `web` calls.
struct Story {
    runtime: Runtime,
    mesh: Mesh,
    collector: Collector,
    web: usize,
    v1: usize,
    v2: usize,
    others: usize,
    to_api: SocketAddr,
}

#[test]
fn a_new_version_is_tried_and_what_fails_is_left_alone_for_a_while() {
    let test = "a_new_version_is_tried_and_what_fails_is_left_alone_for_a_while";
    let Some(nginx_program) = tool("nginx", test) else { return };
    let runtime = Runtime::new().unwrap();
    let [old, new, db, grpc, echo] = [(); 5].map(|()| free_port());
    let mut mesh = Mesh::start(1);
    let collector = runtime.block_on(Collector::start());
    let seeing = ["--access-log", "-", "--otlp-endpoint", &collector.endpoint, "--trace-sample", "1"];
    mesh.agent_arguments = seeing.map(str::to_owned).to_vec();
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
    let v1 = mesh.join("v1", &[service("api", old)]);
    let v2 = mesh.join("v2", &[service("api-next", new), service("shadow", shadow.port)]);
    let others = mesh.join("others", &[service("health", grpc), service("echo", echo), service("db", db)]);
    let called = ["api", "health", "echo", "db"].map(|name| (name, free_port()));
    let [to_api, to_health, to_echo, to_db] = called.map(|(_, port)| here(port));
    let web = mesh.join("web-1", &[Service { name: "web", port: free_port(), upstreams: called.to_vec() }]);
    let issuer = Issuer::new();
    admit_users(&mesh, &issuer);
    for destination in ["api-next", "shadow", "health", "echo", "db"] {
        mesh.done(&["intention", "create", "--allow", "web", destination]);
    }
    let mut story = Story { runtime, mesh, collector, web, v1, v2, others, to_api };
    eventually("the old version to answer", FELT * PROMISE_FACTOR, || story.answer("served by nginx", &[]));
    story.a_tenth_goes_to_the_new_version_and_copies_to_nobody();
    let conversation = story.everything_else_goes_its_way(&served, to_health, to_echo);
    eventually("the database to answer", FELT * PROMISE_FACTOR, || postgres.ask(to_db.port(), "select 1"));
    story.is_counted();
    story.mesh.done(&["config", "delete", "service-splitter", "api"]);
    eventually("the split to end", FELT * PROMISE_FACTOR, || (tally(to_api, 50, "/").len() == 1).then_some(()));
    story.users_show_tokens_where_the_rules_ask_for_them(&issuer);
    story.what_fails_is_left_alone_until_it_is_well_again();
    story.a_call_is_told_of();
    story.the_conversation_is_told_of(conversation);
}

impl Story {
    /// Asks once, with these headers; returns an answer that says this.
    fn answer(&self, what: &str, headers: &[(&str, &str)]) -> Option<Answer> {
        ask(self.to_api, "/", headers).filter(|answer| answer.status == 200 && answer.body.contains(what))
    }

    /// A tenth of all, and those who ask for it; and of everything else a copy to a service that nobody hears.
    fn a_tenth_goes_to_the_new_version_and_copies_to_nobody(&self) {
        let deadline = FELT * PROMISE_FACTOR;
        write(
            &self.mesh,
            "splitter",
            "kind = \"service-splitter\"\nname = \"api\"\nsplits = [{ weight = 90 }, { weight = 10, service = \"api-next\" }]\n",
        );
        write(
            &self.mesh,
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
            eventually("the canary to be routed", deadline, || self.answer("the new version", &[("x-canary", "true")]));
        }
        assert!(ask(self.to_api, "/", &[("x-canary", "true"), ("x-request-id", "canary-1")]).is_some());
        eventually("the split to be felt", deadline, || (tally(self.to_api, 50, "/").len() == 2).then_some(()));
        let requests = 10_000;
        let counted = tally(self.to_api, requests, "/");
        let share = counted.get("the").copied().unwrap_or(0) as f64 / requests as f64;
        // Five times the deviation that so many draws have.
        let tolerance = 5.0 * (0.1 * 0.9 / requests as f64).sqrt();
        assert!((share - 0.1).abs() < tolerance && counted.values().sum::<usize>() == requests, "{counted:?}");
        let drawn = self.both_sides_of_the_split();
        let copied = || {
            self.mesh.agents[self.web].metrics().sum("weft_proxy_requests_mirrored_total", &[("outcome", "answered")])
        };
        assert_eq!(copied(), 0, "only what the route names");
        let marked = [("x-request-id", "copied-1")];
        assert!(
            ask(self.to_api, "/copied", &marked).is_some_and(|answer| answer.status == 404),
            "nginx has no such page"
        );
        eventually("the copy to be answered", deadline, || (copied() == 1).then_some(()));
        let canary = told(&self.mesh, &self.collector, [self.web, self.v2], "canary-1");
        assert_eq!((&canary["destination"], &canary["decision"]), (&"default/api-next".into(), &"allow".into()));
        for ((id, agent), destination) in drawn.iter().zip(["default/api", "default/api-next"]) {
            let line = told(&self.mesh, &self.collector, [self.web, *agent], id);
            assert_eq!((&line["destination"], &line["status"]), (&destination.into(), &200.into()), "{line}");
            let labels = [("direction", "inbound"), ("source", "default/web"), ("destination", destination)];
            assert!(self.mesh.agents[*agent].metrics().sum("weft_proxy_requests_total", &labels) > 0, "{destination}");
        }
        // One request in ten goes to the new version, whose agent then tells of the request and of its copy.
        let is_of_copy = |line: &Value| line["destination"] == "default/shadow";
        let copy = told_by_the_called(&self.mesh, &self.collector, self.v2, "copied-1", is_of_copy);
        assert_eq!((&copy["status"], &copy["path"]), (&200.into(), &"/copied".into()), "{copy}");
    }

    /// Returns a request that went to either version, by its id, and the agent that it went to.
    fn both_sides_of_the_split(&self) -> [(String, usize); 2] {
        [("old", "served by nginx", self.v1), ("new", "the new version", self.v2)].map(|(version, says, agent)| {
            let mut asked = 0;
            let id = eventually("either version to be drawn", FELT * PROMISE_FACTOR, || {
                asked += 1;
                let id = format!("split-{version}-{asked}");
                self.answer(says, &[("x-request-id", &id)]).map(|_| id)
            });
            (id, agent)
        })
    }

    /// gRPC is called, and a conversation begun that goes on over all that follows.
    fn everything_else_goes_its_way(
        &self,
        served: &GrpcServer,
        to_health: SocketAddr,
        to_echo: SocketAddr,
    ) -> Conversation {
        let deadline = FELT * PROMISE_FACTOR;
        eventually("gRPC to be carried", deadline, || self.runtime.block_on(served.call_all(to_health)).ok());
        let mut conversation = eventually("the upgrade to be allowed", deadline, || {
            self.runtime.block_on(Conversation::open_as(to_echo, CONVERSATION)).ok()
        });
        self.runtime.block_on(conversation.exchange(Message::text("hello"))).unwrap();
        conversation
    }

    /// A call of gRPC's own client, which the mesh gave its id, is told of.
    fn a_call_is_told_of(&self) {
        let log = |line: &Value| line["path"] == "/grpc.health.v1.Health/Check" && line["status"] == 200;
        let id = eventually("the line of a call", TOLD * PROMISE_FACTOR, || {
            let log_of_others = self.mesh.agents[self.others].log();
            let mut lines = log_of_others.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            Some(lines.find(log)?["request_id"].as_str()?.to_owned())
        });
        let line = told(&self.mesh, &self.collector, [self.web, self.others], &id);
        assert_eq!((&line["destination"], &line["decision"]), (&"default/health".into(), &"allow".into()), "{line}");
    }

    /// A conversation that is over is told of like a request: what it was, and what went over it.
    fn the_conversation_is_told_of(&self, mut conversation: Conversation) {
        self.runtime.block_on(async {
            conversation.exchange(Message::text("still there")).await.unwrap();
            conversation.end().await;
        });
        let has_changed = |line: &Value| line["status"] == 101;
        let line = told_by_the_called(&self.mesh, &self.collector, self.others, CONVERSATION, has_changed);
        assert_eq!((&line["destination"], &line["path"]), (&"default/echo".into(), &"/echo".into()), "{line}");
        assert!(line["bytes_sent"].as_u64().is_some_and(|bytes| bytes >= "hellostill there".len() as u64), "{line}");
        eventually("the caller's line of it", TOLD * PROMISE_FACTOR, || {
            line_that(&self.mesh, self.web, CONVERSATION, |line| line["direction"] == "outbound" && has_changed(line))
        });
        let labels = [("direction", "inbound"), ("destination", "default/echo")];
        let counted = || self.mesh.agents[self.others].metrics().sum("weft_proxy_requests_total", &labels);
        eventually("it to be counted", FELT * PROMISE_FACTOR, || (counted() > 0).then_some(()));
    }

    /// What was carried stands in the metrics of those who were called.
    fn is_counted(&self) {
        let deadline = FELT * PROMISE_FACTOR;
        let counted = |name: &str, destination: &str| {
            self.mesh.agents[self.others].metrics().sum(name, &[("direction", "inbound"), ("destination", destination)])
        };
        eventually("the calls to be counted", deadline, || {
            let requests = counted("weft_proxy_requests_total", "default/health");
            (requests >= 1 && counted("weft_proxy_tcp_connections_opened_total", "default/db") >= 1).then_some(())
        });
    }

    fn users_show_tokens_where_the_rules_ask_for_them(&self, issuer: &Issuer) {
        let now = wire::crypto::now().0 / 1000;
        let token = |more: Value| Some(signed(issuer, "k1", &more));
        let good = token(json!({"role": "admin"}));
        let users = [
            ("user-good", good.clone(), 200, "done"),
            ("user-none", None, 401, "no_token"),
            ("user-late", token(json!({"exp": now - 60})), 401, "token_expired"),
            ("user-other", token(json!({"iss": "https://other.example"})), 401, "token_issuer"),
            ("user-aimed", token(json!({"aud": "other"})), 403, "token_audience"),
            ("user-forged", Some(signed(&Issuer::new(), "k1", &json!({"role": "admin"}))), 401, "token_signature"),
            ("user-plain", token(json!({"role": "user"})), 403, "token_claims"),
        ];
        for (id, shown, status, _) in &users {
            let bearer = shown.as_ref().map(|token| format!("Bearer {token}"));
            let bearer = bearer.iter().map(|bearer| ("authorization", bearer.as_str()));
            let headers: Vec<(&str, &str)> = bearer.chain([("x-request-id", *id)]).collect();
            assert_eq!(ask(self.to_api, "/private", &headers).map(|answer| answer.status), Some(*status), "{id}");
        }
        for (id, _, status, reason) in users {
            let line = told(&self.mesh, &self.collector, [self.web, self.v1], id);
            let decision = if status == 200 { "allow" } else { "deny" };
            assert_eq!((&line["status"], &line["decision"]), (&status.into(), &decision.into()), "{line}");
            assert_eq!(line["reason"], reason, "{line}");
        }
        let judged = |outcome| {
            let labels = [("provider", "okta"), ("outcome", outcome)];
            self.mesh.agents[self.v1].metrics().sum("weft_proxy_tokens_total", &labels)
        };
        assert!(judged("valid") >= 2 && judged("token_expired") >= 1 && judged("token_signature") >= 1);
        let log = self.mesh.agents[self.v1].log();
        assert!(!log.contains(&good.unwrap()), "a token stands in the log");
    }

    /// A second instance of the old version fails: retries save whoever may be saved, and it is left alone for a while.
    fn what_fails_is_left_alone_until_it_is_well_again(&mut self) {
        let deadline = FELT * PROMISE_FACTOR;
        let in_turn = "kind = \"service-resolver\"\nname = \"api\"\nload_balancer { policy = \"round_robin\" }\n";
        write(&self.mesh, "resolver", in_turn);
        let second = App::start("second");
        second.answers(503);
        let second_agent = self.mesh.join("v1-second", &[service("api", second.port)]);
        eventually("the second to be called", deadline, || {
            ask(self.to_api, "/", &[]).filter(|answer| answer.status == 503)
        });
        let saved_by_a_retry = |id: String| {
            let answer = ask(self.to_api, "/saved", &[("x-request-id", &id)]).filter(|answer| answer.status == 200)?;
            assert!(answer.body.contains("served by nginx"));
            line(&self.mesh, second_agent, "inbound", &id).filter(|line| line["status"] == 503).map(|_| id)
        };
        let mut asked = 0;
        let saved = eventually("a retry to save a request", deadline, || {
            asked += 1;
            saved_by_a_retry(format!("saved-{asked}"))
        });
        assert!(self.mesh.agents[self.web].metrics().sum("weft_proxy_requests_repeated_total", &[]) > 0);
        write(
            &self.mesh,
            "web",
            &format!(
                "kind = \"service-defaults\"\nname = \"web\"\nupstream_config {{ overrides = [{{ name = \"api\",\n\
                 passive_health_check {{ max_failures = 2, base_ejection_time = \"{}s\", max_ejection_percent = 50 }} }}] }}\n",
                EJECTED.as_secs()
            ),
        );
        let failed = self.who_fails_is_ejected();
        second.answers(200);
        let mut asked = 0;
        let back = eventually("the second to come back", EJECTED * PROMISE_FACTOR, || {
            asked += 1;
            let id = format!("back-{asked}");
            self.answer("second", &[("x-request-id", &id)]).map(|_| id)
        });
        told(&self.mesh, &self.collector, [self.web, self.v1], &saved);
        for (id, status) in [(failed, 503), (back, 200)] {
            let line = told(&self.mesh, &self.collector, [self.web, second_agent], &id);
            assert_eq!((&line["status"], &line["decision"]), (&status.into(), &"allow".into()), "{line}");
            let callers = line_that(&self.mesh, self.web, &id, |line| line["status"] == status);
            assert!(callers.is_some_and(|line| line["destination"] == "default/api"), "{id}");
        }
    }

    /// Returns a request that failed before the second instance was ejected; while it is away, it is not asked.
    fn who_fails_is_ejected(&self) -> String {
        let failing = [("reason", "failures")];
        let ejected = || self.mesh.agents[self.web].metrics().sum("weft_proxy_endpoints_ejected_total", &failing);
        let (mut asked, mut failed) = (0, String::new());
        let since = eventually("the second to be ejected", FELT * PROMISE_FACTOR, || {
            let before = Instant::now();
            for _ in 0..20 {
                asked += 1;
                let id = format!("failing-{asked}");
                if ask(self.to_api, "/", &[("x-request-id", &id)]).is_some_and(|answer| answer.status == 503) {
                    failed = id;
                }
            }
            (ejected() >= 1).then_some(before)
        });
        let asked = tally(self.to_api, 20, "/");
        // On a machine so slow that it may be back already, nothing can be said of this.
        if since.elapsed() < EJECTED {
            assert!(!asked.contains_key("503"), "it is asked while it is away: {asked:?}");
        }
        failed
    }
}

/// Lets `web` call `api`, and its private part for those only whom an issuer calls admins.
fn admit_users(mesh: &Mesh, issuer: &Issuer) {
    std::fs::write(mesh.directory.path().join("nginx/html/private"), "for admins\n").unwrap();
    let keys = data_encoding::BASE64.encode(issuer.jwks("k1").to_string().as_bytes());
    let provider = json!({"Kind": "jwt-provider", "Name": "okta", "Issuer": ISSUER, "Audiences": [AUDIENCE],
        "JSONWebKeySet": {"Local": {"JWKS": keys}}});
    let jwt = json!({"Providers": [{"Name": "okta", "VerifyClaims": [{"Path": ["role"], "Value": "admin"}]}]});
    let private = json!({"Action": "allow", "HTTP": {"PathPrefix": "/private"}, "JWT": jwt});
    let anything = json!({"Action": "allow", "HTTP": {"PathPrefix": "/"}});
    let intentions = json!({"Kind": "service-intentions", "Name": "api",
        "Sources": [{"Name": "web", "Permissions": [private, anything]}]});
    for (name, entry) in [("provider", provider), ("intentions", intentions)] {
        write(mesh, name, &entry.to_string());
    }
}
