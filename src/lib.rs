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
//! counter, and every drop has a reason.
//!
//! # The stages
//!
//! - **Collector** ([`collector`], a thread for each network namespace): asks the kernel at each
//!   tick, by [`conntrack`] or [`sockets`], both over [`netlink`]; [`hosts`] says which end of a
//!   [`flow`] is the remote one and what it is called, [`tally`] counts. A dump blocks its caller
//!   for as long as the kernel walks its table, so that none of this is on the runtime.
//! - **Report** ([`report`]): turns what the tick's snapshot and [`telemetry`] tell into lines.
//! - **Listeners** ([`listen`]): accept, cut [`frame`]s, check each [`message`], let [`forward`]
//!   edit it, and hand on whole batches. Room in the outputs' queues is reserved before a
//!   read: a full output holds its senders up, and nothing piles up in between.
//! - **Outputs** ([`output`]): a bounded queue, behind it a backlog in which lines are merged by
//!   context, payloads, the rate, and the connection with its pauses.
//! - **Admin** ([`admin`]): answers whoever asks how all of this is, and scrapes.
//!
//! All but the collectors run on one thread; what would block it, as looking up a name,
//! has threads of its own.
//!
//! # A process's life
//!
//! [`cli`] reads arguments and [`config`] the file. [`sandbox`] then gives up what the
//! configuration does not need, while the process has one thread. [`agent`] wires the stages,
//! starts them, and stops them in the order of the flow. A reload and a new program go one
//! way: the stages stop where they are and leave their sockets and what was not sent to
//! whoever goes on, this process or the next ([`handover`]).
//!
//! # What always holds
//!
//! Each output's lines = sent + merged + dropped + spooled + held. Every flow ends once. Every
//! queue is bounded, every wait ends by itself or by a cancellation, and what others send
//! is never the end of more than their own connection.

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
pub mod log_filter;
mod log_limit;
pub mod message;
mod names;
pub mod netlink;
pub mod netns;
pub mod output;
pub mod progress;
mod rate;
pub mod report;
pub mod sandbox;
pub mod sockets;
pub mod tally;
pub mod telemetry;
