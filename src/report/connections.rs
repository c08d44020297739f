//! `connections`: a gauge for each series, and a 0 for a while for each that vanished.

use std::fmt::Write as _;
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use cadence::StatsdClient;
use cadence::prelude::*;
use tokio::time::Instant;

use super::name;
use super::namespace::Namespace;
use super::sent::Series;
use crate::flow::{Direction, Protocol};
use crate::hosts::select::Row;

/// For how long a series that vanished is sent as 0.
pub(crate) const ZERO_FOR: Duration = Duration::from_secs(120);

/// What a `connections` line is tagged with. Its order is that of the lines.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Labels {
    pub(super) host: Arc<str>,
    /// Not told apart without tags.
    pub(super) way: Option<(Direction, Protocol)>,
    pub(super) port: Option<u16>,
    pub(super) state: &'static str,
}

impl Labels {
    /// Sends the line of this series; `port` is memory for its number's text.
    pub(super) fn send(&self, client: &StatsdClient, connections: u64, port: &mut String) {
        let mut line = client
            .gauge_with_tags(name::CONNECTIONS, connections)
            .with_tag("remote_host", &self.host)
            .with_tag("state", self.state);
        if let Some((direction, protocol)) = self.way {
            line = line
                .with_tag("protocol", protocol.as_str())
                .with_tag("direction", direction.as_str());
        }
        if let Some(number) = self.port {
            port.clear();
            // Writing to a String does not fail.
            write!(port, "{number}").unwrap_or_default();
            line = line.with_tag("port", port);
        }
        line.send();
    }
}

/// A series that was sent.
#[derive(Debug)]
struct Sent {
    labels: Labels,
    /// When it was first missed.
    gone: Option<Instant>,
}

/// The series that were sent, sorted.
#[derive(Debug, Default)]
pub(super) struct Connections {
    sent: Vec<Sent>,
    /// Memory of the tick before last.
    spare: Vec<Sent>,
    port: String,
}

impl Connections {
    /// Goes on with what another process sent, which had told of nothing since.
    pub(super) fn remember(&mut self, series: &[Series], now: Instant) {
        let sent = series.iter().filter_map(|series| {
            let gone = series.gone_seconds;
            Some(Sent {
                labels: series.labels()?,
                gone: gone.map(|gone| now.checked_sub(Duration::from_secs(gone)).unwrap_or(now)),
            })
        });
        self.sent.extend(sent);
        self.sent.sort_unstable_by(|a, b| a.labels.cmp(&b.labels));
    }

    /// What was sent, for another process.
    pub(super) fn tell(&self, now: Instant) -> Vec<Series> {
        let series = self.sent.iter().map(|Sent { labels, gone }| {
            let gone = gone.map(|gone| now.duration_since(gone).as_secs());
            Series::new(labels, gone)
        });
        series.collect()
    }
}

impl Namespace {
    /// A line for each row, and a 0 for each series that vanished.
    pub(super) async fn connections(&mut self, rows: &[Row], now: Instant) {
        if self.has_tags {
            let full = rows.iter().map(|row| {
                let labels = Labels {
                    host: Arc::clone(&row.host),
                    way: Some((row.direction, row.protocol)),
                    port: row.port,
                    state: row.state,
                };
                (labels, row.connections)
            });
            self.update(full, now).await;
        } else {
            self.update(collapse(rows).into_iter(), now).await;
        }
    }

    /// Walks what was sent and what is now side by side; both are sorted.
    async fn update(&mut self, rows: impl Iterator<Item = (Labels, u64)>, now: Instant) {
        let mut before = mem::take(&mut self.connections.sent);
        let mut kept = mem::take(&mut self.connections.spare);
        let mut past = before.drain(..).peekable();
        for (labels, connections) in rows {
            while let Some(series) = past.next_if(|series| series.labels < labels) {
                self.fade(series, now, &mut kept);
                self.turn().await;
            }
            past.next_if(|series| series.labels == labels);
            self.send(&labels, connections);
            kept.push(Sent { labels, gone: None });
            self.turn().await;
        }
        for series in past {
            self.fade(series, now, &mut kept);
            self.turn().await;
        }
        self.connections.sent = kept;
        self.connections.spare = before;
    }

    /// Sends a 0 for a series that vanished, until its time is over.
    fn fade(&mut self, mut series: Sent, now: Instant, kept: &mut Vec<Sent>) {
        let gone = *series.gone.get_or_insert(now);
        if now.duration_since(gone) < ZERO_FOR {
            self.send(&series.labels, 0);
            kept.push(series);
        }
    }

    fn send(&mut self, labels: &Labels, connections: u64) {
        labels.send(&self.client, connections, &mut self.connections.port);
    }
}

/// Rows added up by host and state. Sorted as they are.
fn collapse(rows: &[Row]) -> Vec<(Labels, u64)> {
    let mut collapsed: Vec<(Labels, u64)> = Vec::new();
    for same_host in rows.chunk_by(|a, b| a.host == b.host) {
        let first = collapsed.len();
        for row in same_host {
            let known = collapsed
                .iter_mut()
                .skip(first)
                .find(|(labels, _)| labels.state == row.state);
            if let Some((_, connections)) = known {
                *connections += row.connections;
            } else {
                let labels = Labels {
                    host: Arc::clone(&row.host),
                    way: None,
                    port: None,
                    state: row.state,
                };
                collapsed.push((labels, row.connections));
            }
        }
        if let Some(host) = collapsed.get_mut(first..) {
            host.sort_unstable();
        }
    }
    collapsed
}
