//! The check of a line, beside a copy of its bytes: 64 lines a round.

use conntally::message::{Message, Run, check, check_lines};
use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};

fn main() {
    divan::main();
}

/// Lines of the mix that relays see, 120 bytes and 6 tags each.
fn tagged() -> Vec<String> {
    let kinds = ["c", "c", "c", "g", "c", "h", "ms", "c", "d", "c"];
    (0..64_u32)
        .map(|number| {
            let kind = kinds[number as usize % kinds.len()];
            let mut line = format!(
                "app.requests.endpoint_{:02}:{}|{kind}|#env:prod,service:checkout,version:1.4.2,region:eu-west-1,status:200",
                number % 50,
                number * 37 % 1000,
            );
            line.push_str(",host_group:");
            while line.len() < 120 {
                line.push('w');
            }
            line
        })
        .collect()
}

/// 34 bytes, no tags.
fn plain() -> Vec<String> {
    (0..64_u32)
        .map(|number| {
            let value = number * 37 % 1000;
            format!("app.requests.endpoint_{number:02}.ct:{value:03}|ms")
        })
        .collect()
}

/// A round is all the lines: one alone is shorter than the clock's step.
fn each(bencher: Bencher<'_, '_>, lines: &[String], is_good: impl Fn(&[u8]) -> bool) {
    assert!(lines.iter().all(|line| is_good(line.as_bytes())));
    bencher
        .counter(ItemsCount::of_iter(lines))
        .bench_local(|| lines.iter().all(|line| is_good(black_box(line.as_bytes()))));
}

#[divan::bench]
fn check_120_bytes_6_tags(bencher: Bencher<'_, '_>) {
    each(bencher, &tagged(), |line| check(line).is_ok());
}

#[divan::bench]
fn check_34_bytes_untagged(bencher: Bencher<'_, '_>) {
    each(bencher, &plain(), |line| check(line).is_ok());
}

#[divan::bench]
fn parse_120_bytes_6_tags(bencher: Bencher<'_, '_>) {
    each(bencher, &tagged(), |line| Message::parse(line).is_ok());
}

#[divan::bench]
fn check_lines_of_a_64_line_frame(bencher: Bencher<'_, '_>) {
    let body = tagged().join("\n") + "\n";
    bencher.counter(BytesCount::of_str(&body)).bench_local(|| {
        let mut good = 0;
        check_lines(black_box(body.as_bytes()), |run| {
            if let Run::Lines(_, count) = run {
                good += count;
            }
        });
        good
    });
}

#[divan::bench]
fn check_lines_of_64_frames_of_a_line(bencher: Bencher<'_, '_>) {
    let bodies: Vec<_> = tagged().iter().map(|line| format!("{line}\n")).collect();
    bencher
        .counter(ItemsCount::of_iter(&bodies))
        .bench_local(|| {
            let mut good = 0;
            for body in &bodies {
                check_lines(black_box(body.as_bytes()), |run| {
                    if let Run::Lines(_, count) = run {
                        good += count;
                    }
                });
            }
            good
        });
}

#[divan::bench]
fn bare_copy_of_a_64_line_frame(bencher: Bencher<'_, '_>) {
    let body = tagged().join("\n") + "\n";
    let mut to = vec![0; body.len()];
    bencher
        .counter(BytesCount::of_str(&body))
        .bench_local(|| black_box(&mut to).copy_from_slice(black_box(body.as_bytes())));
}
