//! Standard output, of a process of its own.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::sync::Arc;

use conntally::address::Address;
use conntally::telemetry::LineDrop;
use tokio::time::timeout;

use super::receiver::{itself, line};
use super::{OWN, PATIENCE, Sender};

const STDOUT_LINES: &str = "CONNTALLY_TEST_STDOUT_LINES";

#[tokio::test]
#[ignore = "the printing process that other tests start"]
async fn printing_process() {
    let Ok(lines) = std::env::var(STDOUT_LINES) else {
        return;
    };
    // Ends what libtest has begun to say.
    println!();
    let sender = Sender::to(&Address::Stdout);
    let counters = Arc::clone(&sender.counters);
    for number in 0..lines.parse().unwrap() {
        let line = line(number);
        let Some(mut room) = sender.inlet.reserve(line.len()).await else {
            break;
        };
        room.push(line.as_bytes(), 1, OWN);
    }
    drop(sender.inlet);
    let ending = timeout(PATIENCE, sender.task).await.unwrap().unwrap();
    assert_eq!(counters.held(), 0);
    eprintln!(
        "ended {ending:?} closed {}",
        counters.dropped.get(LineDrop::Closed)
    );
}

#[test]
fn standard_output_carries_lines_until_its_reader_goes() {
    for (lines, taken) in [(1000, 1000), (100_000, 10)] {
        let mut child = itself("output::stdout::printing_process")
            .env(STDOUT_LINES, lines.to_string())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let printed: Vec<String> = stdout
            .lines()
            .map(Result::unwrap)
            .filter(|line| line.starts_with("t."))
            .take(taken)
            .collect();
        let wanted: Vec<String> = (0..taken as u64)
            .map(|number| line(number).trim_end().to_owned())
            .collect();
        assert_eq!(printed, wanted);
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        let ended = if taken == lines {
            "ended Drained closed 0"
        } else {
            "ended Gone"
        };
        assert!(stderr.contains(ended), "{stderr}");
    }
}
