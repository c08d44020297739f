//! `conntally run`: the daemon's process: logging, runtime, signals.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use rustix::process::{Resource, Rlimit, geteuid, getrlimit, setrlimit};
use tokio::runtime::Builder;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::spawn_blocking;
use tracing::{error, info, warn};

use super::logging::{self, Role};
use super::{CliError, ConfigArgs, Verbosity};
use crate::agent::{self, AgentError, Ended};
use crate::config::{Config, Environment};
use crate::handover::{self, HandoverError, Inherited, Legacy, Program};
use crate::listen::Ends;

/// Name lookups and standard output are all that blocks, at most one for each output;
/// threads are made when they are needed, and end when they are not.
const MAX_BLOCKING_THREADS: usize = 64;

pub(super) fn run(
    args: &ConfigArgs,
    verbosity: &Verbosity,
    environment: &Environment,
) -> Result<(), CliError> {
    logging::start(Role::Daemon, verbosity, environment)?;
    let inherited = Inherited::take(environment);
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
    let runtime = Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(MAX_BLOCKING_THREADS)
        .build()
        .map_err(CliError::Start)?;
    raise_descriptor_limit();
    let successor = Successor {
        program: Program::of_process().ok(),
        config: args.path(),
    };
    let mut inherited = inherited;
    let ended = loop {
        let ended = runtime.block_on(until_signalled(&loaded.config, inherited, &successor));
        match ended {
            Ok((Ended::Left(legacy), Way::InPlace)) => {
                // Back again only where that failed: then nobody else takes our place.
                let error = successor.execute(&legacy);
                error!(%error, "nothing took this process's place: it goes on");
                inherited = Inherited::of(legacy);
            }
            Ok((Ended::Left(legacy), Way::Store)) => {
                let (descriptors, lines) = (legacy.descriptors(), legacy.lines());
                match handover::store(&legacy) {
                    Ok(()) => info!(descriptors, lines, "left to systemd, for a restart"),
                    Err(error) => error!(%error, lines, "what is left is lost"),
                }
                break Ok(());
            }
            Ok((Ended::Stopped, _)) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    // A write to standard output that nobody reads must not hold up the end.
    runtime.shutdown_background();
    ended
}

/// Lets as many descriptors be open as may be: every connection is one, and the usual limit
/// is there for programs that call `select(2)`, which this one does not.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        warn!(%error, ?limit, "the limit of open descriptors stays as it is");
    }
}

/// What takes this process's place on `SIGUSR2`.
struct Successor {
    program: Option<Program>,
    config: Option<PathBuf>,
}

impl Successor {
    /// Whether the program that now stands at our path runs with our configuration.
    async fn check(&self) -> Result<(), String> {
        let Some(program) = self.program.clone() else {
            return Err("the system does not tell this program's path".to_owned());
        };
        let config = self.config.clone();
        let checked = spawn_blocking(move || program.check(config.as_deref())).await;
        match checked {
            Ok(checked) => checked.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        }
    }

    fn execute(&self, legacy: &Legacy) -> HandoverError {
        match &self.program {
            Some(program) => program.execute(legacy),
            None => HandoverError::Write(io::ErrorKind::NotFound.into()),
        }
    }
}

/// By which way what is left gets to another process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    InPlace,
    Store,
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

/// The signals that end the daemon, replace it, and the one that will reload it.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    replace: Signal,
}

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    End(&'static str),
    Replace,
}

impl Signals {
    fn listen() -> io::Result<Self> {
        let signals = Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
            replace: signal(SignalKind::user_defined2())?,
        };
        // Those that came while one program replaced another.
        handover::release_signals();
        Ok(signals)
    }

    /// What the next signal asks for.
    async fn next(&mut self) -> Asked {
        loop {
            tokio::select! {
                _ = self.interrupt.recv() => return Asked::End("SIGINT"),
                _ = self.terminate.recv() => return Asked::End("SIGTERM"),
                _ = self.replace.recv() => return Asked::Replace,
                _ = self.hangup.recv() => {
                    warn!("SIGHUP: this version reads its configuration at start alone; SIGUSR2 starts it anew without a loss");
                }
            }
        }
    }
}

async fn until_signalled(
    config: &Config,
    inherited: Inherited,
    successor: &Successor,
) -> Result<(Ended, Way), CliError> {
    let mut signals = Signals::listen().map_err(CliError::Start)?;
    let ends = Ends::default();
    let mut agent = std::pin::pin!(agent::run(config, inherited, ends.clone()));
    let mut way = Way::InPlace;
    loop {
        let asked = tokio::select! {
            biased;
            ended = &mut agent => return Ok((ended?, way)),
            asked = signals.next() => asked,
        };
        match asked {
            Asked::Replace if ends.stop.is_cancelled() => {}
            Asked::Replace => {
                info!("SIGUSR2: another program is to take this process's place");
                let checked = tokio::select! {
                    biased;
                    ended = &mut agent => return Ok((ended?, way)),
                    checked = successor.check() => checked,
                };
                match checked {
                    Ok(()) => {
                        ends.leave.cancel();
                        ends.stop.cancel();
                    }
                    Err(error) => error!(error, "nothing takes this process's place"),
                }
            }
            Asked::End(name) if ends.stop.is_cancelled() => {
                warn!(signal = name, "second signal: ending at once");
                return Err(AgentError::Interrupted.into());
            }
            Asked::End(name) => {
                info!(signal = name, "stopping; a second signal ends at once");
                if handover::has_store() {
                    way = Way::Store;
                    ends.leave.cancel();
                }
                ends.stop.cancel();
            }
        }
    }
}
