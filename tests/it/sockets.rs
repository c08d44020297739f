//! The host's sockets, beside ss(8).

use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};

use conntally::config::{Collector, Family};
use conntally::flow::{Flow, Protocol, State, TcpState};
use conntally::sockets::{Dump, Sockets};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};

use crate::support::netns::{Peer, eventually, isolated, run};

fn both() -> Collector {
    Collector {
        protocols: vec![Protocol::Tcp, Protocol::Udp],
        ..Collector::default()
    }
}

fn dump(collector: &Collector) -> (Vec<Flow>, Dump) {
    let mut flows = Vec::new();
    let dump = Sockets::open(collector)
        .unwrap()
        .dump(&mut |flow| flows.push(*flow))
        .unwrap();
    assert_eq!((dump.entries, dump.undecoded), (flows.len() as u64, 0));
    (flows, dump)
}

fn find(flows: &[Flow], original: (SocketAddr, SocketAddr)) -> Option<State> {
    flows
        .iter()
        .find(|flow| {
            let tuple = flow.original;
            let src = SocketAddr::new(tuple.src, tuple.src_port);
            let dst = SocketAddr::new(tuple.dst, tuple.dst_port);
            (src, dst) == original && flow.reply.dst == tuple.src
        })
        .map(|flow| flow.state)
}

/// Both ends as `ss` prints them: IPv4 where IPv6 sockets have a mapped address.
fn listed() -> Vec<(String, String)> {
    let mut ends: Vec<_> = run("ss -tuanH state connected")
        .lines()
        .map(|line| {
            let words: Vec<_> = line.split_whitespace().collect();
            let plain = |word: &str| {
                word.replace("[::ffff:", "")
                    .replace("]:", ":")
                    .replace('[', "")
            };
            (plain(words[4]), plain(words[5]))
        })
        .collect();
    ends.sort();
    ends
}

fn ours(local: [&str; 2]) -> Vec<(String, String)> {
    let (flows, _) = dump(&both());
    let mut ends: Vec<_> = flows
        .iter()
        .map(|flow| {
            let from_here = local.contains(&flow.original.src.to_string().as_str());
            let tuple = if from_here { flow.original } else { flow.reply };
            (
                format!("{}:{}", tuple.src, tuple.src_port),
                format!("{}:{}", tuple.dst, tuple.dst_port),
            )
        })
        .collect();
    ends.sort();
    ends
}

#[test]
fn connections_have_the_direction_and_state_that_they_were_made_with() {
    isolated(&["ss"], || {
        let peer = Peer::connected();
        // One listener for both families, and one for an address alone.
        let wildcard = TcpListener::bind("[::]:8080").unwrap();
        let mut kept = Vec::new();
        let mut expected = Vec::new();
        for (here, there) in Peer::HERE.into_iter().zip(Peer::THERE) {
            let at = |address: &str, port| SocketAddr::new(address.parse().unwrap(), port);
            // Inbound.
            let remote = peer.run(|| TcpStream::connect(at(here, 8080)).unwrap());
            let from = remote.local_addr().unwrap();
            kept.push((remote, wildcard.accept().unwrap().0));
            expected.push(((from, at(here, 8080)), State::Tcp(TcpState::Established)));
            // Outbound.
            let listener = peer.run(|| TcpListener::bind(at(there, 9090)).unwrap());
            let connect = || {
                let dialled = TcpStream::connect(at(there, 9090)).unwrap();
                let from = dialled.local_addr().unwrap();
                kept.push((dialled.try_clone().unwrap(), listener.accept().unwrap().0));
                (dialled, from)
            };
            let mut connect = connect;
            let (_, open) = connect();
            expected.push(((open, at(there, 9090)), State::Tcp(TcpState::Established)));
            let (dialled, half_closed) = connect();
            dialled.shutdown(Shutdown::Write).unwrap();
            expected.push((
                (half_closed, at(there, 9090)),
                State::Tcp(TcpState::FinWait),
            ));
            let (_, left) = connect();
            kept.last().unwrap().1.shutdown(Shutdown::Write).unwrap();
            expected.push(((left, at(there, 9090)), State::Tcp(TcpState::CloseWait)));
        }
        eventually("states settle", || {
            let (flows, _) = dump(&both());
            expected
                .iter()
                .all(|&(ends, state)| find(&flows, ends) == Some(state))
        });
        let (flows, dump) = dump(&both());
        assert_eq!(flows.len(), expected.len(), "{flows:?}");
        assert!(!dump.interrupted);
        assert_eq!(ours(Peer::HERE), listed());
    });
}

