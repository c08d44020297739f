//! The command line: what each subcommand is given, and the exit code of each end.

mod check;
mod clients;
mod columns;
mod connections;
mod generate;
mod logging;
mod orders;
mod run;
mod snapshot;
mod status;
mod top;
mod watch;

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{ArgAction, Args, Parser, Subcommand};
use tokio::runtime::{Builder, Runtime};

use crate::admin::client::ClientError;
use crate::agent::AgentError;
use crate::collector::CollectorError;
use crate::config::{self, ConfigError, Environment, Loaded, Scope};
use crate::sandbox::SandboxError;

/// Where the configuration is when `--config` does not say.
const DEFAULT_CONFIG: &str = "/etc/conntally/conntally.toml";

/// Counts this host's connections by remote host and state, pushes the counts over
/// statsd, and relays the `DogStatsD` metrics of local programs.
#[derive(Debug, Parser)]
#[command(name = "conntally", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    verbosity: Verbosity,
}

/// How much is logged.
#[derive(Debug, Args)]
struct Verbosity {
    /// Log more; twice for everything.
    #[arg(short, long, global = true, action = ArgAction::Count)]
    verbose: u8,
    /// Log less; twice for errors alone.
    #[arg(short, long, global = true, action = ArgAction::Count, conflicts_with = "verbose")]
    quiet: u8,
    /// What to log, by module: `info,conntally::output=debug`. Else from `CONNTALLY_LOG`.
    #[arg(long, global = true, value_name = "FILTER")]
    log: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon.
    Run(ConfigArgs),
    /// Read and validate a configuration.
    Check(check::CheckArgs),
    /// Print one look at the kernel's table: a row per remote host.
    Snapshot(snapshot::SnapshotArgs),
    /// Print the connections themselves, and what ended since a client last asked.
    Connections(connections::ConnectionsArgs),
    /// Ask the running daemon how it is: sources, outputs, listeners.
    Status(status::StatusArgs),
    /// Ask the running daemon who is connected to its listeners.
    Clients(clients::ClientsArgs),
    /// Show hosts, listeners and outputs as they are now, from the running daemon, or without
    /// one the hosts from the kernel's table.
    Top(top::TopArgs),
    /// Have the running daemon read its configuration anew.
    Reload(ConfigArgs),
    /// Have the running daemon send at once what waits in its outputs.
    Flush(ConfigArgs),
    /// Print or change what the running daemon logs.
    Log(orders::LogArgs),
    /// Have the running daemon's collector pause or go on.
    Collector(orders::CollectorArgs),
    /// Write what a package installs beside the program.
    Generate(generate::GenerateArgs),
}

