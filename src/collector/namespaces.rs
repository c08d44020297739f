//! The collectors of all network namespaces: asked together at each tick, told of
//! together once they have answered.
//!
//! A report waits for whoever was asked at its tick, until the next tick at the latest.
//! A collector that was late once is not waited for until it is in time again; what it
//! answers is told with the next report.
//!
//! A namespace lives as long as its collector's thread is in it, whatever becomes of its
//! file: once that is gone, or another namespace's, the collector is asked a last time
//! and let go. The file is looked for at each tick from then on.

mod seat;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::future::poll_fn;
use std::mem;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::timeout;
use tracing::warn;

use self::seat::Seat;
use super::command::Commands;
use super::{Collector, CollectorError};
use crate::config::{Config, SourceChoice};
use crate::flow::key::KeyHasher;
use crate::handover;
use crate::netns::Identity;
use crate::report::Snapshot;
use crate::telemetry::{CollectorCounters, Telemetry};

/// The collectors of the daemon's own namespace and of those that it counts beside it.
#[derive(Debug)]
pub struct Collectors {
    config: Arc<Config>,
    seats: Vec<Seat>,
    /// What was answered and not yet told: of each namespace one.
    gathered: Vec<Snapshot>,
    /// What is to be told now, in this order.
    due: VecDeque<Vec<Snapshot>>,
}

impl Collectors {
    /// Starts them, and adds what they count to `telemetry`. The daemon's own takes the
    /// commands, and goes on with the events that were `left`. There are none where the source is off.
    ///
    /// # Errors
    /// Fails when a source that the configuration names refuses, or a namespace is
    /// missing or cannot be entered.
    pub fn start(
        config: &Config,
        telemetry: &mut Telemetry,
        commands: Commands,
        keys: KeyHasher,
        left: Option<handover::Events>,
    ) -> Result<Self, CollectorError> {
        let config = Arc::new(config.clone());
        let mut seats = Vec::new();
        let counters = Arc::<CollectorCounters>::default();
        telemetry.collectors.push((None, Arc::clone(&counters)));
        let own = Identity::current().ok();
        let started = Collector::start(&config, commands, keys, Arc::clone(&counters), left)?;
        if let Some(collector) = started {
            seats.push(Seat::new(None, own, counters, collector));
        }
        for netns in &config.collector.netns {
            if config.collector.source == SourceChoice::Off {
                break;
            }
            let counters = Arc::<CollectorCounters>::default();
            let name = Some(Arc::clone(netns.tag()));
            telemetry.collectors.push((name, Arc::clone(&counters)));
            let entering = seat::enter(netns, &config, Arc::clone(&counters))?;
            let Some((collector, identity)) = seat::joined(entering)? else {
                break;
            };
            let is_same = |seat: &Seat| seat.identity == Some(identity);
            if seats.iter().any(is_same) {
                warn!(%netns, "this network namespace is counted already: its connections are told twice");
            }
            let netns = Some(netns.clone());
            seats.push(Seat::new(netns, Some(identity), counters, collector));
        }
        Ok(Self::of(config, seats))
    }

    fn of(config: Arc<Config>, seats: Vec<Seat>) -> Self {
        Self {
            config,
            seats,
            gathered: Vec::new(),
            due: VecDeque::new(),
        }
    }

    /// A tick is over: asks each for what there is now. A report is due by the next.
    pub fn tick(&mut self) {
        let waited = self.seats.iter().any(|seat| seat.awaited);
        if waited {
            self.conclude();
        }
        let config = Arc::clone(&self.config);
        for place in 0..self.seats.len() {
            let Some(seat) = self.seats.get_mut(place) else {
                continue;
            };
            seat.follow(&config);
            seat.ask();
            if let Some(nothing) = seat.fade() {
                self.gather(nothing);
            }
        }
        if !waited && !self.seats.iter().any(|seat| seat.awaited) {
            self.conclude();
        }
    }

    /// What is to be told next: no namespace twice. Nothing is lost where the future is
    /// dropped.
    pub async fn report(&mut self) -> Vec<Snapshot> {
        poll_fn(|context| {
            self.poll(context);
            match self.due.pop_front() {
                Some(due) => Poll::Ready(due),
                None => Poll::Pending,
            }
        })
        .await
    }

    /// Leaves the events that wait for the daemon's own namespace: to be called after the
    /// last answers.
    #[must_use]
    pub fn leave(self) -> Option<handover::Events> {
        self.seats.into_iter().find_map(Seat::leave_events)
    }

    /// Asks all a last time, and waits for so long for their answers. If they are to
    /// `leave`, what happens after that is for another process to tell.
    pub async fn last(&mut self, most: Duration, leave: bool) -> Vec<Vec<Snapshot>> {
        for seat in &mut self.seats {
            if leave {
                seat.will_leave();
            }
            // Whether it is asked now or was before, an answer comes.
            seat.ask();
        }
        let answered = poll_fn(|context| {
            self.poll(context);
            let busy = self.seats.iter().any(Seat::is_busy);
            if busy { Poll::Pending } else { Poll::Ready(()) }
        });
        if timeout(most, answered).await.is_err() {
            warn!(waited = ?most, "the last look at the kernel's tables is not done: what it would have counted is not told");
        }
        if !self.gathered.is_empty() || self.due.is_empty() {
            self.conclude();
        }
        mem::take(&mut self.due).into()
    }

    /// Takes every answer that is there.
    fn poll(&mut self, context: &mut Context<'_>) {
        for place in 0..self.seats.len() {
            let Some(seat) = self.seats.get_mut(place) else {
                continue;
            };
            let Poll::Ready(snapshot) = seat.poll(context) else {
                continue;
            };
            let was_awaited = mem::take(&mut seat.awaited);
            if let Some(snapshot) = snapshot {
                self.gather(snapshot);
            }
            if was_awaited && !self.seats.iter().any(|seat| seat.awaited) {
                self.conclude();
            }
        }
    }

    fn gather(&mut self, snapshot: Snapshot) {
        if self.gathered.iter().any(|one| one.netns == snapshot.netns) {
            self.due.push_back(mem::take(&mut self.gathered));
        }
        self.gathered.push(snapshot);
    }

    /// A report is due, of whatever has come.
    fn conclude(&mut self) {
        for seat in &mut self.seats {
            seat.awaited = false;
        }
        self.due.push_back(mem::take(&mut self.gathered));
    }
}
