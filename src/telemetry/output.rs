//! What an output counts.

use super::{Counter, Gauge, PerReason, reasons};

reasons! {
    /// Why an output dropped a line.
    LineDrop {
        /// The queue was full.
        QueueFull = "queue_full",
        /// Longer than `max_payload`.
        Oversized = "oversized",
        /// The output's format has no form for it.
        Format = "format",
        /// The receiver takes no message of this size.
        MessageSize = "message_size",
        /// The daemon stopped before it could be sent.
        Shutdown = "shutdown",
        /// Nobody reads the output any more, and nobody will.
        Closed = "closed",
        /// The backlog had no room for it, and its sender had its share.
        BacklogFull = "backlog_full",
        /// It was in the backlog, and gave way to a sender with less than its share.
        BacklogEvicted = "backlog_evicted",
        /// It was one that never merges, and the backlog held as many of those as it may.
        BacklogUnmerged = "backlog_unmerged",
        /// A set in the backlog had as many members as it may.
        BacklogSet = "backlog_set",
    }
}

reasons! {
    /// What went wrong at an output.
    OutputError {
        /// The connection could not be made.
        Connect = "connect",
        /// The connection failed in use.
        Send = "send",
        /// A name was not resolved.
        Resolve = "resolve",
        /// The receiver's host said that nobody listens (UDP).
        Refused = "refused",
    }
}

impl LineDrop {
    /// Whether it was dropped on its way to the transport, and not for want of room.
    #[must_use]
    pub const fn is_by_writer(self) -> bool {
        matches!(
            self,
            Self::Oversized | Self::Format | Self::MessageSize | Self::Shutdown | Self::Closed
        )
    }
}

/// What one output counts. Lines accepted = sent + merged + dropped + spooled + held, always.
#[derive(Debug, Default)]
pub struct OutputCounters {
    /// Lines offered to the output, dropped ones included.
    pub accepted: Counter,
    /// Lines that `only` left out before: not offered.
    pub filtered: Counter,
    /// Lines handed to the transport whole.
    pub sent: Counter,
    /// Lines that went into others of their context.
    pub merged: Counter,
    /// Lines given up.
    pub dropped: PerReason<LineDrop>,
    /// Bytes of lines that found no room, about.
    pub dropped_queue_bytes: Counter,
    /// Bytes of lines given up on their way to the transport.
    pub dropped_writer_bytes: Counter,
    /// Lines written to the spool.
    pub spooled: Counter,
    /// Lines sent by a connection that was lost, which its receiver may not have read.
    pub at_risk: Counter,
    /// Contexts that lines were merged into, told when they are given back.
    pub merged_contexts: Counter,
    /// Contexts in the backlog.
    pub backlog_contexts: Gauge,
    /// Memory of the backlog, bytes.
    pub backlog_bytes: Gauge,
    /// Payloads sent.
    pub payloads: Counter,
    /// Bytes sent.
    pub bytes: Counter,
    /// Payloads that waited for the rate.
    pub throttled: Counter,
    /// How long they did, all together, microseconds.
    pub throttled_us: Counter,
    /// Connections made.
    pub connects: Counter,
    /// Failures.
    pub errors: PerReason<OutputError>,
}

impl OutputCounters {
    /// Counts lines of so many bytes that are given up.
    pub fn drop_lines(&self, reason: LineDrop, lines: u64, bytes: usize) {
        self.dropped.add(reason, lines);
        let counter = if reason.is_by_writer() {
            &self.dropped_writer_bytes
        } else {
            &self.dropped_queue_bytes
        };
        counter.add(bytes as u64);
    }

    /// Lines in the queue, in the backlog, or on their way.
    #[must_use]
    pub fn held(&self) -> u64 {
        let gone = self.sent.get() + self.merged.get() + self.dropped.total() + self.spooled.get();
        self.accepted.get().saturating_sub(gone)
    }

    /// Memory that those take, bytes, rather less than more.
    #[must_use]
    pub fn held_bytes(&self) -> u64 {
        self.held() * LINE_BYTES + self.backlog_bytes.get()
    }
}

/// What a line takes in memory at least, as a rule.
const LINE_BYTES: u64 = 32;
