//! What clients are told, against a model that keeps everything.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use proptest::prelude::*;

use super::*;
use crate::flow::{Direction, End, Failure, Protocol, Traffic};
use crate::hosts::HostName;

const LIMITS: Limits = Limits {
    records: 16,
    clients: 3,
    hidden: 2,
    announced: 4,
};

/// An end with a number of its own, as its time.
fn ended(at: u64, key: u64, host: u8, end: End) -> Ended {
    let address = IpAddr::from([10, 0, 0, host]);
    Ended {
        at,
        key: FlowKey(key),
        tuples: None,
        host: HostName::Address(address),
        address: Some(address),
        protocol: Protocol::Tcp,
        zone: 0,
        direction: Direction::Outbound,
        port: Some(443),
        end,
        duration: Some(Duration::from_secs(1)),
        traffic: Some([Traffic::default(); 2]),
    }
}

fn closed(at: u64, host: u8) -> Ended {
    ended(at, at, host, End::Closed)
}

fn failed(at: u64, host: u8) -> Ended {
    ended(at, at, host, End::Failed(Failure::Refused))
}

/// Not to be rolled up.
fn long_lived(at: u64, host: u8) -> Ended {
    Ended {
        duration: Some(2 * SHORT_LIVED),
        ..closed(at, host)
    }
}

fn id(name: &str) -> ClientId {
    name.parse().unwrap()
}

fn ask(journal: &mut Journal, client: &str, now: Instant) -> Delta {
    journal
        .ask(&id(client), &ConnectionFilter::default(), now)
        .unwrap()
}

/// When each end was, in order; a rolled up one as its count.
fn times(delta: &Delta) -> Vec<Result<u64, u64>> {
    let time = |record: &Record| match record {
        Record::One(ended) => Ok(ended.at),
        Record::Many(rolled) => Err(rolled.count),
    };
    delta.ended.iter().map(time).collect()
}

#[test]
fn each_client_has_its_own_position_and_it_begins_when_it_first_asks() {
    let mut journal = Journal::new(LIMITS);
    let start = Instant::now();
    journal.record(closed(0, 1));
    assert_eq!(ask(&mut journal, "a", start), Delta::default());
    journal.record(closed(1, 1));
    assert_eq!(ask(&mut journal, "b", start).ended, []);
    journal.record(failed(2, 1));
    let later = start + Duration::from_secs(5);
    let delta = ask(&mut journal, "a", later);
    assert_eq!(times(&delta), [Ok(1), Ok(2)]);
    assert_eq!(delta.since, Some(Duration::from_secs(5)));
    assert_eq!(times(&ask(&mut journal, "b", later)), [Ok(2)]);
    assert_eq!(ask(&mut journal, "b", later).ended, []);
}

#[test]
fn nothing_is_kept_without_clients_or_beyond_the_last_of_them() {
    let mut journal = Journal::new(LIMITS);
    let now = Instant::now();
    assert!(!journal.is_followed());
    journal.record(closed(0, 1));
    assert_eq!(journal.counts().records, 0);
    ask(&mut journal, "a", now);
    ask(&mut journal, "b", now);
    journal.record(closed(1, 1));
    ask(&mut journal, "a", now);
    assert_eq!(journal.counts().records, 1, "b has not had it");
    ask(&mut journal, "b", now);
    assert_eq!(journal.counts().records, 0);
    journal.record(closed(2, 1));
    journal.remove_client(&id("a")).unwrap();
    journal.remove_client(&id("b")).unwrap();
    assert_eq!(journal.counts().records, 0);
    let error = journal.remove_client(&id("b")).unwrap_err();
    assert!(
        error.to_string().contains("there is no client b"),
        "{error}"
    );
}

#[test]
fn a_client_that_stops_asking_is_forgotten_and_there_are_so_many_at_most() {
    let mut journal = Journal::new(LIMITS);
    let start = Instant::now();
    for client in ["a", "b", "c"] {
        ask(&mut journal, client, start);
    }
    let error = journal.view(&id("d"), start).unwrap_err();
    assert_eq!(error, JournalError::TooManyClients(3));
    let later = start + EXPIRY / 2;
    ask(&mut journal, "a", later);
    journal.record(closed(1, 1));
    let end = start + EXPIRY;
    assert_eq!(ask(&mut journal, "d", end).since, None);
    let counts = journal.counts();
    assert_eq!((counts.clients, counts.clients_expired), (2, 2));
    assert_eq!(counts.clients_refused, 1);
    assert_eq!(times(&ask(&mut journal, "a", end)), [Ok(1)]);
    journal.expire(end + EXPIRY);
    assert!(!journal.is_followed());
}

