//! What a connection through two agents costs, beside a direct one in the same run.
//!
//! `cargo bench --bench data_plane` prints bytes, requests and connections per second, direct and through the mesh, and
//! the ratio of the medians.

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
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    time::{Duration, Instant},
};

use it::harness::{Mesh, Service, eventually, free_port};

const REPETITIONS: usize = 5;
const MEASURED: Duration = Duration::from_secs(2);
const MESSAGE: usize = 1024;
const BULK: usize = 1 << 16;

/// Echoes messages of 1 KiB, or sends without end to whoever says `B` first.
fn serve(listener: TcpListener) {
    for stream in listener.incoming().flatten() {
        std::thread::spawn(move || answer(stream));
    }
}

fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut kind = [0];
    stream.read_exact(&mut kind)?;
    if kind == *b"B" {
        let block = vec![b'x'; BULK];
        loop {
            stream.write_all(&block)?;
        }
    }
    let mut message = vec![0; MESSAGE];
    loop {
        stream.read_exact(&mut message)?;
        stream.write_all(&message)?;
    }
}

fn open(address: SocketAddr, kind: u8) -> TcpStream {
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.set_nodelay(true).expect("the socket is open");
    stream.write_all(&[kind]).expect("it reads");
    stream
}

fn echo(stream: &mut TcpStream, message: &mut [u8]) {
    stream.write_all(message).expect("it reads");
    stream.read_exact(message).expect("it answers");
}

fn rate(mut once: impl FnMut() -> usize) -> f64 {
    let (start, mut total) = (Instant::now(), 0);
    while start.elapsed() < MEASURED {
        total += once();
    }
    total as f64 / start.elapsed().as_secs_f64()
}

fn bulk(address: SocketAddr) -> f64 {
    let (mut stream, mut block) = (open(address, b'B'), vec![0; BULK]);
    rate(|| stream.read(&mut block).expect("it sends")) / 1e6
}

fn requests(address: SocketAddr) -> f64 {
    let (mut stream, mut message) = (open(address, b'E'), vec![1; MESSAGE]);
    rate(|| {
        echo(&mut stream, &mut message);
        1
    })
}

fn connections(address: SocketAddr) -> f64 {
    let mut message = vec![1; MESSAGE];
    rate(|| {
        echo(&mut open(address, b'E'), &mut message);
        1
    })
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Measures one thing through an address.
type Measure = fn(SocketAddr) -> f64;

fn main() {
    let app = TcpListener::bind(("127.0.0.1", 0)).expect("loopback has free ports");
    let direct = app.local_addr().expect("it is bound");
    std::thread::spawn(move || serve(app));
    let mut mesh = Mesh::start(1);
    let upstream = free_port();
    mesh.join("api-1", &[Service { name: "api", port: direct.port(), upstreams: vec![] }]);
    mesh.join("web-1", &[Service { name: "web", port: free_port(), upstreams: vec![("api", upstream)] }]);
    mesh.done(&["intention", "create", "--allow", "web", "api"]);
    let through = SocketAddr::from(([127, 0, 0, 1], upstream));
    eventually("the call to be allowed", Duration::from_secs(30), || {
        let mut stream = TcpStream::connect(through).ok()?;
        stream.write_all(b"E").ok()?;
        stream.write_all(&[1; MESSAGE]).ok()?;
        stream.read_exact(&mut [0; MESSAGE]).ok()
    });
    let measures: [(&str, Measure); 3] = [
        ("bulk, MB/s", bulk),
        ("1 KiB requests/s, one connection", requests),
        ("new connections/s, one at a time", connections),
    ];
    println!("{:34} {:>12} {:>12} {:>7}", "median of 5, interleaved", "direct", "two agents", "ratio");
    for (name, measure) in measures {
        let (mut plain, mut meshed) = (Vec::new(), Vec::new());
        for _ in 0..REPETITIONS {
            plain.push(measure(direct));
            meshed.push(measure(through));
        }
        let (plain, meshed) = (median(plain), median(meshed));
        println!("{name:34} {plain:12.0} {meshed:12.0} {:7.3}", meshed / plain);
    }
}
