//! Integration tests: the real kernel, real sockets, the real program.

#![cfg(test)]

mod admin;
mod backfill;
mod bad_input;
mod clients;
mod connections;
mod conntrack;
mod counting;
mod dashboards;
mod decode;
mod end_to_end;
mod events;
mod grammar;
mod groups;
mod handover;
mod hostile;
mod http;
mod listen;
mod local_addresses;
mod log;
mod merging;
mod modes;
mod netns;
mod open_clients;
mod origin;
mod output;
mod packaging;
mod pressure;
mod prometheus;
mod readme;
mod real_clients;
mod real_receivers;
mod reload;
mod sandbox;
mod snapshot;
mod sockets;
mod spool;
mod spread;
mod status;
mod stopped;
mod sums;
mod support;
mod throttle;
