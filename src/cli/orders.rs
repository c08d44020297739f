//! `conntally reload`, `flush`, `log` and `collector`: orders to the running daemon.

use std::io::{self, Write};

use clap::{Args, Subcommand};

use super::columns::{Columns, Head};
use super::logging::{self, Role};
use super::{CliError, ConfigArgs, Verbosity, runtime};
use crate::admin::client;
use crate::admin::orders::{Order, Outcome};
use crate::config::Environment;

/// Arguments of `log`.
#[derive(Debug, Args)]
pub(super) struct LogArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Log this until the next start: a level, or levels by module, such as
    /// `info,conntally::output=debug`. Without it, prints what is logged.
    #[arg(value_name = "FILTER")]
    filter: Option<String>,
    /// Log again what was logged at the start.
    #[arg(long, conflicts_with = "filter")]
    reset: bool,
}

/// Arguments of `collector`.
#[derive(Debug, Args)]
pub(super) struct CollectorArgs {
    #[command(subcommand)]
    action: CollectorAction,
}

#[derive(Debug, Subcommand)]
enum CollectorAction {
    /// Stop reading the kernel: ticks tell what was known last.
    Pause(ConfigArgs),
    /// Go on reading, with a resync.
    Resume(ConfigArgs),
}

pub(super) fn reload(
    args: &ConfigArgs,
    verbosity: &Verbosity,
    environment: &Environment,
) -> Result<(), CliError> {
    give(Order::Reload, args, verbosity, environment)
}

pub(super) fn flush(
    args: &ConfigArgs,
    verbosity: &Verbosity,
    environment: &Environment,
) -> Result<(), CliError> {
    give(Order::Flush, args, verbosity, environment)
}

pub(super) fn log(
    args: &LogArgs,
    verbosity: &Verbosity,
    environment: &Environment,
) -> Result<(), CliError> {
    let order = match &args.filter {
        _ if args.reset => Order::SetLog(""),
        Some(filter) => {
            logging::check("FILTER", filter)?;
            Order::SetLog(filter)
        }
        None => Order::Log,
    };
    give(order, &args.config, verbosity, environment)
}

pub(super) fn collector(
    args: &CollectorArgs,
    verbosity: &Verbosity,
    environment: &Environment,
) -> Result<(), CliError> {
    let (order, config) = match &args.action {
        CollectorAction::Pause(config) => (Order::Pause, config),
        CollectorAction::Resume(config) => (Order::Resume, config),
    };
    give(order, config, verbosity, environment)
}

fn give(
    order: Order<'_>,
    args: &ConfigArgs,
    verbosity: &Verbosity,
    environment: &Environment,
) -> Result<(), CliError> {
    logging::start(Role::Command, verbosity, environment)?;
    let socket = args.admin_socket(environment)?;
    let outcome = runtime()?.block_on(client::give(&socket, order))?;
    let mut out = io::stdout().lock();
    print(&mut out, &outcome).map_err(CliError::Output)
}

fn print(out: &mut impl Write, outcome: &Outcome) -> io::Result<()> {
    match outcome {
        Outcome::Done => Ok(()),
        Outcome::Reloaded(reloaded) if reloaded.changed.is_empty() => {
            writeln!(out, "the configuration has not changed")
        }
        Outcome::Reloaded(reloaded) => {
            writeln!(out, "the new configuration is in effect; changed:")?;
            let mut changed = reloaded.changed.iter();
            changed.try_for_each(|key| writeln!(out, "  {key}"))
        }
        Outcome::Log(filters) if filters.filter == filters.initial => {
            writeln!(out, "{}", filters.filter)
        }
        Outcome::Log(filters) => {
            writeln!(
                out,
                "{} (at the start: {})",
                filters.filter, filters.initial
            )
        }
        Outcome::Flushing { outputs } => {
            let mut columns = Columns::new([Head::Words("OUTPUT"), Head::Number("LINES HELD")]);
            for output in outputs {
                columns.add([output.address.clone(), output.lines_held.to_string()]);
            }
            columns.write(out)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::reload::Reloaded;
    use crate::log_filter::Filters;

    fn printed(outcome: &Outcome) -> String {
        let mut out = Vec::new();
        print(&mut out, outcome).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn what_came_of_an_order_is_said_in_few_words() {
        let reloaded = |changed: &[&str]| {
            let changed = changed.iter().map(ToString::to_string).collect();
            printed(&Outcome::Reloaded(Reloaded { changed }))
        };
        assert_eq!(reloaded(&[]), "the configuration has not changed\n");
        let told = "the new configuration is in effect; changed:\n  hosts.max\n  interval\n";
        assert_eq!(reloaded(&["hosts.max", "interval"]), told);
        let log = |filter: &str| {
            let [filter, initial] = [filter, "info"].map(str::to_owned);
            printed(&Outcome::Log(Filters { filter, initial }))
        };
        assert_eq!(log("info"), "info\n");
        assert_eq!(log("debug"), "debug (at the start: info)\n");
        assert_eq!(printed(&Outcome::Done), "");
    }
}
