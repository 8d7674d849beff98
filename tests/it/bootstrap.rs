//! New servers in a Kubernetes cluster: they are made ready by whoever holds their key, however often, and whatever went before.

use std::{collections::BTreeSet, fs, path::Path, time::Duration};

use serde_json::{Value, json};

use crate::harness::{
    Mesh, Output, Process, eventually, free_port, kubernetes::ApiServer, objects, weft, weft_command, write_secret,
};

const PATIENCE: Duration = Duration::from_secs(60);
/// The Secrets that hold the first token and the connector's.
const FIRST: &str = "weft-bootstrap-token";
const CONNECTOR: &str = "weft-connector-token";

/// Starts a cluster with what the chart puts there, and writes the configuration of a client to `directory`.
fn cluster(directory: &Path) -> (ApiServer, String) {
    let server = ApiServer::start();
    server.put(objects::namespace("weft", &json!({})));
    for (kind, name) in
        [("Secret", "weft-bootstrap-token"), ("Secret", "weft-connector-token"), ("ConfigMap", "weft-roots")]
    {
        server.put(json!({ "apiVersion": "v1", "kind": kind, "metadata": { "name": name, "namespace": "weft" } }));
    }
    let path = directory.join("kubeconfig");
    fs::write(&path, server.certificate_config("servers").to_string()).unwrap();
    (server, path.display().to_string())
}

/// Runs the steps once.
fn bootstrap(api: &str, kubeconfig: &str, key: &Path) -> Output {
    bootstrap_with(api, kubeconfig, key, &["--cluster-name", "east"])
}

fn bootstrap_with(api: &str, kubeconfig: &str, key: &Path, how: &[&str]) -> Output {
    let key = key.display().to_string();
    let arguments = ["bootstrap", "--once", "--http-addr", api, "--cluster-key-file", &key, "--pod-namespace", "weft"];
    let named = ["--connector-token-secret", "weft-connector-token"];
    weft(&[&arguments[..], &named, how].concat(), &[("KUBECONFIG", kubeconfig)])
}

fn token_in(cluster: &ApiServer, name: &str) -> Option<String> {
    let secret = cluster.get("secrets", "weft", name)?;
    let bytes = data_encoding::BASE64.decode(secret["data"]["token"].as_str()?.as_bytes()).unwrap();
    String::from_utf8(bytes).ok()
}

fn ask(api: &str, token: &str, arguments: &[&str]) -> Output {
    weft(arguments, &[("WEFT_HTTP_ADDR", api), ("WEFT_HTTP_TOKEN", token)])
}

/// Asks for JSON that must come.
#[track_caller]
fn json_of(api: &str, token: &str, arguments: &[&str]) -> Value {
    let output = ask(api, token, &[arguments, &["--output", "json"]].concat());
    assert_eq!(output.status, Some(0), "{output:?}");
    serde_json::from_str(&output.stdout).unwrap()
}

