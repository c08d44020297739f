//! Programs that are not ours: clients and receivers as their users run them.
//!
//! Those that Debian does not have are looked for where `.ci/run` puts them.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Says loudly that a test did not run; in CI it must.
#[track_caller]
pub(crate) fn skip(test: &str, why: &str) {
    assert!(
        std::env::var_os("CI").is_none(),
        "{test} may not be skipped here: {why}"
    );
    // libtest hides what the print macros write.
    writeln!(io::stderr(), "SKIPPED: {test}: {why}").unwrap();
}

/// Where `.ci/run` installs what is no Debian package.
fn tools() -> Option<PathBuf> {
    let of = |name: &str| std::env::var_os(name).map(PathBuf::from);
    of("CONNTALLY_TOOLS").or_else(|| {
        of("XDG_CACHE_HOME")
            .or_else(|| of("HOME").map(|home| home.join(".cache")))
            .map(|cache| cache.join("conntally-tools"))
    })
}

/// A Python that has the Datadog client: of the environment, of `.ci/run`, or the system's.
pub(crate) fn python_with_datadog() -> Option<PathBuf> {
    let candidates = [
        std::env::var_os("CONNTALLY_PYTHON").map(PathBuf::from),
        tools().map(|tools| tools.join("venv/bin/python")),
        Some("python3".into()),
    ];
    candidates.into_iter().flatten().find(|python| {
        Command::new(python)
            .args(["-c", "import datadog"])
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    })
}

/// The main script of the statsd of npm, for node.
pub(crate) fn statsd_of_npm() -> Option<PathBuf> {
    let script = tools()?.join("node_modules/statsd/stats.js");
    script.is_file().then_some(script)
}

/// The modules of node, if hot-shots is among them and can send unix datagrams.
pub(crate) fn hot_shots() -> Option<PathBuf> {
    let modules = tools()?.join("node_modules");
    Command::new("node")
        .args(["-e", "require('hot-shots'); require('unix-dgram')"])
        .env("NODE_PATH", &modules)
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
        .then_some(modules)
}

/// Where a program is; also in the directories that only root's path has.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|directory| directory.join(program))
        .find(|path| path.is_file())
}

/// Whether this program is there at all.
pub(crate) fn is_there(program: &str) -> bool {
    let asked = Command::new(program)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    asked.is_ok_and(|status| status.success())
}
