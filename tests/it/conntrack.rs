//! The kernel's table: entries that the test puts there itself, and real traffic
//! beside conntrack(8).

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};

use conntally::config::{Collector, Family, MarkFilter};
use conntally::conntrack::{Conntrack, ConntrackError, Dump, Step};
use conntally::flow::{Beginning, Flow, Protocol, State, Status, TcpState, Tuple};
use conntally::telemetry::CollectError;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};

use crate::support::inject::{flow, inject, mixed, v4, v6};
use crate::support::netns::{Peer, eventually, isolated, nft, run, track};

/// What tells two entries apart.
type Key = (Protocol, Tuple, u16);

/// What a case changes.
type Edit = fn(&mut Collector);

fn everything() -> Collector {
    Collector {
        protocols: Protocol::ALL.to_vec(),
        ..Collector::default()
    }
}

fn by_key(flows: impl IntoIterator<Item = Flow>) -> HashMap<Key, Flow> {
    let mut map = HashMap::new();
    for mut flow in flows {
        // The others are the kernel's own affair.
        flow.status.0 &= Status::SEEN_REPLY | Status::ASSURED;
        let key = (flow.protocol, flow.original, flow.zone);
        assert_eq!(map.insert(key, flow), None, "an entry came twice: {flow:?}");
    }
    map
}

fn dump(collector: &Collector) -> (HashMap<Key, Flow>, Dump) {
    let mut flows = Vec::new();
    let dump = Conntrack::open(collector)
        .unwrap()
        .dump(&mut |step| {
            if let Step::Entry(entry) = step {
                flows.push(entry.flow);
            }
        })
        .unwrap();
    assert_eq!(dump.entries, flows.len() as u64);
    assert_eq!((dump.undecoded, dump.interrupted), (0, false));
    (by_key(flows), dump)
}

#[test]
fn every_tcp_state_of_both_families_with_and_without_translation_comes_back_exactly() {
    isolated(&[], || {
        let mut injected = Vec::new();
        for (n, state) in (0_u32..).zip(TcpState::ALL) {
            for (place, tuple) in (0_u32..).zip([v4, v6]) {
                for translation in 0..3 {
                    let n = n * 10 + place * 3 + translation;
                    let mut flow = flow(Protocol::Tcp, State::Tcp(*state), tuple(n, 4));
                    match translation {
                        0 => {}
                        // Another server answers than was dialled.
                        1 => flow.reply.src = tuple(1000 + n, 1).src,
                        // The server answers to another client than dialled.
                        _ => flow.reply.dst = tuple(2000 + n, 1).src,
                    }
                    injected.push(flow);
                }
            }
        }
        inject(injected.iter().copied());
        let (read, dump) = dump(&Collector::default());
        assert_eq!(dump.entries, 60);
        assert_eq!(read, by_key(injected));
    });
}

#[test]
fn thousands_of_entries_of_every_kind_come_back_exactly() {
    isolated(&[], || {
        inject(mixed(20_000));
        let (read, _) = dump(&everything());
        assert_eq!(read, by_key(mixed(20_000)));
    });
}

#[test]
fn the_size_of_the_table_is_what_was_put_there() {
    isolated(&[], || {
        let mut conntrack = Conntrack::open(&everything()).unwrap();
        let before = conntrack.counters().unwrap();
        inject(mixed(1000));
        let size = conntrack.table().unwrap();
        assert_eq!(size.entries, 1000);
        let limit = std::fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_max").unwrap();
        assert_eq!(size.limit, limit.trim().parse::<u32>().unwrap());
        let after = conntrack.counters().unwrap();
        assert_eq!(after.get("insert") - before.get("insert"), 1000);
        assert_eq!(after.get("drop"), before.get("drop"));
        assert_eq!(after.iter().count(), 10);
    });
}

#[test]
fn an_empty_table_is_an_empty_dump() {
    isolated(&[], || {
        // No rule asks for connection tracking here: the kernel follows nothing.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let _connection = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut conntrack = Conntrack::open(&everything()).unwrap();
        assert_eq!(conntrack.table().unwrap().entries, 0);
        let dump = conntrack.dump(&mut |step| panic!("{step:?}")).unwrap();
        assert_eq!(dump, Dump::default());
    });
}