#[test]
fn new_servers_are_made_ready_once_however_often_and_what_was_changed_stays() {
    let directory = tempfile::tempdir().unwrap();
    let (cluster, kubeconfig) = cluster(directory.path());
    let key = directory.path().join("cluster.key");
    write_secret(&key, &weft(&["keygen"], &[]).stdout);
    let [http, https, agents, raft] = [(); 4].map(|()| free_port().to_string());
    let path = |name: &str| directory.path().join(name).display().to_string();
    let (data, key_file) = (path("data"), path("cluster.key"));
    let arguments = [
        "server",
        "--node",
        "s1",
        "--data-dir",
        &data,
        "--cluster-key-file",
        &key_file,
        "--http-port",
        &http,
        "--https-port",
        &https,
        "--api-name",
        "localhost",
        "--agent-port",
        &agents,
        "--raft-port",
        &raft,
    ];
    let _server = Process::start("s1", weft_command(&arguments, &[]), directory.path());
    let api = format!("127.0.0.1:{http}");
    // Before there is a leader it fails, and says so; what it has kept by then is what counts.
    eventually("the servers to be ready for the cluster", PATIENCE, || {
        (bootstrap(&api, &kubeconfig, &key).status == Some(0)).then_some(())
    });
    let token = token_in(&cluster, FIRST).expect("the first token is kept");
    let roots = json_of(&api, &token, &["ca", "roots"]);
    let told = cluster.get("configmaps", "weft", "weft-roots").unwrap();
    let told: Value = serde_json::from_str(told["data"]["roots.json"].as_str().unwrap()).unwrap();
    assert_eq!(told["root_fingerprints"][0], roots["Roots"][0]["ID"]);
    let method = json_of(&api, &token, &["acl", "auth-method", "read", "kubernetes"]);
    // One of this mesh alone, which the injector is told.
    assert!(told["audience"].as_str().is_some_and(|audience| audience.starts_with("weft/")), "{told}");
    assert_eq!(method["Config"]["BoundAudiences"], json!([told["audience"]]));
    let rules = json_of(&api, &token, &["acl", "binding-rule", "list"]);
    let names: Vec<&str> = rules.as_array().unwrap().iter().map(|rule| rule["BindName"].as_str().unwrap()).collect();
    assert_eq!(names.len(), 2);
    for name in ["${serviceaccount.namespace}/${serviceaccount.name}", "${pod.name}.${serviceaccount.namespace}.east"] {
        assert!(names.contains(&name), "{names:?}");
    }

    let rule = rules[0]["ID"].as_str().unwrap();
    assert_eq!(ask(&api, &token, &["acl", "binding-rule", "delete", rule]).status, Some(0));
    let seen = cluster.seen().len();
    assert_eq!(bootstrap(&api, &kubeconfig, &key).status, Some(0));
    assert_eq!(json_of(&api, &token, &["acl", "binding-rule", "list"]).as_array().unwrap().len(), 1);
    assert_eq!(token_in(&cluster, FIRST).as_ref(), Some(&token), "there is one first token");
    let again = cluster.seen()[seen..].to_vec();
    assert!(again.iter().all(|(_, deed)| deed.starts_with("get ")), "what is there is not written again: {again:?}");
    // Nothing that the chart does not grant.
    let deeds: BTreeSet<String> = cluster.seen().into_iter().map(|(_, deed)| deed).collect();
    let granted = ["get configmaps", "get secrets", "update configmaps", "update secrets"];
    assert_eq!(deeds, granted.map(str::to_owned).into());
    the_connector_works_with_what_it_is_given(&cluster, directory.path(), &https, &|arguments| {
        json_of(&api, &token, arguments)
    });

    // A token that the servers do not know any more is replaced, and what nobody has is ended.
    let connectors = || -> Vec<Value> {
        let all = json_of(&api, &token, &["acl", "token", "list"]);
        let is_own = |one: &&Value| one["Description"].as_str().unwrap().starts_with("the connector of this cluster");
        all.as_array().unwrap().iter().filter(is_own).cloned().collect()
    };
    let own = connectors();
    let [only] = &own[..] else { panic!("{own:?}") };
    let accessor = only["AccessorID"].as_str().unwrap();
    let lost = ["acl", "token", "clone", accessor];
    assert_eq!(ask(&api, &token, &lost).status, Some(0));
    assert_eq!(connectors().len(), 2);
    assert_eq!(bootstrap(&api, &kubeconfig, &key).status, Some(0));
    assert_eq!(connectors(), own, "the one that is kept is left");
    let kept = token_in(&cluster, CONNECTOR);
    assert_eq!(ask(&api, &token, &["acl", "token", "delete", accessor]).status, Some(0));
    assert_eq!(bootstrap(&api, &kubeconfig, &key).status, Some(0));
    let replaced = token_in(&cluster, CONNECTOR).expect("there is another one");
    assert_ne!(kept.as_ref(), Some(&replaced));
    assert_eq!(ask(&api, &replaced, &["acl", "token", "read"]).status, Some(0));
}

