//! The fuzz targets over their corpus: what once was worth a look stays looked at, without
//! a fuzzer.

use std::fs;
use std::path::Path;

#[path = "../../fuzz/targets/backlog.rs"]
mod backlog;
#[path = "../../fuzz/targets/config.rs"]
mod config;
#[path = "../../fuzz/targets/forward.rs"]
mod forward;
#[path = "../../fuzz/targets/frame.rs"]
mod frame;
#[path = "../../fuzz/targets/message.rs"]
mod message;

/// Runs a target over each file of its corpus.
#[track_caller]
fn over_all(corpus: &str, target: impl Fn(&[u8]) + std::panic::RefUnwindSafe) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fuzz/corpus")
        .join(corpus);
    let mut files = 0;
    for file in fs::read_dir(&directory).unwrap() {
        let path = file.unwrap().path();
        let bytes = fs::read(&path).unwrap();
        let ran = std::panic::catch_unwind(|| target(&bytes));
        assert!(ran.is_ok(), "{}", path.display());
        files += 1;
    }
    assert!(files > 10, "too few in {}: {files}", directory.display());
}

#[test]
fn the_target_for_lines_holds_over_its_corpus() {
    over_all("message", message::run);
}

#[test]
fn the_target_for_frames_holds_over_its_corpus() {
    over_all("frame", frame::run);
}

#[test]
fn the_target_for_rules_holds_over_its_corpus() {
    over_all("forward", forward::run);
}

#[test]
fn the_target_for_the_backlog_holds_over_its_corpus() {
    over_all("backlog", backlog::run);
}

#[test]
fn the_target_for_configurations_holds_over_its_corpus() {
    over_all("config", config::run);
}
