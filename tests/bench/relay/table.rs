//! The results, as a table with the figures to reach.

use crate::round::{Comparison, Outcome, as_float};
use crate::workload::Workload;

/// The heads of the columns.
pub(crate) fn head() {
    println!(
        "{:<46} {:>16} {:>15} {:>16} {:>15} {:>11} {:>10}",
        "relay (medians)",
        "CPU s/million",
        "of bare (≤)",
        "million/s",
        "of bare (≥)",
        "lost",
        "peak MiB",
    );
    println!(
        "{:<46} {:>16} {:>15} {:>16} {:>15} {:>11} {:>10}",
        "", "bare     ours", "", "bare     ours", "", "bare  ours", "ours",
    );
}

/// The medians of a load's rounds.
pub(crate) fn row(label: &str, workload: &Workload, results: &Comparison) {
    let both =
        |value: fn(&Outcome) -> f64| (median(&results.bare, value), median(&results.ours, value));
    let (bare_cpu, our_cpu) = both(Outcome::cpu_per_million);
    let (bare_rate, our_rate) = both(|outcome| outcome.per_second() / 1e6);
    let lost = |outcomes: &[Outcome]| -> u64 {
        outcomes
            .iter()
            .map(|outcome| outcome.sent.saturating_sub(outcome.received))
            .sum()
    };
    println!(
        "{:<46} {:>7.3} {:>8.3} {:>15} {:>7.3} {:>8.3} {:>15} {:>5} {:>5} {:>10.1}",
        label,
        bare_cpu,
        our_cpu,
        ratio(our_cpu / bare_cpu, workload.cpu),
        bare_rate,
        our_rate,
        ratio(our_rate / bare_rate, workload.rate),
        lost(&results.bare),
        lost(&results.ours),
        median(&results.ours, |outcome| as_float(outcome.peak_kib) / 1024.0),
    );
    if results.batched.is_empty() {
        return;
    }
    let cpu = median(&results.batched, Outcome::cpu_per_million);
    let rate = median(&results.batched, |outcome| outcome.per_second() / 1e6);
    println!(
        "{:<46} {cpu:>7.3} {:>8} {:>15} {rate:>7.3} {:>8} {:>15} {:>5}",
        "           bare by recvmmsg",
        "",
        ratio(our_cpu / cpu, None),
        "",
        ratio(our_rate / rate, None),
        lost(&results.batched),
    );
    let drops = |outcomes: &[Outcome]| outcomes.iter().map(|one| one.kernel_drops).sum::<u64>();
    println!(
        "           datagrams that the kernel dropped: {} bare, {} by recvmmsg, {} ours",
        drops(&results.bare),
        drops(&results.batched),
        drops(&results.ours),
    );
}

fn ratio(value: f64, reach: Option<f64>) -> String {
    match reach {
        Some(reach) => format!("{value:.2} ({reach})"),
        None => format!("{value:.2}"),
    }
}

fn median(outcomes: &[Outcome], value: fn(&Outcome) -> f64) -> f64 {
    let mut values: Vec<f64> = outcomes.iter().map(value).collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
