//! `[report]`: which metrics are sent.

use serde::{Deserialize, Serialize};

/// Which states are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum StateView {
    /// opening, open, closing, closed.
    General,
    /// The kernel's own.
    Raw,
}

/// `[report]`
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "each is a key of the file")]
pub struct Report {
    /// First part of every name but the agent's own. Defaults to conntrack.
    pub prefix: String,
    /// Defaults to general.
    pub states: StateView,
    /// `conntrack.connections`. Defaults to true.
    pub connections: bool,
    /// `conntrack.opened`, `.closed`, `.failed`. Defaults to true.
    pub rates: bool,
    /// `conntrack.bytes` and `.packets`. Defaults to false.
    pub traffic: bool,
    /// `conntrack.duration`. Defaults to false.
    pub durations: bool,
    /// Entries, limit, and the kernel's own drop counters. Defaults to true.
    pub table: bool,
    /// The agent's own metrics. Defaults to true.
    pub telemetry: bool,
}

impl Default for Report {
    fn default() -> Self {
        Self {
            prefix: "conntrack".to_owned(),
            states: StateView::General,
            connections: true,
            rates: true,
            traffic: false,
            durations: false,
            table: true,
            telemetry: true,
        }
    }
}
