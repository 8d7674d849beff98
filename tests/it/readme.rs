//! The README's five minutes, typed as they stand there: a mesh of one process, and then a group of three servers with a machine.

use std::{fs, time::Duration};

use crate::harness::{Machines, PROMISE_FACTOR, eventually, tool, within};

const TEST: &str = "the_readmes_five_minutes_are_as_it_says";

const SECTION: &str = "## A mesh in five minutes, by hand";
const LAPTOP: &str = "laptop";
const SERVERS: [(&str, &str); 3] = [("s1", "10.0.0.1"), ("s2", "10.0.0.2"), ("s3", "10.0.0.3")];
const VM: &str = "vm-1";
/// Whom the first server joins.
const OTHERS: &str = "--retry-join 10.0.0.2:8301 --retry-join 10.0.0.3:8301";

/// How soon a mesh is there, or a group has a leader.
const THERE: Duration = Duration::from_secs(5);
/// How soon a change of policy counts.
const COUNTS: Duration = Duration::from_secs(2);

/// Returns the blocks of commands of the README's section, in order.
fn blocks() -> Vec<String> {
    let page = fs::read_to_string(format!("{}/README.md", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let (_, section) = page.split_once(SECTION).expect("the README has the section");
    let section = section.split("\n## ").next().unwrap();
    section.split("```sh\n").skip(1).map(|block| block.split("```").next().unwrap().to_owned()).collect()
}

/// Starts what goes on until it is stopped, as in a terminal of its own; its words go to a log of that name.
fn leave_running(machines: &Machines, machine: &str, log: &str, typed: &str) {
    machines.write(machine, &format!("/root/{log}.sh"), typed);
    machines.done(machine, &format!("setsid bash /root/{log}.sh > $RUN/{log}.log 2>&1 < /dev/null &"));
}

/// Types lines; what they leave running writes where they do. Returns whether they succeeded, and what was said.
fn types(machines: &Machines, machine: &str, lines: &str) -> (bool, String) {
    let output = machines.run(machine, &format!("exec > $RUN/typed.log 2>&1\n{lines}"));
    (output.status.success(), machines.done(machine, "cat $RUN/typed.log"))
}

/// Types lines that must succeed.
#[track_caller]
fn succeeds(machines: &Machines, machine: &str, lines: &str) -> String {
    let (is_done, said) = types(machines, machine, lines);
    assert!(is_done, "on {machine}: {lines}\n{said}\n{}", machines.logs(machine));
    said
}

/// Does the first two blocks: the mesh of one process, and the call that is refused, answered and refused again.
fn one_process(machines: &Machines, start: &str, by_hand: &str) {
    // What was built is there already.
    let start = start.strip_prefix("cargo build\nexport PATH=\"$PWD/target/debug:$PATH\"\n").expect("how it is built");
    leave_running(machines, LAPTOP, "dev", start);
    let exports = eventually("the mesh to be up", THERE * PROMISE_FACTOR, || {
        let said = machines.done(LAPTOP, "cat $RUN/dev.log");
        let exports: Vec<String> =
            said.lines().map(str::trim).filter(|line| line.starts_with("export ")).map(str::to_owned).collect();
        (exports.len() == 2).then_some(exports)
    });
    machines.done(LAPTOP, &exports.join("\n"));
    let (prepared, story) = by_hand.split_once("\n\n").expect("two parts");
    succeeds(machines, LAPTOP, prepared);
    for line in story.lines() {
        let (command, comment) = line.split_once('#').unwrap_or((line, ""));
        let comment = comment.trim();
        eventually(&format!("`{line}`"), COUNTS * PROMISE_FACTOR, || {
            let (is_done, said) = types(machines, LAPTOP, command);
            eprintln!("$ {line}\n{said}");
            let is_as_told = match comment.split([' ', ':']).next() {
                Some("refused") if command.starts_with("curl ") => !is_done,
                Some("answered") => is_done && said.contains("api.json"),
                Some("says") => said.contains("deny"),
                _ => is_done,
            };
            is_as_told.then_some(())
        });
    }
    assert!(story.contains("weft intention delete"), "it ends with the rule taken away: {story}");
    let call = story.lines().find(|line| line.starts_with("curl ")).unwrap();
    eventually("the call to be refused again", COUNTS * PROMISE_FACTOR, || {
        (!types(machines, LAPTOP, call).0).then_some(())
    });
}

/// Does the rest: three servers that share a key, and an agent that joins them.
fn group(machines: &Machines, servers: &str, token: &str, agent: &str) {
    let (key, server) = servers.split_once('\n').unwrap();
    assert!(server.contains(OTHERS), "{server}");
    succeeds(machines, "s1", key);
    let key = machines.done("s1", "cat cluster.key");
    for (name, address) in SERVERS {
        if name != "s1" {
            machines.write(name, "/root/cluster.key", &key);
            machines.done(name, "chmod 600 cluster.key");
        }
        // Each with its own name and address, and the other two to join.
        let others: Vec<String> = SERVERS
            .iter()
            .filter(|(other, _)| *other != name)
            .map(|(_, other)| format!("--retry-join {other}:8301"))
            .collect();
        let own = server.replace("--node s1", &format!("--node {name}"));
        let own = own.replace("--bind 10.0.0.1", &format!("--bind {address}")).replace(OTHERS, &others.join(" "));
        leave_running(machines, name, "server", &own);
    }
    for line in token.lines() {
        let line = match line {
            line if line.starts_with("export WEFT_HTTP_TOKEN=... ") => {
                let told = machines.done("s1", "cat $RUN/first-token");
                let secret = told.split_whitespace().skip_while(|word| *word != "Secret:").nth(1);
                line.replace("...", secret.expect("the token says its secret"))
            }
            _ => line.to_owned(),
        };
        // An attempt whose answer is lost asks for a while whether the token was made.
        let attempts = if line.starts_with("weft acl bootstrap") { 3 } else { 1 };
        eventually(&format!("`{line}`"), THERE * PROMISE_FACTOR * attempts, || {
            let (is_done, said) = types(machines, "s1", &line);
            eprintln!("$ {line}\n{said}");
            if line.starts_with("weft acl bootstrap") && is_done {
                machines.write("s1", "$RUN/first-token", &said);
            }
            is_done.then_some(())
        });
    }
    let join_token = machines.done("s1", "cat join-token");
    machines.write(VM, "/root/join-token", &join_token);
    machines.done(VM, "chmod 600 join-token");
    leave_running(machines, VM, "agent", agent);
    let member =
        within(THERE * PROMISE_FACTOR, || machines.done("s1", "weft catalog nodes").contains(VM).then_some(()));
    assert!(member.is_some(), "the machine does not become a member: {}", machines.logs(VM));
}

#[test]
fn the_readmes_five_minutes_are_as_it_says() {
    if ["unshare", "nsenter", "ip", "python3", "curl"].iter().any(|name| tool(name, TEST).is_none()) {
        return;
    }
    let named: Vec<_> = SERVERS.into_iter().chain([(LAPTOP, "10.0.0.9"), (VM, "10.0.0.11")]).collect();
    let machines = Machines::boot(&named);
    for (name, _) in &named {
        // Nobody installed anything here.
        machines.done(name, "umount /etc/weft /var/lib/weft && rmdir /etc/weft /var/lib/weft");
    }
    let blocks = blocks();
    let [start, by_hand, servers, token, agent] = &blocks[..] else {
        panic!("the section has other blocks than these: {blocks:#?}")
    };
    one_process(&machines, start, by_hand);
    group(&machines, servers, token, agent);
}
