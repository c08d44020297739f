//! What each view has rows of, and in which columns.

use super::history::History;
use super::sheet::{Column, Tone, Value};
use crate::admin::clients::ClientLine;
use crate::admin::snapshot::HostLine;
use crate::admin::status::{Condition, Counters, ListenerLine, OutputLine};

/// A remote host, of one direction and protocol.
#[derive(Debug)]
pub(super) struct HostRow {
    pub(super) line: HostLine<'static>,
    /// All its connections.
    pub(super) history: History,
}

impl HostRow {
    pub(super) fn total(line: &HostLine<'_>) -> u64 {
        line.states().iter().sum()
    }
}

/// A listener or an output.
#[derive(Debug)]
pub(super) struct StageRow<L> {
    pub(super) line: L,
    /// Lines a second since the look before.
    pub(super) rate: u64,
    /// Of that.
    pub(super) history: History,
}

/// A line of the status that counts lines.
pub(super) trait Stage {
    fn address(&self) -> &str;
    fn counters(&self) -> &Counters;
}

impl Stage for ListenerLine {
    fn address(&self) -> &str {
        &self.address
    }

    fn counters(&self) -> &Counters {
        &self.counters
    }
}

impl Stage for OutputLine {
    fn address(&self) -> &str {
        &self.address
    }

    fn counters(&self) -> &Counters {
        &self.counters
    }
}

const fn word(text: &str) -> Value<'_> {
    Value::Word(std::borrow::Cow::Borrowed(text))
}

fn some(told: Option<impl ToString>) -> Value<'static> {
    Value::Word(
        told.map_or_else(String::new, |told| told.to_string())
            .into(),
    )
}

fn counter<'a, L: Stage>(row: &StageRow<L>, name: &str) -> Value<'a> {
    Value::Number(row.line.counters().get(name))
}

pub(super) const HOSTS: [Column<HostRow>; 11] = [
    Column::new("REMOTE HOST", 0, |row| word(&row.line.host)),
    Column::new("NETNS", 9, |row| {
        word(row.line.netns.as_deref().unwrap_or(""))
    }),
    Column::new("DIRECTION", 7, |row| word(&row.line.direction)),
    Column::new("PROTO", 8, |row| word(&row.line.protocol)),
    Column::new("PORT", 5, |row| some(row.line.port)),
    Column::toned("OPENING", 2, Tone::Attention, |row| {
        Value::Number(row.line.opening)
    }),
    Column::new("OPEN", 1, |row| Value::Number(row.line.open)),
    Column::new("CLOSING", 3, |row| Value::Number(row.line.closing)),
    Column::toned("CLOSED", 4, Tone::Alarm, |row| {
        Value::Number(row.line.closed)
    }),
    Column::new("TOTAL", 10, |row| Value::Number(HostRow::total(&row.line))),
    Column::new("HISTORY", 6, |row| Value::History(&row.history)),
];
/// Where TOTAL stands.
pub(super) const BY_TOTAL: usize = 9;

pub(super) const LISTENERS: [Column<StageRow<ListenerLine>>; 7] = [
    Column::new("LISTENER", 0, |row| word(&row.line.address)),
    Column::new("CONNECTIONS", 3, |row| counter(row, "connections")),
    Column::new("LINES/S", 1, |row| Value::Number(row.rate)),
    Column::new("LINES", 5, |row| counter(row, "lines")),
    Column::toned("DROPPED", 2, Tone::Alarm, |row| {
        counter(row, "lines_dropped")
    }),
    Column::toned("REFUSED", 4, Tone::Attention, |row| counter(row, "refused")),
    Column::new("HISTORY", 6, |row| Value::History(&row.history)),
];

pub(super) const CLIENTS: [Column<ClientLine>; 11] = [
    Column::new("PROGRAM", 0, |row| word(&row.program)),
    Column::new("PID", 1, |row| some(row.pid)),
    Column::new("UID", 4, |row| some(row.uid)),
    Column::new("REMOTE", 3, |row| some(row.remote)),
    Column::new("AGE", 6, |row| Value::Span(row.age_seconds)),
    Column::new("IDLE", 5, |row| Value::Span(row.idle_seconds)),
    Column::new("FRAMES", 8, |row| Value::Number(row.frames)),
    Column::new("LINES", 2, |row| Value::Number(row.lines)),
    Column::new("BYTES", 7, |row| Value::Number(row.bytes)),
    Column::toned("BAD LINES", 3, Tone::Alarm, |row| {
        Value::Number(row.bad_lines)
    }),
    Column::new("LISTENER", 9, |row| word(&row.listener)),
];
/// Where BYTES stands.
pub(super) const BY_BYTES: usize = 8;

pub(super) const OUTPUTS: [Column<StageRow<OutputLine>>; 9] = [
    Column::new("OUTPUT", 0, |row| word(&row.line.address)),
    Column::new("STATE", 1, |row| {
        word(row.line.health.map_or("", Condition::as_str))
    }),
    Column::new("LINES/S", 2, |row| Value::Number(row.rate)),
    Column::new("SENT", 6, |row| counter(row, "lines_sent")),
    Column::new("HELD", 4, |row| counter(row, "lines_held")),
    Column::new("MERGED", 8, |row| counter(row, "lines_merged")),
    Column::toned("DROPPED", 3, Tone::Alarm, |row| {
        counter(row, "lines_dropped")
    }),
    Column::toned("ERRORS", 5, Tone::Attention, |row| counter(row, "errors")),
    Column::new("HISTORY", 7, |row| Value::History(&row.history)),
];
