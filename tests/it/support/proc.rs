//! What proc(5) tells.

use std::fs;
use std::path::Path;

/// The number at this place of a sysctl's file.
#[track_caller]
pub(crate) fn sysctl(path: &str, place: usize) -> u64 {
    let text = fs::read_to_string(Path::new("/proc/sys").join(path)).unwrap();
    text.split_whitespace().nth(place).unwrap().parse().unwrap()
}

/// The most memory that a process has had resident, bytes.
#[track_caller]
pub(crate) fn peak_memory(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kibibytes = peak.and_then(|peak| peak.trim().strip_suffix(" kB"));
    kibibytes.unwrap().parse::<u64>().unwrap() << 10
}
