//! What the desk listens to: the event socket, as the mode wants it.

use tokio::time::Instant;
use tracing::{info, warn};

use super::{DRAIN_BYTES, Desk, Drained};
use crate::collector::ending::Detail;
use crate::collector::ledger::{Books, Hearing, Ledger};
use crate::conntrack::{Drained as Batch, Events, Happening, Subscription};
use crate::flow::nanoseconds_since_epoch;
use crate::handover;
use crate::report::Source;
use crate::telemetry::{EventKind, Mode, Reason as _};

impl<D: Detail> Desk<D> {
    /// Listens to as much as the mode wants, where connection tracking is the source.
    pub(in crate::collector) fn tune(&mut self) {
        let wanted = match self.source {
            Some(Source::Sockets | Source::Off) => Hearing::Nothing,
            _ if self.ledger.is_none() || self.crowded => Hearing::Nothing,
            _ => self.pace.hearing(),
        };
        let subscription = match wanted {
            Hearing::Nothing => {
                self.close_events();
                return;
            }
            Hearing::Ends => Subscription::Ends,
            Hearing::Everything => Subscription::Full,
        };
        let outcome = match &mut self.events {
            Some(events) => events.subscribe(subscription),
            none => Events::open(&self.config, subscription).map(|events| {
                *none = Some(events);
            }),
        };
        if let Err(error) = outcome {
            self.close_events();
            if !std::mem::replace(&mut self.told, true) {
                self.counters.errors.add(error.reason(), 1);
                warn!(%error, "no events can be had: connections that last less than a tick are not seen");
            }
        }
    }

    /// Goes on with events that wait for whoever takes another process's place. What ended
    /// meanwhile is found and ended by them, before a dump has been made.
    pub(in crate::collector) fn go_on(&mut self, left: Option<handover::Events>) {
        if self.ledger.is_some() {
            self.events = left.and_then(|left| Events::adopt(&self.config, left));
        }
        if self.events.is_some() {
            // Before the first of them is placed.
            self.count.refresh();
        }
    }

    /// Leaves the events that wait.
    pub(in crate::collector) fn leave(&mut self) -> Option<handover::Events> {
        let left = self.events.take()?.leave(&self.config);
        left.inspect_err(|error| warn!(%error, "the events that wait cannot be left"))
            .ok()
    }

    /// Listens to nothing any more.
    pub(in crate::collector) fn close_events(&mut self) {
        if self.events.is_some() {
            self.publish();
            self.events = None;
            self.drops = 0;
        }
        if let Some(ledger) = &mut self.ledger {
            ledger.hear(Hearing::Nothing);
        }
    }

    /// What is heard now.
    pub(super) fn hearing(&self) -> Hearing {
        match self.events.as_ref().map(Events::subscription) {
            None => Hearing::Nothing,
            Some(Subscription::Ends) => Hearing::Ends,
            Some(Subscription::Full) => Hearing::Everything,
        }
    }

    /// Reads the events that wait.
    pub(in crate::collector) fn drain(&mut self) -> Drained {
        let Self {
            events: Some(events),
            ledger: Some(ledger),
            count,
            counters,
            ..
        } = self
        else {
            return Drained::Nothing;
        };
        let now = nanoseconds_since_epoch();
        let mut kinds = [0_u64; EventKind::ALL.len()];
        let mut books = Books { count, counters };
        let drained = events.drain(DRAIN_BYTES, &mut |event| {
            kinds[match event.happening {
                Happening::New => EventKind::New,
                Happening::Update => EventKind::Update,
                Happening::Destroy => EventKind::Destroy,
            } as usize] += 1;
            ledger.event(event, now, &mut books);
        });
        for (&kind, count) in EventKind::ALL.iter().zip(kinds) {
            counters.events.add(kind, count);
        }
        self.record_ends();
        let counters = &self.counters;
        match drained {
            Ok(drained) => {
                counters.undecoded.add(drained.undecoded);
                // What it told is lost as if there had been no room.
                self.losses.in_dump |= drained.undecoded > 0;
                if drained.overruns > 0 {
                    self.overrun(drained.overruns);
                }
                match drained {
                    Batch { is_dry: false, .. } => Drained::Partly,
                    Batch { bytes: 0, .. } => Drained::Nothing,
                    _ => Drained::Wholly,
                }
            }
            Err(error) => {
                counters.errors.add(error.reason(), 1);
                warn!(%error, "events cannot be read: listening anew");
                self.losses.in_dump = true;
                self.close_events();
                Drained::Nothing
            }
        }
    }

    /// Reads all events that wait now, and few of those that come meanwhile: no more can
    /// wait than the buffer holds.
    pub(in crate::collector) fn catch_up(&mut self) {
        let mut rest = self.events.as_ref().map_or(0, Events::buffer_bytes) / DRAIN_BYTES + 1;
        while self.drain() == Drained::Partly && rest > 0 {
            rest -= 1;
        }
    }

    /// Events were lost. With a larger buffer fewer may be; where it cannot grow it
    /// counts as too much.
    pub(super) fn overrun(&mut self, overruns: u64) {
        self.counters.overruns.add(overruns);
        self.losses.in_dump = true;
        let grown = self.events.as_mut().and_then(Events::grow);
        match grown {
            Some(bytes) => info!(
                bytes,
                "events were lost for want of room: the buffer was enlarged"
            ),
            None => self.losses.in_second = true,
        }
    }

    /// Once a second: looks whether too much is listened to.
    pub(in crate::collector) fn second(&mut self, now: Instant) {
        let overran = std::mem::take(&mut self.losses.in_second);
        let Some(message) = self.pace.second(overran, now) else {
            return;
        };
        warn!("{message}");
        self.why = message;
        self.counters.mode_changes.add(1);
        self.tune();
    }

    /// Whether events were lost since the last dump began, or there was no room for what
    /// they told, so that the next is due.
    pub(in crate::collector) fn has_lost(&self) -> bool {
        self.losses.in_dump || self.ledger.as_ref().is_some_and(Ledger::is_overfull)
    }

    /// The mode that what is heard comes to.
    pub(in crate::collector) fn mode(&self) -> Mode {
        self.hearing().mode()
    }
}
