//! Bytes that are not what they should be, or do not come when they should.

use std::io::{ErrorKind, Read, Write};
use std::thread;
use std::time::Duration;

use conntally::message::{Run, check_lines};
use serde_json::Value;

use super::role::Client;
use super::{Rig, resident_kib};
use crate::support::admin::ask;
use crate::support::clients::{Stream, framed};
use crate::support::netns::{PATIENCE, eventually};

/// Of each client that is shown, but the neighbour, which came first.
fn strangers(rig: &Rig) -> Vec<Value> {
    let answer = ask(
        &rig.directory.path().join("admin.socket"),
        "GET",
        "/clients",
    );
    let clients = answer.of_type("client");
    clients
        .into_iter()
        .filter(|client| client["id"] != 1)
        .cloned()
        .collect()
}

/// Waits until the listener has closed it.
#[track_caller]
fn is_closed(client: &mut Stream) {
    client.set_read_timeout(PATIENCE);
    match client.read(&mut [0; 1]) {
        Ok(0) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        other => panic!("not closed: {other:?}"),
    }
}

/// Numbers that look random, the same each time.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        // Marsaglia's xorshift.
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        let words = (0..length.div_ceil(8)).map(|_| self.next().to_le_bytes());
        let mut bytes: Vec<_> = words.flatten().collect();
        bytes.truncate(length);
        bytes
    }
}

#[test]
fn a_stream_may_be_split_at_every_byte() {
    let frames = [
        framed(b"split.sum:1|c\n"),
        framed(b""),
        framed(b"split.sum:2|c|#a:b\nsplit.gauge:1|g"),
        framed(b"split.sum:4|c\r\n"),
    ]
    .concat();
    let text = b"split.sum:1|c\nsplit.sum:2|c|#a:b\r\n\nsplit.gauge:1|g\nsplit.sum:4|c".to_vec();
    for mut rig in Rig::over_each("") {
        let mut held = 0;
        let mut clients = Vec::new();
        for stream in [&frames, &text] {
            for cut in 0..=stream.len() {
                let (begin, rest) = stream.split_at(cut);
                let mut client = rig.connect();
                client.write_all(begin).unwrap();
                held += cut;
                clients.push((client, rest));
            }
        }
        eventually("the beginnings are read", || {
            let read = strangers(&rig).into_iter().map(|of| of["bytes"].as_u64());
            read.map(Option::unwrap).sum::<u64>() == held as u64
        });
        let streams = clients.len();
        for (mut client, rest) in clients {
            client.write_all(rest).unwrap();
        }
        rig.receives("split.sum", 7 * streams);

        // And every byte by itself.
        for stream in [&frames, &text] {
            let mut client = rig.connect();
            for (at, byte) in stream.iter().enumerate() {
                client.write_all(&[*byte]).unwrap();
                eventually("the byte is read", || {
                    strangers(&rig).iter().any(|of| of["bytes"] == at + 1)
                });
            }
        }
        rig.receives("split.sum", 7 * (streams + 2));
        rig.until("they are closed", |of| of["connections"] == 1);
        let listener = rig.listener();
        for drops in ["frames_dropped", "lines_dropped"] {
            for (reason, count) in listener[drops].as_object().unwrap() {
                assert_eq!(*count, 0, "{drops} {reason}");
            }
        }
        let (_, text) = rig.end();
        let gauges = text.lines().filter(|line| *line == "split.gauge:1|g");
        assert_eq!(gauges.count(), streams + 2);
    }
}

