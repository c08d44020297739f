//! What the kernel tells of real traffic.

use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, TcpListener, TcpStream, UdpSocket};

use conntally::config::Collector;
use conntally::conntrack::{Event, Subscription};
use conntally::flow::{Beginning, Protocol, State, Status, Tuple};
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with};

use super::Happening::{Destroy, New, Update};
use super::TcpState::{
    Close, CloseWait, Established, FinWait, LastAck, SynRecv, SynSent, TimeWait,
};
use super::{Ear, entry_of, of, reset, sequence, tell_all, there, told, tuple, tuple_of};
use crate::support::inject::delete;
use crate::support::netns::{Peer, eventually, isolated, nft, run, track};

#[test]
fn a_connection_is_told_of_from_its_first_packet_to_its_end() {
    isolated(&["nft"], || {
        let peer = Peer::connected();
        tell_all();
        track();
        let mut ear = Ear::open(&Collector::default(), Subscription::Full);
        for at in there(8080) {
            let listener = peer.run(|| TcpListener::bind(at).unwrap());
            let dialled = TcpStream::connect(at).unwrap();
            let (mut accepted, _) = listener.accept().unwrap();
            let original = tuple_of(&dialled);
            let opened = ear.until("established", original, (Update, Established));
            drop(dialled);
            assert_eq!(accepted.read(&mut [0]).unwrap(), 0);
            drop(accepted);
            let closed = ear.until("closed", original, (Update, TimeWait));
            delete([entry_of(original)]);
            let whole = ear.until("destroyed", original, (Destroy, TimeWait));

            assert_eq!(
                sequence(&opened),
                [(New, SynSent), (Update, SynRecv), (Update, Established)]
            );
            let mut after = sequence(&closed[opened.len()..]);
            // Whether the peer's ACK comes before its FIN is its own affair.
            after.retain(|(_, state)| *state != CloseWait);
            assert_eq!(
                after,
                [(Update, FinWait), (Update, LastAck), (Update, TimeWait)]
            );
            assert_eq!(whole.len(), closed.len() + 1);
            let [new, .., destroy] = &*whole else {
                panic!("{whole:?}");
            };
            assert_eq!(new.entry.flow.beginning, Beginning::Seen);
            assert_eq!(new.entry.flow.reply.src, at.ip());
            assert!(!new.status.unwrap().has(Status::SEEN_REPLY));
            assert!(new.entry.details.timeout.is_some());
            for event in &whole {
                let has_closed = matches!(
                    told(event),
                    Some((Update, FinWait | CloseWait | LastAck | TimeWait))
                );
                assert_eq!(event.entry.details.fin_seen, has_closed, "{event:?}");
            }
            let status = destroy.status.unwrap();
            assert!(status.has(Status::DYING) && status.has(Status::ASSURED));
            let details = destroy.entry.details;
            for way in details.traffic.unwrap() {
                // SYN and FIN at least, each with 20 bytes of IP and 20 of TCP or more.
                assert!(way.packets >= 2 && way.bytes >= way.packets * 40, "{way:?}");
            }
            let [started, stopped] = [details.started, details.stopped].map(Option::unwrap);
            assert!(stopped >= started);
            // Linux 6.14.
            if let Some(time) = details.event_time {
                assert!(time >= started);
            }
        }
    });
}

#[test]
fn a_connection_that_fails_ends_without_an_answer() {
    isolated(&["nft"], || {
        let peer = Peer::connected();
        peer.run(|| {
            nft(
                "table inet deaf { chain input { type filter hook input priority 0; \
                 tcp dport 9 drop; }; }",
            );
        });
        tell_all();
        track();
        let mut ear = Ear::open(&Collector::default(), Subscription::Ends);
        for (closed, deaf) in there(8081).into_iter().zip(there(9)) {
            let from = ear.heard.len();
            TcpStream::connect(closed).unwrap_err();
            eventually("refused", || {
                ear.listen();
                ear.heard.len() - from == 2
            });
            let refused = &ear.heard[from..];
            assert_eq!(sequence(refused), [(New, SynSent), (Destroy, Close)]);
            assert!(!refused[1].status.unwrap().has(Status::SEEN_REPLY));
            assert_eq!(
                refused[0].entry.flow.original,
                refused[1].entry.flow.original
            );
            let [sent, received] = refused[1].entry.details.traffic.unwrap();
            assert_eq!((sent.packets, received.packets), (1, 1));

            let from = ear.heard.len();
            let family = match deaf.ip() {
                IpAddr::V4(_) => AddressFamily::INET,
                IpAddr::V6(_) => AddressFamily::INET6,
            };
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            let dropped = socket_with(family, SocketType::STREAM, flags, None).unwrap();
            connect(&dropped, &deaf).unwrap_err();
            eventually("sent", || {
                ear.listen();
                ear.heard.len() > from
            });
            delete([ear.heard[from].entry.flow]);
            drop(dropped);
            ear.listen();
            let dropped = &ear.heard[from..];
            assert_eq!(sequence(dropped), [(New, SynSent), (Destroy, SynSent)]);
            assert!(!dropped[1].status.unwrap().has(Status::SEEN_REPLY));
            let [sent, received] = dropped[1].entry.details.traffic.unwrap();
            assert!(sent.packets >= 1);
            assert_eq!(received.packets, 0);
        }
    });
}