/// Runs the cluster's connector as the chart does: over TLS, by the roots that are told, with the token that is kept for it.
fn the_connector_works_with_what_it_is_given(
    cluster: &ApiServer,
    directory: &Path,
    https: &str,
    asked: &dyn Fn(&[&str]) -> Value,
) {
    let roots = cluster.get("configmaps", "weft", "weft-roots").unwrap();
    let [roots_file, token_file, config] = ["ca.pem", "connector-token", "connector"].map(|name| directory.join(name));
    fs::write(&roots_file, roots["data"]["ca.pem"].as_str().unwrap()).unwrap();
    write_secret(&token_file, &token_in(cluster, CONNECTOR).expect("the connector is given a token"));
    fs::write(&config, cluster.certificate_config("connector").to_string()).unwrap();
    objects::define_resources(cluster);
    cluster.put(objects::namespace("shop", &json!({})));
    cluster.put(objects::service("shop", "api"));
    cluster.put(objects::pod("shop", "api-0", "app", objects::NOWHERE));
    cluster.put(objects::slice("shop", "api", &[("api-0", true)]));
    let (resources, version) = (["ServiceDefaults", "ServiceIntentions"], "weft.dev/v1alpha1");
    let specs = [
        json!({ "protocol": "http" }),
        json!({ "destination": { "name": "api" }, "sources": [{ "name": "web", "action": "allow" }] }),
    ];
    for (kind, spec) in resources.into_iter().zip(specs) {
        let metadata = json!({ "name": "api", "namespace": "shop" });
        cluster.put(json!({ "apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec }));
    }
    let address = format!("https://localhost:{https}");
    let [roots_file, token_file, config] = [roots_file, token_file, config].map(|path| path.display().to_string());
    let arguments =
        ["connector", "kubernetes", "--lease", "5s", "--no-admin", "--cluster-name", "east", "--http-addr", &address];
    let told = ["--cacert", &roots_file, "--token-file", &token_file, "--lease-namespace", "weft"];
    let command = weft_command(&[&arguments[..], &told].concat(), &[("KUBECONFIG", config.as_str())]);
    let _connector = Process::start("connector", command, directory);
    for kind in resources {
        let resource = format!("{}.weft.dev", kind.to_lowercase());
        eventually(&format!("{kind} to be synced"), PATIENCE, || {
            let told = cluster.get(&resource, "shop", "api")?["status"]["conditions"].get(0)?.clone();
            (told["reason"] == "Synced").then_some(())
        });
    }
    eventually("the pod's node", PATIENCE, || {
        let nodes = asked(&["catalog", "nodes"]);
        nodes.as_array()?.iter().any(|node| node["Node"] == "api-0.shop.east").then_some(())
    });
}

#[test]
fn servers_that_somebody_made_ready_by_hand_say_what_to_do() {
    let mesh = Mesh::start(1);
    let directory = tempfile::tempdir().unwrap();
    let (cluster, kubeconfig) = cluster(directory.path());
    let api = mesh.servers[0].http.to_string();
    let refused = bootstrap(&api, &kubeconfig, &mesh.key_file());
    assert_eq!(refused.status, Some(2), "{refused:?}");
    assert!(refused.stderr.contains("made by hand") && refused.stderr.contains("weft-bootstrap-token"), "{refused:?}");
    let token = data_encoding::BASE64.encode(mesh.token.as_bytes());
    cluster.change("secrets", "weft", FIRST, |secret| secret["data"]["token"] = json!(token));
    // Where no pod is to log in, nothing is made that would let one.
    let told = || {
        let told = cluster.get("configmaps", "weft", "weft-roots").unwrap();
        serde_json::from_str::<Value>(told["data"]["roots.json"].as_str().unwrap()).unwrap()
    };
    let methods = || json_of(&api, &mesh.token, &["acl", "auth-method", "list"]).as_array().unwrap().len();
    let closed = bootstrap_with(&api, &kubeconfig, &mesh.key_file(), &["--without-pod-logins"]);
    assert_eq!(closed.status, Some(0), "{closed:?}");
    assert_eq!((methods(), &told()["audience"]), (0, &Value::Null));
    assert_eq!(told()["root_fingerprints"].as_array().unwrap().len(), 1);
    let done = bootstrap(&api, &kubeconfig, &mesh.key_file());
    assert_eq!(done.status, Some(0), "{done:?}");
    assert_eq!((methods(), told()["audience"].is_string()), (1, true));
}

#[test]
fn an_operator_far_away_founds_the_mesh_with_nothing_but_the_cluster_key() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    for name in ["cluster.key", "foreign.key"] {
        write_secret(&directory.path().join(name), &weft(&["keygen"], &[]).stdout);
    }
    let [http, https, agents, raft] = [(); 4].map(|()| free_port().to_string());
    let (data, key) = (path("data"), path("cluster.key"));
    let server = ["server", "--node", "s1", "--data-dir", &data, "--cluster-key-file", &key];
    let ports = ["--http-port", &http, "--https-port", &https, "--agent-port", &agents, "--raft-port", &raft];
    let arguments = [&server[..], &ports].concat();
    let _server = Process::start("s1", weft_command(&arguments, &[]), directory.path());
    let (api, roots) = (format!("https://127.0.0.1:{https}"), path("roots.pem"));
    let found = |key: &str| {
        let asked = ["acl", "bootstrap", "--cluster-key-file", key, "--roots-file", &roots, "--output", "json"];
        weft(&asked, &[("WEFT_HTTP_ADDR", &api)])
    };
    let founded = eventually("the mesh to be founded", PATIENCE, || {
        // Whoever holds another key talks to nobody, whether there is a mesh by now or not.
        let stranger = found(&path("foreign.key"));
        assert_eq!((stranger.status, stranger.stdout.as_str()), (Some(2), ""), "{stranger:?}");
        let founded = found(&key);
        (founded.status == Some(0)).then_some(founded)
    });
    let token: Value = serde_json::from_str(&founded.stdout).unwrap();
    let named = [("WEFT_HTTP_ADDR", api.as_str()), ("WEFT_CACERT", &roots)];
    let asked = [&named[..], &[("WEFT_HTTP_TOKEN", token["SecretID"].as_str().unwrap())]].concat();
    let listed = weft(&["ca", "roots", "--output", "json"], &asked);
    assert_eq!(listed.status, Some(0), "{listed:?}");
    let listed: Value = serde_json::from_str(&listed.stdout).unwrap();
    assert_eq!(listed["Roots"][0]["RootCert"].as_str().unwrap(), fs::read_to_string(&roots).unwrap());
}
