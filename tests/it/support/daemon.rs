//! The program itself, started as its users start it.

use std::ffi::OsStr;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::time::Instant;

use super::netns::{PATIENCE, eventually};

/// The program under test: the one just built, or another build named in the environment.
pub(crate) fn binary() -> PathBuf {
    std::env::var_os("CONNTALLY_BINARY")
        .map_or_else(|| env!("CARGO_BIN_EXE_conntally").into(), PathBuf::from)
}

/// A command whose environment says nothing of Datadog, of logging or of the test.
pub(crate) fn clean(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.env_clear();
    for name in ["PATH", "HOME", "LLVM_PROFILE_FILE"] {
        command.envs(std::env::var_os(name).map(|value| (name, value)));
    }
    command
}

/// What has come out of a process so far.
#[derive(Clone, Default)]
pub(crate) struct Captured(Arc<Mutex<Vec<u8>>>);

impl Captured {
    /// Reads to the end on a thread, so that the writer never waits.
    fn follow(&self, mut stream: impl Read + Send + 'static) -> JoinHandle<()> {
        let text = Arc::clone(&self.0);
        thread::spawn(move || {
            let mut buffer = [0; 8192];
            while let Ok(length @ 1..) = stream.read(&mut buffer) {
                text.lock().unwrap().extend_from_slice(&buffer[..length]);
            }
        })
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }

    pub(crate) fn contains(&self, part: &str) -> bool {
        self.text().contains(part)
    }
}

/// How a process ended, and all that it wrote.
#[derive(Debug)]
pub(crate) struct Ended {
    /// Exit code; none after a signal.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// A child process that is gone when this is.
pub(crate) struct Program {
    child: Child,
    followers: Vec<JoinHandle<()>>,
    pub(crate) stdout: Captured,
    pub(crate) stderr: Captured,
}

impl Program {
    #[track_caller]
    pub(crate) fn start(command: &mut Command) -> Self {
        let started = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let mut child = started.unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let (stdout, stderr) = (Captured::default(), Captured::default());
        let followers = vec![
            stdout.follow(child.stdout.take().unwrap()),
            stderr.follow(child.stderr.take().unwrap()),
        ];
        Self {
            child,
            followers,
            stdout,
            stderr,
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid()).unwrap();
        kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
    }

    /// Whether it runs; a test that waits for what it does need wait no longer if not.
    pub(crate) fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Polls until the condition holds, or fails with what the process said.
    #[track_caller]
    pub(crate) fn until(&mut self, what: &str, mut holds: impl FnMut(&Self) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !holds(self) {
            assert!(
                self.runs() && Instant::now() < end,
                "not before its end or within {PATIENCE:?}: {what}\n{}{}",
                self.stdout.text(),
                self.stderr.text()
            );
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits for it to end by itself.
    #[track_caller]
    pub(crate) fn wait(mut self) -> Ended {
        let mut status = None;
        eventually("the process ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        for follower in self.followers.drain(..) {
            follower.join().unwrap();
        }
        Ended {
            code: status.and_then(|status| status.code()),
            stdout: self.stdout.text(),
            stderr: self.stderr.text(),
        }
    }

    /// Asks it to end, and waits until it has.
    #[track_caller]
    pub(crate) fn stop(self) -> Ended {
        self.signal(Signal::TERM);
        self.wait()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Either fails where the process has ended already.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Runs the program to its end.
#[track_caller]
pub(crate) fn conntally<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Ended {
    Program::start(clean(binary()).args(arguments)).wait()
}

/// Writes a configuration: `body`, and what every test wants, of which `body` has nothing.
pub(crate) fn configuration(directory: &Path, body: &str) -> PathBuf {
    let path = directory.join("conntally.toml");
    let admin = directory.join("admin.socket");
    let text = format!("{body}\n[admin]\nsocket = \"{}\"\n", admin.display());
    std::fs::write(&path, text).unwrap();
    path
}

/// Starts the daemon, and waits until it listens wherever `body` says.
#[track_caller]
pub(crate) fn daemon(directory: &Path, body: &str) -> Program {
    daemon_by(&mut clean(binary()), directory, body)
}

/// The same by a command that runs the program.
#[track_caller]
pub(crate) fn daemon_by(program: &mut Command, directory: &Path, body: &str) -> Program {
    let config = configuration(directory, body);
    let mut daemon = Program::start(program.arg("run").arg("--config").arg(config));
    let listeners = addresses(body);
    daemon.until("the daemon listens", |daemon| {
        let log = daemon.stderr.text();
        listeners.iter().all(|address| {
            let ends = format!("address={address}");
            log.lines()
                .any(|line| line.contains(" listening ") && line.ends_with(&ends))
        })
    });
    daemon
}

/// Starts the daemon with a listener for streams at `in.socket`, these outputs, and its
/// own lines on standard output.
#[track_caller]
pub(crate) fn relay(directory: &Path, outputs: &str) -> Program {
    let socket = directory.join("in.socket");
    daemon(
        directory,
        &format!(
            "interval = \"200ms\"\n\
             [collector]\nsource = \"off\"\n\
             [[listener]]\naddress = \"unixstream://{}\"\norigin = \"none\"\n\
             {outputs}\
             [[output]]\naddress = \"stdout:\"\nsources = [\"collector\"]\n",
            socket.display()
        ),
    )
}

/// The addresses of a configuration's listeners.
fn addresses(body: &str) -> Vec<String> {
    let table: toml::Table = body.parse().unwrap();
    let listeners = table.get("listener").and_then(toml::Value::as_array);
    let address = |listener: &toml::Value| listener["address"].as_str().unwrap().to_owned();
    listeners.map_or_else(Vec::new, |all| all.iter().map(address).collect())
}
