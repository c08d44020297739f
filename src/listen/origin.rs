//! Who a process is: its program, and the container that it runs in.

use std::fs;

/// Bytes of a container id: 64 hexadecimal digits with docker, containerd,
/// CRI-O and podman.
const ID_BYTES: usize = 64;

/// Bytes before the dash of a task's id on AWS Fargate.
const TASK_ID_BYTES: usize = 32;

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

/// The id of the container that a process runs in.
#[must_use]
pub fn container_of(pid: u32) -> Option<Box<str>> {
    let cgroup = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    container_in(&cgroup).map(Into::into)
}

/// The container id in a `/proc/PID/cgroup` (`cgroups(7)`), where each line is
/// `number:controllers:path`; the innermost wins.
#[must_use]
pub fn container_in(cgroup: &str) -> Option<&str> {
    cgroup.lines().find_map(|line| {
        let path = line.splitn(3, ':').nth(2)?;
        path.rsplit('/').find_map(container_id)
    })
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

    #[test]
    fn the_container_is_found_in_every_runtimes_cgroup() {
        for cgroup in [
            // Version 1: docker, kubelet with cgroupfs and with systemd, podman.
            format!("13:name=systemd:/docker/{ID}\n12:pids:/docker/{ID}\n"),
            format!(
                "11:devices:/kubepods/besteffort/pod3d274242-8ee0-11e9-a8a6-1e68d864ef1a/{ID}\n"
            ),
            format!(
                "1:name=systemd:/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod2d3da189_6407_48e3_9ab6_78188d75e609.slice/docker-{ID}.scope\n"
            ),
            format!(
                "1:name=systemd:/system.slice/containerd.service/kubepods-burstable-podf9a04ecc_1875_491b_926c_d2f64757704e.slice:cri-containerd:{ID}\n"
            ),
            format!("9:freezer:/machine.slice/libpod-{ID}.scope\n0::/\n"),
            // Version 2.
            format!("0::/system.slice/docker-{ID}.scope\n"),
            format!("0::/kubepods.slice/kubepods-pod5f.slice/cri-containerd-{ID}.scope\n"),
            format!("0::/kubepods.slice/kubepods-pod5f.slice/crio-{ID}.scope/container\n"),
            format!(
                "0::/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{ID}.scope/init.scope\n"
            ),
            format!("0::/../{ID}\n"),
        ] {
            assert_eq!(container_in(&cgroup), Some(ID), "{cgroup}");
        }
        assert_eq!(
            container_in(
                "4:cpu:/ecs/55091c13b8cf4801b9527f4601742204/55091c13b8cf4801b9527f4601742204-432624789\n"
            ),
            Some("55091c13b8cf4801b9527f4601742204-432624789")
        );
    }

    #[test]
    fn the_innermost_container_wins() {
        let outer = ID.replace('3', "4");
        let cgroup = format!("0::/docker/{outer}/kubepods/pod1/{ID}\n");
        assert_eq!(container_in(&cgroup), Some(ID));
    }

    #[test]
    fn what_runs_in_no_container_has_none() {
        for cgroup in [
            "",
            "0::/\n",
            "0::/system.slice/nginx.service\n",
            "0::/user.slice/user-1000.slice/session-3.scope\n",
            "12:pids:/kubepods/besteffort/pod3d274242-8ee0-11e9-a8a6-1e68d864ef1a\n",
            "no colons here",
        ] {
            assert_eq!(container_in(cgroup), None, "{cgroup}");
        }
        let conmon = format!("0::/machine.slice/libpod-conmon-{ID}.scope\n");
        assert_eq!(container_in(&conmon), None);
    }

    #[test]
    fn this_process_has_a_program_and_a_process_that_is_gone_has_none() {
        assert!(!program_of(std::process::id()).is_empty());
        // Above the largest that the kernel gives out.
        assert_eq!(&*program_of(u32::MAX), "");
        assert_eq!(container_of(u32::MAX), None);
    }
}
