//! What connections carried, and how long they lasted: by the kernel's own counters and
//! times.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use tokio::time::Instant;

use super::{at, both, close, connect, entry, neighbour, set};
use crate::support::inject;
use crate::support::lines::total;
use crate::support::netns::{Peer, isolated, run, track};

const TABLES: &str = "[report]\ntraffic = true\ndurations = true";
const CHUNK: usize = 100_000;

/// Packets and bytes, original and reply way, of the one entry from or to this port, as
/// `conntrack` shows them.
fn counters(family: &str, port: u16) -> [[usize; 2]; 2] {
    let table = run(&format!("conntrack -L -f {family} -p tcp"));
    let wanted = format!("sport={port} ");
    let line = table.lines().find(|line| line.contains(&wanted)).unwrap();
    let of = |name: &str| {
        let values = line
            .split_whitespace()
            .filter_map(|word| word.strip_prefix(name));
        let values: Vec<usize> = values.map(|value| value.parse().unwrap()).collect();
        <[usize; 2]>::try_from(values).unwrap()
    };
    let ([sent, received], [sent_bytes, received_bytes]) = (of("packets="), of("bytes="));
    [[sent, sent_bytes], [received, received_bytes]]
}

fn carried(text: &str, host: &str) -> [[usize; 2]; 2] {
    let host = format!("remote_host:{host}");
    ["way:sent", "way:received"].map(|way| {
        ["conntrack.packets", "conntrack.bytes"].map(|name| total(text, name, &[&host, way]))
    })
}

/// Every duration of a host, seconds.
fn durations(text: &str, host: &str) -> Vec<f64> {
    let tag = format!("remote_host:{host}");
    text.lines()
        .filter_map(|line| line.strip_prefix("conntrack.duration:"))
        .filter(|line| line.contains(&tag))
        .filter_map(|line| line.split_once('|'))
        .flat_map(|(values, _)| values.split(':').map(|value| value.parse().unwrap()))
        .collect()
}

/// Sends a chunk there, and a tenth of it back.
fn exchange(here: &mut TcpStream, there: &mut TcpStream) {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            there.read_exact(&mut vec![0; CHUNK]).unwrap();
            there.write_all(&vec![0; CHUNK / 10]).unwrap();
        });
        here.write_all(&vec![0; CHUNK]).unwrap();
        here.read_exact(&mut vec![0; CHUNK / 10]).unwrap();
    });
}

#[test]
fn traffic_adds_up_to_what_the_kernel_counted() {
    isolated(&["nft", "conntrack"], || {
        let peer = neighbour();
        set("acct", "1");
        track();
        let mut daemons = both("resync_interval = \"1s\"", TABLES);
        let abroad = peer.run(|| TcpListener::bind(at(Peer::THERE[0], 8080)).unwrap());
        let at_home = TcpListener::bind(at(Peer::HERE[1], 8080)).unwrap();
        let (mut dialled, mut accepted) = connect(&abroad);
        let (mut theirs, mut ours) = peer.run(|| connect(&at_home));
        let of = [(&dialled, Peer::THERE[0]), (&theirs, Peer::THERE[1])];
        let [(port, host), (their_port, their_host)] =
            of.map(|(dialled, host)| (dialled.local_addr().unwrap().port(), host));
        let entries = [entry(&dialled), entry(&theirs)];
        // Dumps tell of it while it goes on.
        for round in 1..=3 {
            exchange(&mut dialled, &mut accepted);
            exchange(&mut ours, &mut theirs);
            for watch in &mut daemons {
                watch.until("so much was carried", |text| {
                    [host, their_host].into_iter().all(|host| {
                        let [[_, sent], [_, received]] = carried(text, host);
                        round * CHUNK < sent && round * CHUNK / 10 < received
                    })
                });
            }
        }
        // And its end of the rest.
        exchange(&mut dialled, &mut accepted);
        exchange(&mut ours, &mut theirs);
        close(dialled, accepted);
        close(theirs, ours);
        for watch in &mut daemons {
            watch.shows(&["state:closing"], 2);
        }
        let outward = counters("ipv4", port);
        // Of one that came in, the reply way is what was sent.
        let [received, sent] = counters("ipv6", their_port);
        inject::delete(entries);
        for watch in daemons {
            let text = watch.settle(
                &[
                    ("opened 10.99.0.2 tcp outbound", 1),
                    ("opened fd99::2 tcp inbound", 1),
                    ("closed 10.99.0.2 tcp outbound", 1),
                    ("closed fd99::2 tcp inbound", 1),
                ],
                &[],
            );
            assert_eq!(carried(&text, host), outward);
            assert_eq!(carried(&text, their_host), [sent, received]);
        }
    });
}

#[test]
fn a_duration_is_from_the_first_packet_to_the_last() {
    isolated(&["nft"], || {
        let peer = neighbour();
        set("timestamp", "1");
        track();
        // However long the entry waits then.
        set("tcp_timeout_time_wait", "3");
        let listener = peer.run(|| TcpListener::bind(at(Peer::THERE[0], 8080)).unwrap());
        let mut daemons = both("resync_interval = \"1s\"", TABLES);
        let begun = Instant::now();
        let (dialled, accepted) = connect(&listener);
        let open = Instant::now();
        for watch in &mut daemons {
            watch.shows(&["state:open"], 1);
            let ticks = |text: &str| text.matches("\nconntally.uptime_seconds:").count();
            let before = ticks(&watch.daemon.stdout.text());
            watch.until("three ticks", |text| before + 3 <= ticks(text));
        }
        let least = open.elapsed();
        close(dialled, accepted);
        let most = begun.elapsed();
        for watch in daemons {
            let mode = watch.mode;
            let text = watch.settle(
                &[
                    ("opened 10.99.0.2 tcp outbound", 1),
                    ("closed 10.99.0.2 tcp outbound", 1),
                ],
                &[],
            );
            let [lasted] = *durations(&text, Peer::THERE[0]) else {
                panic!("{mode}\n{text}");
            };
            // What the kernel's clocks may differ by.
            let slack = 0.1;
            assert!(
                least.as_secs_f64() - slack < lasted && lasted < most.as_secs_f64() + slack,
                "{mode}: {least:?} < {lasted} < {most:?}"
            );
        }
    });
}
