//! Progress bars and messages on stderr: one `Progress` decides what is shown, so that messages never tear bars.

use std::io::IsTerminal;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Work that is over sooner shows no bar.
const SHOWN_AFTER: Duration = Duration::from_secs(1);

/// Where a stage tells how far it is. The default shows nothing at all.
#[derive(Debug, Clone, Default)]
pub struct Progress {
    /// Bars, where stderr is a terminal and nobody asked for quiet.
    bars: Option<MultiProgress>,
    messages: bool,
}

/// One piece of work. Dropped, it disappears from the screen.
#[derive(Debug)]
pub struct Bar {
    bar: ProgressBar,
    bars: Option<MultiProgress>,
    started: Instant,
    shown: OnceLock<()>,
}

impl Progress {
    /// Messages on stderr, with bars where it is a terminal; nothing where `quiet`.
    pub fn new(quiet: bool) -> Progress {
        let bars = (!quiet && std::io::stderr().is_terminal())
            .then(|| MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(10)));
        Progress { bars, messages: !quiet }
    }

    /// A bar for `total` pieces of work named `what` ("reading files"); 0 where the total is not known.
    pub fn bar(&self, what: &str, total: u64) -> Bar {
        self.styled(what, total, "{msg} {wide_bar} {human_pos}/{human_len} {eta}", "{spinner} {msg} {human_pos}")
    }

    /// A bar that counts bytes.
    pub fn bytes(&self, what: &str, total: u64) -> Bar {
        let known = "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
        self.styled(what, total, known, "{spinner} {msg} {bytes} {bytes_per_sec}")
    }

    fn styled(&self, what: &str, total: u64, known: &str, unknown: &str) -> Bar {
        let template = if total > 0 { known } else { unknown };
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::with_draw_target((total > 0).then_some(total), ProgressDrawTarget::hidden());
        let bar = bar.with_style(style).with_message(what.to_owned());
        Bar { bar, bars: self.bars.clone(), started: Instant::now(), shown: OnceLock::new() }
    }

    /// Whether bars are shown, so that what they say needs no line of its own.
    pub fn has_bars(&self) -> bool {
        self.bars.is_some()
    }

    /// A line for the person who watches; nothing where quiet.
    pub fn message(&self, text: impl AsRef<str>) {
        if !self.messages {
            return;
        }
        match &self.bars {
            Some(bars) => bars.suspend(|| eprintln!("{}", text.as_ref())),
            None => eprintln!("{}", text.as_ref()),
        }
    }

    /// A line that is shown even where quiet: something that should be looked at.
    pub fn warning(&self, text: impl AsRef<str>) {
        match &self.bars {
            Some(bars) => bars.suspend(|| eprintln!("warning: {}", text.as_ref())),
            None => eprintln!("warning: {}", text.as_ref()),
        }
    }

    /// Takes every bar off the screen, before the last lines are printed.
    pub fn clear(&self) {
        if let Some(bars) = &self.bars {
            // A terminal that went away is no reason to fail the work.
            let _ = bars.clear();
        }
    }
}

impl Bar {
    /// Replaces the text beside the bar.
    pub fn tell(&self, what: String) {
        self.bar.set_message(what);
    }

    /// Counts `pieces` as done. Cheap enough for every record; may be called from any thread.
    pub fn inc(&self, pieces: u64) {
        self.bar.inc(pieces);
        if let Some(bars) = &self.bars
            && self.started.elapsed() > SHOWN_AFTER
        {
            self.shown.get_or_init(|| drop(bars.add(self.bar.clone())));
        }
    }
}

impl Bar {
    /// Says something else beside the bar.
    pub fn say(&self, what: &str) {
        self.bar.set_message(what.to_owned());
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
        if let Some(bars) = &self.bars {
            bars.remove(&self.bar);
        }
    }
}
