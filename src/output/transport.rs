//! The way out: a connected socket, or standard output.
//!
//! Streams take a chunk in one write where they can; datagram sockets take its
//! payloads one by one. A receiver that is slow is waited for. What has gone is
//! noted in the chunk as it goes, so that after a failure the next connection
//! goes on at the payload that was cut, and nowhere else.

mod connect;
mod datagram;
mod outq;
mod stdout;
mod stream;
#[cfg(test)]
mod tests;
mod udp;
mod unread;

use std::io;
use std::path::Path;
use std::time::Duration;

use rustix::io::Errno;
use tokio::time::sleep;

pub use self::connect::ConnectError;
pub use self::datagram::Datagrams;
pub use self::stream::Stream;
pub use self::udp::Udp;
use super::own::OwnListeners;
use super::payload::{Chunk, Passed};
use super::throttle::Throttle;
use crate::address::{Address, FileStamp};
use crate::telemetry::OutputCounters;

/// How long to wait when the kernel is out of memory for datagrams (`ENOBUFS`),
/// which no readiness announces the end of.
const MEMORY_PAUSE: Duration = Duration::from_millis(5);

/// Why sending stopped before the chunk's end.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The next payload is larger than the transport takes. The connection is good.
    #[error("the payload is too large for the transport: lower max_payload")]
    TooLarge,
    /// The last datagram was refused (UDP), and is the next one again.
    #[error("nobody listens there")]
    Refused(#[source] io::Error),
    /// The connection is lost; another may be made.
    #[error("the connection is lost")]
    Lost(#[source] io::Error),
    /// Nobody reads, and nobody will.
    #[error("the reader is gone")]
    Gone,
}

/// By what a connection goes.
#[derive(Debug)]
enum Socket {
    /// `udp://`
    Udp(Udp),
    /// `unixgram://`
    Unixgram(Datagrams),
    /// `unixstream://`, `tcp://`
    Stream(Stream),
    /// `stdout:`
    Stdout,
}

/// A connection.
#[derive(Debug)]
pub struct Transport {
    socket: Socket,
    /// The socket file that it goes by, as it was before it was connected to.
    file: Option<FileStamp>,
}

impl Transport {
    /// Connects to `address`, by whichever of its kinds and hosts answers.
    ///
    /// # Errors
    ///
    /// When the name is not known, nobody answers in time, or it would be `own`.
    pub async fn connect(address: &Address, own: &OwnListeners) -> Result<Self, ConnectError> {
        let file = address.path().and_then(|path| FileStamp::of(path).ok());
        let socket = match address {
            Address::Udp(end) => Udp::connect(end, own.udp()).await.map(Socket::Udp),
            Address::Tcp(end) => connect::tcp(end, own.tcp()).await.map(Socket::Stream),
            Address::UnixDatagram(path) => connect::unix_datagram(path).map(Socket::Unixgram),
            Address::UnixStream(path) => connect::unix_stream(path).await.map(Socket::Stream),
            Address::Unix(path) => match connect::unix_datagram(path) {
                Err(ConnectError::Connect { source, .. })
                    if Errno::from_io_error(&source) == Some(Errno::PROTOTYPE) =>
                {
                    connect::unix_stream(path).await.map(Socket::Stream)
                }
                outcome => outcome.map(Socket::Unixgram),
            },
            Address::Stdout => Ok(Socket::Stdout),
        };
        socket.map(|socket| Self { socket, file })
    }

    /// Whether a receiver can be reached now. One over UDP that says nothing counts as reached.
    ///
    /// # Errors
    ///
    /// When the name is not known, or nobody answers in time.
    pub async fn probe(address: &Address) -> Result<(), ConnectError> {
        let mut transport = Self::connect(address, &OwnListeners::default()).await?;
        if let Socket::Udp(udp) = &mut transport.socket {
            let probed = udp.probe().await;
            probed.map_err(|source| ConnectError::to(address, source))?;
        }
        Ok(())
    }

    /// The same, that is to show with its first payload that somebody listens, where that
    /// does not show before.
    #[must_use]
    pub const fn on_trial(mut self) -> Self {
        if let Socket::Udp(udp) = &mut self.socket {
            udp.is_on_trial = true;
        }
        self
    }

    /// Sends what is left of `chunk` and counts it, waiting for the rate that `throttle`
    /// holds, and for the receiver where it is slow. What went before an error, or before the future is dropped, is
    /// noted in the chunk.
    ///
    /// # Errors
    ///
    /// When the connection is lost, or the next payload can't be sent by it.
    pub async fn send(
        &mut self,
        chunk: &mut Chunk,
        throttle: &mut Throttle,
        counters: &OutputCounters,
    ) -> Result<(), SendError> {
        match &mut self.socket {
            Socket::Udp(udp) => udp.send(chunk, throttle, counters).await,
            Socket::Unixgram(datagrams) => datagrams.send(chunk, throttle, counters).await,
            Socket::Stream(stream) => stream.send(chunk, throttle, counters).await,
            Socket::Stdout => stdout::print(chunk, throttle, counters).await,
        }
    }

    /// Ends the payload of a stream, or between newlines the line, of which a part went: the
    /// receiver may take what it has of a line for one. The rate does not hold it up.
    ///
    /// # Errors
    /// When the connection is lost.
    pub async fn finish(&mut self, chunk: &mut Chunk, counters: &OutputCounters) -> io::Result<()> {
        match &mut self.socket {
            Socket::Stream(stream) => stream.finish(chunk, counters).await,
            Socket::Udp(_) | Socket::Unixgram(_) | Socket::Stdout => Ok(()),
        }
    }

    /// Waits until the receiver closes its end, where that shows; what it says is
    /// discarded.
    pub async fn closed(&mut self) -> io::Error {
        match &mut self.socket {
            Socket::Stream(stream) => stream.closed().await,
            Socket::Udp(_) | Socket::Unixgram(_) | Socket::Stdout => std::future::pending().await,
        }
    }

    /// Asks whether a unix receiver is still who stands at its path, and lives: to be
    /// called now and then. `None` while all is well.
    pub fn look(&mut self, path: &Path) -> Option<Changed> {
        // While there is no file, whoever was connected to is still there.
        if let Ok(file) = FileStamp::of(path)
            && self.file.replace(file).is_some_and(|before| before != file)
        {
            return Some(Changed::Replaced);
        }
        match &mut self.socket {
            Socket::Stream(stream) => {
                stream.look();
                None
            }
            Socket::Unixgram(datagrams) => datagrams.look(path).map(Changed::Dead),
            Socket::Udp(_) | Socket::Stdout => None,
        }
    }

    /// Lines that went and that the receiver may not have read: it is gone, as `error`
    /// tells, or has been left for another.
    #[must_use]
    pub fn lines_at_risk(&self, error: Option<&io::Error>) -> u64 {
        match &self.socket {
            Socket::Stream(stream) => stream.lines_at_risk(error),
            Socket::Unixgram(datagrams) => datagrams.lines_at_risk(),
            Socket::Udp(_) | Socket::Stdout => 0,
        }
    }

    /// Takes the next of a UDP receiver's addresses, after a refusal. Says whether there
    /// was one that has not refused too.
    ///
    /// # Errors
    ///
    /// [`SendError::Lost`] when that address can't be used.
    pub async fn next_address(&mut self) -> Result<bool, SendError> {
        match &mut self.socket {
            Socket::Udp(udp) => udp.next_address().await.map_err(SendError::Lost),
            _ => Ok(false),
        }
    }
}

/// What a look at a receiver showed.
#[derive(Debug)]
pub enum Changed {
    /// Another stands at its path.
    Replaced,
    /// It is gone.
    Dead(io::Error),
}

fn count(counters: &OutputCounters, passed: Passed) {
    counters.sent.add(passed.lines);
    counters.payloads.add(passed.payloads);
    counters.bytes.add(passed.bytes);
}

/// What an error of a datagram socket means for the payload: try again
/// (`Ok`), or not. Waiting for room has been done before it comes to this.
async fn consider(error: io::Error) -> Result<(), SendError> {
    match Errno::from_io_error(&error) {
        Some(Errno::NOBUFS | Errno::NOMEM) => {
            sleep(MEMORY_PAUSE).await;
            Ok(())
        }
        Some(Errno::INTR) => Ok(()),
        Some(Errno::MSGSIZE) => Err(SendError::TooLarge),
        _ => Err(SendError::Lost(error)),
    }
}

/// What a stream is to take next of `chunk`: all of it, unless a rate is to be held,
/// which goes by payloads.
fn next_part<'a>(chunk: &'a Chunk, throttle: &Throttle) -> &'a [u8] {
    if throttle.holds() {
        chunk.unwritten_payload()
    } else {
        chunk.unwritten()
    }
}
