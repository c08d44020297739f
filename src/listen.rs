//! One listener: its socket, its connections, their limits.
//!
//! Everything runs on one thread. Connections share the buffer that they read
//! into, and have one of their own only while a frame is incomplete; room in the
//! outputs' queues is reserved before a read, so that a full output holds the
//! senders up and nothing piles up in between.
//!
//! At stop: no new connections, the socket file goes; the write side of every
//! connection is shut down, so that clients see it; after a second of grace the
//! read side too; what has come by then is read, for as long as [`DRAIN_LIMIT`]
//! lasts, and the rest is counted as abandoned.

mod accept;
mod connection;
mod datagram;
mod descriptors;
mod intake;
pub mod origin;
pub(crate) mod socket;
mod stream;
mod tracker;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use self::accept::Streams;
use self::datagram::Datagrams;
pub use self::descriptors::allow as allow_descriptors;
use self::intake::Stage;
use self::socket::SocketFile;
use self::stream::Acceptor;
pub use self::stream::Peer;
pub use self::tracker::{Client, Tracker};
use crate::address::{Address, HostPort};
use crate::config;
use crate::forward::{Forward, TagError};
use crate::frame::MAX_FRAME_BYTES;
use crate::log_limit::LogLimit;
use crate::output::Fanout;
use crate::telemetry::ListenerCounters;

/// How long clients have to end by themselves, as with the Datadog Agent.
pub const GRACE: Duration = Duration::from_secs(1);

/// How long what has come is read after that.
pub const DRAIN_LIMIT: Duration = Duration::from_secs(5);

/// Log lines in a window; a sender that sends rubbish sends a lot of it.
const LOG_LINES: u32 = 5;
const LOG_WINDOW: Duration = Duration::from_secs(10);

/// Why a listener can't be.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// A scheme that nothing can listen on.
    #[error(
        "cannot listen on {0}: write unixstream:///path, unixgram:///path, udp://host:port or tcp://host:port"
    )]
    Scheme(Address),
    /// The directory of the socket file is missing.
    #[error("cannot listen on {address}: there is no directory {}", directory.display())]
    NoDirectory {
        /// Where.
        address: Address,
        /// What is missing.
        directory: PathBuf,
    },
    /// The path is taken by something else.
    #[error("cannot listen on {address}: {} exists and is not a unix socket", path.display())]
    NotASocket {
        /// Where.
        address: Address,
        /// What is in the way.
        path: PathBuf,
    },
    /// Somebody is there already.
    #[error("address in use: another process listens on {0}")]
    InUse(Address),
    /// The system does not let us.
    #[error(
        "cannot listen on {address}: not permitted to {action}: {source}{}",
        remedy(address)
    )]
    Permission {
        /// Where.
        address: Address,
        /// What was tried.
        action: &'static str,
        /// The system's word.
        source: io::Error,
    },
    /// The owner is not known.
    #[error("cannot listen on {address}: owner: {reason}")]
    Owner {
        /// Where.
        address: Address,
        /// What is wrong with it.
        reason: String,
    },
    /// `allow_uids` where users are unknown.
    #[error(
        "cannot listen on {0}: allow_uids works with unixstream:// alone, which tells who connects"
    )]
    Uids(Address),
    /// One of the tags is none.
    #[error("cannot listen on {address}: tags: {source}")]
    Tag {
        /// Where.
        address: Address,
        /// What is wrong with it.
        source: TagError,
    },
    /// Anything else.
    #[error("cannot listen on {address}: failed to {action}: {source}")]
    System {
        /// Where.
        address: Address,
        /// What was tried.
        action: &'static str,
        /// The system's word.
        source: io::Error,
    },
}

/// What is missing where a port is refused: those below 1024 are the privileged ones
/// (`net.ipv4.ip_unprivileged_port_start`).
fn remedy(address: &Address) -> &'static str {
    match address {
        Address::Udp(host) | Address::Tcp(host) if host.port < 1024 => {
            ": give it CAP_NET_BIND_SERVICE, or choose a port from 1024 on"
        }
        _ => "",
    }
}

