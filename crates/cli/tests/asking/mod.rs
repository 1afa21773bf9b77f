//! Requests to the admin address of a node, and waiting for answers.
#![allow(dead_code, reason = "every test binary uses a part of it")]

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// A machine that builds and tests beside this takes its time.
const PATIENCE: Duration = Duration::from_secs(60);

/// Asks a node's admin address: `request` is method and path. Answers the status and the body.
pub(crate) fn http(address: &str, request: &str, headers: &[&str], body: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
    let length = body.len();
    let head =
        format!("{request} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Length: {length}\r\n");
    stream.write_all(format!("{head}{headers}\r\n{body}").as_bytes()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let in_chunks = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    (status, if in_chunks { whole(body) } else { body.to_owned() })
}

/// What chunks (RFC 9112, 7.1) amount to.
fn whole(mut chunks: &str) -> String {
    let mut text = String::new();
    while let Some((length, rest)) = chunks.split_once("\r\n") {
        let length = usize::from_str_radix(length.trim(), 16).unwrap();
        if length == 0 {
            break;
        }
        text.push_str(&rest[..length]);
        chunks = &rest[length + 2..];
    }
    text
}

/// Asks until there is an answer.
pub(crate) fn until_told<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let gives_up = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = ask() {
            return found;
        }
        assert!(Instant::now() < gives_up, "{what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}
