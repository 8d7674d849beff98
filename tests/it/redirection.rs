//! Applications that know nothing of the mesh, on machines of their own: what they send to a name of the mesh is led to the agent,
//! and so is what comes to them.

use std::time::Duration;

use crate::harness::{Machines, PROMISE_FACTOR, eventually, tool};

/// How soon a change of policy counts.
const CUT: Duration = Duration::from_secs(2);
/// How soon an agent serves again.
const AGENT_RESTART: Duration = Duration::from_secs(2);

/// How soon an application is there.
const APPLICATION: Duration = Duration::from_secs(10);

const S1: &str = "10.77.0.1";
const API: &str = "10.77.0.2";
const WEB: &str = "10.77.0.3";
/// What the mesh calls the application of `api-1`.
const VIRTUAL: &str = "http://api.virtual.mesh/";

/// Returns a request as the application's user makes it; nothing where it fails.
fn asks(machines: &Machines, name: &str, url: &str) -> Option<String> {
    let ask = format!("setpriv --reuid app --regid app --clear-groups curl -sS -m 5 {url}");
    let output = machines.run(name, &ask);
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn prepare(machines: &Machines) {
    for name in ["s1", "api-1", "web-1"] {
        machines.done(
            name,
            "echo app:x:1002:1002::/:/bin/false >> /etc/passwd\necho app:x:1002: >> /etc/group\n\
             ip route add default dev eth0\necho 'nameserver 10.77.0.99' > /etc/resolv.conf",
        );
    }
    for (name, answer) in [("s1", "outside"), ("api-1", "api")] {
        machines.done(
            name,
            &format!(
                "mkdir -p /etc/app && echo {answer} > /etc/app/index.html && chmod -R a+rX /etc/app\n\
                 setsid setpriv --reuid app --regid app --clear-groups python3 -m http.server 8080 --directory /etc/app \
                 > $RUN/app.log 2>&1 < /dev/null &"
            ),
        );
    }
    let definition = |name: &str, port: u16| {
        format!(
            "service {{\n  name = \"{name}\"\n  port = {port}\n  connect {{ sidecar_service {{ proxy {{ mode = \"transparent\" }} }} }}\n}}"
        )
    };
    machines.write("api-1", "/etc/weft/api.hcl", &definition("api", 8080));
    let upstream = "upstreams = [{ destination_name = \"api\", local_bind_port = 9191 }]";
    let web = definition("web", 9090).replace("port =", "user = \"app\"\n  port =");
    machines.write("web-1", "/etc/weft/web.hcl", &web.replace("mode =", &format!("{upstream}, mode =")));
}

fn config(machines: &Machines, text: &str) {
    machines.write("s1", "/root/entry.hcl", text);
    machines.done("s1", "weft config write /root/entry.hcl");
}

#[test]
fn an_unmodified_application_calls_by_name_and_is_called_past_nobody() {
    let test = "an_unmodified_application_calls_by_name_and_is_called_past_nobody";
    for program in ["nft", "ip", "nsenter", "curl", "python3", "setpriv"] {
        if tool(program, test).is_none() {
            return;
        }
    }
    let machines = Machines::boot(&[("s1", S1), ("api-1", API), ("web-1", WEB)]);
    machines.found(S1);
    prepare(&machines);
    machines.join("api-1", S1, "--service api", "--report-interval 1s");
    machines.join("web-1", S1, "--service web", "");
    // Nothing is led anywhere yet.
    eventually("the application to be there", APPLICATION * PROMISE_FACTOR, || {
        asks(&machines, "web-1", &past_the_agent())
    });

    who_is_redirected_calls_by_name(&machines);
    plaintext_passes_while_an_application_moves_in(&machines);
    redirected_services_are_held_to_the_mesh(&machines);
    nobody_is_called_without_an_agent(&machines);
}

/// Returns where the application of `api-1` listens.
fn past_the_agent() -> String {
    format!("http://{API}:8080/")
}

fn who_is_redirected_calls_by_name(machines: &Machines) {
    // On a machine by the user of each service, in a pod all but the agent's own.
    machines.done("web-1", "weft redirect apply --service web=app --dns-port 8600");
    machines.done("api-1", "weft redirect apply --all --agent-uid 0");
    assert_eq!(machines.run("web-1", "weft redirect show").status.code(), Some(0));
    assert_eq!(asks(machines, "web-1", VIRTUAL), None, "nobody said that web may call api");
    machines.done("s1", "weft intention create --allow web api");
    let answer = eventually("the call to be allowed", CUT * PROMISE_FACTOR, || asks(machines, "web-1", VIRTUAL));
    assert_eq!(answer, "api");
    assert_eq!(asks(machines, "web-1", "http://api.virtual.mesh:8080/").as_deref(), Some("api"));
    // Where an upstream has a listener, it is the user's as well.
    assert_eq!(asks(machines, "web-1", "http://127.0.0.1:9191/").as_deref(), Some("api"));
    let somebody = "setpriv --reuid 65534 --regid 65534 --clear-groups curl -sS -m 5 http://127.0.0.1:9191/";
    assert!(!machines.run("web-1", somebody).status.success(), "nobody else calls in its name");
    assert_eq!(asks(machines, "web-1", "http://none.virtual.mesh/"), None);
    // Past the agent nobody comes any more; the machine's own side is as it was.
    assert_eq!(asks(machines, "web-1", &past_the_agent()), None, "without identity");
    assert_eq!(asks(machines, "web-1", &format!("http://{S1}:8080/")).as_deref(), Some("outside"));
    assert_eq!(asks(machines, "api-1", &format!("http://{S1}:8080/")).as_deref(), Some("outside"), "it is passed on");
}

/// While an application moves in, it may be called without identity, and that is seen.
fn plaintext_passes_while_an_application_moves_in(machines: &Machines) {
    let refused = machines.run(
        "s1",
        "printf 'kind = \"service-defaults\"\\nname = \"api\"\\nmutual_tls_mode = \"permissive\"\\n' > e.hcl; weft config write e.hcl 2>&1",
    );
    let told = String::from_utf8_lossy(&refused.stdout).into_owned();
    assert!(!refused.status.success() && told.contains("allow_enabling_permissive_mutual_tls"), "{told}");
    config(machines, "kind = \"mesh\"\nallow_enabling_permissive_mutual_tls = true");
    config(machines, "kind = \"service-defaults\"\nname = \"api\"\nmutual_tls_mode = \"permissive\"");
    let answer = eventually("plaintext to pass", CUT * PROMISE_FACTOR, || asks(machines, "web-1", &past_the_agent()));
    assert_eq!(answer, "api");
    eventually("plaintext to be seen", CUT * PROMISE_FACTOR, || {
        let seen = machines.run("s1", "weft mesh plaintext");
        String::from_utf8_lossy(&seen.stdout).contains(WEB).then_some(())
    });
    machines.done("s1", "weft intention create --deny '*/*' api");
    eventually("a deny of everybody to count", CUT * PROMISE_FACTOR, || {
        asks(machines, "web-1", &past_the_agent()).is_none().then_some(())
    });
    machines.done("s1", "weft intention delete '*/*' api");
}

fn redirected_services_are_held_to_the_mesh(machines: &Machines) {
    config(machines, "kind = \"mesh\"\ntransparent_proxy { mesh_destinations_only = true }");
    eventually("the outside to be closed", CUT * PROMISE_FACTOR, || {
        asks(machines, "api-1", &format!("http://{S1}:8080/")).is_none().then_some(())
    });
    assert_eq!(asks(machines, "web-1", VIRTUAL).as_deref(), Some("api"), "the mesh is as open as before");
    eventually("plaintext to be over", CUT * PROMISE_FACTOR, || {
        asks(machines, "web-1", &past_the_agent()).is_none().then_some(())
    });
}

/// Without its agent an application reaches nobody by a name of the mesh, and everybody else as before.
fn nobody_is_called_without_an_agent(machines: &Machines) {
    machines.done("web-1", "kill -9 $(pidof weft)");
    let number = "curl -sS -m 5 http://240.0.0.1/";
    // A process that was killed lets go of its sockets a moment later.
    eventually("calls to be refused at once", CUT * PROMISE_FACTOR, || {
        let dead = machines.run("web-1", &format!("setpriv --reuid app --regid app --clear-groups {number}"));
        (dead.status.code() == Some(7)).then_some(())
    });
    assert_eq!(asks(machines, "web-1", &format!("http://{S1}:8080/")).as_deref(), Some("outside"));
    machines.done(
        "web-1",
        &format!(
            "setsid weft agent --node web-1 --server {S1}:8300 --config /etc/weft --data-dir /var/lib/weft/agent \
             >> $RUN/agent.log 2>&1 < /dev/null &"
        ),
    );
    let deadline = AGENT_RESTART * PROMISE_FACTOR;
    eventually("the agent to serve again", deadline, || asks(machines, "web-1", VIRTUAL));
    machines.done("web-1", "weft redirect remove");
    let left = machines.done("web-1", "nft list tables");
    assert!(!left.contains("weft"), "{left}");
}
