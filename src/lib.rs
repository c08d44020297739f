//! conntally counts a Linux host's connections by remote host and by state,
//! straight from the kernel's connection tracking table, pushes the counts over
//! statsd, and relays what local programs send it over `DogStatsD`.
//!
//! ```text
//! kernel ─ netlink ─▶ conntrack ─ flows ─▶ tally ─ rows ─▶ report ─────┐
//!                     own thread           per host × state   cadence  │ lines
//!                                                                      ├─▶ output × N ─▶ udp:// unixgram:// unixstream:// tcp:// stdout:
//! apps ─ unix stream ─▶ listen ─ frames ─▶ message ─ lines ─▶ forward ─┘    backlog, payload, throttle, transport
//!                       tracker, limits     checks            tags, filters
//! ```
//!
//! Two straight pipelines that meet at [`output`]. Data moves one way through
//! bounded channels; a stage ends because its senders are gone; every arrow has a
//! counter, and every drop has a reason. What a process leaves to the one that takes its
//! place is in [`handover`].

pub mod accounts;
pub mod address;
pub mod admin;
pub mod agent;
pub mod cli;
pub mod collector;
pub mod config;
pub mod connections;
pub mod conntrack;
mod exposition;
pub mod flow;
pub mod forward;
pub mod frame;
pub mod handover;
pub mod hosts;
pub mod listen;
mod log_limit;
pub mod message;
mod names;
pub mod netlink;
pub mod netns;
pub mod output;
mod rate;
pub mod report;
pub mod sandbox;
pub mod sockets;
pub mod tally;
pub mod telemetry;
