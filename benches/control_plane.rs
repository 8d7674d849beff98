//! What the servers do in a second, and how long they are without a leader.
//!
//! `cargo bench --bench control_plane` measures registrations through three servers, beside durable appends to the same
//! disk in the same run. `cargo bench --bench control_plane -- failover 100` kills that many leaders under writes.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a benchmark prints its figures, and ends by a panic when something fails"
)]

#[path = "../tests/it"]
#[allow(dead_code, unused_imports, reason = "the harness is the tests'; a benchmark uses a part of it")]
mod it {
    pub(crate) mod harness;
}

use std::{
    fs::File,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use it::harness::Mesh;

const REPETITIONS: usize = 5;
const MEASURED: Duration = Duration::from_secs(4);
const CONNECTIONS: usize = 64;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    match arguments.first().map(String::as_str) {
        Some("failover") => failover(arguments.get(1).and_then(|count| count.parse().ok()).unwrap_or(100)),
        _ => writes(),
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Sends registrations one after the other on one connection until the time is up; returns how many were acknowledged.
fn register(server: SocketAddr, token: &str, connection: usize) -> usize {
    let mut stream = TcpStream::connect(server).expect("the server listens");
    stream.set_nodelay(true).expect("the socket is open");
    let (start, mut done, mut buffer) = (Instant::now(), 0, vec![0; 16384]);
    while start.elapsed() < MEASURED {
        let body = format!(
            r#"{{"Node":"bench-{connection}","Address":"10.0.0.1","Service":{{"ID":"s","Service":"bench-{}","Port":{}}}}}"#,
            connection % 8,
            1 + done % 60000
        );
        let request = format!(
            "PUT /v1/catalog/register HTTP/1.1\r\nhost: {server}\r\nx-consul-token: {token}\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).expect("the server reads");
        let count = stream.read(&mut buffer).expect("the server answers");
        assert!(buffer[..count].starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&buffer[..count]));
        done += 1;
    }
    done
}

fn appends(directory: &std::path::Path) -> f64 {
    let mut file = File::create(directory.join("appends")).expect("the directory is writable");
    let (start, mut done) = (Instant::now(), 0_u32);
    while start.elapsed() < Duration::from_secs(1) {
        file.write_all(&[0; 512]).expect("the disk has room");
        file.sync_data().expect("the disk works");
        done += 1;
    }
    f64::from(done) / start.elapsed().as_secs_f64()
}

fn writes() {
    let mesh = Mesh::start(3);
    let leader = mesh.servers[mesh.leader()].http;
    let (mut rates, mut disk) = (Vec::new(), Vec::new());
    for _ in 0..REPETITIONS {
        disk.push(appends(mesh.directory.path()));
        let start = Instant::now();
        let done: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..CONNECTIONS)
                .map(|connection| {
                    scope.spawn({
                        let token = &mesh.token;
                        move || register(leader, token, connection)
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().expect("the writer ends well")).sum()
        });
        rates.push(done as f64 / start.elapsed().as_secs_f64());
    }
    let (rate, disk) = (median(rates), median(disk));
    println!("registrations acknowledged, {CONNECTIONS} at a time, three servers: {rate:.0}/s");
    println!("durable appends of 512 B, one at a time, the same disk:        {disk:.0}/s");
    println!("ratio: {:.2} (median of {REPETITIONS})", rate / disk);
}

fn failover(kills: usize) {
    let mut mesh = Mesh::start(3);
    let mut gaps = Vec::new();
    for kill in 0..kills {
        let leader = mesh.leader();
        let others: Vec<SocketAddr> =
            mesh.servers.iter().enumerate().filter(|(at, _)| *at != leader).map(|(_, server)| server.http).collect();
        mesh.servers[leader].kill();
        let start = Instant::now();
        let path = format!("/v1/connect/intentions/exact?source=kill-{kill}&destination=api");
        // The server retries inside until a leader is there, so that the answer's delay is the gap.
        while !others.iter().any(|server| {
            let headers = [("x-consul-token", mesh.token.as_str())];
            it::harness::exchange(*server, "PUT", &path, &headers, r#"{"Action":"allow"}"#)
                .is_ok_and(|answer| answer.status == 200)
        }) {}
        gaps.push(start.elapsed());
        mesh.start_server(leader);
        let restarted = &mesh.servers[leader];
        it::harness::eventually("the restarted server to catch up", Duration::from_secs(30), || {
            let answer = restarted.request("GET", "/v1/catalog/nodes?consistent", &mesh.token, "").ok()?;
            (answer.status == 200).then_some(())
        });
    }
    gaps.sort();
    let at = |share: f64| gaps[((gaps.len() - 1) as f64 * share).round() as usize].as_millis();
    println!(
        "{kills} leaders killed; until the next acknowledged write: p50 {} ms, p99 {} ms, max {} ms",
        at(0.5),
        at(0.99),
        at(1.0)
    );
}
