//! What merging a line into the backlog costs, and giving it back.

use conntally::config::LineSource;
use conntally::output::backlog::{Backlog, Limits, OWN, Portion, Sender, VALUES_BYTES};
use divan::counter::ItemsCount;
use divan::{Bencher, black_box};

fn main() {
    divan::main();
}

const FROM: Sender = Sender {
    source: LineSource::Listeners,
    id: OWN,
};

/// Lines of 120 bytes and 6 tags, of as many contexts.
fn lines(contexts: usize) -> Vec<u8> {
    let kinds = ["c", "c", "c", "g", "c", "h", "ms", "c", "d", "c"];
    (0..contexts)
        .flat_map(|number| {
            let kind = kinds[number % kinds.len()];
            let line = format!(
                "app.requests.endpoint_{number:06}:{}|{kind}|#env:prod,service:checkout,version:1.4.2,region:eu-west-1,status:200,host:w",
                number * 37 % 1000,
            );
            format!("{line:w<119}\n").into_bytes()
        })
        .collect()
}

fn filled(lines: &[u8]) -> Backlog {
    let mut backlog = Backlog::new(Limits {
        contexts: 200_000,
        bytes: 256 << 20,
        line_bytes: 8 << 10,
        values_bytes: VALUES_BYTES,
        tick_seconds: 10,
    });
    backlog.merge(lines, FROM, None);
    backlog
}

const CONTEXTS: [usize; 2] = [1_000, 100_000];

#[divan::bench(args = CONTEXTS)]
fn merge_into_what_is_held(bencher: Bencher<'_, '_>, contexts: usize) {
    let lines = lines(contexts);
    let mut backlog = filled(&lines);
    bencher
        .counter(ItemsCount::new(contexts))
        .bench_local(|| backlog.merge(black_box(&lines), FROM, None));
}

#[divan::bench(args = CONTEXTS)]
fn take_new_contexts(bencher: Bencher<'_, '_>, contexts: usize) {
    let lines = lines(contexts);
    bencher
        .counter(ItemsCount::new(contexts))
        .bench_local(|| filled(black_box(&lines)));
}

#[divan::bench(args = CONTEXTS)]
fn drain(bencher: Bencher<'_, '_>, contexts: usize) {
    let lines = lines(contexts);
    bencher
        .counter(ItemsCount::new(contexts))
        .with_inputs(|| {
            let mut backlog = filled(&lines);
            backlog.merge(&lines, FROM, None);
            backlog
        })
        .bench_local_values(|mut backlog| {
            let mut to = Vec::with_capacity(64 << 10);
            while !backlog.is_empty() {
                to.clear();
                backlog.drain(Portion::of_bytes(32 << 10), &mut to, |_| false, |_| {});
            }
            to
        });
}
