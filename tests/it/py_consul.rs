//! A program written for Consul, with py-consul as it is published: it registers, watches, and reads health, intentions and the CA.

use std::{process::Command, time::Duration};

use crate::harness::{Mesh, output_within, python, write_secret};

const DEADLINE: Duration = Duration::from_secs(60);
/// How long the program may take, which waits several times for as long as a query may.
const PROGRAM_MAX: Duration = Duration::from_secs(300);
const PROGRAM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/py_consul.py");

#[test]
fn a_program_that_was_written_for_consul_works_unchanged() {
    let Some(python) = python("consul", "a_program_that_was_written_for_consul_works_unchanged") else { return };
    let mut mesh = Mesh::start(1);
    let token = mesh.done(&["join-token", "create", "--service", "api"]);
    let token_file = mesh.directory.path().join("join-token");
    write_secret(&token_file, &token);
    let at = mesh.start_agent("vm-1", &[], &["--join-token-file", &token_file.display().to_string()]);
    mesh.agents[at].wait_until_ready(DEADLINE);
    let mut program = Command::new(python);
    program
        .arg(PROGRAM)
        .env("AGENT", mesh.agents[at].http.to_string())
        .env("SERVER", mesh.servers[0].http.to_string())
        .env("TOKEN", &mesh.token);
    let ran = output_within(&mut program, PROGRAM_MAX);
    let said = [&ran.stdout[..], &ran.stderr[..]].map(String::from_utf8_lossy).concat();
    assert!(ran.status.success() && said.ends_with("done\n"), "{said}\n{}", mesh.agents[at].log());
}