/// A bound listener.
#[derive(Debug)]
pub struct Listener {
    address: Address,
    tracker: Arc<Tracker>,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Streams {
        acceptor: Acceptor,
        /// Its name, with unix sockets.
        file: Option<SocketFile>,
        streams: Box<Streams>,
    },
    Datagrams {
        socket: datagram::Socket,
        /// Its name, with unix sockets.
        file: Option<SocketFile>,
        datagrams: Datagrams,
    },
}

impl Listener {
    /// Binds. Must be called within a runtime.
    ///
    /// # Errors
    /// When the address can't be listened on, with what stands in the way.
    pub async fn bind(config: &config::Listener) -> Result<Self, ListenError> {
        let address = &config.address;
        let forward = Forward::new(&config.tags).map_err(|source| ListenError::Tag {
            address: address.clone(),
            source,
        })?;
        if !config.allow_uids.is_empty() && !matches!(address, Address::UnixStream(_)) {
            return Err(ListenError::Uids(address.clone()));
        }
        let tracker = Arc::new(Tracker::default());
        let streams = |acceptor, file| Kind::Streams {
            acceptor,
            file,
            streams: Box::new(Streams {
                config: config.clone(),
                forward: forward.clone(),
                tracker: Arc::clone(&tracker),
            }),
        };
        let datagrams = |socket, file| Kind::Datagrams {
            socket,
            file,
            datagrams: Datagrams {
                max_frame: config.max_frame.as_usize().min(MAX_FRAME_BYTES),
                forward: forward.clone(),
                kernel_drops: 0,
            },
        };
        let place = |path| socket::Place {
            address,
            path,
            owner: &config.owner,
            mode: config.mode,
        };
        let (kind, local) = match address {
            Address::UnixStream(path) => {
                let (listener, file) = socket::unix_stream(place(path))?;
                (streams(Acceptor::Unix(listener), Some(file)), None)
            }
            Address::UnixDatagram(path) => {
                let (socket, file) = socket::unix_datagram(place(path))?;
                let socket = datagram::Socket::Unix(socket);
                (datagrams(socket, Some(file)), None)
            }
            Address::Tcp(host) => {
                let listener = socket::tcp(address, host).await?;
                let local = listener.local_addr().ok();
                (streams(Acceptor::Tcp(listener), None), local)
            }
            Address::Udp(host) => {
                let socket = socket::udp(address, host).await?;
                let local = socket.local_addr().ok();
                (datagrams(datagram::Socket::Udp(socket), None), local)
            }
            Address::Unix(_) | Address::Stdout => return Err(ListenError::Scheme(address.clone())),
        };
        let local = local.map(|local| HostPort {
            host: local.ip().to_string(),
            port: local.port(),
        });
        let address = match (address, local) {
            (Address::Tcp(_), Some(local)) => Address::Tcp(local),
            (Address::Udp(_), Some(local)) => Address::Udp(local),
            _ => address.clone(),
        };
        tracing::info!(%address, "listening");
        Ok(Self {
            address,
            tracker,
            kind,
        })
    }

    /// Where it listens: with the port that the system chose, where 0 was asked for.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Its open connections; none with datagrams.
    #[must_use]
    pub fn tracker(&self) -> Arc<Tracker> {
        Arc::clone(&self.tracker)
    }

    /// Hands on what senders bring, until `stop`; returns once all is handed on or
    /// counted as lost.
    pub async fn run(
        self,
        fanout: Arc<Fanout>,
        counters: Arc<ListenerCounters>,
        stop: CancellationToken,
    ) {
        let stage = Arc::new(Stage {
            listener: self.address.to_string(),
            fanout,
            counters,
            log: LogLimit::new(LOG_LINES, LOG_WINDOW),
        });
        match self.kind {
            Kind::Streams {
                acceptor,
                file,
                streams,
            } => streams.run(acceptor, file, stage, stop).await,
            Kind::Datagrams {
                socket,
                file,
                datagrams,
            } => datagrams.run(socket, file, stage, stop).await,
        }
    }
}
