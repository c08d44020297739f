//! Looks at the kernel's table for the gauges that `conntrack_exporter` has, whose `host`
//! is an address with the service's port.
//!
//! What the collector keeps has no ports, unless `hosts.ports` asks for them: rows for
//! each port would cost every tick of everybody, and what is kept of a flow in `events`
//! mode is too little to tell them from afterwards. So a scrape takes a look of its own,
//! as `conntally connections` does: a dump over a socket of its own, on a thread of its
//! own, where the kernel's pauses hold up neither the relay nor the collector. It costs
//! what a tick's dump costs in `dump` mode, at most once a second, and only while somebody
//! scrapes; what it keeps is what [`Places`] keeps.
//!
//! Whoever comes while a look runs waits for it, and who comes within a second of its
//! end gets the same: there are never two. The admin socket's looks are others: one of
//! them lasts as long as its reader likes, without costing the kernel anything, and must
//! not keep a scrape waiting.

use std::collections::HashSet;
use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tokio::sync::{Mutex, OwnedMutexGuard, oneshot};
use tokio::time::{Instant, timeout_at};
use tracing::{debug, info, warn};

use super::help;
use super::places::{Counted, Places};
use super::text::Families;
use crate::collector::CollectorError;
use crate::config::{Config, SourceChoice};
use crate::connections::Reader;
use crate::connections::filter::ConnectionFilter;
use crate::flow::Protocol;
use crate::flow::key::KeyHasher;
use crate::netns::Netns;
use crate::report::Source;
use crate::telemetry::{
    AdminRefusal, CollectError, CollectorCounters, HttpCounters, Kind, Telemetry,
};

/// For so long a look serves everybody.
const FRESH: Duration = Duration::from_secs(1);
/// How long a look is waited for: less than the 10 s that Prometheus waits by default, so
/// that the rest is told in time.
const PATIENCE: Duration = Duration::from_secs(8);

/// Each state's gauge, in the order of [`crate::flow::ConnectionState`].
const GAUGES: [&str; 4] = [
    "conntrack_opening_connections",
    "conntrack_open_connections",
    "conntrack_closing_connections",
    "conntrack_closed_connections",
];

/// What tells one of a gauge's series from another.
pub(super) const HOST: &str = "host";

/// A network namespace to look into.
#[derive(Clone, Debug)]
struct Seat {
    /// `None` for the daemon's own.
    netns: Option<Netns>,
    /// Its collector's, which tell where that reads.
    counters: Arc<CollectorCounters>,
}

/// What looks are made with.
#[derive(Debug)]
struct Lookout {
    config: Config,
    keys: KeyHasher,
    counters: Arc<HttpCounters>,
    seats: Vec<Seat>,
}

/// What is kept from look to look.
#[derive(Debug)]
struct Kept {
    /// Of each seat.
    places: Vec<Places>,
    families: Arc<Families>,
    ended: Option<Instant>,
    /// Whether the last look failed: only the first of a row is logged.
    failing: bool,
}

/// Looks on request, one at a time.
#[derive(Debug)]
pub(super) struct Looks {
    lookout: Arc<Lookout>,
    kept: Arc<Mutex<Kept>>,
}

impl Looks {
    /// Of the namespaces that the telemetry has collectors of.
    pub(super) fn new(
        config: &Config,
        keys: KeyHasher,
        telemetry: &Telemetry,
        counters: Arc<HttpCounters>,
    ) -> Self {
        let seat = |(name, counters): &(Option<Arc<str>>, Arc<CollectorCounters>)| {
            let netns = match name {
                None => None,
                Some(name) => {
                    let mut known = config.collector.netns.iter();
                    Some(known.find(|netns| netns.tag() == name)?.clone())
                }
            };
            let counters = Arc::clone(counters);
            Some(Seat { netns, counters })
        };
        let seats: Vec<_> = telemetry.collectors.iter().filter_map(seat).collect();
        let places = seats
            .iter()
            .map(|_| Places::new(config.hosts.max))
            .collect();
        Self {
            kept: Arc::new(Mutex::new(Kept {
                places,
                families: Arc::new(gauges()),
                ended: None,
                failing: false,
            })),
            lookout: Arc::new(Lookout {
                config: config.clone(),
                keys,
                counters,
                seats,
            }),
        }
    }

