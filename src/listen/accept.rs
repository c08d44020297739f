//! A stream listener: accepting, sweeping, and stopping in order.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::connection::Task;
use super::intake::Stage;
use super::senders::Senders;
use super::socket::SocketFile;
use super::stream::{Accepted, Acceptor};
use super::tracker::{Limits, Tracker};
use super::{DRAIN_LIMIT, GRACE};
use crate::config;
use crate::frame::Framer;
use crate::telemetry::{Reason, Refusal};

/// How long accepting rests after the system refused, at first and at most.
const MIN_REST: Duration = Duration::from_millis(10);
const MAX_REST: Duration = Duration::from_secs(1);

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
}

impl Streams {
    /// Accepts until `stop`, then lets the connections end.
    pub(super) async fn run(
        mut self,
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
        let mut rest = MIN_REST;
        loop {
            let accepted = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                _ = sweep.tick(), if !self.tracker.is_empty() => {
                    self.tracker.sweep(limits);
                    continue;
                }
                accepted = poll_fn(|cx| acceptor.poll_accept(cx)) => accepted,
            };
            match accepted {
                Ok(accepted) => {
                    rest = MIN_REST;
                    self.admit(accepted, &stage, &tasks);
                }
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    stage.counters.refused.add(Refusal::System, 1);
                    if let Some(suppressed) = stage.log.permit() {
                        tracing::warn!(
                            listener = %stage.listener, %error, suppressed,
                            "cannot accept connections, trying again"
                        );
                    }
                    tokio::select! {
                        biased;
                        () = stop.cancelled() => break,
                        () = sleep(rest) => {}
                    }
                    rest = (rest * 2).min(MAX_REST);
                }
            }
        }
        drop(file);
        self.stop(acceptor, &stage, tasks).await;
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
        self.senders.next_turn();
        let forward = match peer.pid {
            Some(pid) => self.senders.of(pid).clone(),
            None => self.senders.plain().clone(),
        };
        tracing::debug!(listener = %stage.listener, %peer, "connection accepted");
        let framer = Framer::new(self.config.framing, self.config.max_frame.as_usize());
        let (reader, handle) = accepted.split();
        let open = self.tracker.open(peer, handle, &stage.counters);
        let connection = Arc::clone(&open.connection);
        let rate = self.config.rate;
        let task = Task::new(Arc::clone(stage), reader, framer, forward, open, rate);
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
