//! Who a process is: its program, when it began, and the container and pod it runs in.

use std::fs;

use memchr::memrchr;

/// Bytes of a container id: 64 hexadecimal digits with docker, containerd,
/// CRI-O and podman.
const ID_BYTES: usize = 64;

/// Bytes before the dash of a task's id on AWS Fargate.
const TASK_ID_BYTES: usize = 32;

/// The place of the start in a `/proc/PID/stat`, from 1 on (`proc_pid_stat(5)`).
const START_FIELD: usize = 22;

/// The program's name, as the kernel keeps it (`proc_pid_comm(5)`); empty when
/// the process is gone.
#[must_use]
pub fn program_of(pid: u32) -> Box<str> {
    let Ok(comm) = fs::read(format!("/proc/{pid}/comm")) else {
        return Box::default();
    };
    // A process may call itself anything.
    let shown = comm.trim_ascii_end().escape_ascii().to_string();
    shown.into()
}

/// When a process began, in ticks since the system did: together with its number it is
/// that process and no other (`proc_pid_stat(5)`).
pub(super) fn start_in(stat: &[u8]) -> Option<u64> {
    // The second field is the program's name, which may hold anything.
    let end = memrchr(b')', stat)?;
    let rest = str::from_utf8(stat.get(end + 1..)?).ok()?;
    // The first one here is the third.
    let field = rest.split_ascii_whitespace().nth(START_FIELD - 3)?;
    field.parse().ok()
}

/// Where a process runs, as far as its cgroup shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// The container's id.
    pub container: Option<Box<str>>,
    /// The uid of the Kubernetes pod around it.
    pub pod: Option<Box<str>>,
}

impl Origin {
    /// What a `/proc/PID/cgroup` (`cgroups(7)`) tells, where each line is
    /// `number:controllers:path`; the innermost container counts, and the pod that it is in.
    #[must_use]
    pub fn in_cgroup(table: &str) -> Self {
        let paths = || table.lines().filter_map(|line| line.splitn(3, ':').nth(2));
        match paths().find_map(innermost) {
            Some((id, up_to)) => Self {
                container: Some(id.into()),
                pod: pod_in(up_to),
            },
            None => Self {
                container: None,
                pod: paths().find_map(pod_in),
            },
        }
    }
}

/// The id of the innermost container of a path, and the path up to it.
fn innermost(path: &str) -> Option<(&str, &str)> {
    // What a cgroup is called that was removed around its last process.
    let mut path = path.strip_suffix(" (deleted)").unwrap_or(path);
    loop {
        let (around, segment) = path.rsplit_once('/')?;
        if let Some(id) = container_id(segment) {
            return Some((id, path));
        }
        path = around;
    }
}

/// The uid of the innermost pod of a path.
fn pod_in(path: &str) -> Option<Box<str>> {
    path.rsplit('/').find_map(pod_uid)
}

/// The uid that names a pod's cgroup: `podUID`, `kubepods-burstable-podUID.slice` (with
/// underscores for dashes), also with the container behind it. That of a static pod is
/// the hash of its file.
fn pod_uid(segment: &str) -> Option<Box<str>> {
    let (before, uid) = segment.rsplit_once("pod")?;
    let uid = uid.split([':', '.']).next()?.replace('_', "-");
    let groups: Vec<&str> = uid.split('-').collect();
    let lengths: Vec<usize> = groups.iter().map(|group| group.len()).collect();
    let is_uid = matches!(lengths[..], [8, 4, 4, 4, 12] | [32])
        && groups.iter().all(|group| is_hex(group))
        && (before.is_empty() || before.ends_with('-'));
    is_uid.then(|| uid.into())
}

