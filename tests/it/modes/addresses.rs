//! Connections whose addresses are translated on the way.

use std::fs;
use std::net::TcpListener;

use super::{Watch, at, both, close, connect, expire_soon, flows, neighbour};
use crate::support::netns::{Peer, isolated, nft, run, track};

/// Another network, on the other side of this host.
const WORLD: [&str; 2] = ["10.88.0.2", "fd88::2"];
const TO_WORLD: [&str; 2] = ["10.88.0.1", "fd88::1"];

#[track_caller]
fn each_once(watch: Watch, series: &[&str]) {
    let counts = |what: &'static str| series.iter().map(move |of| format!("{what} {of}"));
    let names: Vec<_> = counts("opened").chain(counts("closed")).collect();
    let rates: Vec<_> = names.iter().map(|name| (&**name, 1)).collect();
    let text = watch.settle(&rates, &[]);
    assert_eq!(flows(&text), 0);
}

#[test]
fn a_translated_destination_counts_as_dialled_or_as_answered() {
    isolated(&["nft"], || {
        let peer = neighbour();
        run("ip route add 10.96.0.1 via 10.99.0.2");
        nft(
            "table ip service { chain output { type nat hook output priority -100; \
             ip daddr 10.96.0.1 tcp dport 80 dnat to 10.99.0.2:8080; }; }",
        );
        expire_soon();
        let listener = peer.run(|| TcpListener::bind(at(Peer::THERE[0], 8080)).unwrap());
        let as_dialled = both("", "");
        let as_answered = both("", "[hosts]\nnat = \"translated\"");
        let dialled = std::net::TcpStream::connect("10.96.0.1:80").unwrap();
        close(dialled, listener.accept().unwrap().0);
        for watch in as_dialled {
            each_once(watch, &["10.96.0.1 tcp outbound"]);
        }
        for watch in as_answered {
            each_once(watch, &["10.99.0.2 tcp outbound"]);
        }
    });
}

#[test]
fn a_translated_source_does_not_change_the_remote_host() {
    isolated(&["nft"], || {
        let peer = neighbour();
        run("ip address add 10.99.0.7/24 dev veth0");
        nft(
            "table ip source { chain out { type nat hook postrouting priority 100; \
             ip daddr 10.99.0.2 snat to 10.99.0.7; }; }",
        );
        expire_soon();
        let listener = peer.run(|| TcpListener::bind(at(Peer::THERE[0], 8080)).unwrap());
        let daemons = both("", "");
        let (dialled, accepted) = connect(&listener);
        assert_eq!(accepted.peer_addr().unwrap().ip().to_string(), "10.99.0.7");
        close(dialled, accepted);
        for watch in daemons {
            each_once(watch, &["10.99.0.2 tcp outbound"]);
        }
    });
}

#[test]
fn a_router_counts_what_goes_through_it() {
    isolated(&["nft"], || {
        let container = neighbour();
        let world = Peer::cabled("wan", TO_WORLD, WORLD);
        fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
        container.run(|| run("ip route add default via 10.99.0.1"));
        world.run(|| run("ip route add default via 10.88.0.1"));
        track();
        nft("table ip router { \
             chain in { type nat hook prerouting priority -100; \
             ip daddr 10.88.0.1 tcp dport 8888 dnat to 10.99.0.2:8080; }; \
             chain out { type nat hook postrouting priority 100; \
             ip saddr 10.99.0.2 tcp dport 443 masquerade; }; }");
        expire_soon();
        let daemons = both("", "");
        // For a container, under this host's own address.
        let server = world.run(|| TcpListener::bind(at(WORLD[0], 443)).unwrap());
        let (dialled, accepted) = container.run(|| connect(&server));
        assert_eq!(accepted.peer_addr().unwrap().ip().to_string(), TO_WORLD[0]);
        close(dialled, accepted);
        // As it is.
        let server = world.run(|| TcpListener::bind(at(WORLD[0], 80)).unwrap());
        let (dialled, accepted) = container.run(|| connect(&server));
        close(dialled, accepted);
        // A port that is published.
        let server = container.run(|| TcpListener::bind(at(Peer::THERE[0], 8080)).unwrap());
        let dialled = world.run(|| std::net::TcpStream::connect("10.88.0.1:8888").unwrap());
        close(dialled, server.accept().unwrap().0);
        for watch in daemons {
            each_once(
                watch,
                &[
                    "10.88.0.2 tcp outbound",
                    "10.88.0.2 tcp forwarded",
                    "10.88.0.2 tcp inbound",
                ],
            );
        }
    });
}