#[test]
fn connected_udp_sockets_count_and_unconnected_ones_do_not() {
    isolated(&["ss"], || {
        let peer = Peer::connected();
        let at = |address: &str, port| SocketAddr::new(address.parse().unwrap(), port);
        let [here, _] = Peer::HERE;
        let [there, _] = Peer::THERE;
        let client = UdpSocket::bind(at(here, 0)).unwrap();
        client.connect(at(there, 53)).unwrap();
        let _server = UdpSocket::bind(at(here, 8125)).unwrap();
        let from = client.local_addr().unwrap();
        let (flows, _) = dump(&both());
        assert_eq!(find(&flows, (from, at(there, 53))), Some(State::Replied));
        assert_eq!(flows.len(), 1, "{flows:?}");
        assert_eq!(ours(Peer::HERE), listed());
        drop(peer);
    });
}

#[test]
fn a_connection_of_the_host_with_itself_counts_once_as_dialled() {
    isolated(&[], || {
        for listener in ["127.0.0.1:0", "[::1]:0", "0.0.0.0:0"] {
            let listener = TcpListener::bind(listener).unwrap();
            let port = listener.local_addr().unwrap().port();
            let ip = match listener.local_addr().unwrap() {
                SocketAddr::V4(_) => "127.0.0.1".parse().unwrap(),
                SocketAddr::V6(at) => (*at.ip()).into(),
            };
            let to = SocketAddr::new(ip, port);
            let dialled = TcpStream::connect(to).unwrap();
            let _accepted = listener.accept().unwrap();
            let (flows, dump) = dump(&both());
            let ends = (dialled.local_addr().unwrap(), to);
            assert_eq!(find(&flows, ends), Some(State::Tcp(TcpState::Established)));
            let at_port = flows.iter().filter(|flow| flow.original.dst_port == port);
            assert_eq!(at_port.count(), 1, "{flows:?}");
            assert!(dump.skipped >= 1);
        }
    });
}

#[test]
fn families_are_those_of_the_addresses_not_of_the_sockets() {
    isolated(&[], || {
        let peer = Peer::connected();
        let listener = TcpListener::bind("[::]:8080").unwrap();
        let connected: Vec<_> = Peer::HERE
            .iter()
            .map(|here| {
                let to = SocketAddr::new(here.parse().unwrap(), 8080);
                (
                    peer.run(|| TcpStream::connect(to).unwrap()),
                    listener.accept().unwrap(),
                )
            })
            .collect();
        assert_eq!(connected.len(), 2);
        for family in [Family::Ipv4, Family::Ipv6] {
            let collector = Collector {
                families: vec![family],
                ..both()
            };
            let (flows, _) = dump(&collector);
            assert_eq!(flows.len(), 1, "{flows:?}");
            assert_eq!(Family::of(flows[0].original.src), family);
            assert_eq!(flows[0].original.dst_port, 8080);
        }
    });
}

#[test]
fn no_privilege_is_needed() {
    isolated(&[], || {
        let none = CapabilitySets {
            effective: CapabilitySet::empty(),
            permitted: CapabilitySet::empty(),
            inheritable: CapabilitySet::empty(),
        };
        set_capabilities(None, none).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let _dialled = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert_eq!(dump(&both()).0.len(), 1);
    });
}
