//! The command `fulgurite`: parses, dispatches, prints the error chain once, sets the exit code.

use std::ffi::{c_int, c_long};
use std::io::Write as _;

use fulgurite::cli::{self, Cli};
use fulgurite::exit;
use mimalloc::MiMalloc;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

/// The stages allocate much and from several threads: a tenth of their CPU time went by in glibc's allocator.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// How long memory that was given back stays with the process, in milliseconds. Stages give and take megabytes many times a second; after
/// mimalloc's own second the kernel had a tenth of the CPU time of `ingest`, `air` and `credit`, clearing the same pages again.
const PURGE_DELAY_MS: c_long = 10_000;

/// `mi_option_purge_delay` of mimalloc.h, and what sets it: the crate wraps neither.
const PURGE_DELAY: c_int = 15;
unsafe extern "C" {
    fn mi_option_set(option: c_int, value: c_long);
}

fn main() {
    // Who sets MIMALLOC_PURGE_DELAY knows better.
    if std::env::var_os("MIMALLOC_PURGE_DELAY").is_none() {
        // SAFETY: it stores a number that mimalloc reads as an atomic.
        unsafe { mi_option_set(PURGE_DELAY, PURGE_DELAY_MS) };
    }
    let code = match cli::parse() {
        Ok(cli) => run(cli),
        // Help and the version come this way, too.
        Err(error) => {
            let _ = error.print(); // the code says it as well
            error.exit_code()
        }
    };
    let _ = std::io::stdout().flush(); // nobody is left to be told
    exit::leave(code)
}

/// Runs a command. Returns the exit code.
fn run(cli: Cli) -> i32 {
    // Silent unless RUST_LOG asks, such as RUST_LOG=fulgurite::engine=debug for the plans of SQL stages.
    let filter = EnvFilter::builder().with_default_directive(LevelFilter::OFF.into()).from_env_lossy();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let reporter = cli.reporter();
    match cli::run(cli) {
        Ok(code) => code.into(),
        // The reader of our output went away (`| head`): it has what it wanted.
        Err(error) if is_broken_pipe(&error) => 0,
        Err(error) => {
            let code = exit::code_of(&error);
            print_chain(&error);
            if let Err(error) = reporter.failed(&error, code) {
                print_chain(&error);
            }
            code as i32
        }
    }
}

fn print_chain(error: &anyhow::Error) {
    eprintln!("error: {error}");
    for cause in error.chain().skip(1) {
        eprintln!("  because {cause}");
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<std::io::Error>())
        .any(|cause| cause.kind() == std::io::ErrorKind::BrokenPipe)
}
