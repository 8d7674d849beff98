//! Applications of others that stand behind an agent.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use super::{PATIENCE, Process, eventually, output_within, succeed, tool};

/// How long a peer may take to serve.
const START: Duration = Duration::from_secs(30);

/// Starts nginx on a port of loopback. It serves `/` and `/large`, 64 MiB.
pub(crate) fn nginx(program: &Path, directory: &Path, port: u16) -> Process {
    let root = directory.join("nginx");
    std::fs::create_dir_all(root.join("html")).unwrap();
    std::fs::write(root.join("html/index.html"), "served by nginx\n").unwrap();
    std::fs::write(root.join("html/large"), vec![b'x'; 64 << 20]).unwrap();
    let config = format!(
        "daemon off; master_process off; pid {0}/pid; error_log {0}/error.log;\n\
         events {{}}\n\
         http {{ access_log off; client_body_temp_path {0}/b; proxy_temp_path {0}/p; fastcgi_temp_path {0}/f;\n\
         uwsgi_temp_path {0}/u; scgi_temp_path {0}/s;\n\
         server {{ listen 127.0.0.1:{port}; root {0}/html; }} }}\n",
        root.display()
    );
    let path = root.join("nginx.conf");
    std::fs::write(&path, config).unwrap();
    let mut command = Command::new(program);
    command.arg("-p").arg(&root).arg("-c").arg(&path).arg("-e").arg(root.join("error.log"));
    Process::start("nginx", command, directory)
}

/// Starts nghttpd, which speaks HTTP/2 in the clear, on a port of loopback; nothing where it is not installed. It serves `/`.
pub(crate) fn nghttpd(test: &str, directory: &Path, port: u16, index: &str) -> Option<Process> {
    let program = tool("nghttpd", test)?;
    let root = directory.join("nghttpd");
    std::fs::create_dir_all(&root).unwrap();
    std::fs::write(root.join("index.html"), index).unwrap();
    let mut command = Command::new(program);
    command.args(["--no-tls", "--address=127.0.0.1"]).arg("--htdocs").arg(&root).arg(port.to_string());
    Some(Process::start("nghttpd", command, directory))
}

/// Is a PostgreSQL server with an empty database, and the client to talk to it.
pub(crate) struct Postgres {
    psql: PathBuf,
    _process: Process,
    // Dropped after the process that works in it.
    _home: tempfile::TempDir,
}

impl Postgres {
    /// Makes a database and serves it on a port of loopback; nothing where PostgreSQL is not installed.
    #[track_caller]
    pub(crate) fn start(test: &str, logs: &Path, port: u16) -> Option<Self> {
        let (initdb, server, psql) = (tool("initdb", test)?, tool("postgres", test)?, tool("psql", test)?);
        // Its own folder, for the server refuses to run as root, and another user could not enter the test's.
        let home = tempfile::tempdir().unwrap();
        let is_root = rustix::process::geteuid().is_root();
        if is_root {
            succeed(Command::new("chown").arg("postgres:").arg(home.path()));
        }
        let as_its_user = |program: &Path| {
            if !is_root {
                return Command::new(program);
            }
            let mut command = Command::new("setpriv");
            command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]).arg(program);
            command
        };
        let data = home.path().join("data");
        let mut make = as_its_user(&initdb);
        succeed(make.args(["--auth=trust", "--username=postgres", "--no-sync", "--locale=C"]).arg(&data));
        let mut serve = as_its_user(&server);
        serve.arg("-D").arg(&data).args(["-h", "127.0.0.1", "-p", &port.to_string()]);
        serve.args(["-c", "fsync=off"]).arg("-k").arg(home.path());
        let process = Process::start("postgres", serve, logs);
        let postgres = Self { psql, _process: process, _home: home };
        eventually("PostgreSQL to serve", START, || postgres.ask(port, "select 1"));
        Some(postgres)
    }

    /// Asks through a port of loopback, on a connection of its own; nothing if that fails.
    pub(crate) fn ask(&self, port: u16, query: &str) -> Option<String> {
        let mut client = self.client(port);
        client.args(["--tuples-only", "--no-align", "--command", query]);
        let output = output_within(&mut client, PATIENCE);
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// Prepares the client for a session of its own.
    pub(crate) fn client(&self, port: u16) -> Command {
        let mut command = Command::new(&self.psql);
        command.env("PGCONNECT_TIMEOUT", "10").env("PGOPTIONS", "-c statement_timeout=60000");
        command.args(["--no-psqlrc", "--quiet", "--set", "ON_ERROR_STOP=1"]);
        command.args(["--host", "127.0.0.1", "--port", &port.to_string(), "--username", "postgres"]);
        command
    }
}
