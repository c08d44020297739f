//! The course of a connection, from its first packet to its end: a good one, or one of
//! those that have a reason.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream, UdpSocket};

use super::{
    at, both, close, connect, entry, expire_soon, flows, gauges, knock, neighbour, reset, set, sum,
};
use crate::support::inject;
use crate::support::netns::{Peer, isolated, nft, track};

#[test]
fn a_connection_is_opened_once_and_closed_once() {
    isolated(&["nft"], || {
        let peer = neighbour();
        track();
        expire_soon();
        let mut daemons = both("resync_interval = \"2s\"", "");
        for (here, there) in Peer::HERE.into_iter().zip(Peer::THERE) {
            let abroad = peer.run(|| TcpListener::bind(at(there, 8080)).unwrap());
            let (dialled, accepted) = connect(&abroad);
            close(dialled, accepted);
            let (dialled, accepted) = connect(&abroad);
            close(accepted, dialled);
            // One side has said goodbye, and hears more.
            let (mut dialled, mut accepted) = connect(&abroad);
            dialled.shutdown(Shutdown::Write).unwrap();
            assert_eq!(accepted.read(&mut [0]).unwrap(), 0);
            let host = format!("remote_host:{there}");
            for watch in &mut daemons {
                watch.until("half closed", |text| {
                    let tags = [&*host, "state:closing", "direction:outbound"];
                    sum(&gauges(text), &tags) > 0
                });
            }
            accepted.write_all(b"more").unwrap();
            dialled.read_exact(&mut [0; 4]).unwrap();
            close(accepted, dialled);

            let at_home = TcpListener::bind(at(here, 8080)).unwrap();
            let (dialled, accepted) = peer.run(|| connect(&at_home));
            close(dialled, accepted);
        }
        for watch in daemons {
            let text = watch.settle(
                &[
                    ("opened 10.99.0.2 tcp outbound", 3),
                    ("opened 10.99.0.2 tcp inbound", 1),
                    ("opened fd99::2 tcp outbound", 3),
                    ("opened fd99::2 tcp inbound", 1),
                    ("closed 10.99.0.2 tcp outbound", 3),
                    ("closed 10.99.0.2 tcp inbound", 1),
                    ("closed fd99::2 tcp outbound", 3),
                    ("closed fd99::2 tcp inbound", 1),
                ],
                &[],
            );
            assert_eq!(flows(&text), 0);
        }
    });
}

#[test]
fn a_connection_that_fails_says_why() {
    isolated(&["nft"], || {
        let peer = neighbour();
        peer.run(|| {
            nft(
                "table inet deaf { chain input { type filter hook input priority 0; \
                 tcp dport 9 drop; }; }",
            );
        });
        track();
        set("tcp_timeout_syn_sent", "1");
        let mut daemons = both("resync_interval = \"2s\"", "");
        let mut over = Vec::new();
        for (here, there) in Peer::HERE.into_iter().zip(Peer::THERE) {
            TcpStream::connect(at(there, 8081)).unwrap_err();
            peer.run(|| TcpStream::connect(at(here, 8081)).unwrap_err());
            knock(at(there, 9));

            let listener = peer.run(|| TcpListener::bind(at(there, 8080)).unwrap());
            let mut open = || {
                let (dialled, accepted) = connect(&listener);
                over.push(entry(&dialled));
                (dialled, accepted)
            };
            let (dialled, _accepted) = open();
            reset(dialled);
            let (_dialled, accepted) = open();
            reset(accepted);
            // What comes after a goodbye is no failure, whoever resets.
            for by_peer in [true, false] {
                let (dialled, mut accepted) = open();
                dialled.shutdown(Shutdown::Write).unwrap();
                assert_eq!(accepted.read(&mut [0]).unwrap(), 0);
                reset(if by_peer { accepted } else { dialled });
            }
        }
        // The last event of an entry does not tell of a goodbye: a dump must see it.
        for watch in &mut daemons {
            watch.shows(&["state:closed"], 8);
        }
        inject::delete(over);
        for watch in daemons {
            let text = watch.settle(
                &[
                    ("opened 10.99.0.2 tcp outbound", 6),
                    ("opened 10.99.0.2 tcp inbound", 1),
                    ("opened fd99::2 tcp outbound", 6),
                    ("opened fd99::2 tcp inbound", 1),
                    ("closed 10.99.0.2 tcp outbound", 2),
                    ("closed fd99::2 tcp outbound", 2),
                    ("failed 10.99.0.2 outbound refused", 1),
                    ("failed 10.99.0.2 inbound refused", 1),
                    ("failed fd99::2 outbound refused", 1),
                    ("failed fd99::2 inbound refused", 1),
                    ("failed 10.99.0.2 outbound timeout", 1),
                    ("failed fd99::2 outbound timeout", 1),
                    ("failed 10.99.0.2 outbound reset", 2),
                    ("failed fd99::2 outbound reset", 2),
                ],
                &[],
            );
            assert_eq!(flows(&text), 0);
        }
    });
}

#[test]
fn datagrams_that_are_answered_close_and_others_time_out() {
    isolated(&["nft"], || {
        let peer = neighbour();
        track();
        set("udp_timeout", "1");
        let daemons = both("protocols = [\"tcp\", \"udp\"]", "");
        for (here, there) in Peer::HERE.into_iter().zip(Peer::THERE) {
            let server = peer.run(|| UdpSocket::bind(at(there, 8125)).unwrap());
            let client = UdpSocket::bind(at(here, 0)).unwrap();
            client.send_to(b"ping", at(there, 8125)).unwrap();
            let (_, from) = server.recv_from(&mut [0; 8]).unwrap();
            server.send_to(b"pong", from).unwrap();
            client.recv(&mut [0; 8]).unwrap();
            // Nobody is there; the kernel's answer is no trace in the entry.
            let client = UdpSocket::bind(at(here, 0)).unwrap();
            client.send_to(b"ping", at(there, 8126)).unwrap();
        }
        for watch in daemons {
            let text = watch.settle(
                &[
                    ("opened 10.99.0.2 udp outbound", 2),
                    ("opened fd99::2 udp outbound", 2),
                    ("closed 10.99.0.2 udp outbound", 1),
                    ("closed fd99::2 udp outbound", 1),
                    ("failed 10.99.0.2 outbound timeout", 1),
                    ("failed fd99::2 outbound timeout", 1),
                ],
                &[],
            );
            assert_eq!(flows(&text), 0);
        }
    });
}
