//! Exit codes, the errors that choose one, and the end of the process.

/// What the process tells its caller. Schedulers act on these, so they never change meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitCode {
    /// Done, or nothing to do.
    Done = 0,
    /// A check on the data failed, or the work could not be done.
    Failed = 1,
    /// Wrong use: a flag, a key, a file that is not there.
    Usage = 2,
    /// Try again later: a lock, a store that is down, another run that committed first.
    TryAgain = 75,
    /// Ended by Ctrl-C after cleaning up.
    Interrupted = 130,
    /// Ended by SIGTERM after cleaning up.
    Terminated = 143,
}

/// An error that decides the exit code. Attach it with `anyhow`; whatever has none exits 1.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    #[error("{0}")]
    Failed(String),
    #[error("{0}")]
    Usage(String),
    #[error("{0}")]
    TryAgain(String),
    #[error("stopped by Ctrl-C; nothing was committed")]
    Interrupted,
    #[error("stopped by SIGTERM; nothing was committed")]
    Terminated,
}

impl Fault {
    pub fn code(&self) -> ExitCode {
        match self {
            Fault::Failed(_) => ExitCode::Failed,
            Fault::Usage(_) => ExitCode::Usage,
            Fault::TryAgain(_) => ExitCode::TryAgain,
            Fault::Interrupted => ExitCode::Interrupted,
            Fault::Terminated => ExitCode::Terminated,
        }
    }
}

/// The exit code of an error: that of the first `Fault` in its chain, else `Failed`.
pub fn code_of(error: &anyhow::Error) -> ExitCode {
    // A fault attached as context is known to `anyhow` alone, one inside another error's sources only to the chain.
    let fault = error.downcast_ref::<Fault>().or_else(|| error.chain().find_map(|cause| cause.downcast_ref::<Fault>()));
    fault.map_or(ExitCode::Failed, Fault::code)
}

/// Ends the process at once, whatever other threads do; what stdout still holds is lost. libtorch would take its thousands of operators apart
/// one by one, for a tenth of a second of every command.
pub fn leave(code: i32) -> ! {
    #[cfg(feature = "torch")]
    // SAFETY: it returns to nobody. Destructors of statics are left out, none of which is of this program.
    unsafe {
        nix::libc::_exit(code)
    }
    #[cfg(not(feature = "torch"))]
    std::process::exit(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_decides_wherever_it_stands() {
        let alone = anyhow::Error::new(Fault::Usage("x".into()));
        let as_cause = anyhow::Error::new(Fault::TryAgain("x".into())).context("doing this");
        let as_context = anyhow::anyhow!("no answer").context(Fault::TryAgain("x".into())).context("doing this");
        let none = anyhow::anyhow!("no answer").context("doing this");
        let codes = [alone, as_cause, as_context, none].map(|error| code_of(&error));
        assert_eq!(codes, [ExitCode::Usage, ExitCode::TryAgain, ExitCode::TryAgain, ExitCode::Failed]);
    }
}