#[test]
fn a_reset_tells_whether_anybody_had_said_goodbye() {
    isolated(&["nft"], || {
        let peer = Peer::connected();
        track();
        let mut ear = Ear::open(&Collector::default(), Subscription::Full);
        for at in there(8080) {
            let listener = peer.run(|| TcpListener::bind(at).unwrap());
            let connected = || {
                let dialled = TcpStream::connect(at).unwrap();
                (dialled, listener.accept().unwrap().0)
            };
            // In the middle of it.
            let (dialled, _accepted) = connected();
            let original = tuple_of(&dialled);
            reset(dialled);
            let events = ear.until("reset", original, (Update, Close));
            assert!(!events.last().unwrap().entry.details.fin_seen);
            // By the side that was told goodbye, and by the one that said it.
            for by_peer in [true, false] {
                let (dialled, mut accepted) = connected();
                let original = tuple_of(&dialled);
                dialled.shutdown(Shutdown::Write).unwrap();
                assert_eq!(accepted.read(&mut [0]).unwrap(), 0);
                let half = ear.until("half closed", original, (Update, CloseWait));
                assert_eq!(
                    sequence(&half)[3..],
                    [(Update, FinWait), (Update, CloseWait)]
                );
                reset(if by_peer { accepted } else { dialled });
                let events = ear.until("reset", original, (Update, Close));
                assert!(events.last().unwrap().entry.details.fin_seen);
            }
        }
    });
}

#[test]
fn datagrams_are_told_of_once_asked_and_once_answered() {
    isolated(&["nft"], || {
        let peer = Peer::connected();
        track();
        let mut ear = Ear::open(&of(&[Protocol::Udp]), Subscription::Full);
        for (here, at) in Peer::HERE.into_iter().zip(there(8125)) {
            let server = peer.run(|| UdpSocket::bind(at).unwrap());
            let client = UdpSocket::bind((here, 0)).unwrap();
            let original = tuple(client.local_addr().unwrap(), at);
            client.send_to(b"ping", at).unwrap();
            let (_, from) = server.recv_from(&mut [0; 8]).unwrap();
            server.send_to(b"pong", from).unwrap();
            client.recv(&mut [0; 8]).unwrap();
            let mut states = Vec::new();
            eventually("answered", || {
                ear.listen();
                let is_its = |event: &&Event| event.entry.flow.original == original;
                let events = ear.heard.iter().filter(is_its);
                states = events.map(|event| (event.happening, event.state)).collect();
                states.len() == 2
            });
            let [asked, answered] = [State::Unreplied, State::Replied].map(Some);
            assert_eq!(states, [(New, asked), (Update, answered)]);
        }
    });
}

#[test]
fn a_connection_older_than_the_rule_begins_established_and_unseen() {
    isolated(&["nft"], || {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut older = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut accepted, _) = listener.accept().unwrap();
        let mut ear = Ear::open(&Collector::default(), Subscription::Full);
        track();
        accepted.write_all(b"answer").unwrap();
        older.read_exact(&mut [0; 6]).unwrap();
        eventually("picked up", || {
            ear.listen();
            !ear.heard.is_empty()
        });
        let first = ear.heard[0];
        assert_eq!(told(&first), Some((New, Established)));
        assert_eq!(first.entry.flow.beginning, Beginning::Missed);
        // The answer came first: what looks like the client is the server.
        let of_answer = Tuple {
            src: accepted.local_addr().unwrap().ip(),
            dst: older.local_addr().unwrap().ip(),
            src_port: accepted.local_addr().unwrap().port(),
            dst_port: older.local_addr().unwrap().port(),
        };
        assert_eq!(first.entry.flow.original, of_answer);
    });
}

#[test]
fn a_translated_connection_is_told_of_as_dialled_and_as_answered() {
    isolated(&["nft"], || {
        let peer = Peer::connected();
        run("ip route add 10.96.0.1 via 10.99.0.2");
        nft(
            "table ip service { chain output { type nat hook output priority -100; \
             ip daddr 10.96.0.1 tcp dport 80 dnat to 10.99.0.2:8080; }; }",
        );
        let [at, _] = there(8080);
        let listener = peer.run(|| TcpListener::bind(at).unwrap());
        let mut ear = Ear::open(&Collector::default(), Subscription::Full);
        let dialled = TcpStream::connect("10.96.0.1:80").unwrap();
        let _accepted = listener.accept().unwrap();
        for event in ear.until("open", tuple_of(&dialled), (Update, Established)) {
            let reply = event.entry.flow.reply;
            assert_eq!((reply.src, reply.src_port), (at.ip(), at.port()));
        }
    });
}
