//! What the daemon says that an output's counters came to.

use super::lines::{last, total};

/// Lines of one output, but for the connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Counted {
    pub(crate) accepted: usize,
    pub(crate) filtered: usize,
    pub(crate) sent: usize,
    pub(crate) merged: usize,
    pub(crate) dropped: usize,
    pub(crate) spooled: usize,
    pub(crate) held: usize,
    pub(crate) at_risk: usize,
    /// Connections made.
    pub(crate) connects: usize,
}

impl Counted {
    /// As the daemon's own lines told up to now of the output with this address.
    pub(crate) fn of(telemetry: &str, address: &str) -> Self {
        let tag = format!("output:{address}");
        let tags: &[&str] = &[&tag];
        let count = |name: &str| total(telemetry, &format!("conntally.output.{name}"), tags);
        Self {
            accepted: count("lines"),
            filtered: count("lines_filtered"),
            sent: count("lines_sent"),
            merged: count("lines_merged"),
            dropped: count("lines_dropped"),
            spooled: count("lines_spooled"),
            held: last(telemetry, "conntally.output.lines_held", tags).unwrap_or_default(),
            at_risk: count("lines_at_risk"),
            connects: count("connects"),
        }
    }

    /// Lines that were accepted, and have gone one way or the other.
    fn gone(self) -> usize {
        self.sent + self.merged + self.dropped + self.spooled
    }

    /// Whether so many lines came, and none of them is held; a report is read as it is
    /// written, so that its parts may be of two.
    pub(crate) fn have_gone(self, lines: usize) -> bool {
        self.accepted == lines && self.gone() == lines
    }

    /// Rule 1.
    #[track_caller]
    pub(crate) fn assert_balanced(self) {
        assert_eq!(self.accepted, self.gone() + self.held, "{self:?}");
    }
}