#[test]
fn short_lived_connections_to_one_service_roll_up_under_pressure_alone() {
    let mut journal = Journal::new(LIMITS);
    let now = Instant::now();
    ask(&mut journal, "a", now);
    for at in 0..8 {
        journal.record(closed(at, 1));
    }
    for at in 8..1000 {
        journal.record(closed(at, 1));
    }
    journal.record(failed(1000, 1));
    journal.record(failed(1001, 1));
    journal.record(long_lived(1002, 1));
    let delta = ask(&mut journal, "a", now);
    let mut expected: Vec<_> = (0..8).map(Ok).collect();
    expected.extend([Err(992), Err(2), Ok(1002)]);
    assert_eq!(times(&delta), expected);
    assert_eq!(delta.dropped, 0);
    let Record::Many(rolled) = &delta.ended[8] else {
        panic!("{delta:?}");
    };
    assert_eq!((rolled.first_at, rolled.last_at), (8, 999));
    assert_eq!((rolled.timed, rolled.duration.as_secs()), (992, 992));
    assert_eq!(rolled.address, Some([10, 0, 0, 1].into()));
}

#[test]
fn what_a_client_has_had_grows_no_more() {
    let mut journal = Journal::new(LIMITS);
    let now = Instant::now();
    ask(&mut journal, "slow", now);
    ask(&mut journal, "fast", now);
    for at in 0..10 {
        journal.record(closed(at, 1));
    }
    assert_eq!(times(&ask(&mut journal, "fast", now)).len(), 9);
    for at in 10..20 {
        journal.record(closed(at, 1));
    }
    assert_eq!(times(&ask(&mut journal, "fast", now)), [Err(10)]);
    let all = times(&ask(&mut journal, "slow", now));
    assert_eq!(all[8..], [Err(2), Err(10)]);
}

#[test]
fn closes_are_dropped_before_failures_and_counted_for_each_client() {
    let mut journal = Journal::new(LIMITS);
    let now = Instant::now();
    ask(&mut journal, "a", now);
    for at in 0..10 {
        journal.record(failed(at, u8::try_from(at).unwrap()));
    }
    for at in 10..20 {
        journal.record(long_lived(at, 1));
    }
    ask(&mut journal, "late", now);
    for at in 20..26 {
        journal.record(failed(at, u8::try_from(at).unwrap()));
    }
    // Nothing but failures is left: a close does not get in.
    journal.record(long_lived(26, 1));
    let delta = ask(&mut journal, "a", now);
    let kept: Vec<_> = (0..10).chain(20..26).map(Ok).collect();
    assert_eq!(times(&delta), kept);
    assert_eq!(delta.dropped, 11);
    let delta = ask(&mut journal, "late", now);
    assert_eq!(times(&delta), (20..26).map(Ok).collect::<Vec<_>>());
    assert_eq!(delta.dropped, 1, "what was there before it came is no loss");
    assert_eq!(journal.counts().dropped, 12);
    for at in 30..50 {
        journal.record(failed(at, u8::try_from(at).unwrap()));
    }
    let delta = ask(&mut journal, "a", now);
    assert_eq!(times(&delta), (34..50).map(Ok).collect::<Vec<_>>());
    assert_eq!(delta.dropped, 4);
}

#[test]
fn a_hidden_connection_is_left_out_until_it_has_ended() {
    let mut journal = Journal::new(LIMITS);
    let now = Instant::now();
    let error = journal.hide(&id("a"), FlowKey(7), now).unwrap_err();
    assert_eq!(error, JournalError::UnknownClient(id("a")));
    ask(&mut journal, "a", now);
    ask(&mut journal, "b", now);
    journal.hide(&id("a"), FlowKey(7), now).unwrap();
    assert!(journal.view(&id("a"), now).unwrap().contains(&FlowKey(7)));
    journal.record(ended(1, 7, 1, End::Closed));
    // The same tuple again: another connection.
    journal.record(ended(2, 7, 1, End::Closed));
    journal.record(ended(3, 8, 1, End::Closed));
    assert!(journal.view(&id("a"), now).unwrap().is_empty());
    // One that has ended, and that was not told yet.
    journal.hide(&id("a"), FlowKey(8), now).unwrap();
    assert_eq!(times(&ask(&mut journal, "a", now)), [Ok(2)]);
    assert_eq!(times(&ask(&mut journal, "b", now)), [Ok(1), Ok(2), Ok(3)]);
    for key in 0..2 {
        journal.hide(&id("a"), FlowKey(key), now).unwrap();
    }
    journal.hide(&id("a"), FlowKey(0), now).unwrap();
    let error = journal.hide(&id("a"), FlowKey(2), now).unwrap_err();
    assert!(error.to_string().contains("hides 2 connections"), "{error}");
}

