//! Frames cut from reads of 64 KiB, beside a copy of the bytes.

use bytes::BytesMut;
use conntally::config::Framing;
use conntally::frame::{Cut, Framer};
use divan::counter::BytesCount;
use divan::{Bencher, black_box};
use tokio_util::codec::Decoder;

const READ_BYTES: usize = 64 << 10;
const MAX_FRAME: usize = 8 << 10;

fn main() {
    divan::main();
}

fn prefixed(body_bytes: usize) -> Vec<u8> {
    let length = u32::try_from(body_bytes).unwrap_or(u32::MAX).to_le_bytes();
    let frame: Vec<u8> = length.into_iter().chain(lines(body_bytes)).collect();
    frame.repeat(READ_BYTES / frame.len())
}

/// Lines of 120 bytes, newline included.
fn lines(bytes: usize) -> Vec<u8> {
    let mut line = vec![b'x'; 119];
    line.push(b'\n');
    line.into_iter().cycle().take(bytes).collect()
}

fn cut(bencher: Bencher<'_, '_>, framing: Framing, read: &[u8]) {
    bencher.counter(BytesCount::of_slice(read)).bench_local(|| {
        let mut framer = Framer::new(framing, MAX_FRAME);
        let mut rest = black_box(read);
        let mut bytes = 0;
        while let Ok(Some(Cut::Body(body))) = framer.cut(&mut rest) {
            bytes += black_box(body).len();
        }
        bytes
    });
}

#[divan::bench]
fn frames_of_8_kib(bencher: Bencher<'_, '_>) {
    cut(bencher, Framing::Auto, &prefixed(MAX_FRAME));
}

#[divan::bench]
fn frames_of_one_line(bencher: Bencher<'_, '_>) {
    cut(bencher, Framing::Auto, &prefixed(120));
}

#[divan::bench]
fn newlines(bencher: Bencher<'_, '_>) {
    cut(bencher, Framing::Auto, &lines(READ_BYTES));
}

#[divan::bench]
fn frames_of_one_line_by_the_decoder(bencher: Bencher<'_, '_>) {
    let read = prefixed(120);
    bencher
        .counter(BytesCount::of_slice(&read))
        .with_inputs(|| BytesMut::from(&read[..]))
        .bench_local_values(|mut input| {
            let mut framer = Framer::new(Framing::Auto, MAX_FRAME);
            let mut bytes = 0;
            while let Ok(Some(Cut::Body(body))) = framer.decode(&mut input) {
                bytes += black_box(body).len();
            }
            bytes
        });
}

#[divan::bench]
fn bare_copy(bencher: Bencher<'_, '_>) {
    let read = prefixed(MAX_FRAME);
    let mut to = vec![0; read.len()];
    bencher
        .counter(BytesCount::of_slice(&read))
        .bench_local(|| black_box(&mut to).copy_from_slice(black_box(&read)));
}
