//! `conntally run`: the daemon's process: logging, runtime, signals.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::Path;

use rustix::process::geteuid;
use tokio::runtime::Builder;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::logging::{self, Role};
use super::{CliError, ConfigArgs, Verbosity};
use crate::agent::{self, AgentError};
use crate::config::{Config, Environment};
use crate::listen::allow_descriptors;

/// Name lookups and standard output are all that blocks, at most one for each output;
/// threads are made when they are needed, and end when they are not.
const MAX_BLOCKING_THREADS: usize = 64;

pub(super) fn run(
    args: &ConfigArgs,
    verbosity: &Verbosity,
    environment: &Environment,
) -> Result<(), CliError> {
    logging::start(Role::Daemon, verbosity, environment)?;
    let loaded = args.load(environment)?;
    let version = env!("CARGO_PKG_VERSION");
    if loaded.files.is_empty() {
        info!(version, "conntally starts, by the built-in defaults");
        make_directory(&environment.runtime_directory()).map_err(CliError::Start)?;
    } else {
        info!(version, files = ?loaded.files, "conntally starts");
    }
    for note in loaded.config.notes() {
        warn!("{note}");
    }
    if let Some((wanted, allowed)) = allow_descriptors(&loaded.config.listeners) {
        warn!(
            wanted,
            allowed,
            "max_connections of the listeners take more file descriptors than are allowed: raise \
             the limit (LimitNOFILE=, ulimit -Hn), or lower max_connections; beyond it, who comes \
             waits"
        );
    }
    let runtime = Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(MAX_BLOCKING_THREADS)
        .build()
        .map_err(CliError::Start)?;
    let ended = runtime.block_on(until_signalled(&loaded.config));
    // A write to standard output that nobody reads must not hold up the end.
    runtime.shutdown_background();
    ended
}

/// Makes the runtime directory, traversable by whoever may write to the sockets in it.
/// One that somebody else made in a shared place is not used.
fn make_directory(path: &Path) -> io::Result<()> {
    let made = DirBuilder::new().recursive(true).mode(0o755).create(path);
    let owner = made.and_then(|()| Ok(fs::symlink_metadata(path)?.uid()));
    let ours = geteuid().as_raw();
    match owner {
        Ok(owner) if owner == ours || owner == 0 => Ok(()),
        Ok(owner) => Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!(
                "the directory {} for the sockets belongs to user {owner}: remove it, or set \
                 XDG_RUNTIME_DIR",
                path.display()
            ),
        )),
        Err(error) => Err(io::Error::new(
            error.kind(),
            format!("the directory {} for the sockets: {error}", path.display()),
        )),
    }
}

/// The signals that end the daemon, and the one that will reload it.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    fn listen() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// The next signal that asks for an end.
    async fn end(&mut self) -> &'static str {
        loop {
            tokio::select! {
                _ = self.interrupt.recv() => return "SIGINT",
                _ = self.terminate.recv() => return "SIGTERM",
                _ = self.hangup.recv() => {
                    warn!("SIGHUP: this version reads its configuration at start alone; restart it");
                }
            }
        }
    }
}

async fn until_signalled(config: &Config) -> Result<(), CliError> {
    let mut signals = Signals::listen().map_err(CliError::Start)?;
    let stop = CancellationToken::new();
    let mut agent = std::pin::pin!(agent::run(config, stop.clone()));
    loop {
        tokio::select! {
            biased;
            ended = &mut agent => return Ok(ended?),
            name = signals.end() => {
                if stop.is_cancelled() {
                    warn!(signal = name, "second signal: ending at once");
                    return Err(AgentError::Interrupted.into());
                }
                info!(signal = name, "stopping; a second signal ends at once");
                stop.cancel();
            }
        }
    }
}