#[test]
fn an_end_that_was_announced_is_told_once() {
    let mut journal = Journal::new(LIMITS);
    let now = Instant::now();
    assert!(!journal.announce(closed(0, 1)), "nobody wants to know");
    ask(&mut journal, "before", now);
    assert!(journal.announce(closed(1, 1)));
    assert!(!journal.announce(closed(1, 1)), "once");
    assert_eq!(times(&ask(&mut journal, "before", now)), [Ok(1)]);
    ask(&mut journal, "after", now);
    journal.record(closed(1, 1));
    assert_eq!(ask(&mut journal, "before", now).ended, []);
    assert_eq!(times(&ask(&mut journal, "after", now)), [Ok(1)]);
    journal.record(closed(1, 1));
    assert_eq!(
        times(&ask(&mut journal, "before", now)),
        [Ok(1)],
        "reopened"
    );
    for at in 10..14 {
        assert!(journal.announce(closed(at, 1)));
    }
    assert!(!journal.announce(closed(14, 1)), "no room to remember it");
}

#[test]
fn what_a_filter_leaves_out_is_passed_over_and_what_it_cannot_tell_counted() {
    let mut journal = Journal::new(LIMITS);
    let now = Instant::now();
    let mut filter = ConnectionFilter::default();
    filter.add("host", "10.0.0.1").unwrap();
    journal.ask(&id("a"), &filter, now).unwrap();
    journal.record(closed(1, 1));
    journal.record(closed(2, 2));
    journal.record(Ended {
        address: None,
        ..closed(3, 1)
    });
    let delta = journal.ask(&id("a"), &filter, now).unwrap();
    assert_eq!(times(&delta), [Ok(1)]);
    assert_eq!((delta.undecided, delta.dropped), (1, 0));
    assert_eq!(ask(&mut journal, "a", now).ended, []);
}

#[derive(Clone, Debug)]
enum Step {
    Record {
        host: u8,
        failed: bool,
        long: bool,
        key: u64,
    },
    Announce {
        host: u8,
        key: u64,
    },
    Ask(usize),
    View(usize),
    Hide(usize, u64),
    Remove(usize),
    Wait(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let record =
        (1..4_u8, any::<bool>(), any::<bool>(), 0..12_u64).prop_map(|(host, failed, long, key)| {
            Step::Record {
                host,
                failed,
                long,
                key,
            }
        });
    let announce = (1..4_u8, 0..12_u64).prop_map(|(host, key)| Step::Announce { host, key });
    prop::collection::vec(
        prop_oneof![
            30 => record,
            2 => announce,
            2 => (0..4_usize).prop_map(Step::Ask),
            1 => (0..4_usize).prop_map(Step::View),
            1 => (0..4_usize, 0..12_u64).prop_map(|(client, key)| Step::Hide(client, key)),
            1 => (0..4_usize).prop_map(Step::Remove),
            1 => (0..90_u64).prop_map(Step::Wait),
        ],
        0..400,
    )
}

/// What a client is due, by everything that it was not told yet.
#[derive(Default)]
struct Due {
    /// Ends by their number.
    ends: HashMap<u64, (Service, u64)>,
    hidden: HashSet<u64>,
    /// Announced to it, and still in the table.
    told: HashSet<u64>,
    seen: Option<Instant>,
}

#[derive(Default)]
struct Model {
    clients: HashMap<&'static str, Due>,
    announced: HashSet<u64>,
}

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

impl Model {
    fn expire(&mut self, now: Instant) {
        self.clients
            .retain(|_, due| due.seen.is_some_and(|seen| now - seen < EXPIRY));
        if self.clients.is_empty() {
            self.announced.clear();
        }
    }

