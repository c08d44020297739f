//! What packing costs, beside a bare copy of the same bytes.

use std::hint::black_box;
use std::sync::Arc;

use conntally::config::{Format, LineSource, OnFull};
use conntally::output::backlog::OWN;
use conntally::output::format::Encoding;
use conntally::output::payload::{Chunk, Delimiter, Shape};
use conntally::output::queue::{Inlet, Outlet, Settings, queue};
use conntally::telemetry::OutputCounters;
use divan::{Bencher, counter::BytesCount};

fn main() {
    divan::main();
}

/// Lines of 120 bytes, as in an 8 KiB frame.
const LINES: usize = 68;

fn line() -> Vec<u8> {
    let tags = "#env:prod,service:relay,region:eu-west-1,version:1.2.3";
    let line = format!("app.requests.count:1|c|@0.5|{tags}");
    let pad = "x".repeat(119 - line.len() - ",pad:".len());
    format!("{line},pad:{pad}\n").into_bytes()
}

fn block() -> Vec<u8> {
    line().repeat(LINES)
}

fn shape(delimiter: Delimiter) -> Shape {
    Shape {
        limit: if delimiter == Delimiter::Datagram {
            1432
        } else {
            8 << 10
        },
        delimiter,
    }
}

fn ends(format: Format, delimiter: Delimiter) -> (Inlet, Outlet) {
    let settings = Settings {
        capacity: 4 << 20,
        on_full: OnFull::Block,
        encoding: Encoding::new(format, ""),
        ..Settings::of(shape(delimiter))
    };
    let (inlet, outlet) = queue(settings, Arc::new(OutputCounters::default()));
    (inlet.for_source(LineSource::Listeners), outlet)
}

const KINDS: [Delimiter; 3] = [
    Delimiter::Datagram,
    Delimiter::LengthPrefix,
    Delimiter::Newline,
];

#[divan::bench]
fn bare_copy_of_a_block(bencher: Bencher<'_, '_>) {
    let block = block();
    let mut to: Vec<u8> = Vec::with_capacity(64 << 10);
    bencher
        .counter(BytesCount::of_slice(&block))
        .bench_local(|| {
            if to.len() + block.len() > to.capacity() {
                to.clear();
            }
            to.extend_from_slice(black_box(&block));
        });
}

#[divan::bench(args = KINDS)]
fn chunk_takes_a_block(bencher: Bencher<'_, '_>, kind: Delimiter) {
    let block = block();
    let mut chunk = Chunk::new(shape(kind));
    bencher
        .counter(BytesCount::of_slice(&block))
        .bench_local(|| {
            let (mut lines, mut count) = (black_box(&block[..]), LINES as u64);
            while count > 0 {
                if chunk.is_full() {
                    chunk.clear();
                }
                chunk.append(&mut lines, &mut count);
            }
        });
}

#[divan::bench]
fn bare_copy_of_a_line(bencher: Bencher<'_, '_>) {
    let line = line();
    let mut to: Vec<u8> = Vec::with_capacity(64 << 10);
    bencher
        .counter(BytesCount::of_slice(&line))
        .bench_local(|| {
            if to.len() + line.len() > to.capacity() {
                to.clear();
            }
            to.extend_from_slice(black_box(&line));
        });
}

#[divan::bench(args = KINDS)]
fn chunk_takes_a_line(bencher: Bencher<'_, '_>, kind: Delimiter) {
    let line = line();
    let mut chunk = Chunk::new(shape(kind));
    bencher
        .counter(BytesCount::of_slice(&line))
        .bench_local(|| {
            let (mut lines, mut count) = (black_box(&line[..]), 1);
            while count > 0 {
                if chunk.is_full() {
                    chunk.clear();
                }
                chunk.append(&mut lines, &mut count);
            }
        });
}

/// A reservation, a push, and every 32nd time a receiver that takes what is there.
fn through_the_queue(bencher: Bencher<'_, '_>, lines: &[u8], count: u64, ends: (Inlet, Outlet)) {
    let (inlet, mut outlet) = ends;
    let mut turn = 0_u32;
    bencher
        .counter(BytesCount::of_slice(lines))
        .bench_local(|| {
            if let Some(mut room) = inlet.try_reserve(lines.len() + 64) {
                room.push(black_box(lines), count, OWN);
            }
            turn += 1;
            if turn.is_multiple_of(32) {
                while let Some(chunk) = outlet.drain() {
                    outlet.release(chunk);
                }
            }
        });
}

#[divan::bench(args = KINDS)]
fn queue_takes_a_block(bencher: Bencher<'_, '_>, kind: Delimiter) {
    through_the_queue(
        bencher,
        &block(),
        LINES as u64,
        ends(Format::Dogstatsd, kind),
    );
}

#[divan::bench(args = KINDS)]
fn queue_takes_a_line(bencher: Bencher<'_, '_>, kind: Delimiter) {
    through_the_queue(bencher, &line(), 1, ends(Format::Dogstatsd, kind));
}

#[divan::bench(args = [Format::Statsd, Format::Graphite, Format::Influx])]
fn encode_a_block(bencher: Bencher<'_, '_>, format: Format) {
    let (block, encoding) = (block(), Encoding::new(format, "web-1"));
    let mut to = Vec::with_capacity(64 << 10);
    bencher
        .counter(BytesCount::of_slice(&block))
        .bench_local(|| {
            to.clear();
            encoding.encode(black_box(&block), LineSource::Listeners, &mut to)
        });
}
