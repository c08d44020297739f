//! How much memory is in use, and how much may be.
//!
//! Of a cgroup it is the working set that counts: what it uses, less the file pages that
//! were not used lately, which the kernel takes back before it kills anything. All levels
//! that have a limit are looked at; the one that is nearest to its own counts.
//!
//! <https://docs.kernel.org/admin-guide/cgroup-v2.html#memory-interface-files>,
//! <https://docs.kernel.org/admin-guide/cgroup-v1/memory.html>

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::config::MemoryLimit;
use crate::report::resident_in;

/// Where cgroups are mounted.
const V2_ROOT: &str = "/sys/fs/cgroup";
const V1_ROOT: &str = "/sys/fs/cgroup/memory";

/// A limit from here on is none: version 1 has no other word for it than the largest
/// number of whole pages.
const NO_LIMIT: u64 = 1 << 62;

/// Bytes in use, and how many may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Usage {
    pub(super) used: u64,
    /// Not 0.
    pub(super) limit: u64,
}

impl Usage {
    #[expect(clippy::cast_precision_loss, reason = "a share needs no 53 bits")]
    pub(super) fn share(self) -> f64 {
        self.used as f64 / self.limit as f64
    }
}

/// What is measured.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Measure {
    /// These, the innermost first.
    Cgroups(Vec<Cgroup>),
    /// The process's own resident memory, of which there may be so much.
    Process(u64),
}

impl fmt::Display for Measure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cgroups(cgroups) => {
                for (number, cgroup) in cgroups.iter().enumerate() {
                    let comma = if number > 0 { ", " } else { "" };
                    write!(f, "{comma}{}", cgroup.directory.display())?;
                }
                Ok(())
            }
            Self::Process(limit) => write!(f, "resident memory, of {limit} bytes"),
        }
    }
}

/// One level of a hierarchy.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Cgroup {
    directory: PathBuf,
    version: Version,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

impl Measure {
    /// What the configuration asks to measure, if there is a limit. `read` reads files.
    pub(super) fn find(
        limit: MemoryLimit,
        read: &mut impl FnMut(&Path) -> io::Result<String>,
    ) -> Option<Self> {
        if let MemoryLimit::Bytes(size) = limit {
            return Some(Self::Process(size.0.max(1)));
        }
        let (path, version) = own_cgroup(&read(Path::new("/proc/self/cgroup")).ok()?)?;
        let limited: Vec<Cgroup> = levels(&path, version)
            .filter(|cgroup| cgroup.limit(read).is_some())
            .collect();
        (!limited.is_empty()).then_some(Self::Cgroups(limited))
    }

    /// How much is in use now, of the level that is nearest to its limit; from the share
    /// `exact_from` on to the byte, below it no less than it is.
    pub(super) fn usage(
        &self,
        exact_from: f64,
        read: &mut impl FnMut(&Path) -> io::Result<String>,
    ) -> Option<Usage> {
        match self {
            Self::Cgroups(cgroups) => cgroups
                .iter()
                .filter_map(|cgroup| cgroup.usage(exact_from, read))
                .max_by(|one, other| one.share().total_cmp(&other.share())),
            Self::Process(limit) => Some(Usage {
                used: resident_in(&read(Path::new("/proc/self/status")).ok()?)?,
                limit: *limit,
            }),
        }
    }
}

impl Cgroup {
    fn number(
        &self,
        file: &str,
        read: &mut impl FnMut(&Path) -> io::Result<String>,
    ) -> Option<u64> {
        let text = read(&self.directory.join(file)).ok()?;
        text.trim().parse().ok()
    }

    /// None where there is none, and no number either (`max`).
    fn limit(&self, read: &mut impl FnMut(&Path) -> io::Result<String>) -> Option<u64> {
        let file = match self.version {
            Version::One => "memory.limit_in_bytes",
            Version::Two => "memory.max",
        };
        let limit = self.number(file, read)?;
        (1..NO_LIMIT).contains(&limit).then_some(limit)
    }