    fn record(&mut self, at: u64, key: u64, service: &Service, announces: bool) {
        if !announces {
            self.announced.remove(&key);
        }
        for due in self.clients.values_mut() {
            let was_told = !announces && due.told.remove(&key);
            let is_hidden = due.hidden.remove(&key);
            if !was_told && !is_hidden {
                due.ends.insert(at, (service.clone(), key));
            }
            if announces {
                due.told.insert(key);
            }
        }
        if announces {
            self.announced.insert(key);
        }
    }
}

proptest! {
    /// Each client gets each end once, alone or in a count that is exact, or has it
    /// counted as dropped; and the journal keeps to its bounds.
    #[test]
    fn prop_each_client_gets_each_end_once_or_counted(steps in steps()) {
        let mut journal = Journal::new(LIMITS);
        let mut model = Model::default();
        let mut now = Instant::now();
        for (at, step) in (0_u64..).zip(steps) {
            match step {
                Step::Record { host, failed: fails, long, key } => {
                    let end = if fails { End::Failed(Failure::Reset) } else { End::Closed };
                    let mut ended = ended(at, key, host, end);
                    let service = ended.service().unwrap();
                    if long {
                        ended.duration = Some(2 * SHORT_LIVED);
                    }
                    model.record(at, key, &service, false);
                    journal.record(ended);
                }
                Step::Announce { host, key } => {
                    let ended = ended(at, key, host, End::Closed);
                    let service = ended.service().unwrap();
                    let expected = !model.clients.is_empty()
                        && model.announced.len() < LIMITS.announced
                        && !model.announced.contains(&key);
                    prop_assert_eq!(journal.announce(ended), expected);
                    if expected {
                        model.record(at, key, &service, true);
                    }
                }
                Step::Wait(seconds) => now += Duration::from_secs(seconds),
                Step::Ask(index) | Step::View(index) => {
                    model.expire(now);
                    let name = NAMES[index];
                    let is_full = model.clients.len() == LIMITS.clients;
                    if is_full && !model.clients.contains_key(name) {
                        prop_assert!(journal.view(&id(name), now).is_err());
                        continue;
                    }
                    let due = model.clients.entry(name).or_default();
                    due.seen = Some(now);
                    if matches!(step, Step::View(_)) {
                        let hidden = journal.view(&id(name), now).unwrap();
                        let hidden: HashSet<_> = hidden.iter().map(|key| key.0).collect();
                        prop_assert_eq!(&hidden, &due.hidden);
                        continue;
                    }
                    let delta = ask(&mut journal, name, now);
                    let mut due = std::mem::take(&mut due.ends);
                    let mut rolled_up = Vec::new();
                    for record in &delta.ended {
                        match record {
                            Record::One(ended) => {
                                let known = due.remove(&ended.at);
                                prop_assert!(known.is_some(), "told twice, or never due: {ended:?}");
                            }
                            Record::Many(rolled) => rolled_up.push(rolled),
                        }
                    }
                    for rolled in rolled_up {
                        let of_service: Vec<u64> = due
                            .iter()
                            .filter(|(at, (service, _))| {
                                *service == rolled.service
                                    && (rolled.first_at..=rolled.last_at).contains(at)
                            })
                            .map(|(&at, _)| at)
                            .collect();
                        let count = usize::try_from(rolled.count).unwrap();
                        prop_assert!(count >= 2 && count <= of_service.len());
                        for at in &of_service[..count] {
                            due.remove(at);
                        }
                    }
                    prop_assert_eq!(delta.dropped, due.len() as u64);
                }
                Step::Hide(index, key) => {
                    model.expire(now);
                    let result = journal.hide(&id(NAMES[index]), FlowKey(key), now);
                    let Some(due) = model.clients.get_mut(NAMES[index]) else {
                        prop_assert!(result.is_err());
                        continue;
                    };
                    due.seen = Some(now);
                    // Of those rolled up or dropped the journal knows the key no more: it is
                    // told apart by what it did.
                    let hides = journal.view(&id(NAMES[index]), now).unwrap().contains(&FlowKey(key));
                    match result {
                        Ok(()) if hides => {
                            due.hidden.insert(key);
                        }
                        Ok(()) => {
                            // It took what is still due out of what it tells.
                            let skipped = skipped(&journal, NAMES[index], key);
                            prop_assert!(!skipped.is_empty());
                            due.ends.retain(|at, _| !skipped.contains(at));
                        }
                        Err(_) => prop_assert_eq!(due.hidden.len(), LIMITS.hidden),
                    }
                }
                Step::Remove(index) => {
                    let known = model.clients.remove(NAMES[index]).is_some();
                    prop_assert_eq!(journal.remove_client(&id(NAMES[index])).is_ok(), known);
                    if model.clients.is_empty() {
                        model.announced.clear();
                    }
                }
            }
            let counts = journal.counts();
            prop_assert!(counts.records <= LIMITS.records);
            prop_assert!(counts.clients <= LIMITS.clients);
        }
    }
}

/// When the ends of this key were that a client skips.
fn skipped(journal: &Journal, client: &str, key: u64) -> Vec<u64> {
    let client = &journal.clients[&id(client)];
    let all = journal.ring.since(client.next);
    all.filter(|(position, _)| client.skips.contains(position))
        .filter_map(|(_, record)| match record {
            Record::One(ended) if ended.key == FlowKey(key) => Some(ended.at),
            _ => None,
        })
        .collect()
}

#[test]
fn a_record_takes_no_more_than_the_limits_say() {
    // Its box, and its place in the ring.
    assert!(
        size_of::<Ended>() + size_of::<(u64, Record)>() <= 320,
        "{}",
        size_of::<Ended>()
    );
    assert!(size_of::<RolledUp>() <= size_of::<Ended>());
}