    /// The gauges of a look that is not older than a second; without values where it
    /// cannot be had in time.
    pub(super) async fn families(&self) -> Arc<Families> {
        let counters = &self.lookout.counters;
        let until = Instant::now() + PATIENCE;
        let Ok(kept) = timeout_at(until, Arc::clone(&self.kept).lock_owned()).await else {
            counters.doors.refused.add(AdminRefusal::Busy, 1);
            return Arc::new(gauges());
        };
        let is_fresh = |ended: Instant| ended.elapsed() < FRESH;
        let paused = self.lookout.is_paused() && kept.ended.is_some();
        if paused || kept.ended.is_some_and(is_fresh) {
            return Arc::clone(&kept.families);
        }
        match Lookout::begin(&self.lookout, kept) {
            Ok(looked) => match timeout_at(until, looked).await {
                Ok(Ok(families)) => families,
                // It goes on, and whoever asks next has it.
                Err(_) => {
                    counters.look_errors.add(CollectError::Timeout, 1);
                    Arc::new(gauges())
                }
                Ok(Err(_)) => {
                    warn!("the look for a scrape ended before it was done");
                    counters.look_errors.add(CollectError::System, 1);
                    Arc::new(gauges())
                }
            },
            Err(error) => {
                warn!(%error, "cannot start a thread for the look of a scrape");
                counters.look_errors.add(CollectError::System, 1);
                Arc::new(gauges())
            }
        }
    }
}

impl Lookout {
    /// Whether the collector was told to read nothing: then neither does a scrape.
    fn is_paused(&self) -> bool {
        let own = self.seats.first();
        own.is_some_and(|own| own.counters.paused.get() > 0)
    }

    /// Looks on a thread, which has what is kept until it is done, whether anybody waits
    /// for it or not.
    fn begin(
        lookout: &Arc<Self>,
        mut kept: OwnedMutexGuard<Kept>,
    ) -> io::Result<oneshot::Receiver<Arc<Families>>> {
        let (done, looked) = oneshot::channel();
        let lookout = Arc::clone(lookout);
        let body = move || {
            lookout.look(&mut kept);
            let families = Arc::clone(&kept.families);
            drop(kept);
            // Whoever asked may have gone.
            let _gone = done.send(families);
        };
        let thread = thread::Builder::new().name("scrape".to_owned());
        thread.spawn(body).map(|_| looked)
    }

    /// Namespace after namespace. What is unknown of one is not told.
    fn look(&self, kept: &mut Kept) {
        self.counters.looks.add(1);
        let mut families = gauges();
        let mut failure = None;
        for (seat, places) in self.seats.iter().zip(&mut kept.places) {
            match self.count(seat, places.look()) {
                Ok(counted) => {
                    places.seat(counted, Instant::now());
                    tell(places, seat.netns.as_ref(), &mut families);
                }
                Err(error) => {
                    self.counters.look_errors.add(error.reason(), 1);
                    failure = Some(error);
                }
            }
        }
        let was_failing = std::mem::replace(&mut kept.failing, failure.is_some());
        match failure {
            Some(error) if !was_failing => warn!(%error, "scrapes are told of no connections"),
            Some(error) => debug!(%error, "scrapes are told of no connections"),
            None if was_failing => info!("scrapes are told of connections again"),
            None => {}
        }
        kept.families = Arc::new(families);
        kept.ended = Some(Instant::now());
    }

