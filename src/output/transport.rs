//! The way out: a connected socket, or standard output.
//!
//! Streams take a chunk in one write where they can; datagram sockets take its
//! payloads one by one. A receiver that is slow is waited for. What has gone is
//! noted in the chunk as it goes, so that after a failure the next connection
//! goes on at the payload that was cut, and nowhere else.

mod connect;
mod stdout;
#[cfg(test)]
mod tests;
mod udp;

use std::io;
use std::time::Duration;

use rustix::io::Errno;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpStream, UnixDatagram, UnixStream};
use tokio::time::sleep;

pub use self::connect::ConnectError;
pub use self::udp::Udp;
use super::own::OwnListeners;
use super::payload::{Chunk, Passed};
use super::throttle::Throttle;
use crate::address::Address;
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
    /// An earlier datagram was refused (UDP). The connection is good.
    #[error("nobody listens there")]
    Refused,
    /// The connection is lost; another may be made.
    #[error("the connection is lost")]
    Lost(#[source] io::Error),
    /// Nobody reads, and nobody will.
    #[error("the reader is gone")]
    Gone,
}

/// A connection.
#[derive(Debug)]
pub enum Transport {
    /// `udp://`
    Udp(Udp),
    /// `unixgram://`
    UnixDatagram(UnixDatagram),
    /// `unixstream://`
    UnixStream(UnixStream),
    /// `tcp://`
    Tcp(TcpStream),
    /// `stdout:`
    Stdout,
}

impl Transport {
    /// Connects to `address`, by whichever of its kinds and hosts answers.
    ///
    /// # Errors
    ///
    /// When the name is not known, nobody answers in time, or it would be `own`.
    pub async fn connect(address: &Address, own: &OwnListeners) -> Result<Self, ConnectError> {
        match address {
            Address::Udp(end) => Udp::connect(end, own.udp()).await.map(Self::Udp),
            Address::Tcp(end) => connect::tcp(end, own.tcp()).await.map(Self::Tcp),
            Address::UnixDatagram(path) => connect::unix_datagram(path).map(Self::UnixDatagram),
            Address::UnixStream(path) => connect::unix_stream(path).await.map(Self::UnixStream),
            Address::Unix(path) => match connect::unix_datagram(path) {
                Err(ConnectError::Connect { source, .. })
                    if Errno::from_io_error(&source) == Some(Errno::PROTOTYPE) =>
                {
                    connect::unix_stream(path).await.map(Self::UnixStream)
                }
                outcome => outcome.map(Self::UnixDatagram),
            },
            Address::Stdout => Ok(Self::Stdout),
        }
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
        match self {
            Self::Udp(udp) => udp.send(chunk, throttle, counters).await?,
            Self::UnixDatagram(socket) => {
                while let Some(payload) = chunk.next_payload() {
                    throttle.ready(payload.len(), counters).await;
                    match socket.send(payload).await {
                        Ok(bytes) => {
                            throttle.went(bytes);
                            count(counters, chunk.pass_payload());
                        }
                        Err(error) => consider(error).await?,
                    }
                }
            }
            Self::UnixStream(stream) => write(stream, chunk, throttle, counters).await?,
            Self::Tcp(stream) => write(stream, chunk, throttle, counters).await?,
            Self::Stdout => stdout::print(chunk, throttle, counters).await?,
        }
        Ok(())
    }

    /// Waits until the receiver closes its end, where that shows; what it says is
    /// discarded.
    pub async fn closed(&mut self) -> io::Error {
        match self {
            Self::UnixStream(stream) => loop {
                let outcome = match stream.readable().await {
                    Ok(()) => stream.try_read(&mut [0; 1024]),
                    Err(error) => Err(error),
                };
                if let Some(error) = hung_up(outcome) {
                    return error;
                }
            },
            Self::Tcp(stream) => loop {
                let outcome = match stream.readable().await {
                    Ok(()) => stream.try_read(&mut [0; 1024]),
                    Err(error) => Err(error),
                };
                if let Some(error) = hung_up(outcome) {
                    return error;
                }
            },
            Self::Udp(_) | Self::UnixDatagram(_) | Self::Stdout => std::future::pending().await,
        }
    }

    /// Takes the next of a UDP receiver's addresses, after a refusal. Does nothing
    /// where there is no other.
    ///
    /// # Errors
    ///
    /// [`SendError::Lost`] when that address can't be used.
    pub async fn next_address(&mut self) -> Result<(), SendError> {
        match self {
            Self::Udp(udp) => udp.next_address().await.map_err(SendError::Lost),
            _ => Ok(()),
        }
    }
}

fn count(counters: &OutputCounters, passed: Passed) {
    counters.sent.add(passed.lines);
    counters.payloads.add(passed.payloads);
    counters.bytes.add(passed.bytes);
}

fn hung_up(outcome: io::Result<usize>) -> Option<io::Error> {
    match outcome {
        Ok(0) => Some(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "the receiver closed the connection",
        )),
        Ok(_) => None,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
        Err(error) => Some(error),
    }
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

async fn write(
    stream: &mut (impl AsyncWriteExt + Unpin),
    chunk: &mut Chunk,
    throttle: &mut Throttle,
    counters: &OutputCounters,
) -> Result<(), SendError> {
    while !chunk.unwritten().is_empty() {
        let part = next_part(chunk, throttle);
        throttle.ready(part.len(), counters).await;
        match stream.write(part).await {
            Ok(0) => return Err(SendError::Lost(io::ErrorKind::WriteZero.into())),
            Ok(bytes) => {
                throttle.went(bytes);
                count(counters, chunk.wrote(bytes));
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(SendError::Lost(error)),
        }
    }
    Ok(())
}