    fn usage(
        &self,
        exact_from: f64,
        read: &mut impl FnMut(&Path) -> io::Result<String>,
    ) -> Option<Usage> {
        let limit = self.limit(read)?;
        let (file, inactive) = match self.version {
            Version::One => ("memory.usage_in_bytes", "total_inactive_file "),
            Version::Two => ("memory.current", "inactive_file "),
        };
        let used = self.number(file, read)?;
        let usage = Usage { used, limit };
        // The kernel adds up a lot for it.
        if usage.share() < exact_from {
            return Some(usage);
        }
        let stat = read(&self.directory.join("memory.stat")).unwrap_or_default();
        let inactive = stat.lines().find_map(|line| line.strip_prefix(inactive));
        let inactive: u64 = inactive.and_then(|text| text.parse().ok()).unwrap_or(0);
        Some(Usage {
            used: used.saturating_sub(inactive),
            limit,
        })
    }
}

/// The cgroup that accounts for the process's memory, in a `/proc/PID/cgroup`: lines of
/// `number:controllers:path`, of which version 2 has one, without controllers. Where
/// version 1 has the memory controller, version 2 has not.
fn own_cgroup(table: &str) -> Option<(String, Version)> {
    let lines = || {
        table.lines().filter_map(|line| {
            let mut columns = line.splitn(3, ':').skip(1);
            Some((columns.next()?, columns.next()?))
        })
    };
    let of_version_1 = lines().find(|(controllers, _)| {
        controllers
            .split(',')
            .any(|controller| controller == "memory")
    });
    let (path, version) = match of_version_1 {
        Some((_, path)) => (path, Version::One),
        None => (lines().find(|(all, _)| all.is_empty())?.1, Version::Two),
    };
    Some((path.to_owned(), version))
}

