//! A connected stream, unix or TCP.

use std::fs;
use std::io;

use rustix::io::Errno;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpStream, UnixStream};

use super::unread::Unread;
use super::{SendError, count, next_part, outq};
use crate::output::payload::Chunk;
use crate::output::throttle::Throttle;
use crate::telemetry::OutputCounters;

/// What a sending unix socket holds where the system does not say: the default of
/// `net.core.wmem_default`.
const UNIX_BUFFER: usize = 212_992;

/// The most that the socket of a TCP receiver may hold (the last of
/// `net.ipv4.tcp_rmem`), where this host's own does not say.
const TCP_WINDOW: usize = 6 << 20;

/// What a TCP socket may hold that has not gone to the network: what a write brings,
/// and little of it lost if the receiver dies.
const TCP_UNSENT: u32 = 128 << 10;

#[derive(Debug)]
enum Socket {
    Unix(UnixStream),
    Tcp(TcpStream),
}

/// A connection, and what its receiver may not have read.
#[derive(Debug)]
pub struct Stream {
    socket: Socket,
    unread: Unread,
}

impl Stream {
    pub(super) fn unix(socket: UnixStream) -> Self {
        let most = rustix::net::sockopt::socket_send_buffer_size(&socket);
        Self {
            socket: Socket::Unix(socket),
            unread: Unread::new(most.unwrap_or(UNIX_BUFFER)),
        }
    }

    /// # Errors
    /// When the socket does not take its settings.
    pub(super) fn tcp(socket: TcpStream) -> io::Result<Self> {
        // Lines are packed already; waiting for more only delays them.
        socket.set_nodelay(true)?;
        socket2::SockRef::from(&socket).set_tcp_notsent_lowat(TCP_UNSENT)?;
        Ok(Self {
            socket: Socket::Tcp(socket),
            unread: Unread::new(most_window() + TCP_UNSENT as usize),
        })
    }

    /// Ends the payload or line of which a part went, as [`super::Transport::finish`] does.
    pub(super) async fn finish(
        &mut self,
        chunk: &mut Chunk,
        counters: &OutputCounters,
    ) -> io::Result<()> {
        loop {
            let part = chunk.unwritten_of_cut();
            if part.is_empty() {
                return Ok(());
            }
            let bytes = self.write(part).await?;
            count(counters, chunk.wrote(bytes));
        }
    }

    async fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.socket {
            Socket::Unix(stream) => stream.write(bytes).await,
            Socket::Tcp(stream) => stream.write(bytes).await,
        }
    }

    /// Sends what is left of `chunk`, as [`super::Transport::send`] does.
    pub(super) async fn send(
        &mut self,
        chunk: &mut Chunk,
        throttle: &mut Throttle,
        counters: &OutputCounters,
    ) -> Result<(), SendError> {
        while !chunk.unwritten().is_empty() {
            let part = next_part(chunk, throttle);
            throttle.ready(part.len(), counters).await;
            if let Some(error) = self.hung_up() {
                return Err(SendError::Lost(error));
            }
            match self.write(part).await {
                Ok(0) => return Err(SendError::Lost(io::ErrorKind::WriteZero.into())),
                Ok(bytes) => {
                    throttle.went(bytes);
                    let passed = chunk.wrote(bytes);
                    self.unread.note(bytes, passed.lines);
                    count(counters, passed);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(SendError::Lost(error)),
            }
        }
        Ok(())
    }

    /// Whether the receiver has closed its end, as far as the runtime has been told;
    /// what it says is discarded.
    fn hung_up(&self) -> Option<io::Error> {
        loop {
            let outcome = match &self.socket {
                Socket::Unix(stream) => stream.try_read(&mut [0; 1024]),
                Socket::Tcp(stream) => stream.try_read(&mut [0; 1024]),
            };
            match outcome {
                Ok(0) => {
                    return Some(io::Error::new(
                        io::ErrorKind::UnexpectedEof,
                        "the receiver closed the connection",
                    ));
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
                Err(error) => return Some(error),
            }
        }
    }

    /// Waits until the receiver closes its end.
    pub(super) async fn closed(&mut self) -> io::Error {
        loop {
            let ready = match &self.socket {
                Socket::Unix(stream) => stream.readable().await,
                Socket::Tcp(stream) => stream.readable().await,
            };
            if let Some(error) = ready.err().or_else(|| self.hung_up()) {
                return error;
            }
        }
    }

    /// Forgets what has been read.
    pub(super) fn look(&mut self) {
        // Of TCP it is known to have arrived, and no more.
        if let Socket::Unix(stream) = &self.socket
            && outq::is_empty(stream)
        {
            self.unread.clear();
        }
    }

    /// Lines that the receiver may not have read when the connection was lost.
    pub(super) fn lines_at_risk(&self, error: Option<&io::Error>) -> u64 {
        let is_all_read = match &self.socket {
            // A socket that is closed over unread bytes resets the connection.
            Socket::Unix(stream) => match error {
                Some(error) if is_end(error) => {
                    stream.take_error().is_ok_and(|error| error.is_none()) && outq::is_empty(stream)
                }
                Some(_) => false,
                None => outq::is_empty(stream),
            },
            Socket::Tcp(stream) => {
                error.is_some_and(|error| error.kind() == io::ErrorKind::UnexpectedEof)
                    && outq::is_empty(stream)
            }
        };
        if is_all_read { 0 } else { self.unread.lines() }
    }
}

/// Whether this is how an orderly end shows.
fn is_end(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::UnexpectedEof || Errno::from_io_error(error) == Some(Errno::PIPE)
}

/// The most that a receiver's socket holds, if its host is set up as this one is.
fn most_window() -> usize {
    let sizes = fs::read_to_string("/proc/sys/net/ipv4/tcp_rmem").unwrap_or_default();
    let most = sizes.split_ascii_whitespace().nth(2);
    most.and_then(|most| most.parse().ok())
        .unwrap_or(TCP_WINDOW)
}
