//! Leaving: to the program that is executed in place, or to systemd's descriptor store.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::MemfdFlags;
use rustix::io::FdFlags;
use sd_notify::NotifyState;

use super::Legacy;
use super::inherit::{STATE_NAME, VARIABLE};
use super::signals::{hold_signals, release_signals};
use super::state::{encode, named};

/// Why nobody takes our place.
#[derive(Debug, thiserror::Error)]
pub enum HandoverError {
    /// The program at our path does not run with our configuration.
    #[error("{} check {arguments}: {what}", path.display())]
    Check {
        /// The program.
        path: PathBuf,
        /// What it was given.
        arguments: String,
        /// What came of it.
        what: String,
    },
    /// What is left can't be written down.
    #[error("cannot write down what is left: {0}")]
    Write(#[source] io::Error),
    /// The program can't be executed.
    #[error("cannot execute {}: {error}", path.display())]
    Exec {
        /// The program.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The descriptor store took nothing.
    #[error("cannot leave descriptors to systemd: {0}")]
    Store(#[source] io::Error),
}

/// The program that this process runs, by the path that it had at the start: after an
/// upgrade another file stands there.
#[derive(Clone, Debug)]
pub struct Program {
    path: PathBuf,
    arguments: Vec<OsString>,
    /// What else it is told by its environment.
    variables: Vec<(&'static str, String)>,
}

impl Program {
    /// The one that runs now.
    ///
    /// # Errors
    /// When the system does not tell its path.
    pub fn of_process() -> io::Result<Self> {
        Ok(Self {
            path: std::env::current_exe()?,
            arguments: std::env::args_os().skip(1).collect(),
            variables: Vec::new(),
        })
    }

    /// The same, told this by its environment.
    #[must_use]
    pub fn told(mut self, variable: Option<(&'static str, String)>) -> Self {
        self.variables.extend(variable);
        self
    }

    /// Makes sure that the program at the path runs, and takes the configuration. Blocks for
    /// as long as that takes.
    ///
    /// # Errors
    /// [`HandoverError::Check`] when it does not.
    pub fn check(&self, config: Option<&Path>) -> Result<(), HandoverError> {
        let mut command = Command::new(&self.path);
        command.arg("check").stdin(Stdio::null());
        command.envs(self.variables.iter().cloned());
        if let Some(config) = config {
            command.arg("--config").arg(config);
        }
        let failed = |what: String| HandoverError::Check {
            path: self.path.clone(),
            arguments: config.map_or_else(String::new, |path| path.display().to_string()),
            what,
        };
        let output = command
            .output()
            .map_err(|error| failed(error.to_string()))?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(failed(format!("{}: {}", output.status, said.trim_end())))
    }

    /// Executes the program in place of this one, and leaves it all. Returns only when that
    /// fails: then nothing is lost, and `legacy` is as it was.
    #[must_use]
    pub fn execute(&self, legacy: &Legacy) -> HandoverError {
        let state = match write_down(legacy, true) {
            Ok(state) => state,
            Err(error) => return HandoverError::Write(error),
        };
        let open = |flags| {
            let descriptors = named(legacy).map(|(_, descriptor)| descriptor);
            for descriptor in descriptors.chain([state.as_fd()]) {
                rustix::io::fcntl_setfd(descriptor, flags)?;
            }
            Ok::<(), rustix::io::Errno>(())
        };
        if let Err(error) = open(FdFlags::empty()) {
            return HandoverError::Write(error.into());
        }
        let left = format!("{}:{}", std::process::id(), state.as_raw_fd());
        // One that comes before the program listens for it would end it.
        hold_signals();
        let error = Command::new(&self.path)
            .args(&self.arguments)
            .envs(self.variables.iter().cloned())
            .env(VARIABLE, left)
            .exec();
        release_signals();
        // They were good a moment ago.
        let _closed = open(FdFlags::CLOEXEC);
        HandoverError::Exec {
            path: self.path.clone(),
            error,
        }
    }
}

/// The memory file; with the descriptors' numbers before it, where these stay.
fn write_down(legacy: &Legacy, with_numbers: bool) -> io::Result<File> {
    let memory = rustix::fs::memfd_create(STATE_NAME, MemfdFlags::CLOEXEC)?;
    let mut file = File::from(memory);
    if with_numbers {
        let mut numbers = String::new();
        for (name, descriptor) in named(legacy) {
            // Writing to a String does not fail.
            let _written = writeln!(numbers, "{name}={}", descriptor.as_raw_fd());
        }
        numbers.push('\n');
        file.write_all(numbers.as_bytes())?;
    }
    file.write_all(&encode(legacy))?;
    Ok(file)
}

/// Whether systemd has a descriptor store for us (`FDSTORE`, `systemd.exec(5)`, since 254).
#[must_use]
pub fn has_store() -> bool {
    let limit = std::env::var("FDSTORE").ok();
    let limit = limit.and_then(|limit| limit.parse::<u64>().ok());
    limit.is_some_and(|limit| limit > 0) && std::env::var_os("NOTIFY_SOCKET").is_some()
}

/// Leaves it all to systemd's descriptor store, for the process that a restart starts.
///
/// # Errors
/// [`HandoverError`] when it can't be written down, or is not taken.
pub fn store(legacy: &Legacy) -> Result<(), HandoverError> {
    let state = write_down(legacy, false).map_err(HandoverError::Write)?;
    let state = (STATE_NAME.to_owned(), state.as_fd());
    for (name, descriptor) in named(legacy).chain([state]) {
        let told = [NotifyState::FdStore, NotifyState::FdName(&name)];
        sd_notify::notify_with_fds(&told, &[descriptor]).map_err(HandoverError::Store)?;
    }
    Ok(())
}
