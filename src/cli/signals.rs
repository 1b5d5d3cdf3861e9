//! Ctrl-C and SIGTERM.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::exit;
use crate::stage::Stop;

/// `timeout` and some shells send one wish to end twice, to the process and to its group.
const ONE_WISH: Duration = Duration::from_secs(1);

/// Sets `stop` when Ctrl-C or SIGTERM comes, so that the stage cleans up and ends; who asks again later ends the process at once.
pub fn install(stop: &Stop) -> Result<()> {
    use signal_hook::consts::{SIGINT, SIGTERM};
    let flag = stop.flag();
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM]).context("cannot listen for signals")?;
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        let mut asked = Instant::now();
        for signal in signals.forever() {
            let again = flag.swap(signal as u8, Ordering::Relaxed) != 0;
            if !again {
                asked = Instant::now();
            } else if asked.elapsed() > ONE_WISH {
                exit::leave(128 + signal);
            }
        }
    })?;
    Ok(())
}
