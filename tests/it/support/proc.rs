//! What proc(5) tells.

use std::fs;
use std::path::Path;

/// The number at this place of a sysctl's file.
#[track_caller]
pub(crate) fn sysctl(path: &str, place: usize) -> u64 {
    let text = fs::read_to_string(Path::new("/proc/sys").join(path)).unwrap();
    text.split_whitespace().nth(place).unwrap().parse().unwrap()
}
