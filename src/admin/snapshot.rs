//! Connections by remote host as lines of JSON: what the admin socket sends of the last
//! tick, and what the commands read. One object a line, told apart by `type`; a whole
//! answer has `end` as its last line.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::body::{Gone, Lines, object};
use crate::flow::{ConnectionState, Direction, Protocol};
use crate::hosts::select::Row;
use crate::report::{Latest, Tick};

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum SnapshotLine<'a> {
    /// Connections with a remote host.
    Host(HostLine<'a>),
    /// The last line of a whole answer.
    End(TickLine),
    /// Of a daemon that is newer than the command.
    #[serde(other)]
    Unknown,
}

/// Connections with a remote host, of one direction and protocol.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct HostLine<'a> {
    /// Network namespace; none for the daemon's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) netns: Option<Cow<'a, str>>,
    pub(crate) host: Cow<'a, str>,
    /// Who dialled.
    pub(crate) direction: Cow<'a, str>,
    /// Transport protocol.
    pub(crate) protocol: Cow<'a, str>,
    /// The service's, where ports are told apart.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) port: Option<u16>,
    pub(crate) opening: u64,
    pub(crate) open: u64,
    pub(crate) closing: u64,
    pub(crate) closed: u64,
}

/// The tick that was told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct TickLine {
    /// Lines before this one.
    pub(crate) rows: u64,
    /// Counted from 1 since the daemon began or read its configuration anew.
    pub(crate) tick: u64,
    /// Milliseconds since then.
    pub(crate) age_ms: u64,
}

impl<'a> HostLine<'a> {
    /// With this many connections in each state, by [`ConnectionState`]'s order.
    pub(crate) fn new(
        host: Cow<'a, str>,
        direction: Direction,
        protocol: Protocol,
        port: Option<u16>,
        [opening, open, closing, closed]: [u64; ConnectionState::ALL.len()],
    ) -> Self {
        Self {
            netns: None,
            host,
            direction: direction.as_str().into(),
            protocol: protocol.as_str().into(),
            port,
            opening,
            open,
            closing,
            closed,
        }
    }

    /// The same, that borrows nothing.
    pub(crate) fn into_owned(self) -> HostLine<'static> {
        let owned = |text: Cow<'_, str>| Cow::Owned(text.into_owned());
        HostLine {
            netns: self.netns.map(owned),
            host: owned(self.host),
            direction: owned(self.direction),
            protocol: owned(self.protocol),
            ..self
        }
    }

    /// Connections in each state, by [`ConnectionState`]'s order.
    pub(crate) const fn states(&self) -> [u64; ConnectionState::ALL.len()] {
        [self.opening, self.open, self.closing, self.closed]
    }
}

/// Puts the states of a series, which stand one behind the other, beside each other.
fn of_rows(rows: &[Row]) -> impl Iterator<Item = HostLine<'_>> {
    let key = |row: &Row| (row.direction, row.protocol, row.port);
    let is_same = move |a: &Row, b: &Row| key(a) == key(b) && a.host == b.host;
    rows.chunk_by(is_same).filter_map(|rows| {
        let first = rows.first()?;
        let mut states = [0; ConnectionState::ALL.len()];
        for row in rows {
            states[row.general as usize] += row.connections;
        }
        let host = Cow::Borrowed(&*first.host);
        let (direction, protocol) = (first.direction, first.protocol);
        Some(HostLine::new(host, direction, protocol, first.port, states))
    })
}

/// Sends what a tick found, the daemon's own network namespace first.
pub(super) async fn snapshot(latest: Latest, tick: Tick, mut lines: Lines) -> Result<(), Gone> {
    let mut rows = 0;
    for snapshot in latest.snapshots() {
        for line in of_rows(&snapshot.connections.rows) {
            rows += 1;
            let line = SnapshotLine::Host(HostLine {
                netns: snapshot.netns.as_deref().map(Cow::Borrowed),
                ..line
            });
            lines.add(|out| object(out, &line)).await?;
        }
    }
    let age_ms = u64::try_from(tick.at.elapsed().as_millis()).unwrap_or(u64::MAX);
    let end = SnapshotLine::End(TickLine {
        rows,
        tick: tick.number,
        age_ms,
    });
    lines.add(|out| object(out, &end)).await?;
    lines.finish().await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(host: &str, port: u16, state: &'static str, general: ConnectionState) -> Row {
        Row {
            host: host.into(),
            direction: Direction::Outbound,
            protocol: Protocol::Tcp,
            port: Some(port),
            state,
            connections: 2,
            general,
        }
    }

    #[test]
    fn the_states_of_a_series_stand_beside_each_other_the_kernels_own_by_what_they_are() {
        let rows = [
            row("a", 22, "established", ConnectionState::Open),
            row("a", 22, "fin_wait", ConnectionState::Closing),
            row("a", 22, "time_wait", ConnectionState::Closing),
            row("a", 443, "open", ConnectionState::Open),
            row("b", 443, "opening", ConnectionState::Opening),
        ];
        let lines: Vec<_> = of_rows(&rows)
            .map(|line| (line.host.clone(), line.port, line.states()))
            .collect();
        let expected = [
            ("a".into(), Some(22), [0, 2, 4, 0]),
            ("a".into(), Some(443), [0, 2, 0, 0]),
            ("b".into(), Some(443), [2, 0, 0, 0]),
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn a_line_is_read_back_as_it_was() {
        let rows = [row("größe", 22, "open", ConnectionState::Open)];
        let line = SnapshotLine::Host(of_rows(&rows).next().unwrap());
        let text = serde_json::to_string(&line).unwrap();
        assert_eq!(
            serde_json::from_str::<SnapshotLine<'_>>(&text).unwrap(),
            line
        );
        assert!(text.starts_with(r#"{"type":"host","host":"größe","direction":"outbound""#));
    }
}
