//! More events than the buffer holds: what is lost is counted, and a dump puts right
//! what there is.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use conntally::flow::{Flow, Protocol, State, TcpState};
use tokio::time::Instant;

use super::{Watch, balance, corrected, flows, gauges, is_in, own};
use crate::support::inject;
use crate::support::netns::{PATIENCE, isolated, run};

/// Room for an event or two, and no more however many are lost.
const TINY: &str = "receive_buffer = \"1B\"\nresync_interval = \"1s\"";
const RAW: &str = "[report]\nstates = \"raw\"";

/// Threads, and flows that each of them makes.
const THREADS: u32 = 4;
const FLOWS: u32 = 10_000;
const HOSTS: u32 = 50;

fn of(n: u32, state: TcpState) -> Flow {
    inject::flow(Protocol::Tcp, State::Tcp(state), inject::v4(n, HOSTS))
}

/// Makes flows, moves most of them on, and takes half of those out; some again.
fn rage(numbers: std::ops::Range<u32>) {
    use TcpState::{Close, Established, FinWait, SynSent, TimeWait};
    let every = |nth: u32, state| {
        numbers
            .clone()
            .filter(move |n| n % nth == 0)
            .map(move |n| of(n, state))
    };
    inject::inject(every(1, SynSent));
    inject::update(every(2, Established));
    inject::delete(every(4, Established));
    inject::inject(every(8, Established));
    inject::update(every(3, FinWait).filter(is_there));
    inject::update(every(5, TimeWait).filter(is_there));
    inject::update(every(7, Close).filter(is_there));
    inject::delete(every(14, Close).filter(is_there));
}

fn number(flow: &Flow) -> u32 {
    match flow.original.src {
        std::net::IpAddr::V4(address) => address.to_bits() & 0x00ff_ffff,
        std::net::IpAddr::V6(_) => unreachable!(),
    }
}

fn is_there(flow: &Flow) -> bool {
    let n = number(flow);
    !n.is_multiple_of(4) || n.is_multiple_of(8)
}

/// The kernel's own table, by state.
fn table() -> BTreeMap<String, usize> {
    let mut states = BTreeMap::new();
    for line in run("conntrack -L -p tcp").lines() {
        let state = line.split_whitespace().nth(3).unwrap();
        *states.entry(state.to_ascii_lowercase()).or_default() += 1;
    }
    states
}

/// What the daemon takes it for.
fn shown(text: &str) -> BTreeMap<String, usize> {
    let mut states = BTreeMap::new();
    for (tags, count) in gauges(text) {
        let state = tags
            .iter()
            .find_map(|tag| tag.strip_prefix("state:"))
            .unwrap();
        *states.entry(state.to_owned()).or_default() += count;
    }
    states.retain(|_, &mut count| count > 0);
    states
}

#[test]
fn after_a_storm_that_no_buffer_holds_the_counts_are_those_of_the_table() {
    isolated(&["conntrack"], || {
        let mut daemons = super::BOTH.map(|mode| Watch::start(mode, TINY, RAW));
        thread::scope(|scope| {
            for thread in 0..THREADS {
                scope.spawn(move || {
                    rage(thread * FLOWS..(thread + 1) * FLOWS);
                });
            }
        });
        let table = table();
        let entries: usize = table.values().sum();
        assert!(entries > 10_000);
        for watch in &mut daemons {
            watch.until(&format!("{table:?}"), |text| {
                shown(text) == table && flows(text) == entries
            });
        }
        for watch in daemons {
            let mode = watch.mode;
            let text = watch.daemon.stop().stdout;
            assert_eq!(
                (shown(&text), flows(&text)),
                (table.clone(), entries),
                "{mode}"
            );
            balance(&text);
            assert!(
                own(&text, "events_lost") > 0 && own(&text, "overruns") > 0,
                "{mode}"
            );
            assert!(corrected(&text)["missed_new"] > 0, "{mode}");
            let begun = own(&text, "flows_opened");
            let lost = own(&text, "events_lost");
            let all = usize::try_from(THREADS * (FLOWS + FLOWS / 8)).unwrap();
            assert!(
                begun <= all && all <= begun + lost,
                "{mode}: {begun} of {all}, {lost} lost"
            );
        }
    });
}

#[test]
fn a_storm_that_does_not_end_is_listened_to_no_more() {
    isolated(&["conntrack"], || {
        let mut watch = Watch::start("events", TINY, RAW);
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                let end = Instant::now() + 3 * PATIENCE;
                while !over.load(Ordering::Relaxed) && Instant::now() < end {
                    rage(0..FLOWS);
                    run("conntrack -F");
                }
                rage(0..FLOWS);
            });
            for mode in ["hybrid", "dump"] {
                watch.until(mode, |text| is_in(text, mode));
            }
            over.store(true, Ordering::Relaxed);
        });
        let log = watch.daemon.stderr.text();
        for turn in ["from mode events to hybrid", "from mode hybrid to dump"] {
            assert_eq!(log.matches(turn).count(), 1, "{log}");
        }
        let table = table();
        watch.until(&format!("{table:?}"), |text| shown(text) == table);
        let text = watch.daemon.stop().stdout;
        assert_eq!(shown(&text), table);
        assert_eq!(own(&text, "mode_changes"), 2);
        balance(&text);
    });
}
