//! `conntally top`: hosts, listeners and outputs as they are now, drawn again and again.
//!
//! A thread looks ([`feed`]), another reads keys ([`terminal`]); what they tell goes into
//! the [`model`], which [`draw`] puts on the screen.

mod draw;
mod feed;
mod history;
mod model;
mod rows;
mod sheet;
mod terminal;
#[cfg(test)]
mod tests;

use std::time::Duration;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use self::feed::{Feed, Source};
use self::model::{Goes, Model};
pub(super) use self::terminal::NoTerminal;
use self::terminal::{Input, Screen};
use super::logging::{self, Role};
use super::{CliError, ConfigArgs, Verbosity, runtime, watch};
use crate::config::Environment;
use crate::log_filter::LogFilter;

/// Arguments of `top`.
#[derive(Debug, Args)]
pub(super) struct TopArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Look again at each interval.
    #[arg(short, long, default_value = "2s", value_parser = watch::interval)]
    interval: Duration,
}

pub(super) fn top(
    args: &TopArgs,
    verbosity: &Verbosity,
    environment: &Environment,
) -> Result<(), CliError> {
    let log = logging::start(Role::Command, verbosity, environment)?;
    let config = args.config.load(environment)?.config;
    let theme = terminal::theme(environment)?;
    let (source, remark) = Source::choose(&config)?;
    let model = Model::new(remark.map(|error| error.to_string()));
    let feed = Feed::start(source, args.interval)?;
    hush(&log);
    let runtime = runtime()?;
    let shown = runtime.block_on(async {
        let screen = Screen::take(theme)?;
        show(screen, model, feed).await
    });
    // A look that is under way needs no waiting for.
    runtime.shutdown_background();
    shown
}

/// A log line would stand in the middle of the screen.
fn hush(log: &LogFilter) {
    if let Err(error) = log.set("off") {
        tracing::debug!(%error, "the log goes on");
    }
}

/// Draws until a key or a signal says that it is enough.
async fn show(mut screen: Screen, mut model: Model, mut feed: Feed) -> Result<(), CliError> {
    let listen = |kind| signal(kind).map_err(CliError::Start);
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut terminate = listen(SignalKind::terminate())?;
    let mut hangup = listen(SignalKind::hangup())?;
    let mut inputs = terminal::inputs()?;
    loop {
        screen.draw(&model)?;
        tokio::select! {
            biased;
            _ = interrupt.recv() => return Ok(()),
            _ = terminate.recv() => return Ok(()),
            _ = hangup.recv() => return Ok(()),
            input = inputs.recv() => match input {
                Some(Input::Key(key)) => if model.press(key) == Goes::Out {
                    return Ok(());
                },
                Some(Input::Resized) => {}
                // No key would end it any more.
                None => return Ok(()),
            },
            Some(told) = feed.next() => model.take(told),
        }
    }
}
