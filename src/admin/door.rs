//! Where HTTP connections come in, whichever socket they come to: how many at once, how
//! large a request may be, and how long everything may take.
//!
//! One request a connection; a body is not read. Who does not send or does not read is
//! let go.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::body::{Answered, Body};
use super::stall::Stall;
use crate::telemetry::{AdminCounters, AdminRefusal};

/// The most that a request line and headers may have; hyper admits no less.
const MAX_HEADER_BYTES: usize = 8 << 10;
/// Headers of one request; clients send five.
const MAX_HEADERS: usize = 32;
/// How long accepting rests after the system refused.
const REST: Duration = Duration::from_secs(1);

/// How long an answer that is being given may take once another process takes our place.
pub(super) const LEAVING_GRACE: Duration = Duration::from_millis(250);

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

/// What they come to.
#[derive(Debug)]
pub(super) enum Socket {
    Unix(UnixListener),
    Tcp(TcpListener),
}

/// Put into each request: by it an answer outlives the stop that it causes.
#[derive(Clone, Debug, Default)]
pub(super) struct Stay(Arc<AtomicBool>);

impl Stay {
    /// Lets the connection go on after the stop, for as long as its answer takes.
    pub(super) fn over_the_stop(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn is_wanted(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Takes connections, and has each request answered.
pub(super) struct Door<A> {
    /// What it is the door of, for the log.
    name: &'static str,
    limits: Limits,
    room: Arc<Semaphore>,
    /// For those who are turned away.
    room_to_leave: Arc<Semaphore>,
    counters: Arc<AdminCounters>,
    answer: A,
    tasks: TaskTracker,
    stop: CancellationToken,
    /// Cuts off who is still there.
    cut: CancellationToken,
}

impl<A, F> Door<A>
where
    A: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Answered<Response<Body>>> + Send + 'static,
{
    pub(super) fn new(
        name: &'static str,
        limits: Limits,
        counters: Arc<AdminCounters>,
        answer: A,
        stop: CancellationToken,
    ) -> Self {
        Self {
            name,
            limits,
            room: Arc::new(Semaphore::new(limits.connections)),
            room_to_leave: Arc::new(Semaphore::new(limits.connections)),
            counters,
            answer,
            tasks: TaskTracker::new(),
            stop,
            cut: CancellationToken::new(),
        }
    }

    /// Takes what comes to the socket, until the stop.
    pub(super) async fn open(&self, socket: &Socket) {
        loop {
            let accepted = tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                accepted = self.accept(socket) => accepted,
            };
            if let Err(error) = accepted {
                tracing::warn!(%error, "{} cannot accept, trying again", self.name);
                tokio::select! {
                    biased;
                    () = self.stop.cancelled() => return,
                    () = sleep(REST) => {}
                }
            }
        }
    }

    async fn accept(&self, socket: &Socket) -> io::Result<()> {
        match socket {
            Socket::Unix(listener) => self.admit(listener.accept().await?.0),
            Socket::Tcp(listener) => self.admit(listener.accept().await?.0),
        }
        Ok(())
    }

    /// Lets those who are still there have their answer within `grace`, and then cuts them
    /// off; does not wait for who stays.
    pub(super) async fn close(self, grace: Duration) {
        self.tasks.close();
        if timeout(grace, self.tasks.wait()).await.is_err() {
            self.cut.cancel();
            self.tasks.wait().await;
        }
    }

    fn admit<S>(&self, stream: S)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        if let Ok(permit) = Arc::clone(&self.room).try_acquire_owned() {
            let stay = Stay::default();
            self.spawn(self.serve(stream, permit, stay.clone()), stay);
            return;
        }
        self.counters.refused.add(AdminRefusal::Connections, 1);
        // Beyond that, whoever comes is not even told.
        if let Ok(permit) = Arc::clone(&self.room_to_leave).try_acquire_owned() {
            self.spawn(turn_away(stream, permit), Stay::default());
        }
    }

    /// Runs a connection until it is cut off; from the stop on nobody waits for one whose
    /// answer is to stay.
    fn spawn(&self, connection: impl Future<Output = ()> + Send + 'static, stay: Stay) {
        let (stop, cut, tracked) = (self.stop.clone(), self.cut.clone(), self.tasks.token());
        tokio::spawn(async move {
            let mut connection = pin!(connection);
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                () = &mut connection => return,
            }
            if stay.is_wanted() {
                drop(tracked);
                return connection.await;
            }
            cut.run_until_cancelled(connection).await;
        });
    }

    fn serve<S>(
        &self,
        stream: S,
        permit: OwnedSemaphorePermit,
        stay: Stay,
    ) -> impl Future<Output = ()> + Send + use<S, A, F>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (name, limits, answer) = (self.name, self.limits, self.answer.clone());
        let counters = Arc::clone(&self.counters);
        async move {
            let answer = service_fn(|mut request: Request<Incoming>| {
                counters.requests.add(1);
                request.extensions_mut().insert(stay.clone());
                answer(request)
            });
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
                    tracing::debug!(error, "a connection to {name} ended early");
                }
                Err(_) => tracing::debug!("a connection to {name} took too long"),
            }
            drop(permit);
        }
    }
}

/// Says that there is no room. What has come of the request is read, for a socket that
/// is closed over unread bytes takes the answer along.
async fn turn_away<S>(mut stream: S, permit: OwnedSemaphorePermit)
where
    S: AsyncRead + AsyncWrite + Send + Unpin,
{
    let said = timeout(LEAVING_TIMEOUT, async {
        stream.write_all(ALL_TAKEN).await?;
        stream.shutdown().await?;
        let mut unread = (&mut stream).take(MAX_HEADER_BYTES as u64);
        tokio::io::copy(&mut unread, &mut tokio::io::sink()).await
    });
    let said = said.await;
    tracing::debug!(?said, "too many HTTP connections");
    drop(permit);
}

#[cfg(test)]
mod tests {
    use super::*;

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