    /// One look, where the collector looks too; nothing where it reads nothing.
    fn count(&self, seat: &Seat, mut counted: Counted) -> Result<Counted, CollectorError> {
        let source = match seat.counters.source.get() {
            None | Some(Source::Off) => return Ok(counted),
            Some(Source::Conntrack) => SourceChoice::Conntrack,
            Some(Source::Sockets) => SourceChoice::Sockets,
        };
        let mut config = self.config.clone();
        config.collector.source = source;
        let open = || Reader::open(&config, self.keys.clone());
        // What is opened inside stays there.
        let mut reader = match &seat.netns {
            None => open()?,
            Some(netns) => netns.within(open)??,
        };
        // That is what is told of.
        let filter = ConnectionFilter {
            protocols: vec![Protocol::Tcp],
            ..ConnectionFilter::default()
        };
        reader.read(&filter, &HashSet::new(), &mut |connection| {
            counted.add(connection);
            ControlFlow::Continue(())
        })?;
        Ok(counted)
    }
}

/// The families, without values.
fn gauges() -> Families {
    let mut families = Families::default();
    for name in GAUGES {
        let family = families.family(name, Kind::Gauge, help::of(name));
        family.with_twin();
    }
    families
}

fn tell(places: &Places, netns: Option<&Netns>, families: &mut Families) {
    for (host, states) in places.rows() {
        let netns = netns.map(|netns| ("netns", &**netns.tag()));
        let labels = netns.into_iter().chain([(HOST, host)]);
        for (name, number) in GAUGES.into_iter().zip(states) {
            let family = families.family(name, Kind::Gauge, help::of(name));
            family.add(labels.clone(), number);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::{JoinSet, yield_now};

    use super::*;
    use crate::exposition::text::Format;

    /// Of this host's sockets, which anybody may read.
    fn looks(source: Source) -> Looks {
        let collector = Arc::<CollectorCounters>::default();
        collector.source.set(Some(source));
        let telemetry = Telemetry {
            collectors: vec![(None, collector)],
            ..Telemetry::default()
        };
        Looks::new(
            &Config::default(),
            KeyHasher::default(),
            &telemetry,
            Arc::default(),
        )
    }

    fn made(looks: &Looks) -> u64 {
        looks.lookout.counters.looks.get()
    }

    #[tokio::test]
    async fn those_who_come_together_share_a_look() {
        let looks = Arc::new(looks(Source::Sockets));
        let mut scrapes = JoinSet::new();
        for _ in 0..8 {
            let looks = Arc::clone(&looks);
            scrapes.spawn(async move { looks.families().await });
        }
        let families = scrapes.join_all().await;
        assert!(families.iter().all(|one| Arc::ptr_eq(one, &families[0])));
        assert_eq!(made(&looks), 1);
    }

    #[tokio::test]
    async fn a_look_goes_on_without_the_one_who_asked_and_serves_the_next() {
        let looks = looks(Source::Sockets);
        tokio::select! {
            biased;
            _ = looks.families() => panic!("no look is that fast"),
            () = yield_now() => {}
        }
        looks.families().await;
        assert_eq!(made(&looks), 1);
    }

    #[tokio::test]
    async fn an_old_look_is_made_again_unless_the_collector_is_paused() {
        let looks = looks(Source::Sockets);
        let age = async || {
            let mut kept = looks.kept.lock().await;
            kept.ended = kept.ended.and_then(|ended| ended.checked_sub(FRESH));
        };
        looks.families().await;
        age().await;
        looks.families().await;
        assert_eq!(made(&looks), 2);
        looks.lookout.seats[0].counters.paused.set(1);
        age().await;
        looks.families().await;
        assert_eq!(made(&looks), 2);
    }

    #[tokio::test]
    async fn where_the_collector_reads_nothing_neither_does_a_scrape() {
        let looks = looks(Source::Off);
        let families = looks.families().await;
        let mut text = String::new();
        families.write(Format::Prometheus, &mut text);
        assert!(text.lines().all(|line| line.starts_with('#')), "{text}");
        assert_eq!(text.matches("# TYPE").count(), 2 * GAUGES.len());
        assert_eq!(looks.lookout.counters.look_errors.total(), 0);
    }
}
