//! Connections without end, without purpose, and more than there may be.

use std::io::{ErrorKind, Read, Write};

use super::role::Client;
use super::{Rig, descriptors, resident_kib};
use crate::support::clients::framed;
use crate::support::netns::{PATIENCE, eventually};
use crate::support::tools::skip;

/// Resident memory that an idle connection may take, in bytes. The design's figure is
/// 3 KiB, for the release build (`cargo bench --bench relay -- memory`).
const IDLE_BYTES: usize = 4 << 10;

#[test]
fn ten_thousand_idle_connections_take_little_memory_and_hold_nobody_up() {
    const TEST: &str = "ten_thousand_idle_connections_take_little_memory_and_hold_nobody_up";
    const CONNECTIONS: usize = 10_000;
    let mut rig = Rig::start("max_connections = 11000");
    if !rig.may_have_descriptors(CONNECTIONS + 1_000) {
        return skip(TEST, "too few file descriptors are allowed (ulimit -Hn)");
    }
    // Once, so that what is made once is made.
    let first = Client::start_idle(&rig.address, 10);
    rig.until("they are there", |of| of["connections"] == 11);
    drop(first);
    rig.until("they are gone", |of| of["connections"] == 1);
    let pid = rig.daemon.pid();
    let (sum, before) = (rig.sum("idle.sum"), resident_kib(pid));
    let idle = Client::start_idle(&rig.address, CONNECTIONS);
    rig.until("all are there", |of| of["connections"] == CONNECTIONS + 1);
    rig.receives("idle.sum", sum + CONNECTIONS);
    let after = resident_kib(pid);
    let each = (after - before) * 1024 / CONNECTIONS;
    eprintln!("{each} bytes for each of {CONNECTIONS} idle connections");
    assert!(each <= IDLE_BYTES, "{each} bytes: {before} to {after} KiB");
    rig.hears_the_neighbour();

    drop(idle);
    rig.until("all are gone", |of| of["connections"] == 1);
    rig.end();
}

#[test]
fn who_connects_and_hangs_up_ten_thousand_times_leaves_nothing_behind() {
    for mut rig in Rig::over_each("") {
        let pid = rig.daemon.pid();
        let frame = framed(b"brief.sum:1|c");
        let hang_up = |times: usize, rig: &mut Rig| {
            let before = rig.listener()["accepted"].as_u64().unwrap();
            for n in 0..times {
                let mut client = rig.connect();
                // Nothing, a frame, the beginning of one.
                client
                    .write_all([&frame[..0], &frame, &frame[..7]][n % 3])
                    .unwrap();
            }
            rig.until("all are gone", |of| {
                of["connections"] == 1 && of["accepted"] == before + times as u64
            });
        };
        // What is made once is made.
        hang_up(300, &mut rig);
        let (open, before) = (descriptors(pid), resident_kib(pid));
        hang_up(10_000, &mut rig);
        let after = resident_kib(pid);
        // Of those who ask for the status, one or none is still there.
        eventually("no descriptor is left over", || descriptors(pid) <= open);
        assert!(after <= before + 512, "{before} KiB, then {after} KiB");
        let listener = rig.listener();
        assert_eq!(listener["closed"]["eof"], 10_300);
        assert_eq!(listener["frames_dropped"]["truncated"], 100 + 3_333);
        rig.receives("brief.sum", 100 + 3_333);
        rig.end();
    }
}

#[test]
fn beyond_max_connections_whoever_comes_is_refused_at_once_and_counted_apart() {
    const MOST: usize = 20;
    const COME: usize = 300;
    for mut rig in Rig::over_each(&format!("max_connections = {MOST}")) {
        let mut clients: Vec<_> = (0..COME).map(|_| rig.connect()).collect();
        rig.until("the others are refused", |of| {
            of["connections"] == MOST && of["refused"]["limit"] == COME + 1 - MOST
        });
        let listener = rig.listener();
        assert_eq!(listener["accepted"], MOST);
        assert_eq!(listener["refused"]["system"], 0);
        assert_eq!(listener["refused"]["uid"], 0);
        // The neighbour has one of the places. The first who came have the others.
        let (open, refused) = clients.split_at_mut(MOST - 1);
        for client in open {
            client.write_all(&framed(b"early.sum:1|c")).unwrap();
        }
        for client in refused {
            client.set_read_timeout(PATIENCE);
            let read = client.read(&mut [0; 1]);
            let is_over = match &read {
                Ok(length) => *length == 0,
                Err(error) => error.kind() == ErrorKind::ConnectionReset,
            };
            assert!(is_over, "{read:?}");
        }
        rig.receives("early.sum", MOST - 1);
        rig.hears_the_neighbour();

        // Who goes makes room.
        drop(clients);
        rig.until("all are gone", |of| of["connections"] == 1);
        let mut late = rig.connect();
        late.write_all(&framed(b"late.sum:1|c")).unwrap();
        rig.receives("late.sum", 1);
        let (ended, _) = rig.end();
        let told = ended.stderr.lines().filter(|line| {
            line.contains("connection refused") && line.contains("reason=\"limit\"")
        });
        // A few in each ten seconds, and this took less than a minute.
        assert!((1..=30).contains(&told.count()), "{}", ended.stderr);
    }
}
