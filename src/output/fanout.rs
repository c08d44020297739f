//! The sending ends of several outputs as one.

use super::queue::{Inlet, Reservation};

/// The sending ends of every output that takes lines of one source.
#[derive(Debug, Default)]
pub struct Fanout {
    inlets: Vec<Inlet>,
}

impl Fanout {
    /// Over these.
    #[must_use]
    pub fn new(inlets: Vec<Inlet>) -> Self {
        Self { inlets }
    }

    /// And over this one.
    pub fn add(&mut self, inlet: Inlet) {
        self.inlets.push(inlet);
    }

    /// Whether no output takes the lines.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.inlets.is_empty()
    }

    /// The longest line, with its newline, that every output has a payload for.
    #[must_use]
    pub fn payload_limit(&self) -> usize {
        let limits = self.inlets.iter().map(Inlet::payload_limit);
        limits.min().unwrap_or(usize::MAX)
    }

    /// Hands one line, with its newline, to each output that has room. Never waits.
    pub fn offer(&self, line: &[u8]) {
        for inlet in &self.inlets {
            inlet.offer(line);
        }
    }

    /// No room yet, in any output.
    #[must_use]
    pub fn room(&self) -> Room<'_> {
        Room {
            fanout: self,
            parts: Vec::with_capacity(self.inlets.len()),
        }
    }
}

/// Room reserved in every output, for lines about to be read.
#[derive(Debug)]
pub struct Room<'a> {
    fanout: &'a Fanout,
    /// One for each output, but for those not yet reached by a refill.
    parts: Vec<Option<Reservation<'a>>>,
}

impl Room<'_> {
    /// Reserves `bytes` in each output: waits where the output asks senders to,
    /// does without where it drops. Returns whether it had to wait. What is
    /// pushed after the future was dropped half way is taken or counted all the same.
    pub async fn refill(&mut self, bytes: usize) -> bool {
        let mut waited = false;
        self.parts.clear();
        for inlet in &self.fanout.inlets {
            let mut part = inlet.try_reserve(bytes);
            if part.is_none() && inlet.blocks() {
                waited = true;
                part = inlet.reserve(bytes).await;
            }
            self.parts.push(part);
        }
        waited
    }

    /// Hands `count` lines, each with its newline, to every output; where there is
    /// no room they are counted as dropped.
    pub fn push(&mut self, lines: &[u8], count: u64) {
        for (turn, inlet) in self.fanout.inlets.iter().enumerate() {
            match self.parts.get_mut(turn) {
                Some(Some(room)) => room.push(lines, count),
                // What is wanted now may be less than what was asked for.
                Some(None) | None => inlet.offer_lines(lines, count),
            }
        }
    }

    /// Gives back what was not used.
    pub fn release(&mut self) {
        self.parts.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::config::{Format, LineSource};
    use crate::output::format::Encoding;
    use crate::output::payload::{Delimiter, Shape};
    use crate::output::queue::{Outlet, Settings, queue};
    use crate::telemetry::{LineDrop, OutputCounters};

    fn output(capacity: usize, blocks: bool) -> (Inlet, Outlet, Arc<OutputCounters>) {
        let counters = Arc::new(OutputCounters::default());
        let settings = Settings {
            shape: Shape {
                limit: 64,
                delimiter: Delimiter::Newline,
            },
            capacity,
            flush_interval: Duration::from_millis(100),
            blocks,
            encoding: Encoding::new(Format::Dogstatsd, ""),
        };
        let (inlet, outlet) = queue(settings, Arc::clone(&counters));
        (inlet.for_source(LineSource::Listeners), outlet, counters)
    }

    #[tokio::test]
    async fn every_output_gets_each_line_and_a_full_one_that_drops_counts_it() {
        let (wide, mut wide_out, wide_counters) = output(1024, true);
        let (narrow, mut narrow_out, narrow_counters) = output(8, false);
        let fanout = Fanout::new(vec![wide, narrow]);
        let mut room = fanout.room();
        assert!(!room.refill(64).await);
        room.push(b"a:1|c\n", 1);
        assert!(!room.refill(64).await);
        room.push(b"b:1|c\n", 1);
        room.release();
        assert_eq!(wide_out.drain().unwrap().lines(), 2);
        assert_eq!(narrow_out.drain().unwrap().lines(), 1);
        assert_eq!(wide_counters.accepted.get(), 2);
        assert_eq!(narrow_counters.accepted.get(), 2);
        assert_eq!(narrow_counters.dropped.get(LineDrop::QueueFull), 1);
        assert_eq!(wide_counters.dropped.total(), 0);
    }

    #[tokio::test]
    async fn a_sender_waits_for_the_output_that_blocks_and_says_so() {
        let (inlet, mut outlet, _) = output(64, true);
        let fanout = Fanout::new(vec![inlet]);
        let mut first = fanout.room();
        assert!(!first.refill(64).await);
        first.push(&[b"x".repeat(63), b"\n".to_vec()].concat(), 1);
        let mut second = fanout.room();
        let mut refill = Box::pin(second.refill(64));
        assert!(pends(&mut refill).await);
        let chunk = outlet.drain().unwrap();
        outlet.release(chunk);
        assert!(refill.await);
    }

    #[tokio::test]
    async fn lines_pushed_after_an_interrupted_refill_are_counted_in_every_output() {
        let (open, _open_out, open_counters) = output(1024, true);
        let (full, _full_out, full_counters) = output(8, true);
        full.offer(b"a:1|c\n");
        let fanout = Fanout::new(vec![open, full]);
        let mut room = fanout.room();
        assert!(pends(&mut Box::pin(room.refill(8))).await);
        room.push(b"b:1|c\n", 1);
        assert_eq!(open_counters.held(), 1);
        assert_eq!(full_counters.accepted.get(), 2);
        assert_eq!(full_counters.dropped.get(LineDrop::QueueFull), 1);
    }

    /// Polls once.
    async fn pends(future: &mut (impl Future<Output = bool> + Unpin)) -> bool {
        tokio::select! {
            biased;
            _ = future => false,
            () = std::future::ready(()) => true,
        }
    }
}
