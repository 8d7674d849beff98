//! The small HTTP service that stands beside each agent of the demo, and the calls that it is asked to make.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::Context;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// How often the endless answer says something.
const TICK: Duration = Duration::from_millis(100);
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// No request of the demo is longer.
const REQUEST_BYTES_MAX: usize = 4096;

/// Is a service that answers `/` with its name, and `/ticks` without end.
pub(super) struct App {
    pub(super) address: SocketAddr,
    server: JoinHandle<()>,
}

impl App {
    pub(super) async fn start(greeting: String) -> anyhow::Result<Self> {
        let listener =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("opening a port for a demo service")?;
        let address = listener.local_addr().context("reading the port of a demo service")?;
        let server = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let greeting = greeting.clone();
                tokio::spawn(async move { answer(stream, &greeting).await });
            }
        });
        Ok(Self { address, server })
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn answer(mut stream: TcpStream, greeting: &str) -> std::io::Result<()> {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") && request.len() < REQUEST_BYTES_MAX {
        if stream.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    }
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\nconnection: close\r\n";
    if !request.starts_with(b"GET /ticks ") {
        let body = format!("{head}content-length: {}\r\n\r\n{greeting}\n", greeting.len() + 1);
        return stream.write_all(body.as_bytes()).await;
    }
    stream.write_all(format!("{head}\r\n").as_bytes()).await?;
    let mut ticks = tokio::time::interval(TICK);
    loop {
        ticks.tick().await;
        stream.write_all(b"tick\n").await?;
    }
}

/// Calls a service through a local listener, and returns what it said and how long that took.
///
/// # Errors
/// If the connection is refused or closed before an answer; the text says which.
pub(super) async fn call(listener: SocketAddr) -> Result<(String, Duration), String> {
    let start = Instant::now();
    let exchange = async {
        let mut stream = request(listener, "/").await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    let answer = match tokio::time::timeout(CALL_TIMEOUT, exchange).await {
        Err(_) => return Err(format!("no answer within {} s", CALL_TIMEOUT.as_secs())),
        Ok(Err(error)) => return Err(format!("{error}, after {} ms", start.elapsed().as_millis())),
        Ok(Ok(answer)) => answer,
    };
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.starts_with("HTTP/1.1 200 ") => Ok((body.trim().to_owned(), start.elapsed())),
        _ => Err(format!("the connection was closed without an answer, after {} ms", start.elapsed().as_millis())),
    }
}

async fn request(listener: SocketAddr, path: &str) -> std::io::Result<TcpStream> {
    let mut stream = TcpStream::connect(listener).await?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: demo\r\nconnection: close\r\n\r\n").as_bytes()).await?;
    Ok(stream)
}

/// Is a call whose answer does not end, for seeing when it is cut.
pub(super) struct OpenCall {
    stream: TcpStream,
    ticks: usize,
}

impl OpenCall {
    pub(super) async fn start(listener: SocketAddr) -> anyhow::Result<Self> {
        let stream = request(listener, "/ticks").await.context("opening a call that stays open")?;
        Ok(Self { stream, ticks: 0 })
    }

    /// Waits for the next ticks; returns how many came in all, or nothing if the call was cut.
    pub(super) async fn listen(&mut self) -> Option<usize> {
        let mut bytes = [0; 1024];
        let count = self.stream.read(&mut bytes).await.ok().filter(|count| *count > 0)?;
        self.ticks += bytes[..count].split(|b| *b == b'\n').filter(|line| line.ends_with(b"tick")).count();
        Some(self.ticks)
    }
}
