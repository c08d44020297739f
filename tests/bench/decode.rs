//! Decoding one entry of the table: the walker beside the typed parser.
//!
//! `cargo bench --bench decode`; the numbers are for one pass over the captured dump.

#![expect(clippy::unwrap_used, reason = "a benchmark ends where it fails")]

use conntally::conntrack::decode;
use conntally::netlink::Messages;
use divan::counter::ItemsCount;
use divan::{AllocProfiler, Bencher, black_box};
use netlink_packet_core::ParseableParametrized;
use netlink_packet_netfilter::NetfilterMessage;

#[global_allocator]
static ALLOCATIONS: AllocProfiler = AllocProfiler::system();

/// See `tests/it/decode.rs`.
const CAPTURED: &[u8] = include_bytes!("../fixtures/conntrack_dump.bin");

/// `(NFNL_SUBSYS_CTNETLINK << 8) | IPCTNL_MSG_CT_NEW`
const NEW: u16 = 0x100;

fn main() {
    divan::main();
}

#[divan::bench]
fn walker(bencher: Bencher<'_, '_>) {
    each(bencher, |payload| {
        black_box(decode(payload).unwrap());
    });
}

#[divan::bench]
fn typed_parser(bencher: Bencher<'_, '_>) {
    each(bencher, |payload| {
        black_box(NetfilterMessage::parse_with_param(payload, NEW).unwrap());
    });
}

fn each(bencher: Bencher<'_, '_>, mut read: impl FnMut(&[u8])) {
    bencher
        .counter(ItemsCount::new(Messages::new(CAPTURED).count()))
        .bench_local(|| {
            for message in Messages::new(black_box(CAPTURED)) {
                read(message.unwrap().payload);
            }
        });
}
