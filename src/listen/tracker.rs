//! The open connections of a listener: what each has sent, and how long ago.
//!
//! Connections only count. Time is looked at once per sweep, for all of them: a
//! read costs no clock and no timer.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use rustix::net::Shutdown;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::stream::{Handle, Peer};
use crate::frame::Framer;
use crate::handover::{self, Cut, Past};
use crate::telemetry::{Closing, Counter, FrameDrop, ListenerCounters};

/// The open connections.
#[derive(Debug, Default)]
pub struct Tracker {
    open: Mutex<HashMap<u64, Tracked>>,
    last_id: AtomicU64,
    /// Connections for the process that takes our place, while they are left to it.
    left: Mutex<Option<Vec<handover::Connection>>>,
}

#[derive(Debug)]
struct Tracked {
    connection: Arc<Connection>,
    watch: Watch,
}

/// One open connection, as seen from outside.
#[derive(Clone, Debug)]
pub struct Client {
    /// Counted from the start of the listener.
    pub id: u64,
    /// Who is at the other end.
    pub peer: Peer,
    /// When it was accepted.
    pub since: SystemTime,
    /// Frames, or lines where they are not framed.
    pub frames: u64,
    /// Lines that passed the check.
    pub lines: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Lines that did not pass.
    pub bad_lines: u64,
    /// How long ago the last byte came, to about a second.
    pub idle: Duration,
}

impl Tracker {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Tracked>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// All of them, the oldest first.
    #[must_use]
    pub fn clients(&self) -> Vec<Client> {
        let now = Instant::now();
        let mut clients: Vec<Client> = self
            .lock()
            .values()
            .map(|tracked| tracked.client(now))
            .collect();
        clients.sort_unstable_by_key(|client| client.id);
        clients
    }

    /// Their numbers, the oldest first.
    #[must_use]
    pub fn ids(&self) -> Vec<u64> {
        let mut ids: Vec<_> = self.lock().keys().copied().collect();
        ids.sort_unstable();
        ids
    }

    /// The one of that number, if it is still open.
    #[must_use]
    pub fn client(&self, id: u64) -> Option<Client> {
        let now = Instant::now();
        self.lock().get(&id).map(|tracked| tracked.client(now))
    }

    /// Takes one in: a new one, or one with a past.
    pub(super) fn open(
        self: &Arc<Self>,
        peer: Peer,
        handle: Handle,
        past: Option<Past>,
        counters: &Arc<ListenerCounters>,
    ) -> Open {
        let id = self.last_id.fetch_add(1, Ordering::Relaxed) + 1;
        if past.is_none() {
            counters.accepted.add(1);
        }
        let past = past.unwrap_or_else(|| Past {
            since: SystemTime::now(),
            frames: 0,
            lines: 0,
            bytes: 0,
            bad_lines: 0,
        });
        let connection = Arc::new(Connection {
            id,
            peer,
            since: past.since,
            frames: Counter::from(past.frames),
            lines: Counter::from(past.lines),
            bytes: Counter::from(past.bytes),
            bad_lines: Counter::from(past.bad_lines),
            holds_frame: AtomicBool::new(false),
            is_inside_frame: AtomicBool::new(false),
            frames_ended: AtomicU64::new(0),
            is_held_up: AtomicBool::new(false),
            handle,
            verdict: OnceLock::new(),
            task: OnceLock::new(),
        });
        let tracked = Tracked {
            connection: Arc::clone(&connection),
            watch: Watch::new(),
        };
        self.lock().insert(id, tracked);
        counters.connections.up();
        Open {
            tracker: Arc::clone(self),
            counters: Arc::clone(counters),
            connection,
            ending: Ending::Dropped,
        }
    }

    /// Lets every task go where it stands: each leaves its connection.
    pub(super) fn leave(&self) {
        self.lock_left().get_or_insert_default();
        for Tracked { connection, .. } in self.lock().values() {
            if let Some(task) = connection.task.get() {
                task.abort();
            }
        }
    }

    /// What was left, once every task has gone.
    pub(super) fn take_left(&self) -> Vec<handover::Connection> {
        self.lock_left().take().unwrap_or_default()
    }

    fn lock_left(&self) -> MutexGuard<'_, Option<Vec<handover::Connection>>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes those that are overdue.
    pub(super) fn sweep(&self, limits: Limits) {
        let now = Instant::now();
        for tracked in self.lock().values_mut() {
            if let Some(reason) = tracked.watch.look(&tracked.connection, limits, now) {
                tracked.connection.close(reason);
            }
        }
    }

    /// Tells every peer that nothing more will be read, in time.
    pub(super) fn shut_down_writing(&self) {
        for tracked in self.lock().values() {
            tracked.connection.handle.shutdown(Shutdown::Write);
        }
    }

    /// Ends every connection behind what has come already.
    pub(super) fn shut_down_reading(&self) {
        for tracked in self.lock().values() {
            tracked.connection.close(Closing::Shutdown);
        }
    }

    /// Gives up every connection; returns the bytes that will not be read.
    pub(super) fn abandon(&self) -> u64 {
        let mut bytes = 0;
        for Tracked { connection, .. } in self.lock().values() {
            bytes += connection.handle.unread_bytes();
            if let Some(task) = connection.task.get() {
                task.abort();
            }
        }
        bytes
    }
}

impl Tracked {
    fn client(&self, now: Instant) -> Client {
        let connection = &*self.connection;
        let bytes = connection.bytes.get();
        let idle = if bytes == self.watch.bytes {
            now.saturating_duration_since(self.watch.active)
        } else {
            Duration::ZERO
        };
        Client {
            id: connection.id,
            peer: connection.peer.clone(),
            since: connection.since,
            frames: connection.frames.get(),
            lines: connection.lines.get(),
            bytes,
            bad_lines: connection.bad_lines.get(),
            idle,
        }
    }
}

