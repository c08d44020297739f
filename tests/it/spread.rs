//! A long report over UDP: a receiver with the default buffer gets all of it.

use std::collections::HashMap;
use std::fs;

use conntally::flow::{Protocol, State, TcpState};

use crate::support::daemon::{Program, daemon};
use crate::support::inject::{flow, inject, v4};
use crate::support::lines::total;
use crate::support::netns::{eventually, isolated};
use crate::support::receiver::Receiver;

const HOSTS: u32 = 10_000;
const STATES: [TcpState; 4] = [
    TcpState::SynSent,
    TcpState::Established,
    TcpState::FinWait,
    TcpState::Close,
];

/// Datagrams that the receiver's socket had no room for: the last column.
fn kernel_drops(receiver: &Receiver) -> u64 {
    let (_, port) = receiver.address.rsplit_once(':').unwrap();
    let port = format!(":{:04X}", port.parse::<u16>().unwrap());
    let sockets = fs::read_to_string("/proc/thread-self/net/udp").unwrap();
    let socket = sockets.lines().find(|line| {
        let local = line.split_whitespace().nth(1);
        local.is_some_and(|local| local.ends_with(&port))
    });
    let drops = socket.and_then(|line| line.split_whitespace().last());
    drops.unwrap().parse().unwrap()
}

/// How often the receiver was told of each series.
fn series(receiver: &Receiver) -> HashMap<String, u32> {
    let mut times = HashMap::new();
    for line in receiver.lines() {
        if line.starts_with("conntrack.connections:1|g") {
            *times.entry(line).or_default() += 1;
        }
    }
    times
}

/// What was sent to the receiver, as the daemon told on its standard output.
fn sent(daemon: &Program) -> usize {
    let text = daemon.stdout.text();
    total(&text, "conntally.output.lines_sent", &["output:udp"])
}

#[test]
fn every_line_of_ten_thousand_hosts_in_four_states_reaches_a_udp_receiver() {
    isolated(&[], || {
        let flows = (0..HOSTS).flat_map(|n| {
            STATES.map(|state| {
                let mut tuple = v4(n, HOSTS);
                tuple.src_port += state as u16;
                flow(Protocol::Tcp, State::Tcp(state), tuple)
            })
        });
        inject(flows);
        let directory = tempfile::tempdir().unwrap();
        let receiver = Receiver::start("udp", &directory.path().join("out"));
        let all = usize::try_from(HOSTS).unwrap() * STATES.len();
        let mut daemon = daemon(
            directory.path(),
            &format!(
                "interval = \"4s\"\n\
                 [collector]\nsource = \"conntrack\"\nmode = \"dump\"\n\
                 [hosts]\nmax = {HOSTS}\n\
                 [[output]]\naddress = \"{}\"\n\
                 [[output]]\naddress = \"stdout:\"\nqueue = \"64MiB\"\nspread = false\n",
                receiver.address
            ),
        );
        // Of which the daemon tells one tick later.
        daemon.until("two ticks are told", |daemon| sent(daemon) >= 2 * all);
        assert_eq!(kernel_drops(&receiver), 0, "before the last report");
        let ended = daemon.stop();
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        let dropped = total(
            &ended.stdout,
            "conntally.output.lines_dropped",
            &["output:udp"],
        );
        assert_eq!(dropped, 0, "{}", ended.stderr);
        let mut times = HashMap::new();
        eventually("every series arrives twice", || {
            times = series(&receiver);
            times.len() == all && times.values().all(|&times| times >= 2)
        });
    });
}