/// Which configuration.
#[derive(Debug, Args)]
struct ConfigArgs {
    /// The configuration file [default: /etc/conntally/conntally.toml if it is there,
    /// else the built-in defaults].
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl ConfigArgs {
    /// The configuration file, if there is one.
    fn path(&self) -> Option<PathBuf> {
        self.config.clone().or_else(|| {
            let usual = Path::new(DEFAULT_CONFIG);
            usual.exists().then(|| usual.to_owned())
        })
    }

    /// Where the running daemon is asked.
    fn admin_socket(&self, environment: &Environment) -> Result<String, ConfigError> {
        Ok(self.load(environment)?.config.admin.socket)
    }

    fn load(&self, environment: &Environment) -> Result<Loaded, ConfigError> {
        self.load_in(Scope::Text, environment)
    }

    fn load_in(&self, scope: Scope, environment: &Environment) -> Result<Loaded, ConfigError> {
        match self.path() {
            Some(path) => config::load(&path, environment, scope),
            None => config::built_in(environment),
        }
    }
}

/// How the program ends, by the numbers of `sysexits.h` where it has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// All went well.
    Fine = 0,
    /// Anything that has no number of its own.
    Other = 1,
    /// `EX_USAGE`: the arguments are wrong.
    Usage = 64,
    /// `EX_NOINPUT`: no such file.
    NoFile = 66,
    /// `EX_UNAVAILABLE`: the daemon is not running.
    NotRunning = 69,
    /// `EX_NOPERM`: a capability or permission is missing.
    Permission = 77,
    /// `EX_CONFIG`: the configuration is wrong.
    Config = 78,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a subcommand failed.
#[derive(Debug, thiserror::Error)]
enum CliError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Log(#[from] logging::LogError),
    #[error(transparent)]
    Collector(#[from] CollectorError),
    #[error(transparent)]
    Agent(#[from] AgentError),
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// Of each, its key and why.
    #[error("{0}")]
    Unreached(String),
    /// One line for each key.
    #[error("the configuration needs a restart of conntally: {0}")]
    Restart(String),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    NoTerminal(#[from] top::NoTerminal),
    #[error("cannot write to standard output: {0}")]
    Output(#[source] io::Error),
    #[error("cannot write {}: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("cannot start: {0}")]
    Start(#[source] io::Error),
}

impl CliError {
    fn exit(&self) -> Exit {
        match self {
            Self::Config(ConfigError::Missing { .. }) => Exit::NoFile,
            Self::Config(ConfigError::Unreadable { source, .. }) => match source.kind() {
                io::ErrorKind::PermissionDenied => Exit::Permission,
                _ => Exit::Config,
            },
            Self::Config(ConfigError::Wrong(_))
            | Self::Client(ClientError::Wrong(_))
            | Self::Restart(_)
            | Self::Sandbox(SandboxError::Account(_)) => Exit::Config,
            Self::Log(_) | Self::NoTerminal(_) => Exit::Usage,
            Self::Collector(error) | Self::Agent(AgentError::Collector(error)) => {
                of_collector(error)
            }
            Self::Agent(error) if error.is_permission() => Exit::Permission,
            Self::Sandbox(error) if error.is_permission() => Exit::Permission,
            Self::Client(ClientError::NotRunning(_) | ClientError::Off) => Exit::NotRunning,
            Self::Client(ClientError::Permission(_)) => Exit::Permission,
            // Whoever read our output has seen enough.
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => Exit::Fine,
            Self::Start(source) | Self::Write { source, .. }
                if source.kind() == io::ErrorKind::PermissionDenied =>
            {
                Exit::Permission
            }
            Self::Agent(_)
            | Self::Sandbox(_)
            | Self::Unreached(_)
            | Self::Client(_)
            | Self::Output(_)
            | Self::Write { .. }
            | Self::Start(_) => Exit::Other,
        }
    }
}

/// How the program ends where nothing can be counted.
fn of_collector(error: &CollectorError) -> Exit {
    if error.is_permission() {
        Exit::Permission
    } else if error.is_missing() {
        Exit::NoFile
    } else if error.is_misnamed() {
        Exit::Config
    } else {
        Exit::Other
    }
}

/// Runs the program with these arguments, the program's name first.
#[must_use]
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> Exit {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Nothing is left to tell if the terminal is gone.
            let _gone = error.print();
            return if error.use_stderr() {
                Exit::Usage
            } else {
                Exit::Fine
            };
        }
    };
    let environment = Environment::of_process();
    let outcome = match &cli.command {
        Command::Run(args) => run::run(args, &cli.verbosity, &environment),
        Command::Check(args) => check::check(args, &cli.verbosity, &environment),
        Command::Snapshot(args) => snapshot::snapshot(args, &cli.verbosity, &environment),
        Command::Connections(args) => connections::connections(args, &cli.verbosity, &environment),
        Command::Status(args) => status::status(args, &cli.verbosity, &environment),
        Command::Clients(args) => clients::clients(args, &cli.verbosity, &environment),
        Command::Top(args) => top::top(args, &cli.verbosity, &environment),
        Command::Reload(args) => orders::reload(args, &cli.verbosity, &environment),
        Command::Flush(args) => orders::flush(args, &cli.verbosity, &environment),
        Command::Log(args) => orders::log(args, &cli.verbosity, &environment),
        Command::Collector(args) => orders::collector(args, &cli.verbosity, &environment),
        Command::Generate(args) => generate::generate(args, &cli.verbosity, &environment),
    };
    match outcome {
        Ok(()) => Exit::Fine,
        Err(error) => {
            let exit = error.exit();
            if exit != Exit::Fine {
                tell(&format!("conntally: {error}"));
            }
            exit
        }
    }
}

/// What a command asks the running daemon with.
fn runtime() -> Result<Runtime, CliError> {
    Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(CliError::Start)
}

/// One line on standard error.
fn tell(line: &str) {
    let _gone = writeln!(io::stderr(), "{line}");
}
