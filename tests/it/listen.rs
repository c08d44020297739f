//! Listeners: real sockets in, the queue of an output out.
#![cfg(test)]

mod datagram;
mod lines;
mod pressure;
mod rate;
mod socket;
mod stop;
mod stream;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use conntally::address::Address;
use conntally::config::{self, LineSource, OnFull, OriginChoice};
use conntally::listen::{Ends, Listener, Pressure, Tracker};
use conntally::output::Fanout;
use conntally::output::payload::{Delimiter, Shape, count_lines};
use conntally::output::queue::{Outlet, Settings, queue};
use conntally::telemetry::{ListenerCounters, OutputCounters};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

/// Longer than anything takes; what waits for less is wrong, not slow.
const PATIENCE: Duration = Duration::from_secs(20);

/// A listener that runs, and the receiving end of the one output that it feeds.
struct Rig {
    directory: TempDir,
    address: Address,
    counters: Arc<ListenerCounters>,
    output: Arc<OutputCounters>,
    tracker: Arc<Tracker>,
    outlet: Outlet,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// A listener of this scheme on a socket file in `directory`.
fn configured(directory: &Path, scheme: &str) -> config::Listener {
    let path = directory.join("dsd.socket");
    config::Listener {
        address: format!("{scheme}://{}", path.display()).parse().unwrap(),
        // Whether the tests run in a container is not theirs to know.
        origin: OriginChoice::None,
        ..config::Listener::default()
    }
}

/// Room of the output's queue.
const QUEUE_BYTES: usize = 256 << 10;

impl Rig {
    /// A unix stream listener, with these changes to the defaults.
    async fn stream(change: impl FnOnce(&mut config::Listener)) -> Self {
        Self::start("unixstream", change).await
    }

    /// A listener of this scheme on a socket file, unless the change says otherwise.
    async fn start(scheme: &str, change: impl FnOnce(&mut config::Listener)) -> Self {
        Self::under(Arc::default(), scheme, change).await
    }

    /// The same, where memory may be short.
    async fn under(
        pressure: Arc<Pressure>,
        scheme: &str,
        change: impl FnOnce(&mut config::Listener),
    ) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut config = configured(directory.path(), scheme);
        change(&mut config);
        let listener = Listener::bind(&config).await.unwrap();
        Self::of(listener, directory, pressure)
    }

    /// With this listener.
    fn of(listener: Listener, directory: TempDir, pressure: Arc<Pressure>) -> Self {
        let output = Arc::new(OutputCounters::default());
        let settings = Settings {
            capacity: QUEUE_BYTES,
            flush_interval: Duration::from_millis(1),
            on_full: OnFull::Block,
            ..Settings::of(Shape {
                limit: 8 << 10,
                delimiter: Delimiter::Newline,
            })
        };
        let (inlet, outlet) = queue(settings, Arc::clone(&output));
        let fanout = Fanout::new(vec![inlet.for_source(LineSource::Listeners)]);
        let counters = Arc::new(ListenerCounters::default());
        let stop = CancellationToken::new();
        let address = listener.address().clone();
        let tracker = listener.tracker();
        let listener = listener.under(pressure);
        let ends = Ends {
            stop: stop.clone(),
            ..Ends::default()
        };
        let run = listener.run(Arc::new(fanout), Arc::clone(&counters), ends);
        Self {
            directory,
            address,
            counters,
            output,
            tracker,
            outlet,
            stop,
            task: tokio::spawn(async { drop(run.await) }),
        }
    }

    fn path(&self) -> &Path {
        self.address.path().unwrap()
    }

    fn beside(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Waits for so many lines.
    async fn lines(&mut self, count: usize) -> String {
        let mut lines = Vec::new();
        while count_lines(&lines) < count as u64 {
            let chunk = timeout(PATIENCE, self.outlet.recv()).await;
            let chunk = chunk
                .unwrap_or_else(|_| panic!("too few lines: {:?}", String::from_utf8_lossy(&lines)));
            let chunk = chunk.unwrap();
            lines.extend_from_slice(chunk.unwritten());
            self.outlet.release(chunk);
        }
        String::from_utf8(lines).unwrap()
    }

    /// What came in all, once the listener has ended.
    async fn rest(mut self) -> String {
        self.stop.cancel();
        let mut lines = Vec::new();
        while let Some(chunk) = timeout(PATIENCE, self.outlet.recv()).await.unwrap() {
            lines.extend_from_slice(chunk.unwritten());
            self.outlet.release(chunk);
        }
        self.task.await.unwrap();
        String::from_utf8(lines).unwrap()
    }

    /// Lets everything run until this is so.
    async fn until(&self, what: &str, holds: impl Fn(&ListenerCounters) -> bool) {
        let wait = async {
            while !holds(&self.counters) {
                sleep(Duration::from_millis(1)).await;
            }
        };
        let waited = timeout(PATIENCE, wait).await;
        assert!(waited.is_ok(), "never: {what}; {:?}", self.counters);
    }
}

/// A frame as `DogStatsD` clients write it.
fn frame(body: &str) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap();
    [&length.to_le_bytes()[..], body.as_bytes()].concat()
}
