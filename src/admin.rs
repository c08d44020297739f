//! The control socket: HTTP/1.1 over a unix socket, answers as lines of JSON.
//!
//! Whoever may open the socket (mode 0660) may ask, pause the collector, flush the outputs,
//! have the configuration read anew and the log tell more: nothing that is asked here
//! changes the kernel's table or a file. Requests are
//! bounded: connections, the size of a request, the time it takes to come, and the
//! time that an answer may wait for its reader; a look at the kernel's table is made
//! one at a time. One request a connection; a body is not read.
//!
//! It counts requests and those it refused, by reason (`AdminCounters` in [`crate::telemetry`]).

mod answer;
mod body;
pub mod client;
pub(crate) mod clients;
mod door;
mod http;
pub(crate) mod orders;
pub mod reload;
mod route;
pub(crate) mod snapshot;
mod stall;
pub(crate) mod status;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UnixListener;
use tokio::sync::{Semaphore, watch};

pub use self::door::Limits;
use self::door::{Door, LEAVING_GRACE, Socket};
pub(crate) use self::http::Endpoint;
use self::reload::ReloadHandle;
use self::status::Begun;
use crate::address::Address;
use crate::collector::command::CollectorHandle;
use crate::config::{Config, FileMode, Owner};
use crate::flow::key::KeyHasher;
use crate::handover;
use crate::listen::socket::{self, Change, Place, SocketFile};
use crate::listen::{Ends, ListenError, Tracker, left};
use crate::log_filter::LogFilter;
use crate::output::health::Health;
use crate::output::queue::Flusher;
use crate::report::Latest;
use crate::telemetry::Telemetry;

/// The owner and the group ask; others do not.
const MODE: FileMode = FileMode(0o660);

/// What the stages show of themselves beside their counters.
#[derive(Debug)]
pub struct Views {
    /// Of each listener, in the order of their counters.
    pub trackers: Vec<Arc<Tracker>>,
    /// Of each output, in the order of their counters.
    pub healths: Vec<Arc<Health>>,
    /// What the ticks found.
    pub latest: watch::Receiver<Latest>,
    /// What makes each output send.
    pub flushers: Vec<Flusher>,
}

/// What can be told to the process itself.
#[derive(Clone, Debug, Default)]
pub struct Controls {
    /// To read its configuration anew.
    pub reload: ReloadHandle,
    /// To log something else.
    pub log: LogFilter,
}

impl Default for Views {
    fn default() -> Self {
        // What is never told can still be asked for.
        let (_, latest) = Latest::channel();
        Self {
            trackers: Vec::new(),
            healths: Vec::new(),
            latest,
            flushers: Vec::new(),
        }
    }
}

/// What answers are made of.
#[derive(Debug)]
pub struct Context {
    begun: Begun,
    config: Config,
    collector: CollectorHandle,
    keys: KeyHasher,
    telemetry: Telemetry,
    views: Views,
    controls: Controls,
    /// One dump at a time.
    dumps: Arc<Semaphore>,
}

impl Context {
    /// Of what the other stages gave. The hasher is a clone of the collector's, so that
    /// both know a connection by the same key.
    #[must_use]
    pub fn new(
        config: &Config,
        collector: CollectorHandle,
        keys: KeyHasher,
        telemetry: Telemetry,
    ) -> Self {
        Self {
            begun: Begun::now(),
            config: config.clone(),
            collector,
            keys,
            telemetry,
            views: Views::default(),
            controls: Controls::default(),
            dumps: Arc::new(Semaphore::new(1)),
        }
    }

    /// The same, that shows this too.
    #[must_use]
    pub fn showing(self, views: Views) -> Self {
        Self { views, ..self }
    }

    /// The same, that hands on what these do.
    #[must_use]
    pub fn controlling(self, controls: Controls) -> Self {
        Self { controls, ..self }
    }
}

/// The bound control socket.
#[derive(Debug)]
pub struct Admin {
    listener: UnixListener,
    file: SocketFile,
    limits: Limits,
}

impl Admin {
    /// Binds, or goes on with the socket that was left for the path. Must be called within a
    /// runtime.
    ///
    /// # Errors
    /// When somebody listens there already, or the path cannot be.
    pub async fn open(
        path: &Path,
        limits: Limits,
        left: Option<handover::Listener>,
    ) -> Result<Self, ListenError> {
        let place = Place {
            address: Address::UnixStream(path.to_owned()),
            path: path.to_owned(),
            owner: Owner::default(),
            mode: MODE,
        };
        let (listener, file) = match left {
            Some(left) => socket::left_unix_stream(place, left)?,
            None => socket::unix_stream(place).await?,
        };
        tracing::info!(path = %path.display(), "admin socket bound");
        Ok(Self {
            listener,
            file,
            limits,
        })
    }

    /// Leaves the socket without having answered.
    #[must_use]
    pub fn leave(self) -> Option<handover::Listener> {
        leave(self.listener, self.file)
    }

    /// Answers until it is to end, and leaves the socket if it is to; what is not answered by
    /// then is cut off.
    pub async fn run(self, context: Context, ends: Ends) -> Option<handover::Listener> {
        let Self {
            listener,
            mut file,
            limits,
        } = self;
        let context = Arc::new(context);
        let counters = Arc::clone(&context.telemetry.admin);
        let answer = move |request| answer::answer(Arc::clone(&context), request);
        let door = Door::new("the admin socket", limits, counters, answer, ends.stop);
        let mut socket = Socket::Unix(listener);
        loop {
            tokio::select! {
                biased;
                () = door.open(&socket) => break,
                change = file.changed(socket::unix_stream) => {
                    if let Change::Made(listener) = change {
                        // Nobody is led to the one before any more than by chance.
                        socket = Socket::Unix(listener);
                        file.keep_newest();
                    }
                }
            }
        }
        if ends.leave.is_cancelled() {
            door.close(LEAVING_GRACE).await;
            let Socket::Unix(listener) = socket else {
                return None;
            };
            return leave(listener, file);
        }
        drop((socket, file));
        door.close(Duration::ZERO).await;
        None
    }
}

fn leave(listener: UnixListener, file: SocketFile) -> Option<handover::Listener> {
    let address = Address::UnixStream(file.path().to_owned());
    let socket = listener.into_std().ok()?.into();
    Some(left(address.to_string(), (socket, Vec::new()), Some(file)))
}

/// Whether the daemon can do without: at its default path, which a daemon that is run
/// by hand need not have.
#[must_use]
pub fn is_dispensable(config: &Config, error: &ListenError) -> bool {
    config.admin.socket == crate::config::Admin::default().socket
        && matches!(
            error,
            ListenError::NoDirectory { .. } | ListenError::Permission { .. }
        )
}

/// What the operating system says of a socket that cannot be used.
pub(crate) fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_directory_is_forgiven_at_the_default_path_alone() {
        let error = |path: &str| ListenError::NoDirectory {
            address: Address::UnixStream(path.into()),
            directory: "/nowhere".into(),
        };
        let mut config = Config::default();
        let path = config.admin.socket.clone();
        assert!(is_dispensable(&config, &error(&path)));
        let taken = ListenError::InUse(Address::UnixStream(path.into()));
        assert!(!is_dispensable(&config, &taken));
        config.admin.socket = "/nowhere/admin.sock".to_owned();
        assert!(!is_dispensable(&config, &error("/nowhere/admin.sock")));
    }
}
