//! `conntally check`: would `run` take this configuration?

use std::error::Error;
use std::io::{self, Write as _};

use clap::Args;

use super::logging::{self, Role};
use super::{CliError, ConfigArgs, Verbosity, runtime, tell};
use crate::config::{Config, Environment, Scope};
use crate::output::transport::Transport;
use crate::sandbox::Standing;

/// Arguments of `check`.
#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Print the configuration that would be in effect, defaults included.
    #[arg(long)]
    print: bool,
    /// Look at the configuration alone, and not for the users, groups and directories that it
    /// names: it is for another host.
    #[arg(long, conflicts_with = "connect")]
    file_only: bool,
    /// Connect to each output too; one over UDP is sent an empty datagram, and is well unless
    /// that is refused.
    #[arg(long)]
    connect: bool,
}

pub(super) fn check(
    args: &CheckArgs,
    verbosity: &Verbosity,
    environment: &Environment,
) -> Result<(), CliError> {
    logging::start(Role::Command, verbosity, environment)?;
    let scope = if args.file_only {
        Scope::Text
    } else {
        Scope::Host
    };
    let loaded = args.config.load_in(scope, environment)?;
    tracing::debug!(files = ?loaded.files, "read");
    // Asked by a daemon that this program is to take the place of, and within its sandbox.
    if let Some(standing) = Standing::inherited(environment) {
        let forbidden = standing.forbids(&loaded.config, &loaded.files);
        if !forbidden.is_empty() {
            return Err(CliError::Restart(forbidden.join("; ")));
        }
    }
    for note in loaded.config.notes() {
        tell(&format!("note: {note}"));
    }
    if args.connect {
        let unreached = runtime()?.block_on(unreached(&loaded.config));
        if !unreached.is_empty() {
            return Err(CliError::Unreached(unreached.join("\n")));
        }
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

/// The outputs that do not answer, each with what stands in the way.
async fn unreached(config: &Config) -> Vec<String> {
    let mut unreached = Vec::new();
    for (index, output) in config.outputs.iter().enumerate() {
        if let Err(error) = Transport::probe(&output.address).await {
            let why = error
                .source()
                .map_or_else(String::new, |why| format!(": {why}"));
            unreached.push(format!("output[{index}].address: {error}{why}"));
        }
    }
    unreached
}
