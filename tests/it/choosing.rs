//! Which instance answers: by what its definition says of it, by what the request says, by its zone; and for how long, and how
//! often, it may be asked. All of it is written by an operator and carried out by agents that hear of it from servers.

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use crate::{
    harness::{Mesh, PROMISE_FACTOR, Service, eventually, exchange, free_port},
    routing::{App, Client, FELT, HELD, ask, tally, write},
};

/// Two instances of `api`, `one` of version 1 in zone `a` and `other` of version 2 in zone `b`, and `web`, which calls them from
/// zone `a`.
struct Story {
    mesh: Mesh,
    to_api: SocketAddr,
    // They serve as long as they are held.
    _applications: [App; 2],
}

impl Story {
    fn start() -> Self {
        let applications = [App::start("one"), App::start("other")];
        let listener = free_port();
        let mut mesh = Mesh::start(1);
        write(&mesh, "defaults", "kind = \"service-defaults\"\nname = \"api\"\nprotocol = \"http\"\n");
        for (number, zone, app) in [(1, "a", &applications[0]), (2, "b", &applications[1])] {
            mesh.agent_arguments = vec!["--zone".to_owned(), zone.to_owned()];
            let node = format!("apps-{number}");
            let at = mesh.join(&node, &[Service { name: "api", port: app.port, upstreams: vec![] }]);
            let definition = format!(
                "service {{\n  name = \"api\"\n  port = {}\n  meta {{ version = \"v{number}\" }}\n}}\n",
                app.port
            );
            std::fs::write(mesh.directory.path().join(&node).join("conf/api.hcl"), definition).unwrap();
            let http = mesh.agents[at].http;
            let reloaded = exchange(http, "PUT", "/v1/agent/reload", &[("x-consul-token", &mesh.token)], "").unwrap();
            assert_eq!(reloaded.status, 200, "{reloaded:?}");
        }
        mesh.agent_arguments = vec!["--zone".to_owned(), "a".to_owned()];
        mesh.join("web-1", &[Service { name: "web", port: free_port(), upstreams: vec![("api", listener)] }]);
        mesh.done(&["intention", "create", "--allow", "web", "api"]);
        let to_api = SocketAddr::from((Ipv4Addr::LOCALHOST, listener));
        let story = Self { mesh, to_api, _applications: applications };
        story.eventually_answered_by("both instances to be called", &["one", "other"]);
        story
    }

    fn entry(&self, text: &str) {
        write(&self.mesh, "entry", text);
    }

    /// Waits until requests are answered by these alone, each of them.
    #[track_caller]
    fn eventually_answered_by(&self, what: &str, names: &[&str]) {
        let want: BTreeSet<&str> = names.iter().copied().collect();
        eventually(what, FELT * PROMISE_FACTOR, || {
            let counted = tally(self.to_api, 40, "/");
            (counted.keys().map(String::as_str).collect::<BTreeSet<&str>>() == want).then_some(())
        });
    }

    fn a_subset_is_whom_the_filter_names(&self) {
        self.entry(
            "kind = \"service-resolver\"\nname = \"api\"\n\
             subsets = { v1 = { filter = \"Service.Meta.version == v1\" }, v2 = { filter = \"Service.Meta.version == v2\" } }\n",
        );
        for (subset, name) in [("v2", "other"), ("v1", "one")] {
            self.entry(&format!(
                "kind = \"service-splitter\"\nname = \"api\"\nsplits = [{{ weight = 100, service_subset = \"{subset}\"\n\
                 request_headers = {{ set = {{ x-up = \"{subset}\" }} }}, response_headers = {{ remove = [\"x-secret\"] }} }}]\n",
            ));
            self.eventually_answered_by(&format!("all to go to {subset}"), &[name]);
            let answer = ask(self.to_api, "/path", &[("x-up", "forged")]).unwrap();
            assert_eq!(answer.body, format!("{name} /path {subset}"), "the split says what the application hears");
            assert!(!answer.head.iter().any(|line| line.starts_with("x-secret")), "{:?}", answer.head);
        }
        self.mesh.done(&["config", "delete", "service-splitter", "api"]);
        self.eventually_answered_by("both to be called again", &["one", "other"]);
    }

