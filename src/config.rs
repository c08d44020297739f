//! The configuration: one TOML file, strict, every key with a default.
//!
//! The structs are the validated form: a value that its type admits is one that
//! the program can run with, but for what only several keys together can show
//! ([`Config::mistakes`]).

mod admin;
mod changes;
mod collector;
mod environment;
mod host;
mod hosts;
mod listener;
mod load;
mod memory;
mod output;
mod place;
mod report;
mod sandbox;
#[cfg(test)]
mod tests;
mod units;
mod validate;

use serde::{Deserialize, Serialize};

pub use self::admin::{Admin, HttpAddress};
pub use self::collector::{Collector, CollectorMode, Family, SourceChoice};
pub use self::environment::Environment;
pub use self::hosts::{Hosts, Names, NatView, PublicInbound};
pub use self::listener::{Framing, Listener, OriginChoice, ReceiveBuffer};
pub use self::load::{ConfigError, Loaded, Scope, built_in, load, parse};
pub use self::memory::{Memory, MemoryLimit};
pub use self::output::{Format, GroupMode, LineSource, OnFull, Output};
pub use self::place::{File, Place, Wrong};
pub use self::report::{Report, StateView};
pub use self::sandbox::Sandbox;
pub use self::units::{
    Aggregate, Burst, ByteRate, ByteSize, FileMode, Interval, Mark, MarkFilter, Owner, UnitError,
};
pub use self::validate::Mistake;

/// The whole of it.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// A tick: count, report, flush. Defaults to 10s.
    pub interval: Interval,
    /// Tags on every metric that the agent itself reports. Defaults to none.
    pub tags: Vec<String>,
    /// The reporting host's name; empty means the system's.
    pub hostname: String,
    /// Who the daemon becomes once it has opened what takes rights; empty means whoever
    /// starts it.
    pub user: Owner,
    /// What else the daemon gives up then. Defaults to auto.
    pub sandbox: Sandbox,
    /// Where connections are read from.
    pub collector: Collector,
    /// What a connection's remote host is, and how many are told apart.
    pub hosts: Hosts,
    /// What is reported of them.
    pub report: Report,
    /// Where lines go.
    #[serde(rename = "output")]
    pub outputs: Vec<Output>,
    /// Where lines come from.
    #[serde(rename = "listener")]
    pub listeners: Vec<Listener>,
    /// When to slow senders down for memory's sake.
    pub memory: Memory,
    /// The control socket and the HTTP endpoint.
    pub admin: Admin,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            interval: Interval::from_secs(10),
            tags: Vec::new(),
            hostname: String::new(),
            user: Owner::default(),
            sandbox: Sandbox::Auto,
            collector: Collector::default(),
            hosts: Hosts::default(),
            report: Report::default(),
            outputs: Vec::new(),
            listeners: Vec::new(),
            memory: Memory::default(),
            admin: Admin::default(),
        }
    }
}

impl Config {
    /// The outputs, those of a group together: the order of their counters.
    pub fn outputs_by_group(&self) -> impl Iterator<Item = &Output> {
        let places = self.output_groups().into_iter().flatten();
        places.filter_map(|place| self.outputs.get(place))
    }
}
