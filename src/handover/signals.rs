//! Signals that come while one program takes another's place.
//!
//! What is blocked stays so over `execve(2)`, and waits for whoever takes it.

use std::mem::MaybeUninit;
use std::ptr;

use libc::c_int;

/// Those that are listened for: unheard, each would end the process.
const HEARD: [c_int; 4] = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGUSR2];

/// Lets them wait.
pub fn hold_signals() {
    mask(libc::SIG_BLOCK);
}

/// Lets them come, those too that waited.
pub fn release_signals() {
    mask(libc::SIG_UNBLOCK);
}

#[expect(unsafe_code, reason = "no safe function makes this system call")]
fn mask(how: c_int) {
    let mut heard = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset fills the set in, which the others then read and write; the old mask
    // is not asked for. None of them fails with these numbers.
    unsafe {
        libc::sigemptyset(heard.as_mut_ptr());
        for signal in HEARD {
            libc::sigaddset(heard.as_mut_ptr(), signal);
        }
        libc::pthread_sigmask(how, heard.as_ptr(), ptr::null_mut());
    }
}
