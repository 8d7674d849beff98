//! What a connection through two agents costs, beside a direct one in the same run.
//!
//! `cargo bench --bench data_plane` prints bytes, requests and connections per second, direct and through the mesh, and
//! the ratio of the medians. `cargo bench --bench data_plane -- stalled` prints how long a stream of a tunnel waits for its
//! answers, alone and beside 63 others that nobody reads.

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
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use it::harness::{Mesh, Service, eventually, free_port};

const REPETITIONS: usize = 5;
const MEASURED: Duration = Duration::from_secs(2);
const MESSAGE: usize = 1024;
const BULK: usize = 1 << 16;
/// How many streams of a tunnel nobody reads.
const STALLED: usize = 63;
/// How often the last one asks.
const ASKED: usize = 5000;
/// When nothing was written for so long, all that can be held is.
const STILL: Duration = Duration::from_millis(500);

/// How much was written to those who do not read.
static WRITTEN: AtomicU64 = AtomicU64::new(0);

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
    match &kind {
        b"B" => return flood(stream),
        // A request: the first letter of its method.
        b"G" => return answer_requests(stream),
        _ => {}
    }
    let mut message = vec![0; MESSAGE];
    loop {
        stream.read_exact(&mut message)?;
        stream.write_all(&message)?;
    }
}

fn flood(mut stream: TcpStream) -> std::io::Result<()> {
    let block = vec![b'x'; BULK];
    loop {
        stream.write_all(&block)?;
        WRITTEN.fetch_add(BULK as u64, Ordering::Relaxed);
    }
}

/// Answers `/bulk` without end, and everything else with 1 KiB.
fn answer_requests(stream: TcpStream) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    while reader.read_line(&mut line)? > 0 {
        let is_bulk = line.contains("/bulk");
        while line != "\r\n" {
            line.clear();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
        }
        line.clear();
        let length = if is_bulk { 1 << 40 } else { MESSAGE };
        write!(reader.get_mut(), "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n")?;
        if is_bulk {
            return flood(reader.into_inner());
        }
        reader.get_mut().write_all(&[b'x'; MESSAGE])?;
    }
    Ok(())
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

/// Asks for 1 KiB, and reads the answer whole.
fn get(stream: &mut TcpStream, buffer: &mut [u8]) {
    stream.write_all(b"GET / HTTP/1.1\r\nhost: pages\r\n\r\n").expect("it reads");
    let (mut read, mut end) = (0, None);
    while end.is_none_or(|end| read < end) {
        let count = stream.read(&mut buffer[read..]).expect("it answers");
        assert!(count > 0, "{}", String::from_utf8_lossy(&buffer[..read]));
        read += count;
        let head = buffer[..read].windows(4).position(|bytes| bytes == b"\r\n\r\n");
        end = end.or_else(|| head.map(|at| at + 4 + MESSAGE));
    }
    assert!(buffer.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&buffer[..read]));
}

/// Says how a stream is asked something, and how one is opened that nobody reads.
struct Carried {
    name: &'static str,
    upstream: SocketAddr,
    first: &'static [u8],
    endless: &'static [u8],
    ask: fn(&mut TcpStream, &mut [u8]),
}

impl Carried {
    fn open(&self, first: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(self.upstream).expect("it listens");
        stream.set_nodelay(true).expect("the socket is open");
        stream.write_all(first).expect("it reads");
        stream
    }

    /// Returns in which time, in microseconds, 99 of 100 answers came.
    fn p99(&self) -> f64 {
        let (mut stream, mut buffer) = (self.open(self.first), vec![1; MESSAGE * 2]);
        let mut took: Vec<f64> = (0..ASKED)
            .map(|_| {
                let start = Instant::now();
                (self.ask)(&mut stream, &mut buffer);
                start.elapsed().as_secs_f64() * 1e6
            })
            .collect();
        took.sort_by(f64::total_cmp);
        took[ASKED * 99 / 100]
    }

    /// Opens streams that are never read, and waits until nobody can write to them any more.
    fn stall(&self) -> Vec<TcpStream> {
        let mut stalled: Vec<TcpStream> = (0..STALLED).map(|_| self.open(self.endless)).collect();
        for stream in &mut stalled {
            stream.read_exact(&mut [0]).expect("it has begun");
        }
        let (mut before, mut since) = (WRITTEN.load(Ordering::Relaxed), Instant::now());
        while since.elapsed() < STILL {
            std::thread::sleep(Duration::from_millis(10));
            let now = WRITTEN.load(Ordering::Relaxed);
            if std::mem::replace(&mut before, now) != now {
                since = Instant::now();
            }
        }
        stalled
    }
}

/// How long the last of 64 streams waits for its answers, when the others are not there, and when nobody reads them.
fn stalled() {
    let app = TcpListener::bind(("127.0.0.1", 0)).expect("loopback has free ports");
    let port = app.local_addr().expect("it is bound").port();
    std::thread::spawn(move || serve(app));
    let mut mesh = Mesh::start(1);
    let [bytes, pages] = [free_port(), free_port()];
    let defaults = mesh.directory.path().join("pages.hcl");
    std::fs::write(&defaults, "kind = \"service-defaults\"\nname = \"pages\"\nprotocol = \"http\"\n").unwrap();
    mesh.done(&["config", "write", &defaults.display().to_string()]);
    mesh.join("api-1", &[Service { name: "api", port, upstreams: vec![] }]);
    mesh.join("pages-1", &[Service { name: "pages", port, upstreams: vec![] }]);
    let upstreams = vec![("api", bytes), ("pages", pages)];
    let web = mesh.join("web-1", &[Service { name: "web", port: free_port(), upstreams }]);
    for destination in ["api", "pages"] {
        mesh.done(&["intention", "create", "--allow", "web", destination]);
    }
    let of = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
    let carried = [
        Carried {
            name: "bytes",
            upstream: of(bytes),
            first: b"E",
            endless: b"B",
            ask: |stream, buffer| echo(stream, &mut buffer[..MESSAGE]),
        },
        Carried {
            name: "requests",
            upstream: of(pages),
            first: b"",
            endless: b"GET /bulk HTTP/1.1\r\nhost: pages\r\n\r\n",
            ask: get,
        },
    ];
    println!("{:34} {:>12} {:>12} {:>7}", "p99 in us, median of 5, interleaved", "alone", "63 stalled", "ratio");
    for one in &carried {
        eventually("the calls to be allowed", Duration::from_secs(30), || {
            let mut stream = TcpStream::connect(one.upstream).ok()?;
            stream.write_all(one.endless).ok()?;
            let mut begun = [0; 12];
            stream.read_exact(&mut begun).ok()?;
            (begun == *b"HTTP/1.1 200" || begun == [b'x'; 12]).then_some(())
        });
        one.p99();
        let handshakes = || mesh.agents[web].metrics().sum("weft_proxy_handshakes_total", &[("direction", "outbound")]);
        let before = handshakes();
        let (mut alone, mut beside) = (Vec::new(), Vec::new());
        for _ in 0..REPETITIONS {
            alone.push(one.p99());
            let stalled = one.stall();
            beside.push(one.p99());
            drop(stalled);
        }
        assert_eq!(handshakes(), before, "all are streams of one tunnel");
        let (alone, beside) = (median(alone), median(beside));
        println!("{:34} {alone:12.0} {beside:12.0} {:7.2}", one.name, beside / alone);
    }
}

fn main() {
    match std::env::args().skip(1).find(|argument| argument != "--bench").as_deref() {
        Some("stalled") => stalled(),
        _ => throughput(),
    }
}

fn throughput() {
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
