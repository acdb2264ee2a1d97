//! What the operating system says of time and chance. On a thread that simulates, the simulation answers: so every clock and
//! every random number of the code under test, in the standard library and below it too, follows from the seed alone.
//!
//! The two functions stand in place of libc's in this test program. On other threads they ask the kernel.

#![expect(unsafe_code, reason = "functions of C are replaced, and called, by hand")]

use std::{
    cell::Cell,
    ffi::{c_int, c_long, c_uint, c_void},
    time::Duration,
};

thread_local! {
    static NOW: Cell<Option<Duration>> = const { Cell::new(None) };
    static CHANCE: Cell<u64> = const { Cell::new(0) };
}

/// When every simulation begins, since 1970: the wall clock's.
pub const EPOCH: Duration = Duration::from_secs(1_767_225_600);

/// The monotonic clock's beginning: code may look back from it.
const BOOT: Duration = Duration::from_secs(1_000_000);

/// From here on this thread simulates. To be called first on a new thread: what was drawn before is not of this seed.
pub fn begin(seed: u64) {
    NOW.set(Some(Duration::ZERO));
    CHANCE.set(seed);
    fastrand::seed(seed);
}

/// Sets how much time has passed in this thread's simulation.
pub fn set_elapsed(elapsed: Duration) {
    NOW.set(Some(elapsed));
}

/// How much time has passed.
pub fn elapsed() -> Duration {
    NOW.get().unwrap_or_default()
}

/// SplitMix64: any seed gives a good sequence.
fn next_chance() -> u64 {
    let state = CHANCE.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
    CHANCE.set(state);
    let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[repr(C)]
struct Timespec {
    seconds: i64,
    nanoseconds: c_long,
}

unsafe extern "C" {
    fn syscall(number: c_long, ...) -> c_long;
}

#[cfg(target_arch = "x86_64")]
const CLOCK_GETTIME: c_long = 228;
#[cfg(target_arch = "x86_64")]
const GETRANDOM: c_long = 318;
#[cfg(target_arch = "aarch64")]
const CLOCK_GETTIME: c_long = 113;
#[cfg(target_arch = "aarch64")]
const GETRANDOM: c_long = 278;

/// The wall clock's number.
const CLOCK_REALTIME: c_int = 0;

#[unsafe(no_mangle)]
extern "C" fn clock_gettime(clock: c_int, time: *mut Timespec) -> c_int {
    let Some(elapsed) = NOW.get() else {
        // SAFETY: the caller's own call, handed on.
        return unsafe { syscall(CLOCK_GETTIME, clock, time) as c_int };
    };
    let now = elapsed + if clock == CLOCK_REALTIME { EPOCH } else { BOOT };
    let now = Timespec { seconds: now.as_secs() as i64, nanoseconds: now.subsec_nanos().into() };
    // SAFETY: the caller gives a place for a time, as the function's contract says.
    unsafe { time.write(now) };
    0
}

#[unsafe(no_mangle)]
extern "C" fn getrandom(buffer: *mut c_void, length: usize, flags: c_uint) -> isize {
    if NOW.get().is_none() {
        // SAFETY: the caller's own call, handed on.
        return unsafe { syscall(GETRANDOM, buffer, length, flags) as isize };
    }
    for place in 0..length {
        // SAFETY: the caller gives room for so many bytes, as the function's contract says.
        unsafe { buffer.cast::<u8>().add(place).write(next_chance() as u8) };
    }
    length as isize
}
