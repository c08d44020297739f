//! The way out: a connected socket, or standard output.
//!
//! Streams take a chunk in one write where they can; datagram sockets take its
//! payloads one by one. A receiver that is slow is waited for. What has gone is
//! noted in the chunk as it goes, so that after a failure the next connection
//! goes on at the payload that was cut, and nowhere else.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpStream, UdpSocket, UnixDatagram, UnixStream, lookup_host};
use tokio::task::spawn_blocking;
use tokio::time::{error::Elapsed, sleep, timeout};

use super::payload::{Chunk, Passed};
use crate::address::{Address, HostPort};
use crate::telemetry::{OutputCounters, OutputError};

#[cfg(test)]
mod tests;

/// The longest that a connection to one address may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The longest that a name lookup may take: the system's resolver gives each silent
/// server 5 s and asks again (resolv.conf(5)), and a lookup given up begins anew.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(30);

/// How long to wait when the kernel is out of memory for datagrams (`ENOBUFS`),
/// which no readiness announces the end of.
const MEMORY_PAUSE: Duration = Duration::from_millis(5);

/// Refusals in a row after which a UDP receiver's name is looked up again.
const MAX_REFUSALS: u32 = 3;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The name could not be looked up.
    #[error("cannot look up {host:?}")]
    Resolve {
        /// The name.
        host: String,
        /// What the resolver said.
        source: io::Error,
    },
    /// The name has no address.
    #[error("{0:?} has no address")]
    NoAddress(String),
    /// The receiver, or its last address, could not be reached.
    #[error("cannot connect to {to}")]
    Connect {
        /// Socket path or address.
        to: String,
        /// What the system said.
        source: io::Error,
    },
}

impl ConnectError {
    fn to(to: &impl ToString, source: io::Error) -> Self {
        Self::Connect {
            to: to.to_string(),
            source,
        }
    }

    /// What it counts as.
    #[must_use]
    pub const fn kind(&self) -> OutputError {
        match self {
            Self::Resolve { .. } | Self::NoAddress(_) => OutputError::Resolve,
            Self::Connect { .. } => OutputError::Connect,
        }
    }
}

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

/// A connected UDP socket, and the receiver's other addresses: which of them
/// somebody listens on shows only when one refuses.
#[derive(Debug)]
pub struct Udp {
    socket: UdpSocket,
    /// The one in use is the last.
    addresses: Vec<SocketAddr>,
    refusals: u32,
}

impl Transport {
    /// Connects to `address`, by whichever of its kinds and hosts answers.
    ///
    /// # Errors
    ///
    /// When the name is not known or nobody answers in time.
    pub async fn connect(address: &Address) -> Result<Self, ConnectError> {
        match address {
            Address::Udp(end) => Udp::connect(end).await.map(Self::Udp),
            Address::Tcp(end) => connect_tcp(end).await.map(Self::Tcp),
            Address::UnixDatagram(path) => unix_datagram(path).map(Self::UnixDatagram),
            Address::UnixStream(path) => unix_stream(path).await.map(Self::UnixStream),
            Address::Unix(path) => match unix_datagram(path) {
                Err(ConnectError::Connect { source, .. })
                    if Errno::from_io_error(&source) == Some(Errno::PROTOTYPE) =>
                {
                    unix_stream(path).await.map(Self::UnixStream)
                }
                outcome => outcome.map(Self::UnixDatagram),
            },
            Address::Stdout => Ok(Self::Stdout),
        }
    }

