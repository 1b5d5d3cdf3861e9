//! What a caller gets back.

use std::io::Write as _;

use anyhow::{Context as _, Result};

use super::Globals;
use crate::exit::ExitCode;
use crate::progress::Progress;
use crate::stage::Summary;

/// Tells the caller how a stage ended: a sentence on stderr, with `--json` one line on stdout, with `--summary-out` a file.
#[derive(Debug, Clone)]
pub struct Reporter {
    globals: Globals,
}

impl Reporter {
    pub fn new(globals: &Globals) -> Self {
        Self { globals: globals.clone() }
    }

    /// Tells a person how a stage ended.
    pub fn tell(&self, progress: &Progress, summary: &Summary) {
        progress.clear();
        for warning in &summary.warnings {
            progress.warning(warning);
        }
        progress.message(summary.to_string());
    }

    /// Writes the summary of a command that came to its end. Returns the exit code.
    pub fn finished(&self, summary: &Summary) -> Result<u8> {
        self.write(&serde_json::to_string(summary).context("the summary cannot be written as JSON")?)?;
        match self.globals.skip_exit_code {
            Some(code) if summary.status == "nothing_to_do" => Ok(code),
            _ => Ok(ExitCode::Done as u8),
        }
    }

    /// Reports an error, for callers that read the summary instead of stderr.
    pub fn failed(&self, error: &anyhow::Error, code: ExitCode) -> Result<()> {
        let summary = serde_json::json!({
            "status": "failed",
            "batch": self.globals.batch,
            "error": {
                "exit_code": code as u8,
                "message": format!("{error:#}"),
                "try_again": matches!(code, ExitCode::TryAgain | ExitCode::Interrupted | ExitCode::Terminated),
            },
        });
        self.write(&summary.to_string())
    }

    fn write(&self, line: &str) -> Result<()> {
        if let Some(path) = &self.globals.summary_out {
            std::fs::write(path, format!("{line}\n"))
                .with_context(|| format!("cannot write the summary to `{}`", path.display()))?;
        }
        if self.globals.json {
            writeln!(std::io::stdout(), "{line}")?;
        }
        Ok(())
    }
}
