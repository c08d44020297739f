//! Frames of one sender → checked lines in the outputs' queues.

use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;

use tokio::task::yield_now;

use super::pressure::{Keep, Pressure};
use super::socket::Change;
use crate::forward::Forward;
use crate::frame::Cut;
use crate::log_limit::LogLimit;
use crate::message::{Malformed, Run, check_each, check_lines};
use crate::output::backlog::SenderId;
use crate::output::{Fanout, Room};
use crate::telemetry::{FrameDrop, ListenerCounters, Reason, Shed};

/// Room reserved before a read, and the most bytes of one.
pub(super) const READ_BYTES: usize = 64 << 10;

/// Reads of a few bytes in a row after which the others get their turn.
const READS_PER_TURN: u32 = 16;

/// Runs of lines from this length on are handed on as they are; shorter ones are
/// gathered first, since each handing on takes a lock.
const DIRECT_BYTES: usize = 1 << 10;

/// Gathered lines are handed on from here on, within one read.
const GATHERED_BYTES: usize = 8 << 10;

/// Bytes of a bad line that are shown in the log.
const SHOWN_BYTES: usize = 128;

thread_local! {
    /// Reads end in a buffer that all connections of the thread share.
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// A thread's buffers. Nothing in them outlives a read.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    read: Vec<u8>,
    gathered: Vec<u8>,
}

impl Scratch {
    /// Lends the thread's own.
    pub(super) fn lend<T>(use_it: impl FnOnce(&mut Self) -> T) -> T {
        SCRATCH.with_borrow_mut(use_it)
    }

    /// Space to read `bytes` into, and where lines are gathered.
    pub(super) fn parts(&mut self, bytes: usize) -> (&mut [u8], &mut Vec<u8>) {
        if self.read.len() < bytes {
            self.read.resize(bytes, 0);
        }
        let space = self.read.get_mut(..bytes).unwrap_or_default();
        (space, &mut self.gathered)
    }
}

/// What a task has read in its turn.
#[derive(Debug, Default)]
pub(super) struct Turn {
    bytes: usize,
    reads: u32,
}

impl Turn {
    /// Ends it after a read that left the socket dry.
    pub(super) fn end(&mut self) {
        *self = Self::default();
    }

    /// Goes on after a read of so many bytes, or lets the others have theirs: a read that
    /// is full is a turn, so that a quiet sender is behind no more than one of each other.
    pub(super) async fn go_on(&mut self, bytes: usize) {
        self.bytes += bytes;
        self.reads += 1;
        if self.bytes >= READ_BYTES || self.reads >= READS_PER_TURN {
            self.end();
            yield_now().await;
        }
    }
}

/// What all senders of a listener share.
#[derive(Debug)]
pub(super) struct Stage {
    pub(super) listener: String,
    pub(super) fanout: Arc<Fanout>,
    pub(super) counters: Arc<ListenerCounters>,
    pub(super) log: LogLimit,
    pub(super) pressure: Arc<Pressure>,
}

impl Stage {
    /// Lets a read wait for as long as memory is too short for it.
    pub(super) async fn wait_for_memory(&self) -> Keep {
        if self.pressure.is_calm() {
            return Keep::All;
        }
        // Apart, as every connection's task would have room for the timers.
        Box::pin(self.pressure.wait(&self.counters)).await
    }

    /// Counts what has become of the socket file; the new socket, if there is one.
    pub(super) fn note_file<T>(&self, change: Change<T>) -> Option<T> {
        let counters = &self.counters;
        counters
            .path_lost
            .set(u64::from(matches!(change, Change::Lost)));
        let Change::Made(socket) = change else {
            return None;
        };
        counters.rebinds.add(1);
        Some(socket)
    }

    /// Counts a frame that is lost, and says so.
    pub(super) fn drop_frame(
        &self,
        reason: FrameDrop,
        peer: &dyn fmt::Display,
        error: &dyn fmt::Display,
    ) {
        self.counters.frames_dropped.add(reason, 1);
        if let Some(suppressed) = self.log.permit() {
            tracing::warn!(
                listener = %self.listener, %peer, reason = reason.as_str(), %error, suppressed,
                "frame dropped"
            );
        }
    }
}

/// What one read came to.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    pub(super) frames: u64,
    /// Those that passed the check and the filter.
    pub(super) lines: u64,
    /// Those that passed the check alone.
    pub(super) filtered: u64,
    pub(super) bad_lines: u64,
}

impl Tally {
    /// Lines that passed the check.
    pub(super) const fn good_lines(self) -> u64 {
        self.lines + self.filtered
    }

    /// Lines of all kinds.
    const fn all_lines(self) -> u64 {
        self.good_lines() + self.bad_lines
    }
}

/// Whose lines are taken.
#[derive(Clone, Copy)]
pub(super) struct Sender<'a> {
    /// What is done with them.
    forward: &'a Forward,
    /// What the log calls it.
    peer: &'a dyn fmt::Display,
}

impl<'a> Sender<'a> {
    pub(super) fn new(forward: &'a Forward, peer: &'a dyn fmt::Display) -> Self {
        Self { forward, peer }
    }
}

/// The lines of one read on their way, of one sender or of several.
pub(super) struct Batch<'a, 'f> {
    stage: &'a Stage,
    /// None where lines are given up.
    room: Option<&'a mut Room<'f>>,
    gathered: &'a mut Vec<u8>,
    gathered_lines: u64,
    tally: Tally,
}