#[test]
fn what_the_kernel_leaves_out_is_what_the_configuration_does() {
    isolated(&[], || {
        inject(mixed(4000));
        let (whole, _) = dump(&everything());
        let marks = |text: &str| text.parse::<MarkFilter>().unwrap();
        let cases: [(&str, Edit); 7] = [
            ("family", |c| c.families = vec![Family::Ipv6]),
            ("zone", |c| c.zones = vec![7]),
            ("the default zone", |c| c.zones = vec![0]),
            ("mark", |c| c.marks = "0x10/0xf0".parse().unwrap()),
            ("no mark", |c| c.marks = "0/0xff".parse().unwrap()),
            ("protocol", |c| {
                c.families = vec![Family::Ipv4];
                c.protocols = vec![Protocol::Udp];
            }),
            ("everything", |c| {
                c.families = vec![Family::Ipv6];
                c.protocols = vec![Protocol::Tcp];
                c.zones = vec![9];
                c.marks = "0x10".parse().unwrap();
            }),
        ];
        for (name, edit) in cases {
            let mut collector = everything();
            edit(&mut collector);
            let (read, dump) = dump(&collector);
            let mut expected = whole.clone();
            expected.retain(|_, flow| {
                collector.protocols.contains(&flow.protocol)
                    && collector.families.contains(&Family::of(flow.original.src))
                    && (collector.zones.is_empty() || collector.zones.contains(&flow.zone))
                    && collector.marks.admits(flow.mark)
            });
            assert!(
                !expected.is_empty() && expected.len() < whole.len(),
                "{name}"
            );
            assert_eq!(read, expected, "{name}");
            assert_eq!(dump.skipped, 0, "the kernel did not choose by {name}");
        }
        // What the kernel has no filter for is chosen here.
        let mut collector = everything();
        collector.protocols = vec![Protocol::Tcp, Protocol::Sctp];
        collector.zones = vec![7, 9];
        collector.marks = marks("0x10/0xf0");
        let (read, dump) = dump(&collector);
        assert!(dump.skipped > 0 && !read.is_empty());
        for flow in read.values() {
            assert!([Protocol::Tcp, Protocol::Sctp].contains(&flow.protocol));
            assert!([7, 9].contains(&flow.zone) && flow.mark & 0xf0 == 0x10);
        }
    });
}

#[test]
fn without_the_capability_the_error_names_it() {
    isolated(&[], || {
        inject(mixed(10));
        let mut opened_before = Conntrack::open(&everything()).unwrap();
        let none = CapabilitySets {
            effective: CapabilitySet::empty(),
            permitted: CapabilitySet::empty(),
            inheritable: CapabilitySet::empty(),
        };
        // This thread's alone, and it ends with the test.
        set_capabilities(None, none).unwrap();
        let opened = Conntrack::open(&everything()).unwrap_err();
        let lost = opened_before.dump(&mut |_| {}).unwrap_err();
        for error in [opened, lost] {
            assert!(matches!(error, ConntrackError::Permission), "{error:?}");
            assert_eq!(error.reason(), CollectError::Permission);
            assert!(error.to_string().contains("CAP_NET_ADMIN"), "{error}");
        }
    });
}

/// An entry as conntrack(8) prints it: protocol, state, both tuples.
type Line = (String, String, Vec<String>);

/// Entries by `conntrack -L`.
fn listed() -> Vec<Line> {
    let mut lines: Vec<_> = ["ipv4", "ipv6"]
        .iter()
        .flat_map(|family| {
            let text = run(&format!("conntrack -L -f {family}"));
            text.lines().map(listed_line).collect::<Vec<_>>()
        })
        .collect();
    lines.sort();
    lines
}

/// `tcp 6 431999 ESTABLISHED src=… dst=… sport=… dport=… [UNREPLIED] src=… … mark=0 use=1`
fn listed_line(text: &str) -> Line {
    let words: Vec<_> = text.split_whitespace().collect();
    let has = |word| words.contains(&word);
    let state = match words[3] {
        tcp if !tcp.contains('=') && !tcp.starts_with('[') => tcp.to_lowercase(),
        _ if has("[UNREPLIED]") => "unreplied".to_owned(),
        _ if has("[ASSURED]") => "assured".to_owned(),
        _ => "replied".to_owned(),
    };
    let ends = words
        .iter()
        .filter(|word| {
            ["src=", "dst=", "sport=", "dport="]
                .iter()
                .any(|key| word.starts_with(key))
        })
        .map(|word| word.split_once('=').unwrap().1.to_owned());
    (words[0].to_owned(), state, ends.collect())
}

