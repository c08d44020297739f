//! The system calls of datagram sockets that no crate at hand wraps.

use std::ffi::c_int;
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::envelope::{Envelope, Tells};

/// The place of the datagrams that were dropped among what `SO_MEMINFO` tells, and how many
/// numbers that are (`enum` in `linux/sock_diag.h`).
const SK_MEMINFO_DROPS: usize = 8;
const SK_MEMINFO_VARS: usize = 9;

/// Of something that is a few bytes.
#[expect(clippy::cast_possible_truncation, reason = "a few bytes")]
const fn length<T>() -> libc::socklen_t {
    size_of::<T>() as libc::socklen_t
}

/// Receives the next datagram, without waiting: cut off at the buffer's end, and what is told
/// of it into the envelope.
///
/// # Errors
/// What `recvmsg(2)` fails with; where nothing has come, that it would block.
#[expect(unsafe_code, reason = "safe functions take no pid of 0, and no times")]
pub(super) fn receive(
    socket: BorrowedFd<'_>,
    tells: Tells,
    buffer: &mut [u8],
    envelope: &mut Envelope,
) -> io::Result<()> {
    let mut part = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    let (name, control) = envelope.room(tells);
    // SAFETY: all bytes zero are a value of it: null pointers, and lengths of 0.
    let mut header: libc::msghdr = unsafe { mem::zeroed() };
    header.msg_name = name.as_mut_ptr().cast();
    header.msg_namelen = libc::socklen_t::try_from(name.len()).unwrap_or(0);
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = control.len();
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    // SAFETY: the header points to memory that is lent to this function for longer than the
    // call, and tells how much that is.
    let bytes = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, libc::MSG_DONTWAIT) };
    let Ok(bytes) = usize::try_from(bytes) else {
        return Err(io::Error::last_os_error());
    };
    let name = usize::try_from(header.msg_namelen).unwrap_or(0);
    envelope.close(bytes, name, header.msg_controllen);
    Ok(())
}

/// Has the kernel tell when each datagram was sent (`SO_TIMESTAMPNS`, `socket(7)`).
#[expect(unsafe_code, reason = "no safe function makes this system call")]
pub(super) fn ask_for_times(socket: BorrowedFd<'_>) -> io::Result<()> {
    let on: c_int = 1;
    // SAFETY: the option is one int, which is lent for the call, and its length is told.
    let code = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_TIMESTAMPNS,
            (&raw const on).cast(),
            length::<c_int>(),
        )
    };
    if code == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Datagrams that found no room in a socket since it was made, modulo 2³². Since Linux 4.12.
#[expect(unsafe_code, reason = "no safe function makes this system call")]
pub(super) fn kernel_drops(socket: BorrowedFd<'_>) -> Option<u32> {
    let mut numbers = [0_u32; SK_MEMINFO_VARS];
    let mut bytes = length::<[u32; SK_MEMINFO_VARS]>();
    // SAFETY: both are lent for the call, which writes no more than the length that it is told.
    let code = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MEMINFO,
            numbers.as_mut_ptr().cast(),
            &raw mut bytes,
        )
    };
    let told = usize::try_from(bytes).unwrap_or(0) / size_of::<u32>();
    (code == 0 && told > SK_MEMINFO_DROPS).then(|| numbers[SK_MEMINFO_DROPS])
}
