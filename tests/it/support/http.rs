//! Asking an HTTP server over TCP as any program may.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

/// What it answered.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    /// In lower case.
    pub(crate) head: String,
    pub(crate) body: String,
}

/// Reads a whole response; none where the connection ended before.
pub(crate) fn read(mut stream: TcpStream) -> Option<Response> {
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    Some(Response {
        status: head.split(' ').nth(1)?.parse().ok()?,
        head: head.to_ascii_lowercase(),
        body: body.to_owned(),
    })
}

/// Asks by HTTP/1.0, whose bodies come without frames; none while nobody answers.
pub(crate) fn ask(to: SocketAddr, request: &str, accept: &str) -> Option<Response> {
    let mut stream = TcpStream::connect(to).ok()?;
    write!(stream, "{request} HTTP/1.0\r\nAccept: {accept}\r\n\r\n").ok()?;
    read(stream)
}
