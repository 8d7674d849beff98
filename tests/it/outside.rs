//! A service that is still outside the mesh is called once somebody says that it is, by whom intentions let, and no longer.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    time::Duration,
};

use crate::harness::{Mesh, PROMISE_FACTOR, Service, eventually, free_port, weft};
use crate::routing::{App, ask, write};

/// What is said of a service is in force within this time.
const FELT: Duration = Duration::from_secs(2);

#[test]
fn what_no_agent_stands_before_is_called_where_it_is_said_to_be_outside_and_intentions_hold_all_the_same() {
    let (legacy, listener) = (App::start("legacy"), free_port());
    let mut mesh = Mesh::start(1);
    let body = serde_json::json!({
        "Node": "old-1", "Address": "127.0.0.1", "Service": {"ID": "legacy-1", "Service": "legacy", "Port": legacy.port},
        "Check": {"CheckID": "up", "Name": "up", "ServiceID": "legacy-1", "Status": "passing"},
    });
    let answer = mesh.servers[0].request("PUT", "/v1/catalog/register", &mesh.token, &body.to_string()).unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    let web = mesh.join("web-1", &[Service { name: "web", port: free_port(), upstreams: vec![("legacy", listener)] }]);
    mesh.done(&["intention", "create", "--allow", "web", "legacy"]);
    let listener = SocketAddr::from((Ipv4Addr::LOCALHOST, listener));
    let deadline = FELT * PROMISE_FACTOR;
    let counted = |name: &str, labels: &[(&str, &str)]| mesh.agents[web].metrics().sum(name, labels);
    let answers = || ask(listener, "/x", &[]).filter(|answer| answer.status == 200).map(|answer| answer.body);
    eventually("the call to be refused for want of an agent", deadline, || {
        assert_eq!(answers(), None);
        (counted("weft_proxy_refused_total", &[("reason", "no_mesh_port")]) > 0).then_some(())
    });

    write(&mesh, "outside", "kind = \"service-defaults\"\nname = \"legacy\"\nexternal = true\n");
    assert_eq!(eventually("legacy to be called", deadline, answers), "legacy /x -");
    eventually("that to be counted", deadline, || {
        let looked = [("destination", "default/legacy"), ("look", "http1")];
        let all = [counted("weft_proxy_unverified_total", &[]), counted("weft_proxy_tcp_looks_total", &looked)];
        all.iter().all(|count| *count >= 1).then_some(())
    });
    let at = mesh.agents[web].http.to_string();
    let shown = weft(&["proxy", "endpoints", "legacy"], &[("WEFT_HTTP_ADDR", &at), ("WEFT_HTTP_TOKEN", &mesh.token)]);
    assert!(shown.stdout.contains("outside the mesh") && shown.stdout.contains(&legacy.port.to_string()), "{shown:?}");

    // Held open, it is cut by the rule: nobody at the other end would.
    let mut held = TcpStream::connect(listener).unwrap();
    held.set_read_timeout(Some(deadline)).unwrap();
    held.write_all(b"GET /held HTTP/1.1\r\nhost: legacy\r\n\r\n").unwrap();
    assert!(held.read(&mut [0; 1024]).unwrap() > 0);
    mesh.done(&["intention", "create", "--deny", "--replace", "web", "legacy"]);
    let cut = std::iter::repeat_with(|| held.read(&mut [0; 1024])).find(|read| !matches!(read, Ok(1..)));
    let cut = cut.unwrap().unwrap_err();
    assert_eq!(cut.kind(), std::io::ErrorKind::ConnectionReset, "{cut}");
    assert_eq!(answers(), None);

    mesh.done(&["intention", "create", "--allow", "--replace", "web", "legacy"]);
    eventually("legacy to be called again", deadline, answers);
    mesh.done(&["config", "delete", "service-defaults", "legacy"]);
    eventually("legacy to be called by nobody", deadline, || answers().is_none().then_some(()));
}
