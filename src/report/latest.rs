//! What the last tick found, for whoever asks between two ticks.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::Instant;

use super::Snapshot;

/// The latest snapshot of each network namespace: shared with the report, never copied.
#[derive(Clone, Debug, Default)]
pub struct Latest {
    tick: Option<Tick>,
    /// By the namespace's name.
    namespaces: BTreeMap<Option<Arc<str>>, Shared>,
}

/// A tick's snapshots, and which of them it is.
type Shared = (Arc<[Snapshot]>, usize);

/// A tick that was told.
#[derive(Clone, Copy, Debug)]
pub struct Tick {
    /// Counted from 1.
    pub number: u64,
    /// When it was told.
    pub at: Instant,
}

impl Latest {
    /// None yet: where ticks are told, and where they are read.
    #[must_use]
    pub fn channel() -> (watch::Sender<Self>, watch::Receiver<Self>) {
        watch::channel(Self::default())
    }

    /// Takes in a tick. A namespace that it tells nothing of stays as it was: a dump may
    /// have failed, or take longer than a tick.
    pub fn tell(&mut self, snapshots: &Arc<[Snapshot]>) {
        let number = self.tick.map_or(0, |tick| tick.number) + 1;
        let at = Instant::now();
        self.tick = Some(Tick { number, at });
        for (place, snapshot) in snapshots.iter().enumerate() {
            let shared = (Arc::clone(snapshots), place);
            self.namespaces.insert(snapshot.netns.clone(), shared);
        }
    }

    /// The last tick; none before the first.
    #[must_use]
    pub fn tick(&self) -> Option<Tick> {
        self.tick
    }

    /// One for each namespace, the daemon's own first.
    pub fn snapshots(&self) -> impl Iterator<Item = &Snapshot> {
        let places = self.namespaces.values();
        places.filter_map(|(snapshots, place)| snapshots.get(*place))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(netns: Option<&str>, hosts: u64) -> Snapshot {
        let mut snapshot = Snapshot {
            netns: netns.map(Arc::from),
            ..Snapshot::default()
        };
        snapshot.connections.hosts = hosts;
        snapshot
    }

    #[tokio::test]
    async fn a_namespace_that_a_tick_tells_nothing_of_stays_as_it_was() {
        let mut latest = Latest::default();
        assert!(latest.tick().is_none());
        latest.tell(&[snapshot(Some("blue"), 1), snapshot(None, 2)].into());
        latest.tell(&[snapshot(None, 3)].into());
        assert_eq!(latest.tick().unwrap().number, 2);
        let seen: Vec<_> = latest
            .snapshots()
            .map(|snapshot| (snapshot.netns.as_deref(), snapshot.connections.hosts))
            .collect();
        assert_eq!(seen, [(None, 3), (Some("blue"), 1)]);
    }
}
