//! The manual's pages on operations and on virtual machines, done as they say: every block that names a machine is typed
//! there, from top to bottom.

use std::{fs, os::unix::fs::PermissionsExt, time::Instant};

use crate::harness::{Block, Machines, blocks, tool};

/// Stands in for the `sleep` of the pages' loops, which look once in a second: here they look five times as often.
const SLEEP: &str = "#!/bin/sh\nif [ \"$1\" = 1 ]; then set -- 0.2; fi\nPATH=/usr/bin:/bin exec sleep \"$@\"\n";

/// Is what the reader types besides, on that machine, once a block that has this text is done.
struct Besides {
    after: &'static str,
    machine: &'static str,
    script: &'static str,
}

/// Does what a page says, on machines with these names and addresses.
#[track_caller]
fn follow(page: &str, named: &[(&str, &str)], besides: &[Besides]) {
    let machines = Machines::boot(named);
    let sleep = machines.directory().join("bin/sleep");
    fs::write(&sleep, SLEEP).unwrap();
    fs::set_permissions(&sleep, fs::Permissions::from_mode(0o755)).unwrap();
    for (name, _) in named {
        machines.done(name, "ip route add default dev eth0");
    }
    let page = fs::read_to_string(format!("{}/docs/{page}", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let blocks = blocks(&page);
    assert!(blocks.len() > 5, "the page has hardly a block for a machine");
    for Block { line, file, machines: names, text } in &blocks {
        for name in names {
            if let Some(file) = file {
                machines.write(name, file, text);
                continue;
            }
            let began = Instant::now();
            let output = machines.run(name, text);
            let said = [&output.stdout[..], &output.stderr[..]].map(String::from_utf8_lossy).concat();
            eprintln!("--- line {line}, on {name}, {:.1} s\n{text}{said}", began.elapsed().as_secs_f64());
            if !output.status.success() {
                let logs: String = named.iter().map(|(name, _)| format!("{name}:\n{}", machines.logs(name))).collect();
                panic!("the block at line {line} of the page ended with {} on {name}\n{logs}", output.status);
            }
        }
        for Besides { machine, script, .. } in besides.iter().filter(|one| text.contains(one.after)) {
            machines.done(machine, script);
        }
    }
}

#[test]
fn a_stranger_runs_a_group_from_the_page_alone() {
    let test = "a_stranger_runs_a_group_from_the_page_alone";
    if ["unshare", "nsenter", "ip"].iter().any(|name| tool(name, test).is_none()) {
        return;
    }
    let addresses =
        [("s1", "10.0.0.1"), ("s2", "10.0.0.2"), ("s3", "10.0.0.3"), ("s4", "10.0.0.4"), ("vm-1", "10.0.0.11")];
    // The page says how long a newcomer is watched before it votes; two of them are waited for here.
    let soon = Besides {
        after: "weft acl bootstrap",
        machine: "s1",
        script: "weft operator autopilot set-config --server-stabilization-time 3s",
    };
    follow("operations.md", &addresses, &[soon]);
}

#[test]
fn machines_join_call_and_leave_by_the_page_alone() {
    let test = "machines_join_call_and_leave_by_the_page_alone";
    if ["unshare", "nsenter", "ip", "curl", "ss"].iter().any(|name| tool(name, test).is_none()) {
        return;
    }
    follow("vm.md", &[("s1", "10.0.0.1"), ("vm-1", "10.0.0.11"), ("vm-2", "10.0.0.12")], &[]);
}
