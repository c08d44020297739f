//! Senders that speak raw bytes.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use conntally::address::Address;

/// A payload behind its little-endian length.
pub(crate) fn framed(payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap();
    [&length.to_le_bytes()[..], payload].concat()
}

/// A connection to a stream listener of either kind.
#[derive(Debug)]
pub(crate) enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Stream {
    /// Connects to an address as a listener's configuration has it. What is written over TCP
    /// is sent at once.
    #[track_caller]
    pub(crate) fn connect(address: &str) -> Self {
        match address.parse().unwrap() {
            Address::UnixStream(path) => Self::Unix(UnixStream::connect(path).unwrap()),
            Address::Tcp(end) => {
                let stream = TcpStream::connect((end.host.as_str(), end.port)).unwrap();
                stream.set_nodelay(true).unwrap();
                Self::Tcp(stream)
            }
            other => panic!("no streams go to {other}"),
        }
    }

    pub(crate) fn set_read_timeout(&self, limit: Duration) {
        let set = match self {
            Self::Unix(stream) => stream.set_read_timeout(Some(limit)),
            Self::Tcp(stream) => stream.set_read_timeout(Some(limit)),
        };
        set.unwrap();
    }

    pub(crate) fn set_nonblocking(&self) {
        let set = match self {
            Self::Unix(stream) => stream.set_nonblocking(true),
            Self::Tcp(stream) => stream.set_nonblocking(true),
        };
        set.unwrap();
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.read(buffer),
            Self::Tcp(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    #[expect(
        clippy::disallowed_methods,
        reason = "whoever calls it takes short writes"
    )]
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.write(bytes),
            Self::Tcp(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Connects, writes, and closes.
pub(crate) fn send(socket: &Path, bytes: &[u8]) {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.write_all(bytes).unwrap();
}

/// A port that nobody uses just now.
pub(crate) fn free_udp_port() -> u16 {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.local_addr().unwrap().port()
}

/// A port that nobody listens on just now.
pub(crate) fn free_tcp_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}
