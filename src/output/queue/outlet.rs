//! The receiving end of a queue: payloads are waited for, and their room given back.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::time::{Instant, Sleep, sleep_until};

use super::{Settings, Shared, State};
use crate::output::payload::Chunk;
use crate::telemetry::LineDrop;

/// What may wait while the output takes what comes and senders can wait: enough to
/// keep it busy, and little enough to stay in a core's cache.
pub(super) const STEADY_BYTES: usize = 512 << 10;

/// Chunks kept for reuse by one output.
const SPARE_CHUNKS: usize = 2;

/// The receiving end. When it goes, what is still queued is counted as dropped.
pub struct Outlet {
    pub(super) shared: Arc<Shared>,
    /// Left running when it has no more to wait for: to go off once for nothing is
    /// cheaper than to be set anew for each payload.
    pub(super) timer: Option<Pin<Box<Sleep>>>,
    /// Whether only [`STEADY_BYTES`] may wait.
    pub(super) is_narrow: bool,
}

impl fmt::Debug for Outlet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outlet").finish_non_exhaustive()
    }
}

impl Drop for Outlet {
    fn drop(&mut self) {
        self.close(LineDrop::Shutdown);
    }
}

impl Outlet {
    /// Waits for payloads worth sending: full ones, or what has waited for the
    /// flush interval. `None` when every sender is gone and all was taken. Nothing
    /// is lost when the future is dropped.
    pub async fn recv(&mut self) -> Option<Chunk> {
        loop {
            // Read before the state: a sender pushes before it goes.
            let ended = self.shared.inlets.load(Ordering::Acquire) == 0;
            let deadline = {
                let mut state = self.shared.lock();
                let restocked = self.shared.restock(&mut state);
                if restocked.oversized > 0 {
                    self.shared.drop_oversized(restocked);
                }
                let deadline = state
                    .open_since
                    .map(|since| since + self.shared.settings.flush_interval);
                let due = deadline.is_some_and(|deadline| deadline <= Instant::now());
                if let Some(chunk) = state.take(self.shared.settings.shape, ended || due) {
                    return Some(chunk);
                }
                if state.has_backlog() {
                    continue;
                }
                state.timer_armed = deadline.is_some();
                deadline
            };
            if ended {
                return None;
            }
            let woken = self.shared.wake.notified();
            if let Some(deadline) = deadline {
                let timer = self
                    .timer
                    .get_or_insert_with(|| Box::pin(sleep_until(deadline)));
                if timer.is_elapsed() || timer.deadline() > deadline {
                    timer.as_mut().reset(deadline);
                }
                // Either way the state is looked at again.
                tokio::select! {
                    () = woken => {}
                    () = timer.as_mut() => {}
                }
            } else {
                woken.await;
            }
        }
    }

    /// Gives a chunk's room back once its payloads are sent or given up.
    pub fn release(&mut self, mut chunk: Chunk) {
        let mut state = self.shared.lock();
        let mut free = chunk.bytes();
        let State { debt, withheld, .. } = &mut *state;
        for owed in [debt, withheld] {
            let paid = free.min(*owed);
            *owed -= paid;
            free -= paid;
        }
        self.shared.room.add_permits(free);
        chunk.clear();
        if state.spare.len() < SPARE_CHUNKS {
            state.spare.push(chunk);
        }
    }

    /// What only a narrow queue keeps back.
    fn kept_back(&self) -> usize {
        let Settings {
            capacity, blocks, ..
        } = self.shared.settings;
        if blocks {
            capacity.saturating_sub(STEADY_BYTES)
        } else {
            0
        }
    }

    /// Keeps senders that can wait to what keeps the output busy: to be called while
    /// it takes what comes.
    pub fn narrow(&mut self) {
        self.shared.takes.store(true, Ordering::Relaxed);
        if !std::mem::replace(&mut self.is_narrow, true) {
            let reserve = self.kept_back();
            let mut state = self.shared.lock();
            state.withheld += reserve - self.shared.room.forget_permits(reserve);
        }
    }

    /// Lets senders fill the whole queue: to be called when the output is stuck.
    pub fn widen(&mut self) {
        self.shared.takes.store(false, Ordering::Relaxed);
        if std::mem::take(&mut self.is_narrow) {
            let reserve = self.kept_back();
            let mut state = self.shared.lock();
            let still_out = reserve.min(state.withheld);
            state.withheld -= still_out;
            self.shared.room.add_permits(reserve - still_out);
        }
    }

    /// Takes what is queued, without waiting, the last lines too.
    pub fn drain(&mut self) -> Option<Chunk> {
        self.shared.lock().take(self.shared.settings.shape, true)
    }

    /// Takes no more lines: what is queued, and what senders still bring, is
    /// counted as dropped for `reason`. Returns the lines that were queued.
    pub fn close(&mut self, reason: LineDrop) -> u64 {
        // First, so that senders who wake see why.
        self.shared.lock().closed.get_or_insert(reason);
        self.shared.room.close();
        let mut lines = match &mut self.shared.lock().backlog {
            Some(backlog) => backlog.clear(),
            None => 0,
        };
        while let Some(chunk) = self.drain() {
            lines += chunk.lines();
            self.release(chunk);
        }
        self.shared.counters.dropped.add(reason, lines);
        lines
    }
}
