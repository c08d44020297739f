//! Where log lines go: journald when it listens, else standard error.

use std::io::IsTerminal as _;

use rustix::fs::fstat;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::{ParseError, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use super::Verbosity;
use crate::config::Environment;

/// The filter cannot be read.
#[derive(Debug, thiserror::Error)]
#[error(
    "{filter:?} is not a filter ({source}): write levels by module, as in \"info,conntally::output=debug\""
)]
pub(super) struct LogError {
    filter: String,
    source: ParseError,
}

pub(super) fn start(verbosity: &Verbosity, environment: &Environment) -> Result<(), LogError> {
    let filter = filter(verbosity, environment)?;
    let journal = under_journald(environment)
        .then(tracing_journald::layer)
        .and_then(Result::ok);
    if let Some(journal) = journal {
        tracing_subscriber::registry()
            .with(journal.with_filter(filter))
            .init();
    } else {
        let text = tracing_subscriber::fmt::layer()
            .with_writer(std::io::stderr)
            .with_ansi(std::io::stderr().is_terminal())
            .with_target(false);
        tracing_subscriber::registry()
            .with(text.with_filter(filter))
            .init();
    }
    Ok(())
}

fn filter(verbosity: &Verbosity, environment: &Environment) -> Result<Targets, LogError> {
    let level = match (verbosity.verbose, verbosity.quiet) {
        (0, 0) => LevelFilter::INFO,
        (1, _) => LevelFilter::DEBUG,
        (_, 1) => LevelFilter::WARN,
        (0, _) => LevelFilter::ERROR,
        _ => LevelFilter::TRACE,
    };
    let asked = verbosity.verbose > 0 || verbosity.quiet > 0;
    let text = match &verbosity.log {
        Some(text) => Some(text.as_str()),
        None if asked => None,
        None => environment.get("CONNTALLY_LOG"),
    };
    match text {
        None => Ok(Targets::new().with_default(level)),
        Some(text) => text.parse().map_err(|source| LogError {
            filter: text.to_owned(),
            source,
        }),
    }
}

/// Whether standard error is the stream that systemd connected to the journal
/// (`JOURNAL_STREAM`, systemd.exec(5)).
fn under_journald(environment: &Environment) -> bool {
    let Ok(stat) = fstat(std::io::stderr()) else {
        return false;
    };
    environment.get("JOURNAL_STREAM") == Some(format!("{}:{}", stat.st_dev, stat.st_ino).as_str())
}
