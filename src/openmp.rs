//! libtorch's threads on a CPU. GNU's OpenMP makes them, and is asked by its own entries: threads of another pool would compete with these,
//! which wait for work in a loop.

use std::ffi::{CStr, c_int, c_void};
use std::sync::OnceLock;

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
