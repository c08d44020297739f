//! What the admin socket and the HTTP endpoint count.

use std::sync::Arc;

use super::{CollectError, Counter, PerReason, reasons};

reasons! {
    /// Why a request was not answered, or not in full.
    AdminRefusal {
        /// All connections were taken.
        Connections = "connections",
        /// Another dump was being made.
        Busy = "busy",
    }
}

/// What those who come by HTTP have counted.
#[derive(Debug, Default)]
pub struct AdminCounters {
    /// Requests.
    pub requests: Counter,
    /// Those, and connections, that were refused for want of room.
    pub refused: PerReason<AdminRefusal>,
}

/// What the HTTP endpoint counts.
#[derive(Debug, Default)]
pub struct HttpCounters {
    /// Requests, and those refused: `busy`, where a scrape went without connections.
    pub doors: Arc<AdminCounters>,
    /// Looks at the kernel's tables, each for all scrapes of a second.
    pub looks: Counter,
    /// Those that failed, or were not done in time.
    pub look_errors: PerReason<CollectError>,
}
