//! Connecting: names are looked up, and each try has its time.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio::time::{error::Elapsed, timeout};

use super::{Datagrams, Stream};
use crate::address::HostPort;
use crate::output::own::take_out;
use crate::telemetry::OutputError;

/// The longest that a connection to one address may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The longest that a name lookup may take: the system's resolver gives each silent
/// server 5 s and asks again (resolv.conf(5)), and a lookup given up begins anew.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(30);

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
    /// The name leads to one of the agent's own listeners.
    #[error(
        "{host:?} is {to}, one of conntally's own listeners: what it sent would come back for ever"
    )]
    Own {
        /// The name.
        host: String,
        /// One of its addresses.
        to: SocketAddr,
    },
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
    pub(super) fn to(to: &impl ToString, source: io::Error) -> Self {
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
            Self::Own { .. } | Self::Connect { .. } => OutputError::Connect,
        }
    }
}

pub(super) async fn resolve(
    end: &HostPort,
    own: &[SocketAddr],
) -> Result<Vec<SocketAddr>, ConnectError> {
    let host = end.host.as_str();
    let failed = |source| ConnectError::Resolve {
        host: host.to_owned(),
        source,
    };
    let found = within(LOOKUP_TIMEOUT, lookup_host((host, end.port)))
        .await
        .map_err(failed)?;
    let mut addresses: Vec<SocketAddr> = found.collect();
    if addresses.is_empty() {
        return Err(ConnectError::NoAddress(host.to_owned()));
    }
    if let Some(to) = take_out(&mut addresses, own) {
        return Err(ConnectError::Own {
            host: host.to_owned(),
            to,
        });
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

pub(super) async fn tcp(end: &HostPort, own: &[SocketAddr]) -> Result<Stream, ConnectError> {
    let mut failure = ConnectError::NoAddress(end.host.clone());
    for address in resolve(end, own).await? {
        let attempt = in_time(TcpStream::connect(address)).await;
        match attempt.and_then(Stream::tcp) {
            Ok(stream) => return Ok(stream),
            Err(error) => failure = ConnectError::to(&address, error),
        }
    }
    Err(failure)
}

pub(super) fn unix_datagram(path: &Path) -> Result<Datagrams, ConnectError> {
    Datagrams::connect(path).map_err(|error| ConnectError::to(&path.display(), error))
}

pub(super) async fn unix_stream(path: &Path) -> Result<Stream, ConnectError> {
    let attempt = in_time(UnixStream::connect(path)).await;
    attempt
        .map(Stream::unix)
        .map_err(|error| ConnectError::to(&path.display(), error))
}
