use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use serde_json::json;
use wire::pki::LeafKey;

use super::*;
use crate::testing::TestMesh;

fn local(services: &[&str]) -> Local {
    let identity = TestMesh::new().identity(&LeafKey::generate(), services);
    let listeners = vec![(IpAddr::V4(Ipv4Addr::LOCALHOST), 8500, "local API")];
    Local::new(identity.record, Reserved { listeners }, BTreeMap::new())
}

fn calling(name: &str, port: u16, destination: &str, bind_port: u16) -> Value {
    json!({ "Name": name, "Port": port,
            "Proxy": { "Upstreams": [{ "DestinationName": destination, "LocalBindPort": bind_port }] } })
}

#[track_caller]
fn is_refused(result: Result<(), LocalError>, parts: &[&str]) {
    let error = result.unwrap_err().to_string();
    assert!(parts.iter().all(|part| error.contains(part)), "{error}");
}

fn id<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().unwrap()
}

fn default() -> Namespace {
    Namespace::default_namespace()
}

fn files(files: &[(&str, &str)]) -> (tempfile::TempDir, Result<Vec<(PathBuf, files::Content)>, LocalError>) {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(dir.path().join(name), text).unwrap();
    }
    let content = files::read(&[dir.path().to_owned().into()]);
    (dir, content)
}

#[test]
fn a_registered_service_is_served_with_its_checks_and_upstreams() {
    let mut local = local(&["web"]);
    local
        .register_service(json!({
            "ID": "web-1", "Name": "web", "Port": 8080, "Address": "127.0.0.2",
            "Checks": [{ "HTTP": "http://127.0.0.1:8080/", "Interval": "10s" }, { "TTL": "30s", "Name": "alive" }],
            "Proxy": { "Upstreams": [{ "DestinationName": "db", "LocalBindPort": 5432 }] },
        }))
        .unwrap();
    let service = local.services().next().unwrap();
    assert_eq!(service.local_address.to_string(), "127.0.0.2");
    assert_eq!(service.upstreams[0].address.unwrap().to_string(), "127.0.0.1:5432");
    let checks = local.checks();
    let ids: Vec<_> = checks.values().map(|check| (check.check.key.id.as_str(), check.check.kind.as_str())).collect();
    assert_eq!(ids, [("service:web-1:1", "http"), ("service:web-1:2", "ttl")]);
    assert!(checks.values().all(|check| check.check.status == catalog::CheckStatus::Critical));
    local.register_service(json!({ "ID": "web-1", "Name": "web", "Port": 9090 })).unwrap();
    assert!(local.checks().is_empty(), "a registration replaces the one before");
    local.deregister_service(&default(), &id("web-1")).unwrap();
    is_refused(local.deregister_service(&default(), &id("web-1")), &["unknown service `web-1`"]);
}

#[test]
fn a_service_that_the_record_does_not_name_is_refused() {
    let result = local(&["web"]).register_service(json!({ "Name": "db" }));
    is_refused(result, &["not entitled to service `default/db`", "only to default/web", "weft join-token create"]);
    is_refused(local(&["web"]).register_service(json!({ "Name": "web", "Namespace": "other" })), &["not entitled"]);
}

#[test]
fn l10_an_upstream_on_the_applications_own_port_is_refused_naming_both() {
    let result = local(&["web"]).register_service(calling("web", 8080, "db", 8080));
    is_refused(result, &["upstream `default/db` of `web`", "127.0.0.1:8080", "the service `web` itself"]);
}

#[test]
fn l10_an_upstream_on_another_services_port_is_refused_before_and_after() {
    let mut before = local(&["api", "web"]);
    before.register_service(json!({ "Name": "api", "Port": 9090 })).unwrap();
    is_refused(before.register_service(calling("web", 8080, "db", 9090)), &["of `web`", "the service `api` itself"]);
    let mut after = local(&["api", "web"]);
    after.register_service(calling("web", 8080, "db", 9090)).unwrap();
    is_refused(
        after.register_service(json!({ "Name": "api", "Port": 9090 })),
        &["of `web`", "the service `api` itself"],
    );
    is_refused(
        after.register_service(json!({ "Name": "api", "Ports": { "admin": 9090 } })),
        &["port `admin` of the service `api`"],
    );
    assert_eq!(after.services().count(), 1);
}

