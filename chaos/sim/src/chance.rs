//! Chance: whatever asks the system for random bytes, in whatever library, gets those of the seed; every process has one
//! number; and the system's clocks stand still: time is what the simulation says.
//!
//! The standard library draws the keys of hash maps here, once a thread: a simulation therefore needs a fresh one.
#![allow(unsafe_code, reason = "functions of the C library are put in place of others")]

use std::ffi::c_void;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

static SEEDED: AtomicBool = AtomicBool::new(false);
static STATE: AtomicU64 = AtomicU64::new(0);

/// From here on everything in this process follows from `seed`.
pub(crate) fn seed(seed: u64) {
    STATE.store(seed, Ordering::SeqCst);
    SEEDED.store(true, Ordering::SeqCst);
}

/// SplitMix64 (Steele et al. 2014).
fn number() -> u64 {
    let state = STATE.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::SeqCst);
    let mut mixed = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// In place of the C library's.
///
/// # Safety
/// `buffer` is `length` bytes that may be written.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn getrandom(buffer: *mut c_void, length: usize, flags: u32) -> isize {
    if !SEEDED.load(Ordering::SeqCst) {
        // SAFETY: as the caller says.
        return unsafe { libc::syscall(libc::SYS_getrandom, buffer, length, flags) as isize };
    }
    // SAFETY: as the caller says.
    let bytes = unsafe { std::slice::from_raw_parts_mut(buffer.cast::<u8>(), length) };
    for chunk in bytes.chunks_mut(8) {
        chunk.copy_from_slice(&number().to_le_bytes()[..chunk.len()]);
    }
    length as isize
}

/// In place of the C library's.
///
/// # Safety
/// `time` may be written.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn clock_gettime(
    clock: libc::clockid_t,
    time: *mut libc::timespec,
) -> libc::c_int {
    if !SEEDED.load(Ordering::SeqCst) {
        // SAFETY: as the caller says.
        return unsafe { libc::syscall(libc::SYS_clock_gettime, clock, time) as libc::c_int };
    }
    // SAFETY: as the caller says.
    unsafe { *time = libc::timespec { tv_sec: 1_800_000_000, tv_nsec: 0 } };
    0
}

/// In place of the C library's.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn getpid() -> libc::pid_t {
    if SEEDED.load(Ordering::SeqCst) {
        return 4_242;
    }
    // SAFETY: the call has no preconditions.
    unsafe { libc::syscall(libc::SYS_getpid) as libc::pid_t }
}
