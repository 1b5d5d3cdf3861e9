//! Memory that one tensor gives back stays with the process for the next one.
//!
//! A step makes and drops tensors of many megabytes, hundreds of times, and each differs from the last by a few rows. glibc maps every
//! large block anew and gives it back to the kernel at once, which then fills each page with zeros again: a tenth of the time of a forest's step.
//! With thresholds above any tensor, blocks come from the heap, which keeps them.

/// Blocks up to this size come from the heap, and up to this much free memory at its end is kept. More than any tensor of a step.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const THRESHOLD_BYTES: i32 = 1 << 30;

/// What older versions of glibc take at most.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const OLDER_THRESHOLD_BYTES: i32 = 32 << 20;

/// Lets the process keep what it frees, from here to its end. Changes speed, and no number.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub fn keep_freed() {
    use nix::libc::{M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, mallopt};
    // SAFETY: `mallopt` takes two integers and locks what it changes; it returns 0 where it takes a value not.
    unsafe {
        if mallopt(M_MMAP_THRESHOLD, THRESHOLD_BYTES) == 0 {
            mallopt(M_MMAP_THRESHOLD, OLDER_THRESHOLD_BYTES);
        }
        mallopt(M_TRIM_THRESHOLD, THRESHOLD_BYTES);
    }
}

/// Gives the kernel back what is free now: training is over, and the stages after it are others.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub fn give_back() {
    // SAFETY: `malloc_trim` takes the bytes to keep, and locks what it changes.
    unsafe { nix::libc::malloc_trim(0) };
}

/// Other allocators are left as they are.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn keep_freed() {}

/// See `keep_freed`.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn give_back() {}