#[test]
fn l10_two_upstreams_or_one_of_the_agents_own_ports_are_refused() {
    let mut local = local(&["api", "web"]);
    local.register_service(calling("web", 8080, "db", 5432)).unwrap();
    is_refused(
        local.register_service(calling("api", 9090, "cache", 5432)),
        &["upstream `default/cache` of `api`", "the upstream `default/db` of `web`"],
    );
    is_refused(local.register_service(calling("api", 9090, "cache", 8500)), &["the agent's local API"]);
    local.register_service(calling("web", 8080, "db", 5432)).unwrap();
    let elsewhere = json!({ "Name": "api", "Proxy": { "Upstreams": [
        { "DestinationName": "cache", "LocalBindPort": 5432, "LocalBindAddress": "127.0.0.2" }] } });
    local.register_service(elsewhere).unwrap();
}

fn redirected(name: &str, port: Option<u16>) -> Value {
    let listener = port.map_or(json!({}), |port| json!({ "OutboundListenerPort": port }));
    json!({ "Name": name, "Proxy": { "Mode": "transparent", "TransparentProxy": listener } })
}

#[test]
fn l10_two_services_never_share_a_port_for_redirected_connections() {
    let ports = |local: &Local| -> Vec<(u16, String)> {
        local.outbound_ports().into_iter().map(|(port, service)| (port, service.name.to_string())).collect()
    };
    let mut local = local(&["api", "batch", "db", "web"]);
    local.register_service(redirected("web", Some(15_110))).unwrap();
    is_refused(
        local.register_service(redirected("batch", Some(15_110))),
        &["connections of `batch`", "port 15110", "of `default/web`", "outbound_listener_port"],
    );
    is_refused(local.register_service(redirected("batch", Some(8500))), &["the agent's local API"]);
    is_refused(
        local.register_service(calling("batch", 80, "db", 15_110)),
        &["upstream `default/db`", "of `default/web`"],
    );
    local.register_service(calling("db", 15_101, "api", 15_102)).unwrap();
    is_refused(local.register_service(redirected("batch", Some(15_101))), &["the service `db` itself"]);
    let second = json!({ "ID": "web-2", "Name": "web", "Proxy": redirected("web", Some(15_110))["Proxy"] });
    local.register_service(second).unwrap();
    // One that names none is given the first that is free, and keeps it.
    local.register_service(redirected("batch", None)).unwrap();
    assert!(local.give_outbound_ports() && !local.give_outbound_ports());
    assert_eq!(ports(&local), [(15_103, "batch".to_owned()), (15_110, "web".to_owned())]);
    is_refused(
        local.register_service(redirected("api", Some(15_103))),
        &["connections of `api`", "port 15103", "of `default/batch`"],
    );
    local.deregister_service(&default(), &id("db")).unwrap();
    assert!(!local.give_outbound_ports());
    // Whoever has gone loses it to one that names it, and is given another when it is back.
    local.deregister_service(&default(), &id("batch")).unwrap();
    local.register_service(redirected("api", Some(15_103))).unwrap();
    assert!(local.give_outbound_ports());
    local.register_service(redirected("batch", None)).unwrap();
    assert!(local.give_outbound_ports());
    let want = [(15_101, "batch"), (15_103, "api"), (15_110, "web")].map(|(port, name)| (port, name.to_owned()));
    assert_eq!(ports(&local), want);
}

