//! The kernel's events: of entries that the test makes itself, and of real traffic.

mod traffic;

use std::collections::HashMap;
use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};

use conntally::config::{ByteSize, Collector};
use conntally::conntrack::{
    Conntrack, ConntrackError, Drained, Event, Events, Happening, Step, Subscription, sysctl,
};
use conntally::flow::{Flow, Protocol, State, Status, TcpState, Tuple};
use conntally::telemetry::CollectError;
use rustix::net::sockopt::set_socket_linger;
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};

use crate::support::inject::{delete, inject, mixed};
use crate::support::netns::{Peer, eventually, isolated, track};

use Happening::{Destroy, Update};
use TcpState::{Established, SynSent, TimeWait};

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

type Key = (Protocol, Tuple, u16);

fn key(flow: &Flow) -> Key {
    (flow.protocol, flow.original, flow.zone)
}

#[test]
fn events_of_entries_of_every_kind_are_exact() {
    const COUNT: u32 = 2000;
    isolated(&[], || {
        let mut ear = Ear::open(&of(&Protocol::ALL), Subscription::Full);
        // Little by little: without privilege, the buffer may hold some 300.
        let mut flows = mixed(COUNT).peekable();
        while flows.peek().is_some() {
            let some: Vec<_> = flows.by_ref().take(100).collect();
            for change in [inject, delete] {
                change(some.clone());
                let drained = ear.drain();
                assert_eq!(
                    (drained.skipped, drained.undecoded, drained.overruns),
                    (0, 0, 0)
                );
                assert!(drained.bytes > drained.events * 100);
            }
        }
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
    const COUNT: u32 = 400;
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
        inject(mixed(COUNT));
        let mut events = Events::open(&collector, Subscription::Ends).unwrap();
        let mut conntrack = Conntrack::open(&collector).unwrap();
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
        assert_eq!(told, datagrams);
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
