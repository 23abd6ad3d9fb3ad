//! Just enough HTTP/1.1 for a test server.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::net::TcpStream;

use super::repository::Content;

/// A request line and its headers, names in lower case.
#[derive(Debug, Clone)]
pub(super) struct Parsed {
    pub(super) method: String,
    /// Decoded, without the query.
    pub(super) path: String,
    pub(super) query: String,
    pub(super) headers: BTreeMap<String, String>,
    pub(super) body: Vec<u8>,
}

/// `None` when the client closed the connection.
pub(super) fn read_request(reader: &mut BufReader<TcpStream>) -> io::Result<Option<Parsed>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace();
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let (method, path, query) = (method.to_owned(), decode(path), query.to_owned());
    let mut parsed = Parsed { method, path, query, headers: BTreeMap::new(), body: Vec::new() };
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        match line.trim_end().split_once(':') {
            Some((name, value)) => parsed.headers.insert(name.to_ascii_lowercase(), value.trim().to_owned()),
            None => break,
        };
    }
    let length = parsed.headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    reader.take(length).read_to_end(&mut parsed.body)?;
    Ok(Some(parsed))
}

fn decode(path: &str) -> String {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let code = tail.get(..2).and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        match (first, code) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

impl Parsed {
    /// First byte of `Range: bytes=first-last`, and last where it is said.
    pub(super) fn range(&self) -> Option<(u64, Option<u64>)> {
        let (first, last) = self.headers.get("range")?.strip_prefix("bytes=")?.split_once('-')?;
        Some((first.parse().ok()?, last.parse().ok()))
    }
}

/// What is sent back.
#[derive(Debug, Clone)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Body,
}

#[derive(Debug, Clone)]
pub(super) enum Body {
    Text(String),
    /// A part of a file's content.
    Content {
        content: Content,
        from: u64,
        length: u64,
    },
}

impl Reply {
    pub(super) fn new(status: u16, text: impl Into<String>) -> Self {
        Self { status, headers: Vec::new(), body: Body::Text(text.into()) }
    }

    pub(super) fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    pub(super) fn length(&self) -> u64 {
        match &self.body {
            Body::Text(text) => text.len() as u64,
            Body::Content { length, .. } => *length,
        }
    }

    /// Status line and headers; `length` is what is announced.
    pub(super) fn head(&self, length: u64) -> String {
        let mut head = format!("HTTP/1.1 {} Test\r\nContent-Length: {length}\r\n", self.status);
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head + "\r\n"
    }

    /// Sends `count` bytes of the body, in pieces when `pause` asks for a pause after each.
    pub(super) fn send_body(
        &self,
        stream: &mut TcpStream,
        count: u64,
        piece: usize,
        pause: &mut dyn FnMut(),
    ) -> io::Result<u64> {
        match &self.body {
            Body::Text(text) => {
                let bytes = &text.as_bytes()[..text.len().min(count as usize)];
                for (index, piece) in bytes.chunks(piece.max(1)).enumerate() {
                    if index > 0 {
                        pause();
                    }
                    stream.write_all(piece)?;
                }
                Ok(bytes.len() as u64)
            }
            Body::Content { content: Content::Bytes(bytes), from, .. } => {
                let bytes = &bytes[*from as usize..][..count as usize];
                for piece in bytes.chunks(piece.max(1)) {
                    stream.write_all(piece)?;
                    pause();
                }
                Ok(count)
            }
            Body::Content { content: Content::File { path, .. }, from, .. } => {
                let mut file = File::open(path)?;
                file.seek(SeekFrom::Start(*from))?;
                let mut reader = BufReader::with_capacity(256 << 10, file.take(count));
                io::copy(&mut reader, stream)
            }
        }
    }
}
