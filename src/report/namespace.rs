//! What a lane sends of one network namespace, and what was sent of it so far.

use std::sync::Arc;

use cadence::StatsdClient;
use cadence::prelude::*;
use tokio::task::yield_now;

use super::connections::Connections;
use super::pace::Pace;

/// Lines between two turns of the runtime: some 100 µs of work.
const LINES_PER_TURN: u32 = 256;

/// One network namespace in one lane.
#[derive(Debug)]
pub(super) struct Namespace {
    pub(super) client: StatsdClient,
    /// Makes the same lines, and sends none of them.
    pub(super) measure: StatsdClient,
    pub(super) has_tags: bool,
    /// The longest line of packed values.
    pub(super) most_bytes: usize,
    pub(super) connections: Connections,
    pace: Option<Arc<Pace>>,
    lines: u32,
}

impl Namespace {
    /// Sends by `client`, at this pace; `measure` makes the same lines and sends none.
    pub(super) fn new(
        client: StatsdClient,
        measure: StatsdClient,
        has_tags: bool,
        most_bytes: usize,
        pace: Option<Arc<Pace>>,
    ) -> Self {
        Self {
            client,
            measure,
            has_tags,
            most_bytes,
            connections: Connections::default(),
            pace,
            lines: 0,
        }
    }

    /// To be called behind each line of many.
    pub(super) async fn turn(&mut self) {
        self.lines += 1;
        if let Some(pace) = self.pace.as_deref().filter(|pace| pace.is_due()) {
            self.lines = 0;
            pace.pause().await;
        } else if self.lines >= LINES_PER_TURN {
            self.lines = 0;
            yield_now().await;
        }
    }

    pub(super) fn gauge(&self, name: &str, value: u64) {
        self.client.gauge_with_tags(name, value).send();
    }

    pub(super) fn count(&self, name: &str, delta: u64) {
        self.client.count_with_tags(name, delta).send();
    }
}
