//! Cgroups of a test's own, where one is let make them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::daemon::clean;

/// A cgroup; it is gone when this is, and its processes are.
pub(crate) struct Cgroup(PathBuf);

impl Cgroup {
    /// One of this name, in the first hierarchy that lets us make one.
    pub(crate) fn make(name: &str) -> Option<Self> {
        parents().find_map(|parent| Self::make_in(&parent, name))
    }

    /// One of this name whose processes have so many bytes of memory.
    pub(crate) fn of_memory(name: &str, bytes: u64) -> Option<Self> {
        // Of version 1 and version 2 of the kernel's interface.
        let limits = ["memory.limit_in_bytes", "memory.max"];
        parents().find_map(|parent| {
            let cgroup = Self::make_in(&parent, name)?;
            let limit = limits.iter().find(|limit| cgroup.0.join(limit).exists())?;
            fs::write(cgroup.0.join(limit), bytes.to_string()).ok()?;
            Some(cgroup)
        })
    }

    fn make_in(parent: &Path, name: &str) -> Option<Self> {
        let directory = parent.join(name);
        fs::create_dir(&directory).ok()?;
        let cgroup = Self(directory);
        // In version 2 a cgroup with controllers below it has no processes.
        let admitted = cgroup.command("true").stderr(Stdio::null()).status();
        admitted
            .is_ok_and(|status| status.success())
            .then_some(cgroup)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// A program that is in it from its beginning.
    pub(crate) fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = clean("sh");
        command
            .args(["-c", "echo $$ > \"$0\" && exec \"$@\""])
            .arg(self.0.join("cgroup.procs"))
            .arg(program.as_ref());
        command
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        fs::remove_dir(&self.0).ok();
    }
}

/// The test's own place in each hierarchy.
fn parents() -> impl Iterator<Item = PathBuf> {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let places = own.lines().filter_map(|line| {
        let mut columns = line.splitn(3, ':').skip(1);
        let (controllers, path) = (columns.next()?, columns.next()?);
        let mount = Path::new("/sys/fs/cgroup").join(controllers);
        Some(mount.join(path.trim_start_matches('/')))
    });
    places.collect::<Vec<_>>().into_iter()
}