/// The id that names a cgroup: alone (`ID`), or as a systemd scope
/// (`docker-ID.scope`, `cri-containerd-ID.scope`, `crio-ID.scope`, `libpod-ID.scope`),
/// or behind the pod (`kubepods-…-podUID.slice:cri-containerd:ID`).
fn container_id(segment: &str) -> Option<&str> {
    let segment = segment.strip_suffix(".scope").unwrap_or(segment);
    // What watches over a container is not in it.
    if segment.contains("conmon") {
        return None;
    }
    let last = segment.rsplit([':', '-']).next()?;
    if last.len() == ID_BYTES && is_hex(last) {
        return Some(last);
    }
    let (task, number) = segment.rsplit_once('-')?;
    let is_task = task.len() == TASK_ID_BYTES
        && is_hex(task)
        && !number.is_empty()
        && number.bytes().all(|byte| byte.is_ascii_digit());
    is_task.then_some(segment)
}

fn is_hex(text: &str) -> bool {
    text.bytes()
        .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "34dc0b5e626f2c5c4c5170e34b10e7654ce36f0fcd532739f4445baabea03376";
    const OTHER: &str = "e662fb8d8a6d9c5dfd1e8f6b0a5f6a3c2e1d4b7a8c9f0e1d2c3b4a5968778695";
    const UID: &str = "2d3da189-6407-48e3-9ab6-78188d75e609";
    /// As systemd has it, where a dash would be a level.
    const UID_: &str = "2d3da189_6407_48e3_9ab6_78188d75e609";

    fn origin(container: Option<&str>, pod: Option<&str>) -> Origin {
        Origin {
            container: container.map(Into::into),
            pod: pod.map(Into::into),
        }
    }

    #[test]
    fn container_and_pod_are_found_in_every_runtimes_cgroup() {
        const STATIC: &str = "8a8d6e0c9b4d6b3e7f1a2b3c4d5e6f70";
        let user = "user.slice/user-1000.slice/user@1000.service";
        for (cgroup, pod) in [
            // docker, with cgroupfs and with systemd, rootless, and in a slice of one's own.
            (
                format!("13:name=systemd:/docker/{ID}\n12:pids:/docker/{ID}\n"),
                None,
            ),
            (
                format!("11:hugetlb:/\n4:cpu,cpuacct:/docker/{ID}\n0::/\n"),
                None,
            ),
            (format!("0::/docker/{ID}\n"), None),
            (format!("0::/system.slice/docker-{ID}.scope\n"), None),
            (format!("0::/{user}/user.slice/docker-{ID}.scope\n"), None),
            (
                format!("0::/my.slice/my-apps.slice/docker-{ID}.scope\n"),
                None,
            ),
            // containerd: nerdctl, ctr's default namespace, a task's child.
            (format!("0::/system.slice/nerdctl-{ID}.scope\n"), None),
            (format!("1:name=systemd:/default/{ID}\n"), None),
            (format!("0::/default/{ID}/worker\n"), None),
            // podman: as root and rootless, with an init and in a pod of its own.
            (
                format!("9:freezer:/machine.slice/libpod-{ID}.scope\n0::/\n"),
                None,
            ),
            (
                format!("0::/machine.slice/libpod-{ID}.scope/container\n"),
                None,
            ),
            (format!("0::/libpod_parent/libpod-{ID}\n"), None),
            (
                format!("0::/{user}/user.slice/libpod-{ID}.scope/init.scope\n"),
                None,
            ),
            (
                format!("0::/machine.slice/machine-libpod_pod_{OTHER}.slice/libpod-{ID}.scope\n"),
                None,
            ),
            // Kubernetes with cgroupfs: docker or containerd, of each class.
            (
                format!("11:devices:/kubepods/besteffort/pod{UID}/{ID}\n"),
                Some(UID),
            ),
            (
                format!("11:devices:/kubepods/burstable/pod{UID}/{ID}\n"),
                Some(UID),
            ),
            (format!("0::/kubepods/pod{UID}/{ID}\n"), Some(UID)),
            // Kubernetes with systemd.
            (
                format!(
                    "1:name=systemd:/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{UID_}.slice/docker-{ID}.scope\n"
                ),
                Some(UID),
            ),
            (
                format!(
                    "0::/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{UID_}.slice/cri-containerd-{ID}.scope\n"
                ),
                Some(UID),
            ),
            (
                format!("0::/kubepods.slice/kubepods-pod{UID_}.slice/crio-{ID}.scope/container\n"),
                Some(UID),
            ),
            (
                format!(
                    "0::/kubepods.slice/kubepods-pod{STATIC}.slice/cri-containerd-{ID}.scope\n"
                ),
                Some(STATIC),
            ),
            // containerd without a slice of its own; kind, where the kubelet has one.
            (
                format!(
                    "1:name=systemd:/system.slice/containerd.service/kubepods-burstable-pod{UID_}.slice:cri-containerd:{ID}\n"
                ),
                Some(UID),
            ),
            (
                format!(
                    "0::/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-pod{UID_}.slice/cri-containerd-{ID}.scope\n"
                ),
                Some(UID),
            ),
            // As seen from within another cgroup namespace; removed around its last process.
            (format!("0::/../{ID}\n"), None),
            (format!("0::/../../pod{UID}/{ID}\n"), Some(UID)),
            (
                format!("0::/system.slice/docker-{ID}.scope (deleted)\n"),
                None,
            ),
        ] {
            assert_eq!(
                Origin::in_cgroup(&cgroup),
                origin(Some(ID), pod),
                "{cgroup}"
            );
        }
        let task = "55091c13b8cf4801b9527f4601742204";
        let cgroup = format!("4:cpu:/ecs/{task}/{task}-432624789\n");
        let id = format!("{task}-432624789");
        assert_eq!(Origin::in_cgroup(&cgroup), origin(Some(&id), None));
    }

    #[test]
    fn the_innermost_container_counts_and_the_pod_around_it() {
        let cgroup = format!("0::/docker/{OTHER}/kubepods/burstable/pod{UID}/{ID}\n");
        assert_eq!(Origin::in_cgroup(&cgroup), origin(Some(ID), Some(UID)));
        // A container that a pod runs in is not in that pod.
        let cgroup = format!("0::/docker/{ID}/kubepods/burstable/pod{UID}\n");
        assert_eq!(Origin::in_cgroup(&cgroup).container.as_deref(), Some(ID));
    }

    #[test]
    fn what_runs_in_no_container_has_none() {
        for cgroup in [
            String::new(),
            "0::/\n".to_owned(),
            "0::/system.slice/nginx.service\n".to_owned(),
            "0::/system.slice/run-r0123456789abcdef0123456789abcdef.scope\n".to_owned(),
            "0::/user.slice/user-1000.slice/session-3.scope\n".to_owned(),
            "0::/machine.slice/systemd-nspawn@box.service/payload\n".to_owned(),
            "no colons here".to_owned(),
            // What watches over a container.
            format!("0::/machine.slice/libpod-conmon-{ID}.scope\n"),
            format!("0::/kubepods.slice/crio-conmon-{ID}.scope\n"),
        ] {
            assert_eq!(Origin::in_cgroup(&cgroup), Origin::default(), "{cgroup}");
        }
        let cgroup = format!("12:pids:/kubepods/besteffort/pod{UID}\n");
        assert_eq!(Origin::in_cgroup(&cgroup), origin(None, Some(UID)));
    }

    #[test]
    fn a_process_began_when_its_22nd_field_says() {
        let rest = "S 1 41 41 0 -1 4194560 9 0 0 0 7 8 0 0 20 0 1 0 328749 3133440 360";
        for name in ["cat", "a b) S 1 (", ")", "\u{fffd}\n"] {
            let stat = format!("42 ({name}) {rest}\n");
            assert_eq!(start_in(stat.as_bytes()), Some(328_749), "{name}");
        }
        assert_eq!(start_in(b"42 (\xff) S 1"), None);
        assert_eq!(start_in(b""), None);
    }

    #[test]
    fn this_process_has_a_program_and_a_process_that_is_gone_has_none() {
        assert!(!program_of(std::process::id()).is_empty());
        // Above the largest that the kernel gives out.
        assert_eq!(&*program_of(u32::MAX), "");
    }
}
