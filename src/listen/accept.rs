//! A stream listener: accepting, sweeping, and stopping in order.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::io::Errno;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::connection::Task;
use super::descriptors;
use super::intake::Stage;
use super::origin;
use super::socket::SocketFile;
use super::stream::{Accepted, Acceptor};
use super::tracker::{Limits, Tracker};
use super::{DRAIN_LIMIT, GRACE};
use crate::config::{self, OriginChoice};
use crate::forward::Forward;
use crate::frame::Framer;
use crate::telemetry::{Reason, Refusal};

/// How long accepting rests after the system refused, at first and at most.
const MIN_REST: Duration = Duration::from_millis(10);
const MAX_REST: Duration = Duration::from_secs(1);

/// What is told where the last descriptors are left to others.
const NONE_LEFT: &str =
    "few file descriptors are left: raise their limit (LimitNOFILE=, ulimit -n)";

/// How often connections are looked at for their timeouts, at most.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// Looks per timeout, where that is short: a timeout is late by this share of it.
const SWEEPS_PER_TIMEOUT: u32 = 4;

/// What a stream listener's connections get.
#[derive(Debug)]
pub(super) struct Streams {
    pub(super) config: config::Listener,
    pub(super) forward: Forward,
    pub(super) tracker: Arc<Tracker>,
}

impl Streams {
    /// Accepts until `stop`, then lets the connections end.
    pub(super) async fn run(
        self,
        acceptor: Acceptor,
        file: Option<SocketFile>,
        stage: Arc<Stage>,
        stop: CancellationToken,
    ) {
        let tasks = TaskTracker::new();
        let limits = Limits {
            idle: Some(self.config.idle_timeout.0).filter(|limit| !limit.is_zero()),
            read: Some(self.config.read_timeout.0).filter(|limit| !limit.is_zero()),
        };
        let mut sweep = interval(sweep_interval(limits));
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut rest = Rest::default();
        loop {
            let accepted = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                _ = sweep.tick(), if !self.tracker.is_empty() => {
                    self.tracker.sweep(limits);
                    continue;
                }
                () = rest.ended(), if rest.is_on() => {
                    rest.end();
                    continue;
                }
                accepted = poll_fn(|cx| poll_accept(&acceptor, cx)), if !rest.is_on() => accepted,
            };
            match accepted {
                Some(Ok(accepted)) => {
                    rest = Rest::default();
                    self.admit(accepted, &stage, &tasks);
                }
                Some(Err(error)) if is_of_one_connection(&error) => {}
                Some(Err(error)) => {
                    cannot_accept(&stage, &error);
                    rest.begin();
                }
                None => {
                    if descriptors::is_waited_for(&acceptor) {
                        cannot_accept(&stage, &NONE_LEFT);
                    }
                    rest.begin();
                }
            }
        }
        drop(file);
        self.stop(acceptor, &stage, tasks).await;
    }

    /// Starts a connection's task, or closes it at once.
    fn admit(&self, accepted: Accepted, stage: &Arc<Stage>, tasks: &TaskTracker) {
        let peer = accepted.peer();
        let allowed = &self.config.allow_uids;
        let refusal = if self.tracker.len() >= self.config.max_connections {
            Some(Refusal::Limit)
        } else if !allowed.is_empty() && !peer.uid.is_some_and(|uid| allowed.contains(&uid)) {
            Some(Refusal::Uid)
        } else {
            None
        };
        if let Some(reason) = refusal {
            stage.counters.refused.add(reason, 1);
            if let Some(suppressed) = stage.log.permit() {
                tracing::warn!(
                    listener = %stage.listener, peer = %peer.with_program(), reason = reason.as_str(),
                    suppressed, "connection refused"
                );
            }
            return;
        }
        let peer = peer.with_program();
        let container = match self.config.origin {
            OriginChoice::Field => peer.pid.and_then(origin::container_of),
            OriginChoice::None | OriginChoice::Tags => None,
        };
        let forward = match container {
            Some(id) => self.forward.with_container(&id),
            None => self.forward.clone(),
        };
        tracing::debug!(listener = %stage.listener, %peer, "connection accepted");
        let framer = Framer::new(self.config.framing, self.config.max_frame.as_usize());
        let (reader, handle) = accepted.split();
        let open = self.tracker.open(peer, handle, &stage.counters);
        let connection = Arc::clone(&open.connection);
        let task = Task::new(Arc::clone(stage), reader, framer, forward, open);
        connection.set_task(tasks.spawn(task.run()).abort_handle());
    }

    /// No new connections; the open ones are told, then given time to end by
    /// themselves, then ended behind what they have sent.
    async fn stop(self, acceptor: Acceptor, stage: &Arc<Stage>, tasks: TaskTracker) {
        // Who is in the accept queue may have sent already, and gone.
        for accepted in acceptor.into_queued() {
            self.admit(accepted, stage, &tasks);
        }
        tasks.close();
        self.tracker.shut_down_writing();
        if timeout(GRACE, tasks.wait()).await.is_ok() {
            return;
        }
        self.tracker.shut_down_reading();
        if timeout(DRAIN_LIMIT, tasks.wait()).await.is_ok() {
            return;
        }
        let bytes = self.tracker.abandon();
        stage.counters.abandoned_bytes.add(bytes);
        tracing::warn!(listener = %stage.listener, bytes, "stopped with bytes unread");
        tasks.wait().await;
    }
}

