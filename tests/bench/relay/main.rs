//! What it costs to relay, beside a relay that only copies.
//!
//! The load generator, the relay and the counting receiver are processes of their
//! own: this program started again in another role, or the release binary. Per
//! round the bare relay and conntally run one after the other on the same load,
//! and the medians of the rounds are compared, as a machine drifts more between
//! runs than the two differ. Where datagrams come in, so does a bare relay that takes
//! them in batches.
//!
//! ```text
//! cargo bench --bench relay                         # every workload
//! cargo bench --bench relay -- a b                  # some
//! cargo bench --bench relay -- f-unixgram f-udp     # some that take datagrams
//! cargo bench --bench relay -- matrix --rounds 1    # 1 to 1,000 connections, to every sink
//! cargo bench --bench relay -- a --full              # with tags, timeouts, own metrics
//! cargo bench --bench relay -- a --messages 2000000 --rounds 3
//! CONNTALLY_BINARY=/usr/bin/conntally cargo bench --bench relay   # another build
//! ```

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "its results and its roles' answers go to standard output"
)]

mod bare;
mod fairness;
mod generator;
mod memory;
mod process;
mod receiver;
mod round;
mod table;
mod workload;

use std::io;
use std::process::ExitCode;

use crate::round::Load;
use crate::workload::Workload;

/// What the command line asks for.
struct Request {
    chosen: Vec<String>,
    messages: Option<u64>,
    rounds: usize,
    load: Load,
}

impl Request {
    fn parse(arguments: impl Iterator<Item = String>) -> io::Result<Self> {
        let mut request = Self {
            chosen: Vec::new(),
            messages: None,
            rounds: 5,
            load: Load::Plain,
        };
        let mut arguments = arguments;
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                // What cargo adds by itself.
                "--bench" => {}
                "--full" => request.load = Load::Full,
                "--messages" => request.messages = Some(number(arguments.next())?),
                "--rounds" => {
                    request.rounds = usize::try_from(number(arguments.next())?)
                        .map_err(io::Error::other)?
                        .max(1);
                }
                key if known(key) => request.chosen.push(argument),
                _ => {
                    return Err(io::Error::other(format!(
                        "{argument:?} is no workload: {}",
                        keys().collect::<Vec<_>>().join(" ")
                    )));
                }
            }
        }
        Ok(request)
    }

    fn wants(&self, key: &str) -> bool {
        self.chosen.is_empty() || self.chosen.iter().any(|chosen| chosen == key)
    }
}

fn keys() -> impl Iterator<Item = &'static str> {
    Workload::ALL
        .iter()
        .map(|workload| workload.key)
        .chain(["memory", "matrix", "fairness"])
}

fn known(key: &str) -> bool {
    keys().any(|one| one == key)
}

fn number(text: Option<String>) -> io::Result<u64> {
    text.and_then(|text| text.parse().ok())
        .ok_or_else(|| io::Error::other("a number is missing"))
}

fn run() -> io::Result<()> {
    let mut arguments = std::env::args().skip(1).peekable();
    if let Some(role) = arguments.next_if(|first| first.starts_with("role:")) {
        let rest: Vec<String> = arguments.collect();
        return match role.as_str() {
            "role:generate" => generator::run(&rest),
            "role:receive" => receiver::run(&rest),
            "role:bare" => bare::run(&rest),
            _ => Err(io::Error::other("no such role")),
        };
    }
    let request = Request::parse(arguments)?;
    table::head();
    for workload in Workload::ALL {
        if request.wants(workload.key) {
            let messages = request.messages.unwrap_or(workload.messages);
            let label = format!("{:<10} {}", workload.key, workload.title);
            let rounds = request.rounds;
            let connections = round::CONNECTIONS;
            let results = round::compare(workload, request.load, connections, messages, rounds)?;
            table::row(&label, workload, &results);
        }
    }
    if request.chosen.iter().any(|chosen| chosen == "matrix") {
        for workload in Workload::matrix() {
            let messages = request.messages.unwrap_or(workload.messages);
            for connections in workload::CONNECTIONS {
                let (frames, sink) = (workload.frames, workload.sink);
                let label = format!("{connections:>4} connections, {frames}, to {sink}");
                let (load, rounds) = (request.load, request.rounds);
                let results = round::compare(&workload, load, connections, messages, rounds)?;
                table::row(&label, &workload, &results);
            }
        }
    }
    if request.wants("memory") {
        memory::measure(request.messages.unwrap_or(memory::MESSAGES))?;
    }
    if request.wants("fairness") {
        fairness::measure(request.rounds)?;
    }
    Ok(())
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("relay: {error}");
            ExitCode::FAILURE
        }
    }
}