fn ours() -> Vec<Line> {
    let (flows, _) = dump(&everything());
    let mut lines: Vec<_> = flows
        .values()
        .map(|flow| {
            let ends = [flow.original, flow.reply].into_iter().flat_map(|tuple| {
                [
                    tuple.src.to_string(),
                    tuple.dst.to_string(),
                    tuple.src_port.to_string(),
                    tuple.dst_port.to_string(),
                ]
            });
            (
                flow.protocol.to_string(),
                flow.state.to_string(),
                ends.collect(),
            )
        })
        .collect();
    lines.sort();
    lines
}

fn count(lines: &[Line], protocol: &str, state: &str) -> usize {
    lines
        .iter()
        .filter(|(of, is, _)| (of.as_str(), is.as_str()) == (protocol, state))
        .count()
}

#[test]
fn real_connections_are_what_conntrack_lists() {
    isolated(&["conntrack", "nft"], || {
        let peer = Peer::connected();
        track();
        peer.run(|| {
            nft(
                "table inet deaf { chain input { type filter hook input priority 0; \
                 tcp dport 9 drop; }; }",
            );
        });
        let mut open = Vec::new();
        let mut unanswered = Vec::new();
        for (here, there) in Peer::HERE.into_iter().zip(Peer::THERE) {
            let at = |port| SocketAddr::new(there.parse().unwrap(), port);
            let listener = peer.run(|| TcpListener::bind(at(8080)).unwrap());
            let connected = || {
                let dialled = TcpStream::connect(at(8080)).unwrap();
                (dialled, listener.accept().unwrap().0)
            };
            // Open.
            open.push(connected());
            // Half closed: the peer has seen the end, and has not closed.
            let (dialled, mut accepted) = connected();
            dialled.shutdown(Shutdown::Write).unwrap();
            assert_eq!(accepted.read(&mut [0]).unwrap(), 0);
            open.push((dialled, accepted));
            // Closed by both, the dialling side first.
            let (dialled, mut accepted) = connected();
            drop(dialled);
            assert_eq!(accepted.read(&mut [0]).unwrap(), 0);
            drop(accepted);
            // Refused: its entry goes at once.
            TcpStream::connect(at(8081)).unwrap_err();
            // Never answered.
            let family = match at(9) {
                SocketAddr::V4(_) => AddressFamily::INET,
                SocketAddr::V6(_) => AddressFamily::INET6,
            };
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            let dropped = socket_with(family, SocketType::STREAM, flags, None).unwrap();
            connect(&dropped, &at(9)).unwrap_err();
            unanswered.push(dropped);
            // Datagrams, answered and not.
            let server = peer.run(|| UdpSocket::bind(at(8125)).unwrap());
            for answered in [true, false] {
                let client = UdpSocket::bind((here, 0)).unwrap();
                client.send_to(b"ping", at(8125)).unwrap();
                let (_, from) = server.recv_from(&mut [0; 8]).unwrap();
                if answered {
                    server.send_to(b"pong", from).unwrap();
                    client.recv(&mut [0; 8]).unwrap();
                }
            }
        }
        eventually("connections settle, both lists agree", || {
            let ours = ours();
            ours == listed() && count(&ours, "tcp", "time_wait") == 2
        });
        let ours = ours();
        for (protocol, state, number) in [
            ("tcp", "established", 2),
            ("tcp", "close_wait", 2),
            ("tcp", "time_wait", 2),
            ("tcp", "syn_sent", 2),
            ("tcp", "close", 0),
            ("udp", "replied", 2),
            ("udp", "unreplied", 2),
        ] {
            assert_eq!(count(&ours, protocol, state), number, "{protocol} {state}");
        }
    });
}

#[test]
fn a_connection_older_than_the_rule_is_known_to_be_picked_up_in_mid_stream() {
    isolated(&["nft"], || {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let connect = || {
            let dialled = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let accepted = listener.accept().unwrap().0;
            (dialled, accepted)
        };
        let (mut older, mut older_end) = connect();
        track();
        older_end.write_all(b"answer").unwrap();
        older.read_exact(&mut [0; 6]).unwrap();
        let (newer, _newer_end) = connect();
        let (flows, _) = dump(&Collector::default());
        let beginning = |port: u16| {
            let of =
                |flow: &&Flow| [flow.original.src_port, flow.original.dst_port].contains(&port);
            flows.values().find(of).map(|flow| flow.beginning)
        };
        let port = |stream: &TcpStream| stream.local_addr().unwrap().port();
        assert_eq!(beginning(port(&older)), Some(Beginning::Missed));
        assert_eq!(beginning(port(&newer)), Some(Beginning::Seen));
    });
}
