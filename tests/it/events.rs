//! The kernel's events: of entries that the test makes itself, and of real traffic.

use std::collections::HashMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};

use conntally::config::{ByteSize, Collector};
use conntally::conntrack::{
    Conntrack, ConntrackError, Drained, Event, Events, Happening, Step, Subscription, sysctl,
};
use conntally::flow::{Beginning, Flow, Protocol, State, Status, TcpState, Tuple};
use conntally::telemetry::CollectError;
use rustix::net::sockopt::set_socket_linger;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};

use crate::support::inject::{delete, inject, mixed};
use crate::support::netns::{Peer, eventually, isolated, nft, run, track};

use Happening::{Destroy, New, Update};
use TcpState::{Close, CloseWait, Established, FinWait, LastAck, SynRecv, SynSent, TimeWait};

/// More than any test leaves in the socket.
const EVERYTHING: usize = 1 << 30;

fn of(protocols: &[Protocol]) -> Collector {
    Collector {
        protocols: protocols.to_vec(),
        ..Collector::default()
    }
}

/// Counters and times in entries that are made from now on.
fn tell_all() {
    for switch in ["acct", "timestamp"] {
        let path = format!("/proc/sys/net/netfilter/nf_conntrack_{switch}");
        fs::write(path, "1").unwrap();
    }
}

/// An open socket, and what it has heard so far.
struct Ear {
    events: Events,
    heard: Vec<Event>,
}

impl Ear {
    fn open(collector: &Collector, subscription: Subscription) -> Self {
        Self {
            events: Events::open(collector, subscription).unwrap(),
            heard: Vec::new(),
        }
    }

    fn drain(&mut self) -> Drained {
        let before = self.heard.len() as u64;
        let drained = self
            .events
            .drain(EVERYTHING, &mut |event| self.heard.push(*event))
            .unwrap();
        assert!(drained.is_dry);
        assert_eq!(before + drained.events, self.heard.len() as u64);
        drained
    }

    /// Hears what waits, all of it.
    fn listen(&mut self) {
        let drained = self.drain();
        assert_eq!((drained.undecoded, drained.overruns), (0, 0));
    }

    /// Waits until the entry's last event is such a one; tells all of them.
    #[track_caller]
    fn until(&mut self, what: &str, original: Tuple, is_last: (Happening, TcpState)) -> Vec<Event> {
        let mut of_it = Vec::new();
        eventually(what, || {
            self.listen();
            let is_its = |event: &&Event| event.entry.flow.original == original;
            of_it = self.heard.iter().filter(is_its).copied().collect();
            of_it
                .last()
                .is_some_and(|event| told(event) == Some(is_last))
        });
        of_it
    }
}

fn told(event: &Event) -> Option<(Happening, TcpState)> {
    match event.state {
        Some(State::Tcp(state)) => Some((event.happening, state)),
        _ => None,
    }
}

fn sequence(events: &[Event]) -> Vec<(Happening, TcpState)> {
    events.iter().filter_map(told).collect()
}

fn tuple(src: SocketAddr, dst: SocketAddr) -> Tuple {
    Tuple {
        src: src.ip(),
        dst: dst.ip(),
        src_port: src.port(),
        dst_port: dst.port(),
    }
}

fn tuple_of(dialled: &TcpStream) -> Tuple {
    tuple(dialled.local_addr().unwrap(), dialled.peer_addr().unwrap())
}

/// Both families' address of the peer, with a port.
fn there(port: u16) -> [SocketAddr; 2] {
    Peer::THERE.map(|address| SocketAddr::new(address.parse().unwrap(), port))
}

/// An entry as far as [`delete`] needs it.
fn entry_of(original: Tuple) -> Flow {
    crate::support::inject::flow(Protocol::Tcp, State::Tcp(SynSent), original)
}

/// Sends RST when it is closed.
fn reset(stream: TcpStream) {
    set_socket_linger(&stream, Some(std::time::Duration::ZERO)).unwrap();
    drop(stream);
}

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

type Key = (Protocol, Tuple, u16);

fn key(flow: &Flow) -> Key {
    (flow.protocol, flow.original, flow.zone)
}

