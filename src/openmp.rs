//! libtorch's threads on a CPU. GNU's OpenMP makes them, and is asked by its own entries: threads of another pool would compete with these,
//! which wait for work in a loop.

use std::ffi::{CStr, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// What `parallel` runs.
pub type Work = unsafe extern "C" fn(*mut c_void);

/// Runs `work` in so many threads at once, this one among them, and returns when all of them have.
///
/// # Safety
/// `work` may be called with `data` by several threads at once.
pub unsafe fn parallel(threads: u32, work: Work, data: *mut c_void) {
    type Parallel = unsafe extern "C" fn(Work, *mut c_void, u32, u32);
    static PARALLEL: OnceLock<Option<Parallel>> = OnceLock::new();
    // SAFETY: the runtime has had a function of this name and signature since version 4.9 of its compiler.
    let parallel = PARALLEL
        .get_or_init(|| unsafe { entry(c"GOMP_parallel").map(|found| std::mem::transmute::<*mut c_void, Parallel>(found)) });
    match parallel {
        // SAFETY: the caller's promise.
        Some(parallel) if threads > 1 => unsafe { parallel(work, data, threads, 0) },
        // SAFETY: the same.
        _ => unsafe { work(data) },
    }
}

/// Runs `work` on each of these, in so many threads at once. Panics where `work` does, once all threads have ended.
pub fn each<T: Send, F: Fn(&mut T) + Sync>(threads: usize, items: &mut [T], work: F) {
    struct Shared<'a, T, F> {
        items: *mut T,
        count: usize,
        next: AtomicUsize,
        panicked: AtomicBool,
        work: &'a F,
    }
    unsafe extern "C" fn take<T, F: Fn(&mut T)>(data: *mut c_void) {
        // SAFETY: `data` is the `Shared` below, which outlives the threads.
        let shared = unsafe { &*data.cast::<Shared<T, F>>() };
        let next = || Some(shared.next.fetch_add(1, Ordering::Relaxed)).filter(|index| *index < shared.count);
        // The runtime's frames cannot be unwound.
        let taken = catch_unwind(AssertUnwindSafe(|| {
            while let Some(index) = next() {
                // SAFETY: each index is given out once, and is within the slice.
                (shared.work)(unsafe { &mut *shared.items.add(index) });
            }
        }));
        if taken.is_err() {
            shared.panicked.store(true, Ordering::Relaxed);
        }
    }
    let count = items.len();
    let mut shared =
        Shared { items: items.as_mut_ptr(), count, next: AtomicUsize::new(0), panicked: AtomicBool::new(false), work: &work };
    // SAFETY: no item is worked on by two threads, and items may be sent to others.
    unsafe { parallel(threads.clamp(1, count.max(1)) as u32, take::<T, F>, std::ptr::from_mut(&mut shared).cast()) };
    assert!(!shared.panicked.into_inner(), "a thread broke off");
}

/// Ends the threads that work for this one; new ones are made when it next needs any.
///
/// All threads that ever had work done for them keep these helpers, and the runtime counts them. Where there are more than CPUs, none waits for
/// its next piece of work in a loop any longer: each sleeps at once, and waking it costs more than many a piece of a decoding step, which took
/// half as long again. So whoever loads or trains a model lets them go before another thread computes.
pub fn release() {
    type Pause = unsafe extern "C" fn(c_int) -> c_int;
    /// `omp_pause_soft`: settings stay.
    const SOFT: c_int = 1;
    static PAUSE: OnceLock<Option<Pause>> = OnceLock::new();
    // SAFETY: OpenMP 5.0 has this function, with an enumeration for its argument and an integer for what it returns.
    let pause = PAUSE.get_or_init(|| unsafe {
        entry(c"omp_pause_resource_all").map(|found| std::mem::transmute::<*mut c_void, Pause>(found))
    });
    if let Some(pause) = pause {
        // SAFETY: harmless in a thread that has no helpers; where it cannot be done, all stays as it was.
        unsafe { pause(SOFT) };
    }
}

fn entry(name: &CStr) -> Option<*mut c_void> {
    // SAFETY: looks for a name in the libraries that are loaded.
    let found = unsafe { nix::libc::dlsym(nix::libc::RTLD_DEFAULT, name.as_ptr()) };
    (!found.is_null()).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_worked_on_once() {
        for threads in [1, 2, 5] {
            let mut items: Vec<u32> = (0..100).collect();
            each(threads, &mut items, |item| *item += 1);
            assert_eq!(items, (1..101).collect::<Vec<_>>());
        }
        each(2, &mut [0u32; 0], |_| unreachable!());
    }

    #[test]
    #[should_panic(expected = "a thread broke off")]
    fn a_panic_is_passed_on() {
        each(2, &mut [1, 2, 3], |item| assert_ne!(*item, 2));
    }
}