/// What a connection's task and its listener share.
#[derive(Debug)]
pub(super) struct Connection {
    id: u64,
    pub(super) peer: Peer,
    since: SystemTime,
    pub(super) frames: Counter,
    pub(super) lines: Counter,
    pub(super) bytes: Counter,
    pub(super) bad_lines: Counter,
    /// Whether bytes of a frame are kept until it ends.
    holds_frame: AtomicBool,
    /// Whether a frame has begun, be it one that is skipped.
    is_inside_frame: AtomicBool,
    /// How many have ended, those that are not counted as frames too.
    frames_ended: AtomicU64,
    /// Whether it is we who hold it up: for its rate, or for the outputs.
    is_held_up: AtomicBool,
    handle: Handle,
    /// Why we end it.
    verdict: OnceLock<Closing>,
    task: OnceLock<AbortHandle>,
}

impl Connection {
    /// Lets it end behind what has come already.
    fn close(&self, reason: Closing) {
        self.verdict.get_or_init(|| reason);
        self.handle.shutdown(Shutdown::Read);
    }

    /// Why we end it, if we do.
    pub(super) fn verdict(&self) -> Option<Closing> {
        self.verdict.get().copied()
    }

    fn past(&self) -> Past {
        Past {
            since: self.since,
            frames: self.frames.get(),
            lines: self.lines.get(),
            bytes: self.bytes.get(),
            bad_lines: self.bad_lines.get(),
        }
    }

    pub(super) fn set_task(&self, task: AbortHandle) {
        self.task.get_or_init(|| task);
    }

    pub(super) fn set_held_up(&self, is_held_up: bool) {
        self.is_held_up.store(is_held_up, Ordering::Relaxed);
    }

    /// Notes how a read ended: what is left of it to be cut.
    pub(super) fn set_rest(&self, framer: &Framer, rest: &[u8]) {
        self.holds_frame.store(!rest.is_empty(), Ordering::Relaxed);
        self.is_inside_frame
            .store(framer.is_inside_frame(rest), Ordering::Relaxed);
        self.frames_ended.store(framer.ended(), Ordering::Relaxed);
    }
}

/// A connection in the tracker, for as long as its task lives.
#[derive(Debug)]
pub(super) struct Open {
    tracker: Arc<Tracker>,
    counters: Arc<ListenerCounters>,
    pub(super) connection: Arc<Connection>,
    pub(super) ending: Ending,
}

/// How a connection's task ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// It was dropped where it stood.
    Dropped,
    /// It closed the connection, unless we said otherwise for this reason.
    Closed(Closing),
    /// It left the connection to another process.
    Left,
}

impl Open {
    /// Leaves the connection to the process that takes our place, if connections are left and
    /// this one is not over.
    pub(super) fn leave(&mut self, of: impl FnOnce() -> io::Result<(OwnedFd, Vec<u8>, Cut)>) {
        if self.ending != Ending::Dropped || self.connection.verdict().is_some() {
            return;
        }
        let mut left = self.tracker.lock_left();
        let Some(left) = &mut *left else {
            return;
        };
        match of() {
            Ok((socket, held, cut)) => {
                left.push(handover::Connection {
                    socket,
                    held,
                    cut,
                    past: self.connection.past(),
                });
                self.connection.handle.forget();
                self.ending = Ending::Left;
            }
            Err(error) => {
                tracing::warn!(peer = %self.connection.peer, %error, "cannot leave a connection");
            }
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.tracker.lock().remove(&self.connection.id);
        self.counters.connections.down();
        let closing = match self.ending {
            Ending::Left => return,
            Ending::Dropped => Closing::Shutdown,
            Ending::Closed(closing) => closing,
        };
        if self.connection.holds_frame.load(Ordering::Relaxed) {
            self.counters.frames_dropped.add(FrameDrop::Truncated, 1);
        }
        let reason = self.connection.verdict().unwrap_or(closing);
        self.counters.closed.add(reason, 1);
        tracing::debug!(peer = %self.connection.peer, reason = ?reason, "connection closed");
    }
}

/// When a quiet connection is closed; `None` means never.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Limits {
    /// Without a byte.
    pub(super) idle: Option<Duration>,
    /// Inside one frame.
    pub(super) read: Option<Duration>,
}

/// What the last sweep saw of a connection, and since when it is so.
#[derive(Debug)]
struct Watch {
    bytes: u64,
    frames_ended: u64,
    is_inside_frame: bool,
    active: Instant,
    frame_since: Instant,
}

impl Watch {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            bytes: 0,
            frames_ended: 0,
            is_inside_frame: false,
            active: now,
            frame_since: now,
        }
    }

    fn look(&mut self, connection: &Connection, limits: Limits, now: Instant) -> Option<Closing> {
        let bytes = connection.bytes.get();
        let frames_ended = connection.frames_ended.load(Ordering::Relaxed);
        let is_held_up = connection.is_held_up.load(Ordering::Relaxed);
        if is_held_up || bytes != self.bytes {
            self.active = now;
        }
        let is_inside = connection.is_inside_frame.load(Ordering::Relaxed);
        let is_same_frame = is_inside && self.is_inside_frame && frames_ended == self.frames_ended;
        if is_held_up || !is_same_frame {
            self.frame_since = now;
        }
        self.bytes = bytes;
        self.frames_ended = frames_ended;
        self.is_inside_frame = is_inside;
        if limits
            .read
            .is_some_and(|limit| now - self.frame_since >= limit)
        {
            Some(Closing::ReadTimeout)
        } else if limits.idle.is_some_and(|limit| now - self.active >= limit) {
            Some(Closing::Idle)
        } else {
            None
        }
    }
}
