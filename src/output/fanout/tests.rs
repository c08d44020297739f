use std::sync::Arc;

use super::*;
use crate::config::{LineSource, OnFull};
use crate::output::backlog::OWN;
use crate::output::payload::{Delimiter, Shape};
use crate::output::queue::{Outlet, Settings, queue};
use crate::telemetry::{LineDrop, OutputCounters};

fn output(capacity: usize, on_full: OnFull) -> (Inlet, Outlet, Arc<OutputCounters>) {
    let counters = Arc::new(OutputCounters::default());
    let settings = Settings {
        capacity,
        on_full,
        ..Settings::of(Shape {
            limit: 64,
            delimiter: Delimiter::Newline,
        })
    };
    let (inlet, outlet) = queue(settings, Arc::clone(&counters));
    (inlet.for_source(LineSource::Listeners), outlet, counters)
}

#[tokio::test]
async fn every_output_gets_each_line_and_a_full_one_that_drops_counts_it() {
    let (wide, mut wide_out, wide_counters) = output(1024, OnFull::Block);
    let (narrow, mut narrow_out, narrow_counters) = output(8, OnFull::Drop);
    let fanout = Fanout::new(vec![wide, narrow]);
    let mut room = fanout.room(OWN);
    assert!(!room.refill(64).await);
    room.push(b"a:1|c\n", 1);
    assert!(!room.refill(64).await);
    room.push(b"b:1|c\n", 1);
    room.release();
    assert_eq!(wide_out.drain().unwrap().lines(), 2);
    assert_eq!(narrow_out.drain().unwrap().lines(), 1);
    assert_eq!(wide_counters.accepted.get(), 2);
    assert_eq!(narrow_counters.accepted.get(), 2);
    assert_eq!(narrow_counters.dropped.get(LineDrop::QueueFull), 1);
    assert_eq!(wide_counters.dropped.total(), 0);
}

#[tokio::test]
async fn a_sender_waits_for_the_output_that_blocks_and_says_so() {
    let (inlet, mut outlet, _) = output(64, OnFull::Block);
    let fanout = Fanout::new(vec![inlet]);
    let mut first = fanout.room(OWN);
    assert!(!first.refill(64).await);
    first.push(&[b"x".repeat(63), b"\n".to_vec()].concat(), 1);
    let mut second = fanout.room(OWN);
    let mut refill = Box::pin(second.refill(64));
    assert!(pends(&mut refill).await);
    let chunk = outlet.drain().unwrap();
    outlet.release(chunk);
    assert!(refill.await);
}

#[tokio::test]
async fn lines_pushed_after_an_interrupted_refill_are_counted_in_every_output() {
    let (open, _open_out, open_counters) = output(1024, OnFull::Block);
    let (full, _full_out, full_counters) = output(8, OnFull::Block);
    full.offer(b"a:1|c\n");
    let fanout = Fanout::new(vec![open, full]);
    let mut room = fanout.room(OWN);
    assert!(pends(&mut Box::pin(room.refill(8))).await);
    room.push(b"b:1|c\n", 1);
    assert_eq!(open_counters.held(), 1);
    assert_eq!(full_counters.accepted.get(), 2);
    assert_eq!(full_counters.dropped.get(LineDrop::QueueFull), 1);
}

fn pair(way: impl Fn(Vec<Inlet>) -> Way, capacity: usize) -> (Fanout, [Outlet; 2]) {
    let (one, one_out, _) = output(capacity, OnFull::Block);
    let (other, other_out, _) = output(capacity, OnFull::Block);
    let branch = Branch {
        way: way(vec![one, other]),
        only: Arc::default(),
        counters: Arc::default(),
    };
    (Fanout::of(vec![branch]), [one_out, other_out])
}

fn drained(outlet: &mut Outlet) -> u64 {
    let chunks = std::iter::from_fn(|| outlet.drain());
    chunks.map(|chunk| chunk.lines()).sum()
}

#[tokio::test]
async fn a_sender_that_waits_for_an_output_that_fails_goes_on_with_the_next() {
    let turn = Arc::new(Turn::new("g", ["a", "b"].map(str::to_owned)));
    let failover = |inlets| Way::Failover(inlets, Arc::clone(&turn));
    let (fanout, [mut one, mut other]) = pair(failover, 64);
    let mut first = fanout.room(OWN);
    assert!(!first.refill(64).await);
    first.push(&[b"x".repeat(63), b"\n".to_vec()].concat(), 1);
    let mut second = fanout.room(OWN);
    let mut refill = Box::pin(second.refill(64));
    assert!(pends(&mut refill).await);
    turn.healths().next().unwrap().is_away();
    assert!(refill.await);
    second.push(b"a:1|c\n", 1);
    second.release();
    fanout.offer(b"b:1|c\n");
    assert_eq!((drained(&mut one), drained(&mut other)), (1, 2));
}

#[tokio::test]
async fn a_line_goes_the_same_way_alone_as_in_a_batch_and_leaves_the_next_branch_its_room() {
    let shards = Arc::new(Shards::new(["a", "b"]));
    let hash = |inlets| Way::Hash(inlets, Arc::clone(&shards));
    let (mut fanout, [mut one, mut other]) = pair(hash, 4096);
    let (lone, mut lone_out, _) = output(4096, OnFull::Block);
    fanout.branches.extend(Fanout::new(vec![lone]).branches);
    let lines: Vec<String> = (0..20).map(|n| format!("a:1|c|#n:{n}\n")).collect();
    let ones = lines
        .iter()
        .filter(|line| shards.place(line.as_bytes()) == 0);
    let ones = ones.count() as u64;
    let mut room = fanout.room(OWN);
    assert!(!room.refill(1024).await);
    room.push(lines.concat().as_bytes(), 20);
    room.release();
    for line in &lines {
        fanout.offer(line.as_bytes());
    }
    assert_eq!(drained(&mut one), 2 * ones);
    assert_eq!(drained(&mut other), 2 * (20 - ones));
    assert_eq!(drained(&mut lone_out), 40);
}

/// Polls once.
async fn pends(future: &mut (impl Future<Output = bool> + Unpin)) -> bool {
    tokio::select! {
        biased;
        _ = future => false,
        () = std::future::ready(()) => true,
    }
}