#[test]
fn garbage_is_counted_and_its_senders_are_named_now_and_then() {
    for mut rig in Rig::over_each("") {
        let mut numbers = Numbers(0x5eed);
        let mut bad_lines = 0;
        for round in 0..60 {
            let mut client = rig.connect();
            let length = 1 + usize::try_from(numbers.next() % 100_000).unwrap();
            let garbage = numbers.bytes(length);
            let stream = match round % 3 {
                // Frames of it.
                0 => garbage.chunks(5_000).flat_map(framed).collect(),
                // Lines of it.
                1 => {
                    let mut text = garbage;
                    text.iter_mut()
                        .filter(|byte| **byte < 8)
                        .for_each(|byte| *byte = b'\n');
                    [b"text".to_vec(), text].concat()
                }
                // Whatever it may be.
                _ => garbage,
            };
            if round % 3 == 0 {
                let bodies = stream.chunks(5_004).map(|frame| &frame[4..]);
                bodies.for_each(|body| {
                    check_lines(body, |run| {
                        bad_lines += usize::from(matches!(run, Run::Bad(..)));
                    });
                });
            }
            for piece in stream.chunks(1 + usize::try_from(numbers.next() % 9_000).unwrap()) {
                // Who is cut off sends no more.
                if client.write_all(piece).is_err() {
                    break;
                }
            }
        }
        rig.hears_the_neighbour();
        rig.until("all are gone", |of| {
            of["connections"] == 1 && of["accepted"] == 61
        });
        let listener = rig.listener();
        let dropped = listener["lines_dropped"].as_object().unwrap().values();
        let dropped: u64 = dropped.map(|count| count.as_u64().unwrap()).sum();
        assert!(dropped >= bad_lines as u64, "{dropped} {bad_lines}");

        let sender = rig.name_of_senders();
        let (ended, _) = rig.end();
        let told: Vec<_> = (ended.stderr.lines())
            .filter(|line| line.contains("dropped"))
            .collect();
        assert!(told.iter().all(|line| line.contains(&sender)), "{told:?}");
        // A few in each ten seconds, and this took less than a minute.
        assert!((1..=30).contains(&told.len()), "{told:#?}");
    }
}

#[test]
fn a_length_beyond_all_measure_ends_the_connection_and_names_the_sender() {
    for mut rig in Rig::over_each("") {
        for length in [(1 << 20) + 1, (1 << 24) - 1, 0x00ff_0000_u32] {
            let mut client = rig.connect();
            let (before, length) = (framed(b"huge.sum:1|c"), length.to_le_bytes());
            let stream = [&before, &length[..], b"huge.sum:100|c\n"].concat();
            client.write_all(&stream).unwrap();
            is_closed(&mut client);
        }
        rig.until("three are dropped", |of| {
            of["frames_dropped"]["oversized"] == 3 && of["closed"]["protocol"] == 3
        });
        // Nothing of a length that has no NUL among its bytes looks like one.
        let mut client = rig.connect();
        client.write_all(&[0xff; 4]).unwrap();
        client.write_all(b"\nhuge.sum:1|c\n").unwrap();
        rig.receives("huge.sum", 4);
        drop(client);
        let sender = rig.name_of_senders();
        let (ended, _) = rig.end();
        let named = |line: &&str| line.contains("reason=\"oversized\"") && line.contains(&sender);
        assert_eq!(ended.stderr.lines().filter(named).count(), 3);
    }
}

#[test]
fn where_a_length_is_asked_for_text_and_rubbish_end_the_connection() {
    for mut rig in Rig::over_each("framing = \"length\"") {
        let long = vec![0xfe; 70_000];
        for stream in [&[0xff; 4][..], b"text.sum:1|c\n", &long] {
            let mut client = rig.connect();
            // It may be cut off while it writes.
            client.write_all(stream).ok();
            is_closed(&mut client);
        }
        rig.until("three are dropped", |of| {
            of["frames_dropped"]["unframed"] == 3 && of["closed"]["protocol"] == 3
        });
        let sender = rig.name_of_senders();
        let (ended, text) = rig.end();
        assert!(!text.contains("text.sum"));
        let named = |line: &&str| line.contains("reason=\"unframed\"") && line.contains(&sender);
        assert_eq!(ended.stderr.lines().filter(named).count(), 3);
    }
}