#[test]
fn events_of_entries_of_every_kind_are_exact() {
    const COUNT: u32 = 2000;
    isolated(&[], || {
        let mut ear = Ear::open(&of(&Protocol::ALL), Subscription::Full);
        inject(mixed(COUNT));
        let drained = ear.drain();
        assert_eq!((drained.skipped, drained.undecoded), (0, 0));
        assert!(drained.bytes > drained.events * 100);
        delete(mixed(COUNT));
        ear.listen();
        let mut injected: HashMap<Key, Flow> =
            mixed(COUNT).map(|flow| (key(&flow), flow)).collect();
        let ends = ear.heard.iter().filter(|event| event.happening == Destroy);
        assert_eq!(ends.count(), injected.len());
        for event in &ear.heard {
            let mut flow = event.entry.flow;
            let wanted = injected[&key(&flow)];
            flow.status.0 &= Status::SEEN_REPLY | Status::ASSURED;
            if event.happening == Destroy {
                assert_eq!(event.state, Some(wanted.state));
                // It tells the state and no flags.
                flow.beginning = wanted.beginning;
                injected.remove(&key(&flow));
            }
            assert_eq!(flow, wanted, "{:?}", event.happening);
        }
        assert!(injected.is_empty());
    });
}

#[test]
fn only_what_the_configuration_counts_is_shown() {
    const COUNT: u32 = 800;
    isolated(&[], || {
        let collector = Collector {
            marks: "0x10/0xf0".parse().unwrap(),
            zones: vec![0, 7],
            ..Collector::default()
        };
        let mut ear = Ear::open(&collector, Subscription::Ends);
        inject(mixed(COUNT));
        let drained = ear.drain();
        let is_tcp = |flow: &Flow| flow.protocol == Protocol::Tcp;
        let is_counted = |flow: &Flow| is_tcp(flow) && flow.mark & 0xf0 == 0x10 && flow.zone != 9;
        let counted = mixed(COUNT).filter(is_counted).count() as u64;
        assert!(counted > 0);
        assert_eq!(drained.events, counted);
        // The kernel keeps other protocols out, and does not call that a loss.
        let tcp = mixed(COUNT).filter(is_tcp).count() as u64;
        assert_eq!(drained.skipped, tcp - counted);
        assert_eq!(ear.events.kernel_drops(), Some(0));
    });
}

#[test]
fn an_overrun_is_told_with_the_kernels_own_count_and_what_comes_after_is_read() {
    const COUNT: u32 = 500;
    isolated(&[], || {
        let collector = Collector {
            receive_buffer: ByteSize(1),
            ..of(&Protocol::ALL)
        };
        let mut ear = Ear::open(&collector, Subscription::Ends);
        assert_eq!(ear.events.kernel_drops(), Some(0));
        inject(mixed(COUNT));
        let drained = ear.drain();
        assert_eq!(drained.overruns, 1);
        assert!(drained.events > 0 && drained.events < COUNT.into());
        let lost = u64::from(COUNT) - drained.events;
        assert_eq!(ear.events.kernel_drops(), Some(lost));
        delete(mixed(1));
        let after = ear.drain();
        assert_eq!((after.events, after.overruns), (1, 0));
        assert_eq!(ear.events.kernel_drops(), Some(lost));
        // From elsewhere, the kernel shows other sockets.
        let events = &ear.events;
        std::thread::scope(|scope| {
            let elsewhere = scope.spawn(|| {
                crate::support::netns::enter_new().unwrap();
                events.kernel_drops()
            });
            assert_eq!(elsewhere.join().unwrap(), None);
        });
    });
}

#[test]
fn the_buffer_grows_to_eight_times_what_is_configured() {
    isolated(&[], || {
        let collector = Collector {
            receive_buffer: ByteSize::kib(16),
            ..Collector::default()
        };
        let mut events = Events::open(&collector, Subscription::Ends).unwrap();
        assert_eq!(events.buffer_bytes(), 16 << 10);
        for kib in [32, 64, 128] {
            assert_eq!(events.grow(), Some(kib << 10));
            assert_eq!(events.buffer_bytes(), kib << 10);
        }
        assert_eq!(events.grow(), None);
        assert_eq!(events.buffer_bytes(), 128 << 10);
    });
}

#[test]
fn without_the_capability_the_buffer_is_what_the_system_allows() {
    isolated(&[], || {
        let allowed = fs::read_to_string("/proc/sys/net/core/rmem_max").unwrap();
        let allowed: u64 = allowed.trim().parse().unwrap();
        let collector = Collector {
            receive_buffer: ByteSize(allowed / 2),
            ..Collector::default()
        };
        let mut events = Events::open(&collector, Subscription::Ends).unwrap();
        drop_capabilities();
        assert_eq!(
            events.grow(),
            Some(usize::try_from(allowed).unwrap() / 2 * 2)
        );
        assert_eq!(events.grow(), None);
        // What is joined already stays so.
        let drained = events.drain(EVERYTHING, &mut |_| {}).unwrap();
        assert!(drained.is_dry);
    });
}