    /// Sends what is left of `chunk` and counts it, waiting for the receiver where
    /// it is slow. What went before an error, or before the future is dropped, is
    /// noted in the chunk.
    ///
    /// # Errors
    ///
    /// When the connection is lost, or the next payload can't be sent by it.
    pub async fn send(
        &mut self,
        chunk: &mut Chunk,
        counters: &OutputCounters,
    ) -> Result<(), SendError> {
        match self {
            Self::Udp(udp) => {
                while let Some(payload) = chunk.next_payload() {
                    match udp.socket.send(payload).await {
                        Ok(_) => {
                            udp.refusals = 0;
                            count(counters, chunk.pass_payload());
                        }
                        Err(error) => udp.consider(error).await?,
                    }
                }
            }
            Self::UnixDatagram(socket) => {
                while let Some(payload) = chunk.next_payload() {
                    match socket.send(payload).await {
                        Ok(_) => count(counters, chunk.pass_payload()),
                        Err(error) => consider(error).await?,
                    }
                }
            }
            Self::UnixStream(stream) => write(stream, chunk, counters).await?,
            Self::Tcp(stream) => write(stream, chunk, counters).await?,
            Self::Stdout => print(chunk, counters).await?,
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

impl Udp {
    async fn connect(end: &HostPort) -> Result<Self, ConnectError> {
        let mut addresses = resolve(end).await?;
        // Whether anybody listens can't be asked beforehand, and the servers of
        // this protocol listen on IPv4 by default, whatever `localhost` resolves to.
        addresses.sort_by_key(SocketAddr::is_ipv6);
        let mut failure = ConnectError::NoAddress(end.host.clone());
        for turn in 0..addresses.len() {
            let Some(&address) = addresses.get(turn) else {
                break;
            };
            match udp_socket(address).await {
                Ok(socket) => {
                    addresses.rotate_left(turn + 1);
                    return Ok(Self {
                        socket,
                        addresses,
                        refusals: 0,
                    });
                }
                Err(error) => failure = ConnectError::to(&address, error),
            }
        }
        Err(failure)
    }

    async fn next_address(&mut self) -> io::Result<()> {
        if self.addresses.len() < 2 {
            return Ok(());
        }
        self.addresses.rotate_left(1);
        if let Some(&address) = self.addresses.last() {
            self.socket = udp_socket(address).await?;
        }
        Ok(())
    }

    /// A refusal was meant for an earlier datagram, and this one has not gone.
    async fn consider(&mut self, error: io::Error) -> Result<(), SendError> {
        if Errno::from_io_error(&error) == Some(Errno::CONNREFUSED) {
            self.refusals += 1;
            if self.refusals < MAX_REFUSALS {
                return Err(SendError::Refused);
            }
        }
        consider(error).await
    }
}

async fn udp_socket(address: SocketAddr) -> io::Result<UdpSocket> {
    let any: IpAddr = match address {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(address).await?;
    Ok(socket)
}

async fn resolve(end: &HostPort) -> Result<Vec<SocketAddr>, ConnectError> {
    let host = end.host.as_str();
    let failed = |source| ConnectError::Resolve {
        host: host.to_owned(),
        source,
    };
    let found = within(LOOKUP_TIMEOUT, lookup_host((host, end.port)))
        .await
        .map_err(failed)?;
    let addresses: Vec<SocketAddr> = found.collect();
    if addresses.is_empty() {
        return Err(ConnectError::NoAddress(host.to_owned()));
    }
    Ok(addresses)
}

async fn in_time<T>(attempt: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    within(CONNECT_TIMEOUT, attempt).await
}

async fn within<T>(limit: Duration, attempt: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(limit, attempt)
        .await
        .unwrap_or_else(|_: Elapsed| Err(io::ErrorKind::TimedOut.into()))
}

async fn connect_tcp(end: &HostPort) -> Result<TcpStream, ConnectError> {
    let mut failure = ConnectError::NoAddress(end.host.clone());
    for address in resolve(end).await? {
        let attempt = async {
            let stream = TcpStream::connect(address).await?;
            // Lines are packed already; waiting for more only delays them.
            stream.set_nodelay(true)?;
            Ok(stream)
        };
        match in_time(attempt).await {
            Ok(stream) => return Ok(stream),
            Err(error) => failure = ConnectError::to(&address, error),
        }
    }
    Err(failure)
}

fn unix_datagram(path: &Path) -> Result<UnixDatagram, ConnectError> {
    let connect = || {
        let socket = UnixDatagram::unbound()?;
        socket.connect(path)?;
        Ok(socket)
    };
    connect().map_err(|error| ConnectError::to(&path.display(), error))
}

async fn unix_stream(path: &Path) -> Result<UnixStream, ConnectError> {
    in_time(UnixStream::connect(path))
        .await
        .map_err(|error| ConnectError::to(&path.display(), error))
}

async fn write(
    stream: &mut (impl AsyncWriteExt + Unpin),
    chunk: &mut Chunk,
    counters: &OutputCounters,
) -> Result<(), SendError> {
    while !chunk.unwritten().is_empty() {
        match stream.write(chunk.unwritten()).await {
            Ok(0) => return Err(SendError::Lost(io::ErrorKind::WriteZero.into())),
            Ok(bytes) => count(counters, chunk.wrote(bytes)),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(SendError::Lost(error)),
        }
    }
    Ok(())
}

/// Standard output is written to on a thread of its own, since it may block, and
/// whoever opened it may have made it not block: both are waited out.
async fn print(chunk: &mut Chunk, counters: &OutputCounters) -> Result<(), SendError> {
    let bytes = chunk.unwritten().to_vec();
    let printing = spawn_blocking(move || {
        let mut gone = 0;
        while let Some(rest @ [_, ..]) = bytes.get(gone..) {
            match rustix::io::write(io::stdout(), rest) {
                Ok(written) => gone += written,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    let stdout = io::stdout();
                    let mut writable = [PollFd::new(&stdout, PollFlags::OUT)];
                    match poll(&mut writable, None) {
                        Ok(_) | Err(Errno::INTR) => {}
                        Err(error) => return (gone, Err(error)),
                    }
                }
                Err(error) => return (gone, Err(error)),
            }
        }
        (gone, Ok(()))
    });
    let (gone, outcome) = printing
        .await
        .map_err(|error| SendError::Lost(io::Error::other(error)))?;
    count(counters, chunk.wrote(gone));
    match outcome {
        Ok(()) => Ok(()),
        Err(Errno::PIPE) => Err(SendError::Gone),
        Err(error) => Err(SendError::Lost(error.into())),
    }
}