    fn a_cookie_leads_back_to_the_instance_that_it_came_from(&self) {
        self.entry(
            "kind = \"service-resolver\"\nname = \"api\"\nload_balancer {\n policy = \"ring_hash\"\n\
             hash_policies = [{ field = \"cookie\", field_value = \"seat\", cookie_config { session = true } }]\n}\n",
        );
        let seated = |name: &str| {
            eventually(&format!("a seat at {name}"), FELT * PROMISE_FACTOR, || {
                let answer = ask(self.to_api, "/", &[]).filter(|answer| answer.body.starts_with(name))?;
                let given = answer.head.iter().find_map(|line| line.strip_prefix("set-cookie: "))?;
                Some(given.split(';').next().unwrap().to_owned())
            })
        };
        for name in ["one", "other"] {
            let cookie = seated(name);
            assert!(cookie.starts_with("seat="), "{cookie}");
            let mut client = Client::connect(self.to_api).unwrap();
            for _ in 0..30 {
                let answer = client.get("/", &[("cookie", &cookie)]).unwrap();
                assert!(answer.body.starts_with(name), "{cookie} was given by {name}: {}", answer.body);
                assert!(!answer.head.iter().any(|line| line.starts_with("set-cookie: ")), "{:?}", answer.head);
            }
        }
    }

    fn calls_stay_in_their_zone_where_the_resolver_says_so(&self) {
        let resolver = |mode: &str| {
            self.entry(&format!(
                "kind = \"service-resolver\"\nname = \"api\"\nload_balancer {{ policy = \"round_robin\" }}\n\
                 prioritize_by_locality {{ mode = \"{mode}\" }}\n",
            ));
        };
        resolver("none");
        self.eventually_answered_by("calls to go to both zones", &["one", "other"]);
        resolver("failover");
        self.eventually_answered_by("calls to stay in the zone", &["one"]);
    }

    fn an_answer_may_take_as_long_as_the_resolver_says(&self) {
        self.entry("kind = \"service-resolver\"\nname = \"api\"\nrequest_timeout = \"300ms\"\n");
        // Until that is felt the application holds the request for longer than anybody waits here.
        let answer = eventually("a request to be given up", FELT * PROMISE_FACTOR, || {
            Client::patient(self.to_api, Duration::from_secs(3))?.get(HELD, &[])
        });
        assert_eq!(answer.status, 504, "{:?}", answer.head);
        eventually("others to be answered as ever", FELT * PROMISE_FACTOR, || {
            ask(self.to_api, "/", &[]).filter(|answer| answer.status == 200)
        });
        self.mesh.done(&["config", "delete", "service-resolver", "api"]);
    }

    fn an_instance_takes_as_many_requests_as_its_service_says(&self) {
        self.entry(
            "kind = \"service-defaults\"\nname = \"api\"\nprotocol = \"http\"\n\
             rate_limits { source_level { requests_per_second = 1, requests_max_burst = 1 } }\n",
        );
        eventually("requests to be too many", FELT * PROMISE_FACTOR, || {
            let mut client = Client::connect(self.to_api)?;
            let refused = (0..20).filter_map(|_| client.get("/", &[])).find(|answer| answer.status == 429)?;
            let says = |line: &str| refused.head.iter().any(|said| said == line);
            assert!(says("x-weft-refused: rate_limited") && says("retry-after: 1"), "{:?}", refused.head);
            Some(())
        });
        self.entry("kind = \"service-defaults\"\nname = \"api\"\nprotocol = \"http\"\n");
        // By whichever of the two: the one that held a request is still taken for a slow one.
        eventually("everything to be taken again", FELT * PROMISE_FACTOR, || {
            let counted = tally(self.to_api, 40, "/");
            counted.keys().all(|who| ["one", "other"].contains(&who.as_str())).then_some(())
        });
    }
}

#[test]
fn instances_are_chosen_as_the_entries_of_their_service_say() {
    let story = Story::start();
    story.a_subset_is_whom_the_filter_names();
    story.a_cookie_leads_back_to_the_instance_that_it_came_from();
    story.calls_stay_in_their_zone_where_the_resolver_says_so();
    story.an_answer_may_take_as_long_as_the_resolver_says();
    story.an_instance_takes_as_many_requests_as_its_service_says();
}
