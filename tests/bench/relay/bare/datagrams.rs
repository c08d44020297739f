//! The least with datagrams: each becomes a frame, and what has come goes out in one write.

use std::io::{self, IoSliceMut};
use std::net::UdpSocket;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::ptr;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{RecvAncillaryBuffer, RecvFlags, recvmsg};

use super::{BUFFER_BYTES, Output};
use crate::workload::{Reads, Source};

/// Room for a datagram of the generator.
const SLOT_BYTES: usize = 2 << 10;
/// Datagrams of a batch.
const SLOTS: usize = 32;

/// Binds `place`, says so, and relays what comes there.
pub(super) fn relay(
    source: Source,
    place: &str,
    reads: Reads,
    output: &mut Output,
) -> io::Result<()> {
    let socket: OwnedFd = match source {
        Source::Udp => UdpSocket::bind(place)?.into(),
        _ => UnixDatagram::bind(place)?.into(),
    };
    println!("ready");
    let mut slots = vec![0; SLOT_BYTES * SLOTS];
    let mut frames = Vec::with_capacity(BUFFER_BYTES);
    loop {
        poll(&mut [PollFd::new(&socket, PollFlags::IN)], None)?;
        frames.clear();
        while frames.len() + SLOT_BYTES * SLOTS <= BUFFER_BYTES * 2 {
            let count = match reads {
                Reads::Single => single(&socket, &mut slots, &mut frames)?,
                Reads::Batch => batch(&socket, &mut slots, &mut frames)?,
            };
            if count == 0 {
                break;
            }
        }
        output.send(&frames)?;
    }
}

fn push(datagram: &[u8], frames: &mut Vec<u8>) -> io::Result<()> {
    let length = u32::try_from(datagram.len()).map_err(io::Error::other)?;
    frames.extend_from_slice(&length.to_le_bytes());
    frames.extend_from_slice(datagram);
    Ok(())
}

/// How many datagrams have come: none, once there are no more.
fn single(socket: impl AsFd, slots: &mut [u8], frames: &mut Vec<u8>) -> io::Result<usize> {
    let mut control = RecvAncillaryBuffer::default();
    let (slot, _) = slots.split_at_mut(SLOT_BYTES);
    let parts = &mut [IoSliceMut::new(slot)];
    match recvmsg(socket, parts, &mut control, RecvFlags::DONTWAIT) {
        Ok(received) => push(&slots[..received.bytes], frames).map(|()| 1),
        Err(error) if error == rustix::io::Errno::AGAIN => Ok(0),
        Err(error) => Err(error.into()),
    }
}

#[expect(unsafe_code, reason = "no crate at hand wraps recvmmsg(2)")]
fn batch(socket: impl AsFd, slots: &mut [u8], frames: &mut Vec<u8>) -> io::Result<usize> {
    let mut parts: Vec<libc::iovec> = slots
        .chunks_mut(SLOT_BYTES)
        .map(|slot| libc::iovec {
            iov_base: slot.as_mut_ptr().cast(),
            iov_len: slot.len(),
        })
        .collect();
    let mut messages: Vec<libc::mmsghdr> = parts
        .iter_mut()
        .map(|part| {
            // SAFETY: zero bytes are a value of this type: null pointers and lengths of 0.
            let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
            message.msg_hdr.msg_iov = part;
            message.msg_hdr.msg_iovlen = 1;
            message
        })
        .collect();
    let count = u32::try_from(messages.len()).map_err(io::Error::other)?;
    // SAFETY: there are `count` messages, each of which points to a part that lives as long
    // as `slots` is lent to us, and is told its length.
    let received = unsafe {
        libc::recvmmsg(
            socket.as_fd().as_raw_fd(),
            messages.as_mut_ptr(),
            count,
            libc::MSG_DONTWAIT,
            ptr::null_mut(),
        )
    };
    let Ok(received) = usize::try_from(received) else {
        let error = io::Error::last_os_error();
        return match error.kind() {
            io::ErrorKind::WouldBlock => Ok(0),
            _ => Err(error),
        };
    };
    for (message, slot) in messages.iter().zip(slots.chunks(SLOT_BYTES)).take(received) {
        push(&slot[..message.msg_len as usize], frames)?;
    }
    Ok(received)
}