/// The next connection; none where it would take one of the last descriptors.
fn poll_accept(acceptor: &Acceptor, cx: &mut Context<'_>) -> Poll<Option<io::Result<Accepted>>> {
    if descriptors::are_left(acceptor) {
        acceptor.poll_accept(cx).map(Some)
    } else {
        Poll::Ready(None)
    }
}

/// Counts a try in vain to accept who waits, and says so.
fn cannot_accept(stage: &Stage, error: &dyn fmt::Display) {
    stage.counters.refused.add(Refusal::System, 1);
    if let Some(suppressed) = stage.log.permit() {
        tracing::warn!(
            listener = %stage.listener, %error, suppressed,
            "cannot accept connections, trying again"
        );
    }
}

/// Accepting rests for longer and longer while the system refuses.
#[derive(Debug)]
struct Rest {
    until: Option<Instant>,
    next: Duration,
}

impl Default for Rest {
    fn default() -> Self {
        Self {
            until: None,
            next: MIN_REST,
        }
    }
}

impl Rest {
    fn begin(&mut self) {
        self.until = Some(Instant::now() + self.next);
        self.next = (self.next * 2).min(MAX_REST);
    }

    /// It will be longer if it begins again at once.
    const fn end(&mut self) {
        self.until = None;
    }

    const fn is_on(&self) -> bool {
        self.until.is_some()
    }

    async fn ended(&self) {
        if let Some(until) = self.until {
            sleep_until(until).await;
        }
    }
}

/// A short timeout is looked at often enough to be kept.
fn sweep_interval(limits: Limits) -> Duration {
    let shortest = limits.idle.into_iter().chain(limits.read).min();
    shortest.map_or(SWEEP_INTERVAL, |shortest| {
        (shortest / SWEEPS_PER_TIMEOUT).clamp(Duration::from_millis(1), SWEEP_INTERVAL)
    })
}

/// Whether accepting failed for the connection's sake, not for want of resources:
/// `accept(2)` says to try again at once.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(
            Errno::CONNABORTED
                | Errno::INTR
                | Errno::PERM
                | Errno::PROTO
                | Errno::NETDOWN
                | Errno::NOPROTOOPT
                | Errno::HOSTDOWN
                | Errno::NONET
                | Errno::HOSTUNREACH
                | Errno::OPNOTSUPP
                | Errno::NETUNREACH
        )
    )
}
