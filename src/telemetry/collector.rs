//! What the collector counts.

use super::{Counter, Gauge, PerReason, Present, reasons};
use crate::report::Source;

reasons! {
    /// How connections are followed.
    Mode {
        /// By a dump per tick.
        Dump = "dump",
        /// By a dump per tick, and events for what opened and ended between two.
        Hybrid = "hybrid",
        /// By events, and dumps that correct what they told.
        Events = "events",
    }
}

reasons! {
    /// What an event tells.
    EventKind {
        /// A flow began.
        New = "new",
        /// A flow changed.
        Update = "update",
        /// A flow ended.
        Destroy = "destroy",
    }
}

reasons! {
    /// What a dump, or an event that did not fit, put right in the flow table.
    Correction {
        /// A flow older than the event socket, of which no event tells, has ended.
        MuteEnded = "mute_ended",
        /// A flow began, and no event told.
        MissedNew = "missed_new",
        /// A flow ended, and no event told.
        MissedDestroy = "missed_destroy",
        /// The end of a flow that was not in the table.
        UnknownDestroy = "unknown_destroy",
        /// The change of a flow that was not in the table.
        UnknownUpdate = "unknown_update",
        /// A flow was in another state.
        State = "state",
        /// A flow counted for another remote host or direction.
        Placement = "placement",
    }
}

reasons! {
    /// What went wrong while reading the kernel's tables.
    CollectError {
        /// The kernel refused: a capability is missing.
        Permission = "permission",
        /// The kernel has no such interface.
        Unsupported = "unsupported",
        /// The socket's buffer overran (`ENOBUFS`).
        Overrun = "overrun",
        /// The table changed under the dump (`NLM_F_DUMP_INTR`).
        Interrupted = "interrupted",
        /// A message did not fit the buffer.
        Truncated = "truncated",
        /// A message did not follow the format.
        Malformed = "malformed",
        /// The kernel did not answer in time.
        Timeout = "timeout",
        /// Any other error of the system.
        System = "system",
    }
}

/// What the collector counts.
#[derive(Debug, Default)]
pub struct CollectorCounters {
    /// Dumps finished.
    pub dumps: Counter,
    /// Ticks that found the collector still at the last one.
    pub skipped: Counter,
    /// Entries read.
    pub entries: Counter,
    /// Entries of the last dump.
    pub last_entries: Gauge,
    /// Microseconds that the last dump took.
    pub last_dump_micros: Gauge,
    /// Entries that could not be decoded.
    pub undecoded: Counter,
    /// Failures.
    pub errors: PerReason<CollectError>,
    /// Where connections were read from last.
    pub source: Present<Source>,
    /// 1 while it is told to pause.
    pub paused: Gauge,
    /// How connections are followed, where the source is connection tracking.
    pub mode: Present<Mode>,
    /// Changes from one mode to another.
    pub mode_changes: Counter,
    /// Events taken.
    pub events: PerReason<EventKind>,
    /// Events that the kernel dropped for want of room in the event socket.
    pub events_lost: Counter,
    /// How often it ran out of room there.
    pub overruns: Counter,
    /// Dumps that corrected the flow table.
    pub resyncs: Counter,
    /// Flows that were seen to begin. Flows opened + picked up + found = closed +
    /// failed + in the table now, always.
    pub flows_opened: Counter,
    /// Flows that the kernel picked up in mid-stream.
    pub flows_picked_up: Counter,
    /// Flows that were there at the start.
    pub flows_found: Counter,
    /// Flows that ended well, or so that nothing tells of a failure.
    pub flows_closed: Counter,
    /// Flows that were never established, or were torn down.
    pub flows_failed: Counter,
    /// Flows whose ends nobody saw, since another source took their place.
    pub flows_forgotten: Counter,
    /// What was put right.
    pub corrections: PerReason<Correction>,
    /// Flows in the flow table now.
    pub flows: Gauge,
    /// Memory that the flow table takes, bytes.
    pub flow_table_bytes: Gauge,
    /// Room in the event socket, bytes, as the kernel gave it.
    pub event_buffer_bytes: Gauge,
}

impl CollectorCounters {
    /// The collector is gone: what it followed is forgotten, and nothing is now.
    pub fn rest(&self) {
        self.flows_forgotten.add(self.flows.get());
        for gauge in [
            &self.flows,
            &self.flow_table_bytes,
            &self.event_buffer_bytes,
            &self.last_entries,
            &self.last_dump_micros,
        ] {
            gauge.set(0);
        }
        self.source.set(None);
        self.mode.set(None);
    }
}