/// The cgroup of this path and those around it, as far as they can be seen: in a
/// container that sees the host's paths, the root of its own mount.
fn levels(path: &str, version: Version) -> impl Iterator<Item = Cgroup> {
    let root = Path::new(match version {
        Version::One => V1_ROOT,
        Version::Two => V2_ROOT,
    });
    let below = path.trim_start_matches('/');
    // It is outside of what is mounted here.
    let below = if below.split('/').any(|part| part == "..") {
        ""
    } else {
        below
    };
    let directories: Vec<PathBuf> = root
        .join(below)
        .ancestors()
        .take_while(|directory| directory.starts_with(root))
        .map(Path::to_owned)
        .collect();
    directories
        .into_iter()
        .map(move |directory| Cgroup { directory, version })
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::config::ByteSize;

    /// Reads from these files alone.
    fn files(files: &[(&str, &str)]) -> impl FnMut(&Path) -> io::Result<String> + use<> {
        let files: HashMap<PathBuf, String> = files
            .iter()
            .map(|&(path, text)| (path.into(), text.to_owned()))
            .collect();
        move |path| {
            files
                .get(path)
                .cloned()
                .ok_or_else(|| io::ErrorKind::NotFound.into())
        }
    }

    fn usage(read: &mut impl FnMut(&Path) -> io::Result<String>) -> Option<(u64, u64)> {
        let measure = Measure::find(MemoryLimit::Auto, read)?;
        let usage = measure.usage(0.0, read)?;
        Some((usage.used, usage.limit))
    }

    const UNIT: &str = "/sys/fs/cgroup/system.slice/conntally.service";

    fn unit(max: &str) -> Vec<(String, String)> {
        [
            ("memory.max", max),
            ("memory.current", "50331648\n"),
            (
                "memory.stat",
                "anon 20971520\nfile 25165824\ninactive_anon 1\ninactive_file 16777216\nactive_file 8388608\n",
            ),
        ]
        .map(|(file, text)| (format!("{UNIT}/{file}"), text.to_owned()))
        .into()
    }

    fn with_own(cgroup: &str, mut others: Vec<(String, String)>) -> Vec<(String, String)> {
        others.push(("/proc/self/cgroup".to_owned(), cgroup.to_owned()));
        others
    }

    fn reading(all: &[(String, String)]) -> impl FnMut(&Path) -> io::Result<String> + use<> {
        let all: Vec<(&str, &str)> = all.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
        files(&all)
    }

    #[test]
    fn of_a_version_2_cgroup_the_working_set_counts() {
        let all = with_own("0::/system.slice/conntally.service\n", unit("67108864\n"));
        assert_eq!(usage(&mut reading(&all)), Some((32 << 20, 64 << 20)));
    }

    #[test]
    fn without_a_limit_nothing_is_measured() {
        let all = with_own("0::/system.slice/conntally.service\n", unit("max\n"));
        assert_eq!(usage(&mut reading(&all)), None);
        // The root of the host has no such files.
        assert_eq!(usage(&mut files(&[("/proc/self/cgroup", "0::/\n")])), None);
        assert_eq!(usage(&mut files(&[("/proc/self/cgroup", "")])), None);
        assert_eq!(usage(&mut files(&[])), None);
    }

    #[test]
    fn the_level_that_is_nearest_to_its_limit_counts() {
        let mut all = with_own("0::/system.slice/conntally.service\n", unit("67108864\n"));
        let slice = "/sys/fs/cgroup/system.slice";
        all.extend(
            [
                ("memory.max", "1073741824\n"),
                ("memory.current", "1000000000\n"),
                ("memory.stat", "inactive_file 0\n"),
            ]
            .map(|(file, text)| (format!("{slice}/{file}"), text.to_owned())),
        );
        assert_eq!(usage(&mut reading(&all)), Some((1_000_000_000, 1 << 30)));
    }

    #[test]
    fn a_container_sees_its_own_cgroup_as_the_root() {
        for own in ["0::/\n", "0::/../../kubepods/pod1/abc\n"] {
            let mut read = files(&[
                ("/proc/self/cgroup", own),
                ("/sys/fs/cgroup/memory.max", "1000\n"),
                ("/sys/fs/cgroup/memory.current", "900\n"),
                ("/sys/fs/cgroup/memory.stat", "inactive_file 100\n"),
            ]);
            assert_eq!(usage(&mut read), Some((800, 1000)), "{own}");
        }
    }

    #[test]
    fn of_version_1_it_is_the_memory_controller() {
        let own = "9:name=systemd:/user.slice\n4:cpu,memory:/docker/abc\n3:cpuset:/docker\n0::/x\n";
        let inside = "/sys/fs/cgroup/memory/docker/abc";
        let around = "/sys/fs/cgroup/memory";
        let file = |directory: &str, name: &str| format!("{directory}/{name}");
        for directory in [inside, around] {
            let all = [
                (file(directory, "memory.limit_in_bytes"), "1000\n"),
                (file(directory, "memory.usage_in_bytes"), "700\n"),
                (
                    file(directory, "memory.stat"),
                    "inactive_file 1\ntotal_inactive_file 200\n",
                ),
            ]
            .map(|(path, text)| (path, text.to_owned()));
            let mut read = reading(&with_own(own, all.into()));
            assert_eq!(usage(&mut read), Some((500, 1000)), "{directory}");
        }
        let mut read = files(&[
            ("/proc/self/cgroup", own),
            (
                "/sys/fs/cgroup/memory/memory.limit_in_bytes",
                "9223372036854771712\n",
            ),
        ]);
        assert_eq!(usage(&mut read), None);
    }

    #[test]
    fn inactive_files_are_looked_up_where_they_matter_alone() {
        let all = with_own("0::/system.slice/conntally.service\n", unit("67108864\n"));
        let mut read = reading(&all);
        let measure = Measure::find(MemoryLimit::Auto, &mut read).unwrap();
        // 48 of 64 MiB, of which 16 are inactive.
        let used = |exact_from, read: &mut _| measure.usage(exact_from, read).unwrap().used;
        assert_eq!(used(0.7, &mut read), 32 << 20);
        assert_eq!(used(0.8, &mut read), 48 << 20);
    }

    #[test]
    fn a_size_is_held_against_the_process_itself() {
        let limit = MemoryLimit::Bytes(ByteSize::mib(64));
        let status = "Name:\tconntally\nVmHWM:\t   90000 kB\nVmRSS:\t   32768 kB\n";
        let mut read = files(&[("/proc/self/status", status)]);
        let measure = Measure::find(limit, &mut read).unwrap();
        let usage = measure.usage(0.7, &mut read).unwrap();
        assert_eq!((usage.used, usage.limit), (32 << 20, 64 << 20));
        assert_eq!(measure.usage(0.7, &mut files(&[])), None);
    }

    #[test]
    fn this_process_can_be_measured() {
        let mut read = |path: &Path| std::fs::read_to_string(path);
        let limit = MemoryLimit::Bytes(ByteSize::mib(64));
        let measure = Measure::find(limit, &mut read).unwrap();
        assert!(measure.usage(0.7, &mut read).unwrap().used > 0);
    }
}
