//! Beginnings and ends that are not those of the book: in mid-stream, many at once,
//! twice the same, by somebody else's hand, of entries that never tell.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use conntally::flow::{Protocol, State, TcpState};
use socket2::{Domain, Socket, Type};

use super::{
    BOTH, Watch, at, balance, both, close, connect, corrected, entry, expire_soon, flows,
    neighbour, own, reset, set, told,
};
use crate::support::inject;
use crate::support::netns::{Peer, isolated, run, track};

#[test]
fn a_connection_picked_up_in_mid_stream_is_not_opened() {
    isolated(&["nft"], || {
        let peer = neighbour();
        expire_soon();
        let listener = peer.run(|| TcpListener::bind(at(Peer::THERE[0], 8080)).unwrap());
        let (mut ours, mut accepted) = connect(&listener);
        let (mut dialled, mut theirs) = connect(&listener);
        let mut daemons = both("", "");
        track();
        ours.write_all(b"more").unwrap();
        accepted.read_exact(&mut [0; 4]).unwrap();
        theirs.write_all(b"more").unwrap();
        dialled.read_exact(&mut [0; 4]).unwrap();
        for watch in &mut daemons {
            watch.shows(&["remote_host:10.99.0.2", "state:open"], 2);
        }
        close(ours, accepted);
        close(theirs, dialled);
        for watch in daemons {
            let text = watch.settle(
                // The kernel takes whoever it hears first for the one who dialled.
                &[("closed 10.99.0.2 tcp outbound", 2)],
                &[],
            );
            assert_eq!((own(&text, "flows_picked_up"), flows(&text)), (2, 0));
        }
    });
}

#[test]
fn a_thousand_connections_between_two_ticks_are_a_thousand() {
    const COUNT: usize = 1000;
    isolated(&["nft"], || {
        let peer = neighbour();
        track();
        let listener = peer.run(|| TcpListener::bind(at(Peer::THERE[0], 8080)).unwrap());
        let daemons = BOTH.map(|mode| Watch::every("1h", mode, "", ""));
        let mut over = Vec::new();
        for _ in 0..COUNT {
            let (dialled, accepted) = connect(&listener);
            over.push(entry(&dialled));
            close(dialled, accepted);
            TcpStream::connect(at(Peer::THERE[0], 8081)).unwrap_err();
        }
        inject::delete(over);
        for watch in daemons {
            // The second tick is the one at the end.
            assert!(told(&watch.daemon.stdout.text()).is_empty());
            let text = watch.daemon.stop().stdout;
            let told: Vec<_> = told(&text).into_iter().collect();
            let told: Vec<_> = told.iter().map(|(what, count)| (&**what, *count)).collect();
            assert_eq!(
                told,
                [
                    ("closed 10.99.0.2 tcp outbound", COUNT),
                    ("failed 10.99.0.2 outbound refused", COUNT),
                    ("opened 10.99.0.2 tcp outbound", 2 * COUNT),
                ],
                "{}",
                watch.mode
            );
            assert!(corrected(&text).is_empty(), "{text}");
            assert_eq!(
                own(&text, "dumps"),
                if watch.mode == "hybrid" { 2 } else { 1 }
            );
            balance(&text);
        }
    });
}

#[test]
fn the_same_tuple_again_is_another_connection() {
    isolated(&["nft"], || {
        let peer = neighbour();
        track();
        expire_soon();
        let there = at(Peer::THERE[0], 8080);
        let listener = peer.run(|| TcpListener::bind(there).unwrap());
        let daemons = both("", "");
        let dial = || {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            socket.set_reuse_address(true).unwrap();
            socket.bind(&at(Peer::HERE[0], 40_000).into()).unwrap();
            socket.connect(&there.into()).unwrap();
            (TcpStream::from(socket), listener.accept().unwrap().0)
        };
        for _ in 0..4 {
            let (dialled, _accepted) = dial();
            reset(dialled);
        }
        let (dialled, accepted) = dial();
        close(accepted, dialled);
        for watch in daemons {
            let text = watch.settle(
                &[
                    ("opened 10.99.0.2 tcp outbound", 5),
                    ("closed 10.99.0.2 tcp outbound", 1),
                    ("failed 10.99.0.2 outbound reset", 4),
                ],
                &[],
            );
            assert_eq!(flows(&text), 0);
        }
    });
}

#[test]
fn an_entry_that_somebody_else_deletes_has_ended() {
    isolated(&["nft", "conntrack"], || {
        let peer = neighbour();
        track();
        let listeners =
            peer.run(|| Peer::THERE.map(|there| TcpListener::bind(at(there, 8080)).unwrap()));
        let mut daemons = both("", "");
        let open: Vec<_> = listeners.iter().chain(&listeners).map(connect).collect();
        for watch in &mut daemons {
            watch.shows(&["state:open"], 4);
        }
        let (first, _) = &open[0];
        let port = first.local_addr().unwrap().port();
        run(&format!("conntrack -D -p tcp -s 10.99.0.1 --sport {port}"));
        for watch in &mut daemons {
            watch.shows(&["state:open"], 3);
        }
        run("conntrack -F");
        for watch in daemons {
            let text = watch.settle(
                &[
                    ("opened 10.99.0.2 tcp outbound", 2),
                    ("opened fd99::2 tcp outbound", 2),
                    ("closed 10.99.0.2 tcp outbound", 2),
                    ("closed fd99::2 tcp outbound", 2),
                ],
                &[],
            );
            assert_eq!(flows(&text), 0);
        }
        drop(open);
    });
}

#[test]
fn an_entry_that_never_tells_is_found_and_ends_once() {
    const COUNT: u32 = 100;
    isolated(&[], || {
        let mute = |state| {
            (0..COUNT)
                .map(move |n| inject::flow(Protocol::Tcp, State::Tcp(state), inject::v4(n, 2)))
        };
        // As if nobody had listened anywhere when they were made.
        set("events", "0");
        inject::inject(mute(TcpState::Established));
        set("events", "2");
        let mut daemons = both("resync_interval = \"1s\"", "");
        for watch in &mut daemons {
            watch.shows(&["state:open", "remote_host:172.16.0.1"], 50);
        }
        // What becomes of them, dumps alone tell.
        inject::update(mute(TcpState::CloseWait));
        for watch in &mut daemons {
            watch.shows(&["state:closing", "remote_host:172.16.0.1"], 50);
        }
        inject::delete(mute(TcpState::CloseWait));
        for watch in daemons {
            let text = watch.settle(
                &[
                    ("closed 172.16.0.0 tcp forwarded", 50),
                    ("closed 172.16.0.1 tcp forwarded", 50),
                ],
                &[("mute_ended", 100)],
            );
            assert_eq!((own(&text, "flows_found"), flows(&text)), (100, 0));
        }
    });
}
