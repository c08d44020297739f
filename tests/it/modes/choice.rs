//! Where events cannot be had, tell nothing, or are not to be followed.

use std::net::TcpListener;

use conntally::flow::{Flow, Protocol, State, TcpState};

use super::{Watch, balance, connect, corrected, flows, is_in, own, reset, set, told};
use crate::support::inject;
use crate::support::netns::{isolated, run};

fn open(numbers: std::ops::Range<u32>) -> impl Iterator<Item = Flow> {
    numbers.map(|n| {
        let state = State::Tcp(TcpState::Established);
        inject::flow(Protocol::Tcp, state, inject::v4(n, 1))
    })
}

#[test]
fn sockets_are_opened_and_closed_by_difference() {
    isolated(&[], || {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (dialled, _accepted) = connect(&listener);
        let directory = tempfile::tempdir().unwrap();
        let body = "interval = \"200ms\"\n[collector]\nsource = \"sockets\"\nmode = \"events\"\n\
                    [hosts]\nloopback = true\n\
                    [[output]]\naddress = \"stdout:\"\nflush_interval = \"10ms\"\n";
        let mut watch = Watch {
            mode: "sockets",
            daemon: crate::support::daemon::daemon(directory.path(), body),
            _directory: directory,
        };
        watch.shows(&["state:open"], 1);
        let more = [connect(&listener), connect(&listener)];
        watch.shows(&["state:open"], 3);
        reset(dialled);
        for (dialled, _accepted) in more {
            reset(dialled);
        }
        let text = watch.settle(
            &[
                ("opened 127.0.0.1 tcp local", 2),
                ("closed 127.0.0.1 tcp local", 3),
            ],
            &[],
        );
        assert_eq!((own(&text, "flows_found"), flows(&text)), (1, 0));
        assert!(!text.contains("conntally.collector.mode:1"), "{text}");
    });
}

#[test]
fn without_events_it_is_said_and_rates_are_differences() {
    isolated(&[], || {
        set("events", "0");
        inject::inject(open(0..10));
        for mode in ["events", "hybrid", "auto"] {
            let mut watch = Watch::start(mode, "", "");
            watch.shows(&["state:open"], 10);
            inject::inject(open(10..40));
            watch.shows(&["state:open"], 40);
            inject::delete(open(10..40));
            watch.until("said", |text| is_in(text, "dump"));
            let said = watch.daemon.stderr.text();
            assert_eq!(said.matches("nf_conntrack_events is 0").count(), 1);
            let text = watch.settle(
                &[
                    ("opened 172.16.0.0 tcp forwarded", 30),
                    ("closed 172.16.0.0 tcp forwarded", 30),
                ],
                &[],
            );
            assert_eq!((own(&text, "flows_found"), flows(&text)), (10, 10));
        }
    });
}

#[test]
fn events_are_heard_once_they_are_turned_on() {
    isolated(&[], || {
        set("events", "0");
        let mut watch = Watch::start("hybrid", "", "");
        set("events", "1");
        watch.until("hears", |text| is_in(text, "hybrid"));
        inject::inject(open(0..10));
        inject::delete(open(0..10));
        let text = watch.settle(
            &[
                ("opened 172.16.0.0 tcp forwarded", 10),
                ("closed 172.16.0.0 tcp forwarded", 10),
            ],
            &[],
        );
        assert_eq!(flows(&text), 0);
    });
}

#[test]
fn auto_says_which_mode_it_takes_and_why() {
    isolated(&[], || {
        for tick in ["200ms", "1h"] {
            let mut watch = Watch::every(tick, "auto", "", "");
            let log = watch.daemon.stderr.text();
            let (_, said) = log.split_once(" mode ").unwrap();
            let (mode, why) = said.split_once(": ").unwrap();
            assert!(why.starts_with("a dump takes "), "{why}");
            if tick == "1h" {
                assert_eq!(mode, "hybrid");
            }
            watch.until("told", |text| is_in(text, mode));
            inject::inject(open(0..10));
            inject::delete(open(0..10));
            let text = watch.daemon.stop().stdout;
            assert_eq!(told(&text).into_values().collect::<Vec<_>>(), [10, 10]);
            assert!(corrected(&text).is_empty());
            balance(&text);
        }
    });
}

#[test]
fn more_connections_than_may_be_followed_are_counted_by_dumps_until_they_are_fewer() {
    isolated(&["conntrack"], || {
        for mode in super::BOTH {
            let mut watch = Watch::start(mode, "max_flows = 100", "");
            inject::inject(open(0..90));
            watch.shows(&["state:open"], 90);
            inject::inject(open(90..150));
            watch.shows(&["state:open"], 150);
            watch.until("dumps alone", |text| {
                is_in(text, "dump") && flows(text) == 0
            });
            inject::inject(open(150..200));
            watch.shows(&["state:open"], 200);
            inject::delete(open(50..200));
            watch.shows(&["state:open"], 50);
            watch.until("followed again", |text| {
                is_in(text, mode) && flows(text) == 50
            });
            inject::inject(open(50..60));
            watch.shows(&["state:open"], 60);
            run("conntrack -F");
            watch.shows(&["state:open"], 0);
            let log = watch.daemon.stderr.text();
            for said in ["collector.max_flows lets us follow", "following them again"] {
                assert_eq!(log.matches(said).count(), 1, "{log}");
            }
            let text = watch.daemon.stop().stdout;
            assert_eq!((own(&text, "flows_found"), flows(&text)), (50, 0), "{mode}");
            assert_eq!(own(&text, "flows_forgotten"), 100, "{mode}");
            assert!(
                corrected(&text).is_empty(),
                "{mode}: {:?}",
                corrected(&text)
            );
            balance(&text);
        }
    });
}
