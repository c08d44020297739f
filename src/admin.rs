//! The control socket: HTTP/1.1 over a unix socket, answers as lines of JSON.
//!
//! Whoever may open the socket (mode 0660) may ask, and pause the collector: nothing
//! that is asked here changes the kernel's table or the configuration. Requests are
//! bounded: connections, the size of a request, the time it takes to come, and the
//! time that an answer may wait for its reader; a look at the kernel's table is made
//! one at a time. One request a connection; a body is not read.
//!
//! It counts requests and those it refused, by reason (`AdminCounters` in [`crate::telemetry`]).

mod answer;
mod body;
pub mod client;
pub(crate) mod clients;
mod route;
mod stall;
pub(crate) mod status;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::stall::Stall;
use self::status::Begun;
use crate::address::Address;
use crate::collector::command::CollectorHandle;
use crate::config::{Config, FileMode, Owner};
use crate::flow::key::KeyHasher;
use crate::listen::socket::{self, Place, SocketFile};
use crate::listen::{ListenError, Tracker};
use crate::output::health::Health;
use crate::telemetry::{AdminRefusal, Telemetry};

/// The owner and the group ask; others do not.
const MODE: FileMode = FileMode(0o660);
/// The most that a request line and headers may have; hyper admits no less.
const MAX_HEADER_BYTES: usize = 8 << 10;
/// Headers of one request; clients send five.
const MAX_HEADERS: usize = 32;
/// How long accepting rests after the system refused.
const REST: Duration = Duration::from_secs(1);

/// How long one who is turned away may take to go.
const LEAVING_TIMEOUT: Duration = Duration::from_secs(1);

/// What one gets who comes when all connections are taken.
const ALL_TAKEN: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\n\
    content-type: application/json\r\ncontent-length: 70\r\nretry-after: 1\r\n\
    connection: close\r\n\r\n\
    {\"type\":\"error\",\"message\":\"too many connections are open; try again\"}\n";

/// How much is admitted at once, and how long it may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections.
    pub connections: usize,
    /// From a connection's beginning to the end of its request's headers.
    pub request_timeout: Duration,
    /// The longest wait for a reader who does not read.
    pub stall_timeout: Duration,
    /// The longest life of a connection: one who reads a byte now and then would keep
    /// others from a look for ever.
    pub answer_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 16,
            request_timeout: Duration::from_secs(5),
            // Somebody may look at the first screen of many.
            stall_timeout: Duration::from_secs(30),
            answer_timeout: Duration::from_secs(600),
        }
    }
}

/// What the stages show of themselves beside their counters.
#[derive(Debug, Default)]
pub struct Views {
    /// Of each listener, in the order of their counters.
    pub trackers: Vec<Arc<Tracker>>,
    /// Of each output, in the order of their counters.
    pub healths: Vec<Arc<Health>>,
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
            dumps: Arc::new(Semaphore::new(1)),
        }
    }

    /// The same, that shows this too.
    #[must_use]
    pub fn showing(self, views: Views) -> Self {
        Self { views, ..self }
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
    /// Binds. Must be called within a runtime.
    ///
    /// # Errors
    /// When somebody listens there already, or the path cannot be.
    pub fn bind(path: &Path, limits: Limits) -> Result<Self, ListenError> {
        let address = Address::UnixStream(path.to_owned());
        let (listener, file) = socket::unix_stream(Place {
            address: &address,
            path,
            owner: &Owner::default(),
            mode: MODE,
        })?;
        tracing::info!(path = %path.display(), "admin socket bound");
        Ok(Self {
            listener,
            file,
            limits,
        })
    }

    /// Answers until `stop`; what is not answered by then is cut off.
    pub async fn run(self, context: Context, stop: CancellationToken) {
        let Self {
            listener,
            file,
            limits,
        } = self;
        let door = Door {
            limits,
            room: Arc::new(Semaphore::new(limits.connections)),
            room_to_leave: Arc::new(Semaphore::new(limits.connections)),
            context: Arc::new(context),
            tasks: TaskTracker::new(),
            stop,
        };
        loop {
            let accepted = tokio::select! {
                biased;
                () = door.stop.cancelled() => break,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => door.admit(stream),
                Err(error) => {
                    tracing::warn!(%error, "the admin socket cannot accept, trying again");
                    tokio::select! {
                        biased;
                        () = door.stop.cancelled() => break,
                        () = sleep(REST) => {}
                    }
                }
            }
        }
        drop((listener, file));
        door.tasks.close();
        door.tasks.wait().await;
    }
}

/// Where connections come in.
struct Door {
    limits: Limits,
    room: Arc<Semaphore>,
    /// For those who are turned away.
    room_to_leave: Arc<Semaphore>,
    context: Arc<Context>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Door {
    fn admit(&self, stream: UnixStream) {
        if let Ok(permit) = Arc::clone(&self.room).try_acquire_owned() {
            self.spawn(serve(
                stream,
                self.limits,
                Arc::clone(&self.context),
                permit,
            ));
            return;
        }
        let refused = &self.context.telemetry.admin.refused;
        refused.add(AdminRefusal::Connections, 1);
        // Beyond that, whoever comes is not even told.
        if let Ok(permit) = Arc::clone(&self.room_to_leave).try_acquire_owned() {
            self.spawn(turn_away(stream, permit));
        }
    }

    fn spawn(&self, connection: impl Future<Output = ()> + Send + 'static) {
        let connection = self.stop.clone().run_until_cancelled_owned(connection);
        self.tasks.spawn(connection);
    }
}

/// Says that there is no room. What has come of the request is read, for a socket that
/// is closed over unread bytes takes the answer along.
async fn turn_away(mut stream: UnixStream, permit: OwnedSemaphorePermit) {
    let said = timeout(LEAVING_TIMEOUT, async {
        stream.write_all(ALL_TAKEN).await?;
        stream.shutdown().await?;
        let mut unread = (&mut stream).take(MAX_HEADER_BYTES as u64);
        tokio::io::copy(&mut unread, &mut tokio::io::sink()).await
    });
    let said = said.await;
    tracing::debug!(?said, "too many admin connections");
    drop(permit);
}

async fn serve(
    stream: UnixStream,
    limits: Limits,
    context: Arc<Context>,
    permit: OwnedSemaphorePermit,
) {
    let answer = service_fn(|request| answer::answer(Arc::clone(&context), request));
    let stream = TokioIo::new(Stall::new(stream, limits.stall_timeout));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.request_timeout)
        .max_buf_size(MAX_HEADER_BYTES)
        .max_headers(MAX_HEADERS)
        .keep_alive(false)
        .serve_connection(stream, answer);
    match timeout(limits.answer_timeout, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            let error: &dyn std::error::Error = &error;
            tracing::debug!(error, "an admin connection ended early");
        }
        Err(_) => tracing::debug!("an admin connection took too long"),
    }
    drop(permit);
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

    #[test]
    fn whoever_is_turned_away_gets_a_whole_response() {
        let text = std::str::from_utf8(ALL_TAKEN).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(
            head.contains(&format!("content-length: {}", body.len())),
            "{}",
            body.len()
        );
        let object: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(object["type"], "error");
    }
}
