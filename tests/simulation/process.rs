//! One seed in a process of its own that is made in no time: a copy of this one. tokio draws from a counter of the process,
//! which so is the same at the beginning of every seed; and a seed that panics, hangs or dies ends nobody else.

#![expect(unsafe_code, reason = "the standard library has no word for a copy of the process")]

use std::{
    ffi::{c_int, c_uint},
    io::Write,
};

/// Seconds; a seed that needs longer is killed. A busy machine needs one or two.
const LONGEST_SECONDS: c_uint = 120;

unsafe extern "C" {
    fn fork() -> c_int;
    fn waitpid(process: c_int, status: *mut c_int, options: c_int) -> c_int;
    fn alarm(seconds: c_uint) -> c_uint;
    fn _exit(status: c_int) -> !;
}

/// Does the work in a copy of this process and writes what it gives to standard output; returns when the copy has ended,
/// with its status: 0 for one that did the work to its end. No other thread may be doing anything: what it has locked stays
/// locked in the copy.
pub fn in_a_copy(work: impl FnOnce() -> String) -> c_int {
    // SAFETY: functions of POSIX, called as it says. The copy uses nothing that another thread could have locked.
    unsafe {
        match fork() {
            -1 => panic!("no copy of the process: {}", std::io::Error::last_os_error()),
            0 => {
                alarm(LONGEST_SECONDS);
                let said = work();
                let told =
                    std::io::stdout().write_all(said.as_bytes()).and_then(|()| std::io::stdout().flush());
                _exit(told.is_err().into())
            }
            process => {
                let mut status = 0;
                assert_eq!(waitpid(process, &raw mut status, 0), process);
                status
            }
        }
    }
}
