//! The receiving end of a queue: payloads are waited for, and their room given back.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::time::{Instant, Sleep, sleep_until};

use super::{Shared, State};
use crate::config::OnFull;
use crate::output::payload::Chunk;
use crate::output::spool::{Contents, Kind};
use crate::telemetry::LineDrop;

/// Chunks kept for reuse by one output.
const SPARE_CHUNKS: usize = 2;

/// The receiving end. When it goes, what is still queued is counted as dropped.
pub struct Outlet {
    pub(super) shared: Arc<Shared>,
    /// Left running when it has no more to wait for: to go off once for nothing is
    /// cheaper than to be set anew for each payload.
    pub(super) timer: Option<Pin<Box<Sleep>>>,
    /// Whether only what is steady may wait.
    pub(super) is_narrow: bool,
    /// When the last part of the backlog was queued.
    pub(super) restocked: Option<Instant>,
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
                self.shared.fall_due(&mut state, ended);
                let mut rest_until = None;
                if self.shared.may_restock(&state) {
                    rest_until = self.rest_until();
                    if rest_until.is_none() {
                        self.shared.restock(&mut state);
                        self.restocked = Some(Instant::now());
                    }
                }
                let flush_at = state
                    .open_since
                    .map(|since| since + self.shared.settings.flush_interval);
                let due = flush_at.is_some_and(|flush_at| flush_at <= Instant::now());
                let is_last = ended && state.merging.backlog.is_empty();
                let flushes = is_last || due || state.hurries;
                if let Some(chunk) = state.take(self.shared.settings.shape, flushes) {
                    return Some(chunk);
                }
                state.hurries = self.shared.may_restock(&state);
                if rest_until.is_none() && self.shared.may_restock(&state) {
                    continue;
                }
                if is_last {
                    return None;
                }
                state.timer_armed = flush_at.is_some();
                let due_at = state.merging.next();
                [flush_at, rest_until, due_at].into_iter().flatten().min()
            };
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

    /// Until when the backlog waits, if the receiver is to have a rest from it.
    fn rest_until(&self) -> Option<Instant> {
        let until = self.restocked? + self.shared.settings.pause?;
        (until > Instant::now()).then_some(until)
    }

    /// Gives a chunk's room back once its payloads are sent or given up.
    pub fn release(&mut self, mut chunk: Chunk) {
        let mut state = self.shared.lock();
        state.merging.note_sent();
        let mut free = chunk.bytes();
        let State { debt, withheld, .. } = &mut *state;
        for owed in [debt, withheld] {
            let paid = free.min(*owed);
            *owed -= paid;
            free -= paid;
        }
        if self.merges() && self.is_narrow && state.merging.is_recovering() {
            let room = self.shared.room.available_permits();
            free += self.shared.room.forget_permits(room);
            state.merging.keep_room(free);
        } else {
            self.shared.room.add_permits(free);
        }
        chunk.clear();
        if state.spare.len() < SPARE_CHUNKS {
            state.spare.push(chunk);
        }
    }

    /// Whether senders' lines are merged when there is no room.
    #[must_use]
    pub fn merges(&self) -> bool {
        self.shared.settings.on_full == OnFull::Merge
    }

    /// What only a narrow queue keeps back.
    fn kept_back(&self) -> usize {
        let settings = &self.shared.settings;
        match settings.on_full {
            OnFull::Drop => 0,
            OnFull::Block | OnFull::Merge => settings.capacity.saturating_sub(settings.steady),
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
        let mut state = self.shared.lock();
        self.shared.recover(&mut state);
        if std::mem::take(&mut self.is_narrow) {
            // Some of what is under way may have gone.
            state.merging.note_sent();
            let reserve = self.kept_back();
            let still_out = reserve.min(state.withheld);
            state.withheld -= still_out;
            self.shared.room.add_permits(reserve - still_out);
        }
    }

    /// Takes what is queued, without waiting, the last lines too.
    pub fn drain(&mut self) -> Option<Chunk> {
        self.shared.lock().take(self.shared.settings.shape, true)
    }

    /// Takes no more lines: what senders still bring is counted as dropped for `reason`.
    pub fn shut(&mut self, reason: LineDrop) {
        // First, so that senders who wake see why.
        self.shared.lock().closed.get_or_insert(reason);
        self.shared.room.close();
    }

    /// Moves all that is held to `contents`, what goes first coming first.
    pub fn take_rest(&mut self, contents: &mut Contents) {
        while let Some(chunk) = self.drain() {
            for lines in chunk.rest() {
                contents.add(Kind::Wire, lines);
            }
            self.release(chunk);
        }
        self.shared.empty_backlog(contents);
    }

    /// Takes in what was left by an earlier run. Lines in a format that is no longer the
    /// output's are counted as dropped.
    pub fn restore(&mut self, contents: &Contents, is_same_format: bool) {
        for (kind, line) in contents.iter() {
            match kind {
                Kind::Raw(source) => self.shared.restore(line, source),
                Kind::Wire if is_same_format => self.shared.requeue(line),
                Kind::Wire => {
                    self.shared.counters.accepted.add(1);
                    (self.shared.counters).drop_lines(LineDrop::Format, 1, line.len());
                }
            }
        }
    }

    /// Takes no more lines: what is held, and what senders still bring, is
    /// counted as dropped for `reason`. Returns the lines that were held.
    pub fn close(&mut self, reason: LineDrop) -> u64 {
        self.shut(reason);
        let (mut lines, mut bytes) = {
            let mut state = self.shared.lock();
            let bytes = state.merging.backlog.text_bytes();
            let lines = state.merging.backlog.clear();
            self.shared.tell_backlog(&state);
            (lines, bytes)
        };
        while let Some(chunk) = self.drain() {
            lines += chunk.lines();
            bytes += chunk.bytes();
            self.release(chunk);
        }
        self.shared.counters.drop_lines(reason, lines, bytes);
        lines
    }
}
