//! A stream listener: accepting, sweeping, and stopping in order.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::io::Errno;
use tokio::task::yield_now;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};
use tokio_util::task::TaskTracker;

use super::connection::Task;
use super::descriptors;
use super::intake::Stage;
use super::senders::Senders;
use super::socket::{self, SocketFile, changed};
use super::stream::{Accepted, Acceptor, Peer};
use super::tracker::{Limits, Tracker};
use super::{DRAIN_LIMIT, Ends, GRACE, left};
use crate::config;
use crate::frame::Framer;
use crate::handover::{self, Cut, Past};
use crate::telemetry::{Reason, Refusal};

/// How long accepting rests after the system refused, at first and at most.
const MIN_REST: Duration = Duration::from_millis(10);
const MAX_REST: Duration = Duration::from_secs(1);

/// Connections after which those that have something to read get their turn: many come and
/// go at once, and do not count against the limit for longer than they are open.
const ACCEPTS_PER_TURN: u64 = 16;
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
    pub(super) senders: Senders,
    pub(super) tracker: Arc<Tracker>,
    /// Those that another process had.
    pub(super) inherited: Vec<handover::Connection>,
}

/// What a connection that another process had brings along.
struct Inheritance {
    held: Vec<u8>,
    cut: Cut,
    past: Past,
}

impl Streams {
    /// Accepts until the end, then lets the connections end, or leaves all of it.
    pub(super) async fn run(
        mut self,
        mut acceptor: Acceptor,
        mut file: Option<SocketFile>,
        stage: Arc<Stage>,
        ends: Ends,
    ) -> Option<handover::Listener> {
        let Ends { stop, leave } = ends;
        let tasks = TaskTracker::new();
        for inherited in std::mem::take(&mut self.inherited) {
            self.adopt(&acceptor, inherited, &stage, &tasks);
        }
        let limits = Limits {
            idle: Some(self.config.idle_timeout.0).filter(|limit| !limit.is_zero()),
            read: Some(self.config.read_timeout.0).filter(|limit| !limit.is_zero()),
        };
        let mut sweep = interval(sweep_interval(limits));
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut rest = Rest::default();
        let mut accepts = 0_u64;
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
                change = changed(&mut file, socket::unix_stream) => {
                    if let Some(listener) = stage.note_file(change) {
                        for accepted in acceptor.renew(listener) {
                            self.admit(accepted, &stage, &tasks);
                        }
                    }
                    continue;
                }
                accepted = poll_fn(|cx| poll_accept(&mut acceptor, cx)), if !rest.is_on() => {
                    accepted
                }
            };
            match accepted {
                Some(Ok(accepted)) => {
                    rest = Rest::default();
                    self.admit(accepted, &stage, &tasks);
                    accepts += 1;
                    if accepts.is_multiple_of(ACCEPTS_PER_TURN) {
                        yield_now().await;
                    }
                }
                Some(Err(error)) if is_of_one_connection(&error) => {}
                Some(Err(error)) => {
                    cannot_accept(&stage, &error);
                    rest.begin();
                }
                None => {
                    if acceptor.is_waited_for() {
                        cannot_accept(&stage, &NONE_LEFT);
                    }
                    rest.begin();
                }
            }
        }
        if leave.is_cancelled() {
            return self.leave(acceptor, file, &stage, tasks).await;
        }
        drop(file);
        self.stop(acceptor, &stage, tasks).await;
        None
    }

    /// Leaves the socket and the connections to the process that takes our place. Who waits
    /// to be accepted goes on waiting.
    async fn leave(
        self,
        acceptor: Acceptor,
        file: Option<SocketFile>,
        stage: &Stage,
        tasks: TaskTracker,
    ) -> Option<handover::Listener> {
        tasks.close();
        self.tracker.leave();
        tasks.wait().await;
        match acceptor.into_descriptors() {
            Ok(sockets) => Some(handover::Listener {
                connections: self.tracker.take_left(),
                ..left(stage.listener.clone(), sockets, file)
            }),
            Err(error) => {
                tracing::error!(listener = %stage.listener, %error, "the socket cannot be left");
                None
            }
        }
    }

    /// Goes on with a connection that another process had.
    fn adopt(
        &mut self,
        acceptor: &Acceptor,
        inherited: handover::Connection,
        stage: &Arc<Stage>,
        tasks: &TaskTracker,
    ) {
        let handover::Connection {
            socket,
            held,
            cut,
            past,
        } = inherited;
        match acceptor.adopt(socket) {
            Ok(accepted) => {
                let peer = accepted.peer().with_program();
                let inheritance = Inheritance { held, cut, past };
                self.start(accepted, peer, Some(inheritance), stage, tasks);
            }
            Err(error) => {
                tracing::warn!(listener = %stage.listener, %error, "an inherited connection is of no use");
            }
        }
    }

    /// Starts a connection's task, or closes it at once.
    fn admit(&mut self, accepted: Accepted, stage: &Arc<Stage>, tasks: &TaskTracker) {
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
        self.start(accepted, peer, None, stage, tasks);
    }

    fn start(
        &mut self,
        accepted: Accepted,
        peer: Peer,
        inheritance: Option<Inheritance>,
        stage: &Arc<Stage>,
        tasks: &TaskTracker,
    ) {
        self.senders.begin();
        let forward = match peer.pid {
            Some(pid) => self.senders.of(pid, None).clone(),
            None => self.senders.plain().clone(),
        };
        tracing::debug!(listener = %stage.listener, %peer, "connection accepted");
        let framer = Framer::new(self.config.framing, self.config.max_frame.as_usize());
        let (reader, handle) = accepted.split();
        let past = inheritance.as_ref().map(|inheritance| inheritance.past);
        let open = (self.tracker).open(peer, handle, past, &stage.counters);
        let connection = Arc::clone(&open.connection);
        let rate = self.config.rate;
        let mut task = Task::new(Arc::clone(stage), reader, framer, forward, open, rate);
        if let Some(Inheritance { held, cut, .. }) = inheritance {
            task.go_on(held, cut);
        }
        connection.set_task(tasks.spawn(task.run()).abort_handle());
    }

    /// No new connections; the open ones are told, then given time to end by
    /// themselves, then ended behind what they have sent.
    async fn stop(mut self, acceptor: Acceptor, stage: &Arc<Stage>, tasks: TaskTracker) {
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
fn poll_accept(
    acceptor: &mut Acceptor,
    cx: &mut Context<'_>,
) -> Poll<Option<io::Result<Accepted>>> {
    if descriptors::are_left(&acceptor) {
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