#[test]
fn files_are_read_in_order_and_services_before_checks() {
    let (_dir, content) = files(&[
        ("20-web.hcl", "service {\n name = \"web\"\n port = 8080\n}"),
        ("10-disk.json", r#"{"check": {"id": "web-disk", "service_id": "web", "ttl": "30s"}}"#),
        ("notes.txt", "not a definition"),
    ]);
    let mut local = local(&["web"]);
    local.take_files(content.unwrap());
    assert!(local.refused().is_empty(), "{:?}", local.refused());
    assert_eq!(local.services().count(), 1);
    assert_eq!(local.checks().len(), 1);
}

#[test]
fn settings_beside_a_service_are_for_somebody_else_to_judge() {
    let (_dir, content) = files(&[("agent.hcl", "node = \"vm-1\"\nservice { name = \"web\"\n port = 8080 }")]);
    assert_eq!(content.unwrap().len(), 1);
}

#[test]
fn what_the_platform_says_becomes_checks_of_the_node_and_its_end_is_for_good() {
    use catalog::CheckStatus;
    use wire::surroundings::{Neighbour, Observed};
    let mut local = local(&["web"]);
    local.register_service(json!({"Name": "web", "Port": 8080})).unwrap();
    let app = |status| Neighbour { name: "app".to_owned(), status, output: "the container is so".to_owned() };
    let seen = |status, is_ending| Observed { is_ending, neighbours: vec![app(status)] };
    let told = |local: &Local| -> Vec<(String, CheckStatus, bool)> {
        let checks = local.checks().into_values();
        checks
            .map(|check| (check.check.key.id.to_string(), check.check.status, check.check.instance.is_none()))
            .collect()
    };
    assert!(local.observe(&seen(CheckStatus::Critical, false)));
    assert!(!local.observe(&seen(CheckStatus::Critical, false)), "nothing is new");
    assert_eq!(told(&local), [("_platform:app".to_owned(), CheckStatus::Critical, true)]);
    assert!(local.observe(&seen(CheckStatus::Passing, false)));
    assert_eq!(told(&local), [("_platform:app".to_owned(), CheckStatus::Passing, true)]);
    assert!(local.observe(&seen(CheckStatus::Passing, true)));
    // The platform does not take it back, and no reload does.
    assert!(!local.observe(&seen(CheckStatus::Passing, false)));
    local.reload_files(Vec::new()).unwrap();
    let ending = ("_platform_ending".to_owned(), CheckStatus::Critical, true);
    assert_eq!(told(&local), [("_platform:app".to_owned(), CheckStatus::Passing, true), ending]);
    // What a platform calls something may be no id here.
    let odd = Neighbour { name: "a b\n".repeat(200), ..app(CheckStatus::Critical) };
    assert!(local.observe(&Observed { is_ending: true, neighbours: vec![odd] }));
    assert!(told(&local)[0].0.starts_with("_platform:"));
}

#[test]
fn a_text_of_a_variable_defines_what_a_file_of_the_same_form_does() {
    let text = |text: &str| DefinitionSource::Text { name: "WEFT_CONFIG".to_owned(), text: text.to_owned() };
    let json = r#" {"node": "n1", "service": {"name": "web", "port": 8080}, "check": {"name": "up", "ttl": "10s"}}"#;
    for good in
        [json, "node = \"n1\"\nservice { name = \"web\"\n port = 8080 }\ncheck { name = \"up\"\n ttl = \"10s\" }"]
    {
        let found = read_files(&[text(good)]).unwrap();
        assert_eq!(found.len(), 2, "{good}");
        assert!(found.iter().all(|(name, _)| name == Path::new("WEFT_CONFIG")));
    }
    let error = wire::one_line(&read_files(&[text("service { name = \"web\"\n prot = 1 }")]).unwrap_err());
    assert!(error.contains("`WEFT_CONFIG`") && error.contains("service.prot"), "{error}");
}

#[test]
fn a_file_that_cannot_be_understood_is_named() {
    let (dir, content) = files(&[("web.hcl", "service { name = \"web\"\n prot = 8080 }")]);
    let error = content.unwrap_err().to_string();
    assert!(error.contains("web.hcl") && error.contains("service.prot"), "{error}");
    let missing = read_files(&[dir.path().join("none.hcl").into()]).unwrap_err();
    assert!(matches!(missing, LocalError::Read { .. }));
    let other = read_files(&[Path::new("/etc/hostname").to_owned().into()]).unwrap_err().to_string();
    assert!(other.contains("`.hcl`"), "{other}");
}

#[test]
fn what_is_refused_of_a_file_is_shown_and_the_rest_is_served() {
    let (_dir, content) = files(&[
        ("a.json", r#"{"services": [{"name": "db"}, {"name": "web", "port": 8080}]}"#),
        ("b.json", r#"{"service": {"name": "web", "port": 9090}}"#),
    ]);
    let mut local = local(&["web"]);
    local.take_files(content.unwrap());
    assert_eq!(local.services().map(|service| service.instance.port).collect::<Vec<_>>(), [8080]);
    assert_eq!(local.refused().len(), 2);
    assert!(local.refused()[0].contains("a.json") && local.refused()[0].contains("not entitled"));
    assert!(local.refused()[1].contains("b.json") && local.refused()[1].contains("defined by"));
}

#[test]
fn what_a_file_defines_is_not_changed_over_the_api() {
    let (_dir, content) = files(&[("web.json", r#"{"service": {"name": "web", "port": 8080}}"#)]);
    let mut local = local(&["web"]);
    local.take_files(content.unwrap());
    is_refused(local.register_service(json!({ "Name": "web" })), &["web.json", "change it there"]);
    is_refused(local.deregister_service(&default(), &id("web")), &["web.json", "change it there"]);
    local.set_maintenance(&default(), &id("web"), Some("upgrade".to_owned())).unwrap();
    let checks = local.checks();
    let check = checks.values().next().unwrap();
    assert_eq!(check.check.key.id.as_str(), "_service_maintenance:web");
    assert_eq!((check.check.status, check.check.notes.as_str()), (catalog::CheckStatus::Critical, "upgrade"));
}

#[test]
fn registrations_over_the_api_survive_a_restart() {
    let mut before = local(&["web"]);
    before.register_service(calling("web", 8080, "db", 5432)).unwrap();
    before.register_check(json!({ "CheckID": "disk", "TTL": "1m" })).unwrap();
    before.set_maintenance(&default(), &id("web"), Some("upgrade".to_owned())).unwrap();
    let kept = serde_json::to_string(&before.registered()).unwrap();
    let mut after = local(&["web"]);
    after.take_registered(serde_json::from_str(&kept).unwrap());
    assert_eq!(after.services().collect::<Vec<_>>(), before.services().collect::<Vec<_>>());
    assert_eq!(after.checks(), before.checks());
    let mut fewer = local(&["api"]);
    fewer.take_registered(serde_json::from_str(&kept).unwrap());
    assert_eq!((fewer.services().count(), fewer.refused().len()), (0, 1));
}

#[test]
fn a_check_id_belongs_to_one_check() {
    let mut local = local(&["api", "web"]);
    local.register_service(json!({ "Name": "web", "Check": { "CheckID": "alive", "TTL": "1m" } })).unwrap();
    is_refused(local.register_check(json!({ "CheckID": "alive", "TTL": "1m" })), &["`alive` exists already"]);
    let api = json!({ "Name": "api", "Check": { "CheckID": "alive", "TTL": "1m" } });
    is_refused(local.register_service(api), &["`alive` exists already"]);
    local.register_check(json!({ "CheckID": "disk", "TTL": "1m" })).unwrap();
    local.register_check(json!({ "CheckID": "disk", "TTL": "2m" })).unwrap();
    is_refused(local.deregister_check(&default(), &id("alive")), &["part of service `web`"]);
    local.deregister_check(&default(), &id("disk")).unwrap();
    is_refused(local.deregister_check(&default(), &id("disk")), &["unknown check"]);
    is_refused(local.register_check(json!({ "ServiceID": "none", "Name": "x", "TTL": "1m" })), &["unknown service"]);
    let twice = json!({ "Name": "web", "Checks": [{ "CheckID": "a", "TTL": "1m" }, { "CheckID": "a", "TTL": "1m" }] });
    is_refused(local.register_service(twice), &["two checks"]);
}

#[test]
fn a9_a10_a_check_that_may_not_be_made_is_refused_with_its_service() {
    let with = |check: Value| json!({ "Name": "web", "Check": check });
    let metadata = with(json!({ "HTTP": "http://169.254.169.254/", "Interval": "10s" }));
    is_refused(local(&["web"]).register_service(metadata), &["may not be checked"]);
    let script = with(json!({ "ScriptArgs": ["/bin/true"], "Interval": "10s" }));
    is_refused(local(&["web"]).register_service(script), &["ScriptArgs` is not supported"]);
    let busy = with(json!({ "TCP": "127.0.0.1:1", "Interval": "1ms" }));
    is_refused(local(&["web"]).register_service(busy), &["Interval"]);
}

#[test]
fn checks_registered_alone_leave_with_their_service() {
    let mut local = local(&["web"]);
    local.register_service(json!({ "Name": "web" })).unwrap();
    local.register_check(json!({ "CheckID": "alive", "ServiceID": "web", "TTL": "1m" })).unwrap();
    local.register_check(json!({ "CheckID": "disk", "TTL": "1m" })).unwrap();
    local.deregister_service(&default(), &id("web")).unwrap();
    let left: Vec<_> = local.checks().into_keys().map(|key| key.id.to_string()).collect();
    assert_eq!(left, ["disk"]);
}

#[test]
fn maintenance_that_is_taken_is_carried_out_and_the_rest_is_refused() {
    let mut local = local(&["web"]);
    let long = "w".repeat(255);
    local.register_service(json!({ "Name": "web", "ID": long })).unwrap();
    is_refused(
        local.set_maintenance(&default(), &id(&long), Some("r".repeat(513))),
        &["`reason`", "513 bytes", "at most 512"],
    );
    assert!(local.checks().is_empty());
    local.set_maintenance(&default(), &id(&long), Some("r".repeat(512))).unwrap();
    let checks: Vec<_> = local.checks().into_values().map(|check| check.check).collect();
    assert_eq!(checks[0].status, catalog::CheckStatus::Critical);
    assert_eq!(checks[0].instance.as_ref().map(|id| id.as_str()), Some(long.as_str()));
}

#[test]
fn what_no_agent_would_serve_is_found_before_one_starts() {
    let wrong = [
        (r#"{"service": {"name": "web", "address": "0.0.0.0"}}"#, "Address"),
        (
            r#"{"service": {"name": "web", "check": {"http": "http://169.254.169.254/", "interval": "10s"}}}"#,
            "HTTP or TCP",
        ),
        (r#"{"check": {"name": "x", "service_id": "none", "ttl": "1m"}}"#, "unknown service"),
        (
            r#"{"service": {"name": "web", "proxy": {"upstreams": [
                {"destination_name": "db", "local_bind_port": 9090}]}}}"#,
            "cannot listen on 127.0.0.1:9090",
        ),
        (r#"{"service": {"name": "api", "port": 1}}"#, "defined by"),
    ];
    for (text, part) in wrong {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a.json"), r#"{"service": {"name": "api", "port": 9090}}"#).unwrap();
        assert!(
            check_definitions(&[dir.path().to_owned().into()]).is_ok(),
            "what an agent is entitled to is not judged"
        );
        fs::write(dir.path().join("b.json"), text).unwrap();
        let error = wire::one_line(&check_definitions(&[dir.path().to_owned().into()]).unwrap_err());
        assert!(error.contains("b.json") && error.contains(part), "{error}");
    }
}
