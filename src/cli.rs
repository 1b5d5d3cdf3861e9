//! The command line: flags as data, one arm of dispatch a subcommand, and what a caller gets back.

mod dispatch;
mod globals;
mod reporter;
mod signals;
#[cfg(feature = "torch")]
mod torch;

use std::path::PathBuf;

use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use crate::commands;
pub use dispatch::run;
pub use reporter::Reporter;
#[cfg(feature = "torch")]
pub use torch::TorchCommand;

/// Reinforcement learning for any AI agent, from the trace files it leaves behind.
#[derive(Debug, Parser)]
#[command(
    name = "fulgurite",
    version,
    disable_help_subcommand = true,
    before_help = "Examples:
  fulgurite ingest traces/ --lake runs/lake --batch 2026-11-22
  fulgurite build --lake runs/lake --batch 2026-11-22
  fulgurite sql --lake runs/lake \"select agent, count(*) from calls group by agent\"
  fulgurite status --lake runs/lake"
)]
pub struct Cli {
    #[command(flatten)]
    pub globals: Globals,
    #[command(subcommand)]
    pub command: Command,
}

/// What every subcommand understands.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Everywhere")]
pub struct Globals {
    /// The lake: a directory, or a URL (file://, s3://, gs://, az://)
    #[arg(long, global = true, value_name = "URL")]
    pub lake: Option<String>,
    /// The batch: a day of traces (2026-11-22) or an iteration of a loop (iter-0003)
    #[arg(long, global = true, value_name = "ID")]
    pub batch: Option<String>,
    /// Pipeline file (TOML); user SQL is looked for beside it
    #[arg(long, global = true, value_name = "FILE")]
    pub pipeline: Option<PathBuf>,
    /// Override one key of the pipeline file; may be given again
    #[arg(long = "set", global = true, value_name = "STAGE.KEY=VALUE")]
    pub settings: Vec<String>,
    /// Threads for everything; 0 takes every core
    #[arg(long, global = true, value_name = "N")]
    pub threads: Option<usize>,
    /// Redo a stage even where it is fresh or sealed
    #[arg(long, global = true)]
    pub rebuild: bool,
    /// Say what would be done, and do nothing
    #[arg(long, global = true)]
    pub dry_run: bool,
    /// One line of JSON on stdout, last of all
    #[arg(long, global = true)]
    pub json: bool,
    /// Write that JSON to a file as well (a Kubernetes pod's XCom)
    #[arg(long, global = true, value_name = "FILE")]
    pub summary_out: Option<PathBuf>,
    /// Exit with N where nothing was to do (Airflow skips on 99)
    #[arg(long, global = true, value_name = "N")]
    pub skip_exit_code: Option<u8>,
    /// Print warnings and errors only
    #[arg(long, short, global = true)]
    pub quiet: bool,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Read trace files into the tables spans and rejects
    #[command(before_help = "Examples:
  fulgurite ingest traces/ --lake runs/lake --batch 2026-11-22
  fulgurite ingest 'traces/**/*.jsonl*' s3://bucket/traces/ --lake s3://bucket/lake --batch 2026-11-22
  fulgurite ingest - --lake runs/lake --batch 2026-11-22 < traces.jsonl")]
    Ingest {
        /// Files, directories, globs in quotes, URLs of objects or prefixes, or - for standard input; all of a batch together
        #[arg(required = true, value_name = "PATHS")]
        paths: Vec<String>,
        /// Exit with 1 and commit nothing where more records are set aside: a number, or a share such as 5%
        #[arg(long, value_name = "N")]
        max_rejects: Option<String>,
        /// Also read the files that the batch was read from before: late spans join the rollouts that they belong to
        #[arg(long)]
        add: bool,
        /// Then derive, air and credit, as `fulgurite build` does, in the same process
        #[arg(long)]
        build: bool,
        /// Only rollouts that began on this day or later: a day (midnight UTC), or an ISO 8601 time
        #[arg(long, value_name = "DAY")]
        since: Option<String>,
        /// Only rollouts that began before this day
        #[arg(long, value_name = "DAY")]
        until: Option<String>,
    },
    /// Derive, air and credit: whatever is stale, in order, with audits
    #[command(before_help = "Example:
  fulgurite build --lake runs/lake --batch 2026-11-22 --pipeline pipeline.toml")]
    Build,
    /// Spans into rollouts, calls, tool_calls and rewards
    #[command(before_help = "Example:
  fulgurite derive --lake runs/lake --batch 2026-11-22")]
    Derive,
    /// Intermediate rewards, found by rules
    #[command(before_help = "Examples:
  fulgurite air --lake runs/lake --batch 2026-11-22
  fulgurite air --lake runs/lake --batch 2026-11-22 --explain ROLLOUT")]
    Air {
        /// Show, call by call, what was found in a rollout, instead of running the stage
        #[arg(long, value_name = "ROLLOUT")]
        explain: Option<String>,
    },
    /// Advantages: what each call answers for
    #[command(before_help = "Examples:
  fulgurite credit --lake runs/lake --batch 2026-11-22 --set credit.method=return_to_go
  fulgurite credit --lake runs/lake --batch 2026-11-22 --explain ROLLOUT")]
    Credit {
        /// Show, call by call, what a rollout was given and why, instead of running the stage
        #[arg(long, value_name = "ROLLOUT")]
        explain: Option<String>,
    },
    #[cfg(feature = "torch")]
    #[command(flatten)]
    Torch(TorchCommand),
    /// Ask the tables: a query, a file, a pipe or a prompt
    #[command(before_help = "Examples:
  fulgurite sql --lake runs/lake                                          a prompt
  fulgurite sql --lake runs/lake \"select * from rollouts limit 5\"
  fulgurite sql --lake runs/lake -f report.sql --output report.csv
  fulgurite sql --lake runs/lake --views duckdb | duckdb")]
    Sql(commands::sql::SqlArgs),
    /// Which transitions differ between two batches or two settings, and why
    #[command(before_help = "Examples:
  fulgurite diff --lake runs/lake --batch 2026-11-22 --other-set credit.compat=agl-0.3
  fulgurite diff --lake runs/lake --batch 2026-11-22 --pipeline mine.toml --other-pipeline theirs.toml --output diff.csv
  fulgurite diff --lake runs/lake --batch 2026-11-22 --other-batch 2026-11-22-again    as both are committed")]
    Diff(commands::diff::DiffArgs),
    /// One HTML page of a lake: curves, credit, failures, and rollouts to open
    #[cfg(feature = "torch")]
    #[command(before_help = "Examples:
  fulgurite report --lake runs/lake --output report.html
  fulgurite report --lake runs/lake --batch 2026-11-22 --rollouts 50")]
    Report(commands::report::ReportArgs),
    /// Every stage and batch, and whether it is fresh
    #[command(before_help = "Examples:
  fulgurite status --lake runs/lake
  fulgurite status --lake runs/lake --pipeline pipeline.toml    judged by these settings")]
    Status,
    /// Declare what a stage made of a batch done for good: later settings do not make it stale
    #[command(before_help = "Example:
  fulgurite seal credit --lake runs/lake --batch iter-0003")]
    Seal { stage: String },
    /// Remove data files that count no more
    #[command(before_help = "Example:
  fulgurite vacuum --lake runs/lake --dry-run")]
    Vacuum {
        /// Hours that a superseded file stays; longer than the longest run and query
        #[arg(long, value_name = "HOURS", default_value_t = 24.0)]
        grace: f64,
    },
    /// Every key of the pipeline file, with type, default and meaning
    #[command(before_help = "Example:
  fulgurite config --format toml > pipeline.toml")]
    Config {
        #[arg(long, value_enum, default_value_t = commands::config::Format::Text)]
        format: commands::config::Format,
    },
    /// What this machine has and lacks
    #[command(before_help = "Example:
  fulgurite doctor")]
    Doctor,
    /// The completion script of a shell
    #[command(before_help = "Example:
  fulgurite completions bash > ~/.local/share/bash-completion/completions/fulgurite")]
    Completions {
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    /// The man page, in roff
    #[command(before_help = "Example:
  fulgurite man | man -l -")]
    Man {
        /// Page of one subcommand instead of the whole
        subcommand: Option<String>,
    },
}

/// Examples come first: they are what most readers of a help page look for.
const HELP: &str = "{about-with-newline}\n{before-help}{usage-heading} {usage}\n\n{all-args}{after-help}\n";

/// The command line as clap sees it, for parsing, completions and man pages.
pub fn command() -> clap::Command {
    Cli::command()
        .help_template(HELP)
        .mut_subcommands(|subcommand| subcommand.help_template(HELP).mut_subcommands(|inner| inner.help_template(HELP)))
}

/// Parses the process's arguments. Help and the version are errors, too, whose text is to be printed and whose code is 0.
pub fn parse() -> Result<Cli, clap::Error> {
    Cli::from_arg_matches(&command().try_get_matches()?)
}

impl Cli {
    /// Tells the caller how it ended, also where the work fails.
    pub fn reporter(&self) -> Reporter {
        Reporter::new(&self.globals)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }
}
