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
mod bound;
mod connection;
mod datagram;
mod descriptors;
mod intake;
pub mod origin;
mod pressure;
mod senders;
pub(crate) mod socket;
mod stream;
mod tracker;

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use self::accept::Streams;
use self::bound::{Bound, Socket};
use self::datagram::Datagrams;
pub use self::descriptors::allow as allow_descriptors;
use self::intake::Stage;
pub use self::pressure::{Pressure, Watch};
use self::senders::Senders;
use self::socket::SocketFile;
use self::stream::Acceptor;
pub use self::stream::Peer;
pub use self::tracker::{Client, Tracker};
use crate::accounts::AccountError;
use crate::address::{Address, HostPort};
use crate::config;
use crate::forward::{Forward, ForwardError};
use crate::handover;
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
    #[error("cannot listen on {address}: owner: {source}")]
    Owner {
        /// Where.
        address: Address,
        /// What is wrong with it.
        source: AccountError,
    },
    /// `allow_uids` where users are unknown.
    #[error(
        "cannot listen on {0}: allow_uids works with unixstream:// and unixgram:// alone, which tell who sends"
    )]
    Uids(Address),
    /// Its lines can't be made what its keys ask for.
    #[error("cannot listen on {address}: {}: {source}", source.key())]
    Forward {
        /// Where.
        address: Address,
        /// What is wrong with them.
        source: ForwardError,
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

/// What ends a listener.
#[derive(Clone, Debug, Default)]
pub struct Ends {
    /// It is to end.
    pub stop: CancellationToken,
    /// When it ends, it is to leave what it has to the process that takes our place: to be
    /// cancelled before `stop` is.
    pub leave: CancellationToken,
}

/// What is left of a listener: its newest socket, those before it, and what they have of
/// their file.
pub(crate) fn left(
    address: String,
    (socket, older): (OwnedFd, Vec<OwnedFd>),
    file: Option<SocketFile>,
) -> handover::Listener {
    let mut files = file.map(SocketFile::leave).unwrap_or_default();
    handover::Listener {
        address,
        socket,
        file: files.pop(),
        older: older.into_iter().zip(files).collect(),
        connections: Vec::new(),
    }
}

/// A bound listener.
#[derive(Debug)]
pub struct Listener {
    /// As the configuration has it.
    configured: String,
    address: Address,
    tracker: Arc<Tracker>,
    pressure: Arc<Pressure>,
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
    Datagrams(datagram::Sockets),
}

impl Listener {
    /// Binds. Must be called within a runtime.
    ///
    /// # Errors
    /// When the address can't be listened on, with what stands in the way.
    pub async fn bind(config: &config::Listener) -> Result<Self, ListenError> {
        Self::open(config, None).await
    }

    /// Binds, or goes on with the socket and the connections that were left for the address.
    /// Must be called within a runtime.
    ///
    /// # Errors
    /// As for [`Listener::bind`].
    pub async fn open(
        config: &config::Listener,
        left: Option<handover::Listener>,
    ) -> Result<Self, ListenError> {
        let forward = Forward::new(config).map_err(|source| ListenError::Forward {
            address: config.address.clone(),
            source,
        })?;
        if !config.allow_uids.is_empty() && config.address.path().is_none() {
            return Err(ListenError::Uids(config.address.clone()));
        }
        let (bound, inherited) = match left {
            Some(left) => Bound::inherited(config, left)?,
            None => (Bound::new(config).await?, Vec::new()),
        };
        let local = bound.local.map(|local| HostPort {
            host: local.ip().to_string(),
            port: local.port(),
        });
        let address = match (&config.address, local) {
            (Address::Tcp(_), Some(local)) => Address::Tcp(local),
            (Address::Udp(_), Some(local)) => Address::Udp(local),
            (address, _) => address.clone(),
        };
        let connections = Some(inherited.len()).filter(|&connections| connections > 0);
        tracing::info!(connections, %address, "listening");
        bound.size_buffers(config, &address);
        let Bound { socket, file, .. } = bound;
        let tracker = Arc::new(Tracker::default());
        let senders = Senders::new(forward, config.origin);
        let kind = match socket {
            Socket::Streams(acceptor) => Kind::Streams {
                acceptor,
                file,
                streams: Box::new(Streams {
                    config: config.clone(),
                    senders,
                    tracker: Arc::clone(&tracker),
                    inherited,
                }),
            },
            Socket::Datagrams(sockets) => Kind::Datagrams(datagram::Sockets {
                datagrams: Datagrams::new(config, senders, sockets.first()),
                bound: sockets,
                file,
            }),
        };
        Ok(Self {
            configured: config.address.to_string(),
            address,
            tracker,
            pressure: Arc::default(),
            kind,
        })
    }

    /// Binds a socket for a listener that is opened later ([`Listener::open`]), when the
    /// process may no longer bind it. Must be called within a runtime.
    ///
    /// # Errors
    /// As for [`Listener::bind`].
    pub async fn bind_ahead(config: &config::Listener) -> Result<handover::Listener, ListenError> {
        let bound = Bound::new(config).await?;
        bound.size_buffers(config, &config.address);
        bound.leave(&config.address)
    }

    /// The same, reading only as fast as memory allows.
    #[must_use]
    pub fn under(self, pressure: Arc<Pressure>) -> Self {
        Self { pressure, ..self }
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

    /// Leaves what it has without having run.
    #[must_use]
    pub fn leave(self) -> Option<handover::Listener> {
        match self.kind {
            Kind::Streams {
                acceptor,
                file,
                streams,
            } => Some(handover::Listener {
                connections: streams.inherited,
                ..left(self.configured, acceptor.into_descriptors().ok()?, file)
            }),
            Kind::Datagrams(sockets) => sockets.leave(&self.configured),
        }
    }

    /// Hands on what senders bring, until the end; returns once all is handed on or
    /// counted as lost, or what is left to another process.
    pub async fn run(
        self,
        fanout: Arc<Fanout>,
        counters: Arc<ListenerCounters>,
        ends: Ends,
    ) -> Option<handover::Listener> {
        let stage = Arc::new(Stage {
            listener: self.address.to_string(),
            fanout,
            counters,
            log: LogLimit::new(LOG_LINES, LOG_WINDOW),
            pressure: self.pressure,
        });
        let left = match self.kind {
            Kind::Streams {
                acceptor,
                file,
                streams,
            } => streams.run(acceptor, file, stage, ends).await,
            Kind::Datagrams(sockets) => sockets.run(stage, ends).await,
        };
        // By what the configuration will call it again.
        let address = self.configured;
        left.map(|left| handover::Listener { address, ..left })
    }
}
