//! Where log lines go: the daemon's to journald when it listens, all else to standard error.

use std::io::IsTerminal as _;

use rustix::fs::fstat;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use super::Verbosity;
use crate::config::Environment;
use crate::log_filter::{self, FilterError, LogFilter};

/// What is logged, where no argument says.
const VARIABLE: &str = "CONNTALLY_LOG";

/// Who logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// The daemon: tells of its start and its stop too.
    Daemon,
    /// A command that prints and ends: warns alone, unless asked for more.
    Command,
}

/// The filter cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{origin}: {source}")]
pub(super) struct LogError {
    /// The argument or variable that it stands in.
    origin: &'static str,
    source: FilterError,
}

/// Whether a text is a filter, which stands in this argument.
pub(super) fn check(origin: &'static str, text: &str) -> Result<(), LogError> {
    let parsed = log_filter::parse(text).map(drop);
    parsed.map_err(|source| LogError { origin, source })
}

/// Starts it. What is returned changes what is logged.
pub(super) fn start(
    role: Role,
    verbosity: &Verbosity,
    environment: &Environment,
) -> Result<LogFilter, LogError> {
    let (filter, changed_by) = LogFilter::new(filter(role, verbosity, environment)?);
    let journal = (role == Role::Daemon && under_journald(environment))
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
        let text = match role {
            Role::Daemon => text.boxed(),
            Role::Command => text.without_time().boxed(),
        };
        tracing_subscriber::registry()
            .with(text.with_filter(filter))
            .init();
    }
    Ok(changed_by)
}

fn filter(
    role: Role,
    verbosity: &Verbosity,
    environment: &Environment,
) -> Result<Targets, LogError> {
    let level = match (verbosity.verbose, verbosity.quiet, role) {
        (0, 0, Role::Daemon) => LevelFilter::INFO,
        (0, 0, Role::Command) | (0, 1, Role::Daemon) => LevelFilter::WARN,
        (0, _, _) => LevelFilter::ERROR,
        (1, _, _) => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    };
    let asked = verbosity.verbose > 0 || verbosity.quiet > 0;
    let text = match &verbosity.log {
        Some(text) => Some(("--log", text.as_str())),
        None if asked => None,
        None => environment.get(VARIABLE).map(|text| (VARIABLE, text)),
    };
    match text {
        None => Ok(Targets::new().with_default(level)),
        Some((origin, text)) => {
            log_filter::parse(text).map_err(|source| LogError { origin, source })
        }
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
