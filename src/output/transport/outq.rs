//! What a socket has sent and nobody has taken yet.

use std::os::fd::AsFd;

use rustix::ffi::c_int;
use rustix::ioctl::{Getter, Opcode, ioctl};

/// `SIOCOUTQ` of `linux/sockios.h`, which is `TIOCOUTQ`.
#[expect(clippy::cast_possible_truncation, reason = "such numbers have 32 bits")]
const SIOCOUTQ: Opcode = libc::TIOCOUTQ as Opcode;

/// Whether the receiver has taken all: read it, with a unix socket; acknowledged it,
/// with TCP (unix(7), tcp(7)).
#[expect(unsafe_code, reason = "no safe function makes this system call")]
pub(super) fn is_empty(socket: impl AsFd) -> bool {
    // SAFETY: SIOCOUTQ writes one int, which is what this getter holds.
    let bytes = unsafe { ioctl(socket, Getter::<SIOCOUTQ, c_int>::new()) };
    bytes == Ok(0)
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_socket_is_empty_once_all_is_read() {
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        assert!(is_empty(&ours));
        ours.write_all(b"abc").unwrap();
        assert!(!is_empty(&ours));
        theirs.read_exact(&mut [0; 3]).unwrap();
        assert!(is_empty(&ours));
    }
}
