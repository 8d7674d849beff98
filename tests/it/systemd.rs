//! The package and its units under a real systemd: what the sandbox forbids, what is handed over, and what systemd is told.

use std::time::Duration;

use crate::{
    debian::build,
    harness::{Booted, can_boot, cgroups, debian, eventually},
};

const DEADLINE: Duration = Duration::from_secs(60);

/// Makes the server's settings, and its key a credential.
const SERVER: &str = r#"
umask 077
mkdir -p /etc/credstore
weft keygen > /etc/credstore/weft.cluster-key
umask 022
printf 'node = "s1"\nbind = "10.0.0.1"\n' > /etc/weft/server.hcl
systemctl start weft-server
"#;

/// Makes the first token of the API.
const BOOTSTRAP: &str = r#"
umask 077
weft acl bootstrap --cluster-key-file /etc/credstore/weft.cluster-key --output json > /root/bootstrap.json
sed -n 's/.*"SecretID": *"\([^"]*\)".*/\1/p' /root/bootstrap.json > /root/token
"#;

/// Returns what systemd was told last by a unit.
fn status(machine: &Booted, unit: &str) -> String {
    machine.done(&format!("systemctl show --property StatusText --value {unit}"))
}

/// Checks that a unit's process can do no more than it has to.
#[track_caller]
fn assert_confined(machine: &Booted, unit: &str) {
    let told = machine.done(&format!("cat /proc/$(systemctl show --property MainPID --value {unit})/status"));
    let field = |name: &str| {
        let line = told.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name} in {told}"));
        line.split_whitespace().nth(1).unwrap().to_owned()
    };
    assert_ne!(field("Uid:"), "0");
    assert_eq!((field("NoNewPrivs:"), field("Seccomp:")), ("1".to_owned(), "2".to_owned()));
    for set in ["CapEff:", "CapPrm:", "CapBnd:", "CapAmb:"] {
        assert_eq!(field(set), "0000000000000000", "{set}");
    }
}

#[test]
fn the_units_serve_inside_their_sandbox_and_a_machine_joins_and_leaves() {
    let test = "the_units_serve_inside_their_sandbox_and_a_machine_joins_and_leaves";
    if !can_boot(test) {
        return;
    }
    let (Some(system), Some(cgroups)) = (debian(test), cgroups(test)) else { return };
    let packages = tempfile::tempdir().unwrap();
    let package = build(env!("CARGO_PKG_VERSION"), packages.path());
    let install = format!("dpkg --install /packages/{}", package.file_name().unwrap().display());
    let (server, vm) =
        (Booted::new("s1", &system, &cgroups, &packages), Booted::new("vm-1", &system, &cgroups, &packages));
    server.connect("10.0.0.1", &vm, "10.0.0.2");
    for machine in [&server, &vm] {
        machine.done(&install);
        assert_eq!(
            machine.run("systemctl is-active weft-server weft-agent").status.code(),
            Some(3),
            "nothing is started"
        );
    }

    // The server's key is nowhere in its settings: systemd hands it over.
    server.done(SERVER);
    eventually("the server to lead", DEADLINE, || {
        (status(&server, "weft-server") == "leading 1 servers").then_some(())
    });
    assert_confined(&server, "weft-server");
    eventually("the first token", DEADLINE, || server.run(BOOTSTRAP).status.success().then_some(()));
    let as_operator = |command: &str| server.done(&format!("WEFT_HTTP_TOKEN_FILE=/root/token {command}"));
    let token = as_operator("weft join-token create --service web");

    // One string, and the machine is a member.
    vm.done(&format!("echo '{token}' | weft join"));
    assert_eq!(vm.done("systemctl is-enabled weft-agent"), "enabled");
    eventually("the agent's word", DEADLINE, || (status(&vm, "weft-agent") == "serving").then_some(()));
    assert_confined(&vm, "weft-agent");
    vm.done("printf 'service {\\n  name = \"web\"\\n  port = 8080\\n}\\n' > /etc/weft/web.hcl && systemctl reload weft-agent");
    eventually("the service", DEADLINE, || as_operator("weft catalog services").contains("web").then_some(()));
    let token = server.done("cat /root/token");
    let doctor = vm.run(&format!("WEFT_HTTP_TOKEN={token} weft doctor"));
    let doctor = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert!(doctor.contains("fine     files         `/var/lib/weft` is its owner's alone"), "{doctor}");
    assert!(doctor.contains("nothing listens on port 8080"), "{doctor}");

    // Whoever is killed comes back as who it was, by what it has kept.
    vm.done("rm /etc/weft/join-token && systemctl kill --signal KILL weft-agent");
    eventually("the agent to be back", DEADLINE, || {
        let restarts = vm.done("systemctl show --property NRestarts --value weft-agent");
        (restarts != "0" && status(&vm, "weft-agent") == "serving").then_some(())
    });

    // Redirection goes with the agent, however that ends.
    vm.done(
        "useradd --system shop && echo 'WEFT_REDIRECT=\"--service web=shop\"' > /etc/weft/redirect.env\n\
         systemctl enable --quiet --now weft-redirect && weft redirect show",
    );
    vm.done("systemctl stop weft-agent");
    eventually("redirection to end", DEADLINE, || {
        (vm.run("weft redirect show").status.code() == Some(1)).then_some(())
    });
    vm.done("systemctl start weft-agent");
    eventually("redirection to be back", DEADLINE, || vm.run("weft redirect show").status.success().then_some(()));

    // Removing stops it and keeps who it is; purging leaves nothing.
    vm.done("dpkg --remove weft && test -e /var/lib/weft/identity.json");
    eventually("the node to leave", DEADLINE, || (!as_operator("weft catalog nodes").contains("vm-1")).then_some(()));
    assert_eq!(vm.done("nft list tables"), "");
    vm.done("dpkg --purge weft && test ! -e /var/lib/weft && test ! -e /etc/weft");
    server.done("systemctl stop weft-server");
    assert_eq!(server.done("systemctl show --property Result --value weft-server"), "success");
}
