//! A minimal NATS client that queries a server without the client under test.

use crate::frames::{Frame, Frames};
use serde_json::{Value, json};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// A plain connection that has read the server's `INFO`.
pub struct Wire {
    stream: TcpStream,
    frames: Frames,
    info: Value,
    requests: u32,
}

impl Wire {
    /// Connects and reads `INFO`.
    pub async fn open(addr: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(addr).await?;
        let mut wire = Self { stream, frames: Frames::default(), info: Value::Null, requests: 0 };
        let frame = wire.frame().await?;
        let info = frame.line().strip_prefix("INFO ").ok_or_else(|| bad(frame.line()))?;
        wire.info = serde_json::from_str(info)?;
        Ok(wire)
    }

    /// Connects, sends `CONNECT` without credentials, and waits for `PONG`.
    pub async fn connect(addr: SocketAddr) -> io::Result<Self> {
        let mut wire = Self::open(addr).await?;
        let hello = json!({
            "verbose": false, "pedantic": false, "headers": true, "no_responders": true,
            "lang": "rust", "version": "0", "name": "harness",
        });
        wire.send(format!("CONNECT {hello}\r\nPING\r\n").as_bytes()).await?;
        while wire.frame().await?.line() != "PONG" {}
        Ok(wire)
    }

    /// Returns the server's `INFO`.
    pub fn info(&self) -> &Value {
        &self.info
    }

    /// Sends bytes unmodified.
    pub async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await
    }

    /// Returns the next frame from the server. Answers `PING`s itself and skips them.
    async fn frame(&mut self) -> io::Result<Frame> {
        loop {
            while let Some(frame) = self.frames.next() {
                match frame.line() {
                    "PING" => self.send(b"PONG\r\n").await?,
                    line if line.starts_with("-ERR") => return Err(bad(line)),
                    _ => return Ok(frame),
                }
            }
            let mut bytes = [0; 4096];
            match self.stream.read(&mut bytes).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => self.frames.push(&bytes[..n]),
            }
        }
    }

    /// Sends a request and waits for the reply's payload. Returns an error if the reply has headers, such as "no
    /// responders".
    pub async fn request(&mut self, subject: &str, payload: &[u8]) -> io::Result<Vec<u8>> {
        self.request_with(subject, b"", payload).await
    }

    /// Sends a request with an unvalidated block of headers and waits for the reply's payload.
    pub async fn request_with(&mut self, subject: &str, headers: &[u8], payload: &[u8]) -> io::Result<Vec<u8>> {
        self.requests += 1;
        let id = self.requests;
        let inbox = format!("_INBOX.harness.{:p}.{}.{id}", self, std::process::id());
        let (verb, length) = match headers.len() {
            0 => ("PUB", payload.len().to_string()),
            headers => ("HPUB", format!("{headers} {}", headers + payload.len())),
        };
        let head = format!("SUB {inbox} {id}\r\nUNSUB {id} 1\r\n{verb} {subject} {inbox} {length}\r\n");
        self.send(&[head.as_bytes(), headers, payload, b"\r\n"].concat()).await?;
        loop {
            let frame = self.frame().await?;
            let mut words = frame.line().split(' ');
            match (words.next(), words.next()) {
                (Some("MSG"), Some(to)) if to == inbox => return Ok(frame.body().to_vec()),
                (Some("HMSG"), Some(to)) if to == inbox => {
                    return Err(bad(&String::from_utf8_lossy(frame.body())));
                }
                _ => {}
            }
        }
    }

    /// Subscribes to a subject for one message, and returns its reply subject and payload.
    pub async fn receive(&mut self, subject: &str) -> io::Result<(String, Vec<u8>)> {
        self.send(format!("SUB {subject} recv\r\nUNSUB recv 1\r\n").as_bytes()).await?;
        loop {
            let frame = self.frame().await?;
            let words: Vec<_> = frame.line().split(' ').collect();
            if let ["MSG", _, "recv", reply, _] = words[..] {
                return Ok((reply.to_owned(), frame.body().to_vec()));
            }
        }
    }
}

/// Sends a JetStream API request on a fresh connection and returns the answer, which may be an API error. Returns an
/// error if no answer arrives within `limit`.
pub async fn api(addr: SocketAddr, subject: &str, payload: &Value, limit: Duration) -> io::Result<Value> {
    let asking = async {
        let payload = if payload.is_null() { String::new() } else { payload.to_string() };
        let mut wire = Wire::connect(addr).await?;
        let answer = wire.request(subject, payload.as_bytes()).await?;
        Ok(serde_json::from_slice(&answer)?)
    };
    timeout(limit, asking).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

fn bad(said: &str) -> io::Error {
    io::Error::other(format!("the server said {said:?}"))
}
