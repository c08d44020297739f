//! What a listener counts.

use super::{Counter, Gauge, PerReason, reasons};
use crate::message::Malformed;

reasons! {
    /// Why a whole frame or datagram was dropped.
    FrameDrop {
        /// Longer than `max_frame`.
        Oversized = "oversized",
        /// The stream ended, or went quiet, inside a frame.
        Truncated = "truncated",
        /// No length prefix where `framing = "length"` asks for one.
        Unframed = "unframed",
        /// Of a datagram: its sender's user is not in `allow_uids`.
        Uid = "uid",
    }
}

reasons! {
    /// Why a line was given up that passed the check.
    Shed {
        /// Memory was spent for longer than reading may stop.
        Pressure = "pressure",
    }
}

reasons! {
    /// Why a connection was not accepted.
    Refusal {
        /// `max_connections` are open.
        Limit = "limit",
        /// The peer's user is not in `allow_uids`.
        Uid = "uid",
        /// The system refused: out of descriptors or memory.
        System = "system",
    }
}

reasons! {
    /// Why a connection ended.
    Closing {
        /// The client closed it.
        Eof = "eof",
        /// Nothing came for `idle_timeout`.
        Idle = "idle",
        /// A frame begun did not end within `read_timeout`.
        ReadTimeout = "read_timeout",
        /// The stream is not what `framing` asks for, or its oversized frames passed the cap.
        Protocol = "protocol",
        /// Reading failed.
        Error = "error",
        /// The daemon stops.
        Shutdown = "shutdown",
    }
}

/// What one listener counts.
#[derive(Debug, Default)]
pub struct ListenerCounters {
    /// Connections open now.
    pub connections: Gauge,
    /// Connections taken.
    pub accepted: Counter,
    /// Connections not taken.
    pub refused: PerReason<Refusal>,
    /// Connections ended.
    pub closed: PerReason<Closing>,
    /// Whole frames, datagrams, or (newline framing) lines.
    pub frames: Counter,
    /// Bytes read, frame headers included.
    pub bytes: Counter,
    /// Lines that passed the check and were handed on.
    pub lines: Counter,
    /// Lines that passed the check and that `allow` and `deny` left out.
    pub filtered: Counter,
    /// Lines that did not pass the check.
    pub dropped: PerReason<Malformed>,
    /// Lines that passed the check and the filter, and were given up.
    pub shed: PerReason<Shed>,
    /// Frames that were dropped whole.
    pub frames_dropped: PerReason<FrameDrop>,
    /// Reads that waited for room in an output's queue.
    pub waits: Counter,
    /// Reads that waited for their connection's rate.
    pub throttled: Counter,
    /// How long they did, all together, microseconds.
    pub throttled_us: Counter,
    /// Reads that waited for want of memory.
    pub pressure_waits: Counter,
    /// How long they did, all together, microseconds.
    pub pressure_us: Counter,
    /// Bytes left in senders' sockets when the daemon's grace was over.
    pub abandoned_bytes: Counter,
    /// Datagrams that the kernel dropped for want of room in the socket.
    pub kernel_drops: Counter,
    /// New sockets for a file that was gone.
    pub rebinds: Counter,
    /// 1 while the path of a unix socket leads to nothing or to somebody else.
    pub path_lost: Gauge,
    /// What may wait in the socket, bytes, with UDP.
    pub receive_buffer_bytes: Gauge,
}
