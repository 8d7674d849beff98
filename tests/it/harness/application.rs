//! An application that answers each request with its first line.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;

/// Answers each request with its first line, on the port that it returns.
pub(crate) fn application() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            std::thread::spawn(move || {
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                let mut first = String::new();
                while reader.read_line(&mut first).is_ok_and(|read| read > 0) {
                    let (mut line, mut length, mut is_last) = (String::new(), 0, false);
                    while reader.read_line(&mut line).is_ok_and(|read| read > 2) {
                        let field = line.to_ascii_lowercase();
                        if let Some(text) = field.strip_prefix("content-length:") {
                            length = text.trim().parse().unwrap();
                        }
                        is_last |= field.trim() == "connection: close";
                        line.clear();
                    }
                    let mut body = vec![0; length];
                    let text = first.trim().to_owned();
                    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{text}", text.len());
                    let is_answered =
                        reader.read_exact(&mut body).is_ok() && stream.write_all(answer.as_bytes()).is_ok();
                    if is_last || !is_answered {
                        return;
                    }
                    first.clear();
                }
            });
        }
    });
    port
}