#[test]
fn frames_as_long_as_may_be_skipped_take_no_memory_and_keep_the_connection() {
    for mut rig in Rig::over_each("") {
        let mut client = rig.connect();
        let frame = framed(&vec![b'x'; 1 << 20]);
        client.write_all(&frame).unwrap();
        rig.until("one is dropped", |of| {
            of["frames_dropped"]["oversized"] == 1
        });
        let before = resident_kib(rig.daemon.pid());
        for _ in 0..50 {
            client.write_all(&frame).unwrap();
        }
        client.write_all(&framed(b"behind:1|c")).unwrap();
        rig.receives("behind", 1);
        let after = resident_kib(rig.daemon.pid());
        rig.until("all are dropped", |of| {
            of["frames_dropped"]["oversized"] == 51
        });
        assert!(after < before + 1024, "{before} KiB, then {after} KiB");
        rig.end();
    }
}

#[test]
fn a_byte_now_and_then_does_not_keep_a_frame_open() {
    const CLIENTS: usize = 30;
    for mut rig in Rig::over_each("read_timeout = \"500ms\"") {
        // A whole line or frame, and then one that does not end.
        let streams = [
            (framed(b"slow.sum:1|c"), framed(&[b'x'; 8_000])),
            (b"slow.sum:1|c\n".to_vec(), vec![b'x'; 8_000]),
            // An oversized one.
            (framed(b"slow.sum:1|c"), framed(&vec![b'x'; 20_000])),
        ];
        let mut clients: Vec<_> = (0..CLIENTS)
            .map(|n| {
                let mut client = rig.connect();
                let (whole, rest) = &streams[n % streams.len()];
                client.write_all(whole).unwrap();
                (client, rest.iter())
            })
            .collect();
        rig.until("all are cut off", |of| {
            for (client, rest) in &mut clients {
                // Who is cut off sends no more.
                client.write_all(&[*rest.next().unwrap()]).ok();
            }
            thread::sleep(Duration::from_millis(20));
            of["closed"]["read_timeout"] == CLIENTS
        });
        rig.receives("slow.sum", CLIENTS);
        let listener = rig.listener();
        // The oversized ones are counted as what they are.
        let drops = &listener["frames_dropped"];
        assert_eq!(drops["truncated"], CLIENTS / 3 * 2, "{drops}");
        assert_eq!(drops["oversized"], CLIENTS / 3, "{drops}");
        rig.end();
    }
}

#[test]
fn nothing_is_ever_written_to_a_client_so_that_none_needs_to_read() {
    for rig in Rig::over_each("") {
        let mut clients: Vec<_> = (0..50).map(|_| rig.connect()).collect();
        for client in &mut clients {
            let streams = [framed(b"deaf.sum:1|c"), framed(b"rubbish"), framed(b"")];
            client.write_all(&streams.concat().repeat(200)).unwrap();
        }
        rig.receives("deaf.sum", 50 * 200);
        let mut clients = clients;
        for client in &mut clients {
            client.set_nonblocking();
            let read = client.read(&mut [0; 1]).unwrap_err();
            assert_eq!(read.kind(), ErrorKind::WouldBlock);
        }
        rig.end();
        for client in &mut clients {
            assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);
        }
    }
}

#[test]
fn a_client_killed_in_the_middle_of_a_frame_loses_that_frame_alone() {
    for mut rig in Rig::over_each("") {
        let killed: Vec<_> = (0..5).map(|_| Client::start_torn(&rig.address)).collect();
        eventually("the frames have begun", || {
            let has_begun = |of: &Value| of["frames"] == 3 && of["bytes"] == Client::TORN_BYTES;
            strangers(&rig).iter().filter(|of| has_begun(of)).count() == killed.len()
        });
        drop(killed);
        rig.until("all are gone", |of| {
            of["connections"] == 1 && of["closed"]["eof"] == 5
        });
        assert_eq!(rig.listener()["frames_dropped"]["truncated"], 5);
        rig.receives("torn.sum", 5 * 3);
        let (_, text) = rig.end();
        assert!(!text.contains("torn.never"));
    }
}
