//! `conntally check`: would `run` take this configuration?

use std::io::{self, Write as _};

use clap::Args;

use super::logging::{self, Role};
use super::{CliError, ConfigArgs, Verbosity, tell};
use crate::config::Environment;

/// Arguments of `check`.
#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Print the configuration that would be in effect, defaults included.
    #[arg(long)]
    print: bool,
}

pub(super) fn check(
    args: &CheckArgs,
    verbosity: &Verbosity,
    environment: &Environment,
) -> Result<(), CliError> {
    logging::start(Role::Command, verbosity, environment)?;
    let loaded = args.config.load(environment)?;
    tracing::debug!(files = ?loaded.files, "read");
    for note in loaded.config.notes() {
        tell(&format!("note: {note}"));
    }
    let text = if args.print {
        toml::to_string_pretty(&loaded.config)
            .map_err(|error| CliError::Output(io::Error::other(error)))?
    } else if loaded.files.is_empty() {
        "the built-in defaults are valid\n".to_owned()
    } else {
        let files: Vec<String> = loaded
            .files
            .iter()
            .map(|file| file.display().to_string())
            .collect();
        format!("valid: {}\n", files.join(", "))
    };
    io::stdout()
        .write_all(text.as_bytes())
        .map_err(CliError::Output)
}
