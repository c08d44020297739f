//! The processes of a round, and what the kernel says that they cost.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::time::Instant;

/// The longest that a process may take to start, and to end.
const PATIENCE: Duration = Duration::from_secs(20);

/// The program under test: the release binary, or another build named in the environment.
pub(crate) fn binary() -> PathBuf {
    std::env::var_os("CONNTALLY_BINARY")
        .map_or_else(|| env!("CARGO_BIN_EXE_conntally").into(), PathBuf::from)
}

/// A child process that is gone when this is.
pub(crate) struct Process {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl Process {
    pub(crate) fn start(command: &mut Command) -> io::Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().map(BufReader::new);
        Ok(Self {
            child,
            stdin,
            stdout: stdout.ok_or_else(|| io::Error::other("no standard output"))?,
        })
    }

    /// This program again, in another role.
    pub(crate) fn role(role: &str, arguments: &[&str]) -> io::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        Self::start(command.arg(format!("role:{role}")).args(arguments))
    }

    /// The program under test, once it listens on `socket`.
    pub(crate) fn conntally(config: &Path, socket: &Path) -> io::Result<Self> {
        let mut command = Command::new(binary());
        let log = fs::File::create(config.with_extension("log"))?;
        let mut process = Self::start(command.args(["run", "--config"]).arg(config).stderr(log))?;
        let started = Instant::now();
        while UnixStream::connect(socket).is_err() {
            if let Some(status) = process.ended()? {
                let log = fs::read_to_string(config.with_extension("log"))?;
                return Err(io::Error::other(format!(
                    "conntally ended: {status}\n{log}"
                )));
            }
            if started.elapsed() > PATIENCE {
                return Err(io::Error::other("conntally does not listen"));
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(process)
    }

    /// The next line that it prints.
    pub(crate) fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        self.stdout.read_line(&mut line)?;
        Ok(line.trim_end().to_owned())
    }

    /// Sends it an empty line.
    pub(crate) fn nudge(&mut self) -> io::Result<()> {
        match &mut self.stdin {
            Some(stdin) => stdin.write_all(b"\n"),
            None => Ok(()),
        }
    }

    /// Nudges it, and returns the number that it answers with.
    pub(crate) fn ask(&mut self) -> io::Result<u64> {
        self.nudge()?;
        self.line()?.parse().map_err(io::Error::other)
    }

    pub(crate) fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// What is left of its output, once it has ended.
    pub(crate) fn rest(&mut self) -> io::Result<String> {
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest)?;
        Ok(rest)
    }

    /// Seconds that all its threads ran; `schedstat` counts nanoseconds, `stat` ticks of 10 ms.
    pub(crate) fn cpu_seconds(&self) -> io::Result<f64> {
        let mut nanoseconds = 0;
        for task in fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let text = fs::read_to_string(task?.path().join("schedstat"))?;
            let running = text.split_ascii_whitespace().next();
            nanoseconds += running
                .and_then(|number| number.parse::<u64>().ok())
                .ok_or_else(|| io::Error::other("the kernel keeps no schedstat"))?;
        }
        Ok(Duration::from_nanos(nanoseconds).as_secs_f64())
    }

    fn status_kib(&self, key: &str) -> io::Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        status
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))
            .and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse().ok())
            .ok_or_else(|| io::Error::other(format!("no {key} in /proc")))
    }

    /// Memory resident now, in KiB.
    pub(crate) fn resident_kib(&self) -> io::Result<u64> {
        self.status_kib("VmRSS")
    }

    /// The most memory that was resident, in KiB.
    pub(crate) fn peak_kib(&self) -> io::Result<u64> {
        self.status_kib("VmHWM")
    }

    /// Asks it to end, and waits for it.
    pub(crate) fn end(mut self) -> io::Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid {
            kill_process(pid, Signal::TERM)?;
        }
        let started = Instant::now();
        while self.child.try_wait()?.is_none() {
            if started.elapsed() > PATIENCE {
                return Err(io::Error::other("a process does not end"));
            }
            thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Either fails where the process has ended already, as it should have.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
