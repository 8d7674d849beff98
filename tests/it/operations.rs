//! The manual's pages on operations and on virtual machines, done as they say: every block that names a machine is typed
//! there, from top to bottom.

use crate::harness::{Block, Machines, blocks, tool};

/// Does what a page says, on machines with these names and addresses.
#[track_caller]
fn follow(page: &str, named: &[(&str, &str)]) {
    let machines = Machines::boot(named);
    for (name, _) in named {
        machines.done(name, "ip route add default dev eth0");
    }
    let page = std::fs::read_to_string(format!("{}/docs/{page}", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let blocks = blocks(&page);
    assert!(blocks.len() > 5, "the page has hardly a block for a machine");
    for Block { line, file, machines: names, text } in &blocks {
        for name in names {
            if let Some(file) = file {
                machines.write(name, file, text);
                continue;
            }
            let output = machines.run(name, text);
            let said = [&output.stdout[..], &output.stderr[..]].map(String::from_utf8_lossy).concat();
            eprintln!("--- line {line}, on {name}\n{text}{said}");
            if !output.status.success() {
                let logs: String = named.iter().map(|(name, _)| format!("{name}:\n{}", machines.logs(name))).collect();
                panic!("the block at line {line} of the page ended with {} on {name}\n{logs}", output.status);
            }
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
    follow("operations.md", &addresses);
}

#[test]
fn machines_join_call_and_leave_by_the_page_alone() {
    let test = "machines_join_call_and_leave_by_the_page_alone";
    if ["unshare", "nsenter", "ip", "curl", "ss"].iter().any(|name| tool(name, test).is_none()) {
        return;
    }
    follow("vm.md", &[("s1", "10.0.0.1"), ("vm-1", "10.0.0.11"), ("vm-2", "10.0.0.12")]);
}