#[test]
fn without_the_capability_opening_names_it() {
    isolated(&[], || {
        drop_capabilities();
        let error = Events::open(&Collector::default(), Subscription::Ends).unwrap_err();
        assert!(matches!(error, ConntrackError::Permission), "{error:?}");
        assert_eq!(error.reason(), CollectError::Permission);
    });
}

/// This thread's alone, and it ends with the test.
fn drop_capabilities() {
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, none).unwrap();
}

#[test]
fn updates_come_while_they_are_subscribed_to() {
    isolated(&["nft"], || {
        let peer = Peer::connected();
        track();
        let [at, _] = there(8080);
        let listener = peer.run(|| TcpListener::bind(at).unwrap());
        let mut ear = Ear::open(&Collector::default(), Subscription::Ends);
        for (subscription, updates) in [
            (Subscription::Ends, 0),
            (Subscription::Full, 2),
            (Subscription::Full, 2),
            (Subscription::Ends, 0),
        ] {
            ear.events.subscribe(subscription).unwrap();
            assert_eq!(ear.events.subscription(), subscription);
            ear.heard.clear();
            let dialled = TcpStream::connect(at).unwrap();
            let _accepted = listener.accept().unwrap();
            let original = tuple_of(&dialled);
            // Its end is told after all else.
            delete([entry_of(original)]);
            let events = ear.until("destroyed", original, (Destroy, Established));
            let found = events.iter().filter(|event| event.happening == Update);
            assert_eq!(found.count(), updates, "{subscription:?}");
            // No FIN: it would begin another entry.
            reset(dialled);
        }
    });
}

#[test]
fn a_drain_stops_at_its_limit_and_goes_on_where_it_stopped() {
    isolated(&[], || {
        let mut events = Events::open(&of(&Protocol::ALL), Subscription::Ends).unwrap();
        inject(mixed(100));
        let first = events.drain(1, &mut |_| {}).unwrap();
        assert_eq!((first.events, first.is_dry), (1, false));
        let some = events.drain(2000, &mut |_| {}).unwrap();
        assert!((2000..2500).contains(&some.bytes) && !some.is_dry);
        let rest = events.drain(EVERYTHING, &mut |_| {}).unwrap();
        assert_eq!(first.events + some.events + rest.events, 100);
        assert!(rest.is_dry);
    });
}

#[test]
fn events_may_be_read_between_the_datagrams_of_a_dump() {
    const COUNT: u32 = 5000;
    isolated(&[], || {
        let collector = of(&Protocol::ALL);
        let mut events = Events::open(&collector, Subscription::Ends).unwrap();
        let mut conntrack = Conntrack::open(&collector).unwrap();
        inject(mixed(COUNT));
        let (mut entries, mut datagrams, mut told) = (0, 0, 0);
        let mut more = mixed(COUNT + 100).skip(COUNT as usize);
        let dump = conntrack
            .dump(&mut |step| match step {
                Step::Entry(_) => entries += 1,
                Step::Datagram => {
                    datagrams += 1;
                    inject(more.next());
                    told += events.drain(EVERYTHING, &mut |_| {}).unwrap().events;
                }
            })
            .unwrap();
        assert_eq!(dump.entries, entries);
        assert!(datagrams > 10);
        // Whether the walk comes by the ones that are new is chance.
        assert!((u64::from(COUNT)..=u64::from(COUNT) + datagrams).contains(&entries));
        assert_eq!(told, u64::from(COUNT) + datagrams);
    });
}

#[test]
fn what_the_administrator_has_set_is_that_of_the_namespace() {
    isolated(&[], || {
        let set = |name: &str, value: &str| {
            fs::write(
                format!("/proc/sys/net/netfilter/nf_conntrack_{name}"),
                value,
            )
            .unwrap();
        };
        for on in [true, false] {
            let value = if on { "1" } else { "0" };
            set("events", value);
            set("acct", value);
            set("timestamp", value);
            assert_eq!(sysctl::events_enabled(), Some(on));
            assert_eq!(sysctl::accounting(), Some(on));
            assert_eq!(sysctl::timestamps(), Some(on));
        }
        set("events", "2");
        assert_eq!(sysctl::events_enabled(), Some(true));
        assert_eq!(sysctl::Timeouts::read(), sysctl::Timeouts::default());
        set("tcp_timeout_time_wait", "77");
        let timeouts = sysctl::Timeouts::read();
        assert_eq!(timeouts.of(Protocol::Tcp, State::Tcp(TimeWait)), 77);
    });
}