impl<'a, 'f> Batch<'a, 'f> {
    pub(super) fn new(
        stage: &'a Stage,
        room: Option<&'a mut Room<'f>>,
        gathered: &'a mut Vec<u8>,
    ) -> Self {
        gathered.clear();
        Self {
            stage,
            room,
            gathered,
            gathered_lines: 0,
            tally: Tally::default(),
        }
    }

    pub(super) const fn stage(&self) -> &'a Stage {
        self.stage
    }

    /// What is taken from now on is this sender's to answer for.
    pub(super) fn turn_to(&mut self, sender: SenderId) {
        if (self.room.as_ref()).is_some_and(|room| room.sender() != sender) {
            self.flush();
            if let Some(room) = &mut self.room {
                room.turn_to(sender);
            }
        }
    }

    /// Takes one step of a framer. Unframed lines are counted as a frame each.
    pub(super) fn take(&mut self, cut: Cut<&[u8]>, is_unframed: bool, from: Sender<'_>) {
        match cut {
            Cut::Body(body) => {
                let before = self.tally.all_lines();
                self.take_body(body, from);
                self.tally.frames += if is_unframed {
                    self.tally.all_lines() - before
                } else {
                    1
                };
            }
            Cut::Oversized => {
                let error = "longer than max_frame";
                self.stage
                    .drop_frame(FrameDrop::Oversized, from.peer, &error);
            }
            Cut::Truncated => {
                let error = "the stream ended inside it";
                self.stage
                    .drop_frame(FrameDrop::Truncated, from.peer, &error);
            }
        }
    }

    fn take_body(&mut self, body: &[u8], from: Sender<'_>) {
        if from.forward.is_identity() {
            self.take_unchanged(body, from);
        } else {
            self.take_changed(body, from);
        }
    }

    /// Takes lines that go as they came, as many at a time as can be.
    fn take_unchanged(&mut self, body: &[u8], from: Sender<'_>) {
        let filter = from.forward.filter();
        let takes_all = filter.takes_all();
        check_lines(body, |run| match run {
            Run::Lines(lines, count) if takes_all => self.pass(lines, count),
            Run::Lines(lines, _) => {
                let left_out = filter.runs(lines, |lines, count| self.pass(lines, count));
                self.tally.filtered += left_out;
            }
            Run::Bare(line) if filter.takes(line) => {
                self.tally.lines += 1;
                self.gather(1, |gathered| {
                    gathered.extend_from_slice(line);
                    gathered.push(b'\n');
                });
            }
            Run::Bare(_) => self.tally.filtered += 1,
            Run::Bad(line, reason) => self.drop_line(line, reason, from.peer),
        });
    }

    /// Takes lines that are changed, one by one.
    fn take_changed(&mut self, body: &[u8], from: Sender<'_>) {
        let forward = from.forward;
        let filter = forward.filter();
        check_each(body, |line, verdict| match verdict {
            Ok(places) if filter.takes(line) => {
                self.tally.lines += 1;
                self.gather(1, |gathered| forward.write_at(line, &places, gathered));
            }
            Ok(_) => self.tally.filtered += 1,
            Err(reason) => self.drop_line(line, reason, from.peer),
        });
    }

    /// Takes lines, each with its newline, that passed the check and the filter.
    fn pass(&mut self, lines: &[u8], count: u64) {
        self.tally.lines += count;
        if lines.len() < DIRECT_BYTES {
            self.gather(count, |gathered| gathered.extend_from_slice(lines));
            return;
        }
        self.flush();
        if let Some(room) = &mut self.room {
            room.push(lines, count);
        }
    }

    /// Gathers `count` lines; where lines are given up, does without.
    #[inline]
    fn gather(&mut self, count: u64, write: impl FnOnce(&mut Vec<u8>)) {
        if self.room.is_none() {
            return;
        }
        write(self.gathered);
        self.gathered_lines += count;
        if self.gathered.len() >= GATHERED_BYTES {
            self.flush();
        }
    }

    fn flush(&mut self) {
        if self.gathered_lines > 0
            && let Some(room) = &mut self.room
        {
            room.push(self.gathered, self.gathered_lines);
            self.gathered.clear();
            self.gathered_lines = 0;
        }
    }

    fn drop_line(&mut self, line: &[u8], reason: Malformed, peer: &dyn fmt::Display) {
        self.stage.counters.dropped.add(reason, 1);
        self.tally.bad_lines += 1;
        // One per read may ask for the time.
        if self.tally.bad_lines > 1 {
            return;
        }
        if let Some(suppressed) = self.stage.log.permit() {
            let shown = line.get(..SHOWN_BYTES).unwrap_or(line).escape_ascii();
            tracing::warn!(
                listener = %self.stage.listener, %peer, reason = reason.as_str(),
                line = %shown, suppressed, "bad line dropped"
            );
        }
    }

    /// Hands on what is left, and counts: where there is no room to hand it on by, lines
    /// are given up.
    pub(super) fn finish(mut self) -> Tally {
        self.flush();
        let counters = &self.stage.counters;
        counters.frames.add(self.tally.frames);
        match self.room {
            Some(_) => counters.lines.add(self.tally.lines),
            None => counters.shed.add(Shed::Pressure, self.tally.lines),
        }
        counters.filtered.add(self.tally.filtered);
        self.tally
    }
}
