//! The command line: flags as data, one arm of dispatch a subcommand, and what a caller gets back.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use crate::commands;
use crate::commands::diff::Side;
use crate::config::Config;
use crate::exit::{ExitCode, Fault};
use crate::lake::Lake;
use crate::progress::Progress;
use crate::stage::{Context, Stop, Summary};
use crate::{air, credit, derive, ingest};

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
    /// What a policy's value head expects at each call, for `credit.method = "gae"`
    #[cfg(feature = "torch")]
    #[command(before_help = "Example:
  fulgurite values --lake runs/lake --batch iter-0003")]
    Values,
    /// Transitions and policy N into policy N+1
    #[cfg(feature = "torch")]
    #[command(before_help = "Examples:
  fulgurite train --lake runs/lake --batch iter-0003
  fulgurite train --lake runs/lake --batch warm --set train.algorithm=sft --set train.min_outcome=1 --set train.learning_rate=1e-5")]
    Train,
    /// A policy, or another server, behind OpenAI's APIs
    #[cfg(feature = "torch")]
    #[command(before_help = "Examples:
  fulgurite serve --lake runs/lake --version 3
  fulgurite serve --lake runs/lake --batch 2026-11-22                    calls under /rollout/<id>/attempt/0/v1 are recorded
  fulgurite serve --set serve.upstream=http://127.0.0.1:8000/v1 --set serve.dialect=vllm")]
    Serve(commands::serve::ServeArgs),
    /// Tasks and a policy into fresh traces
    #[cfg(feature = "torch")]
    #[command(before_help = "Examples:
  fulgurite rollout --pipeline pipelines/calc.toml --lake runs/calc --batch iter-0003
  fulgurite rollout --pipeline pipelines/calc.toml --lake runs/calc --batch iter-0003 --shard 0/4")]
    Rollout {
        /// Version of the policy; the newest where nothing is said
        #[arg(long, value_name = "N")]
        version: Option<u64>,
        /// The part of the rollouts that this process runs; the last one to end commits
        #[arg(long, value_name = "I/N")]
        shard: Option<crate::rollout::Shard>,
    },
    /// What a policy earns on tasks that it was not trained on
    #[cfg(feature = "torch")]
    #[command(before_help = "Example:
  fulgurite eval --pipeline pipelines/calc.toml --lake runs/calc --version 3 --split test")]
    Eval {
        /// Version of the policy; the newest where nothing is said
        #[arg(long, value_name = "N")]
        version: Option<u64>,
        /// Split in place of `eval.split`: train, val or test
        #[arg(long)]
        split: Option<String>,
    },
    /// Rollout, ingest, derive, air, credit, train and eval, over and over; goes on where it was stopped
    #[cfg(feature = "torch")]
    #[command(before_help = "Example:
  fulgurite loop --pipeline pipelines/calc.toml --lake runs/calc --iterations 40 --until eval.reward=0.9")]
    Loop {
        /// Iterations in all, in place of `loop.iterations`
        #[arg(long, value_name = "N")]
        iterations: Option<u64>,
        /// Score that ends the loop, in place of `loop.until`
        #[arg(long, value_name = "SCORE=VALUE")]
        until: Option<String>,
    },
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
    /// Policies: bring models in, list them, copy them out
    #[cfg(feature = "torch")]
    #[command(subcommand)]
    Policy(commands::policy::PolicyCommand),
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

/// Parses the process's arguments; prints help, version or the wrong flag and exits (0 or 2) where that is all there is to do.
pub fn parse() -> Cli {
    Cli::from_arg_matches(&command().get_matches()).unwrap_or_else(|error| error.exit())
}

/// Does what was asked. Returns the exit code of success: 0, or `--skip-exit-code` where nothing was to do.
pub fn run(cli: Cli) -> Result<u8> {
    let Cli { globals, command } = cli;
    match command {
        Command::Ingest { paths, max_rejects, add, build, since, until } => {
            let reporter = Reporter { globals: globals.clone() };
            let (context, summary) = globals.on_batch(Opening::Make, async |context| {
                let ingest = &mut context.config.ingest;
                let given = [(&mut ingest.max_rejects, max_rejects), (&mut ingest.since, since), (&mut ingest.until, until)];
                for (setting, given) in given {
                    *setting = given.unwrap_or(std::mem::take(setting));
                }
                let read = if add { ingest::add(context, &paths).await? } else { ingest::run(context, &paths).await? };
                // What would be read is not there to build on.
                if !build || read.status == "would_run" {
                    return Ok(read);
                }
                reporter.tell(&context.progress, &read);
                let mut all = commands::build::run(context, &reporter).await?;
                all.rows.extend(read.rows);
                all.counts.extend(read.counts);
                all.seconds += read.seconds;
                if read.status == "done" {
                    all.status = read.status;
                }
                Ok(all)
            })?;
            if summary.stage == "ingest" {
                reporter.tell(&context.progress, &summary);
            }
            return reporter.finished(&summary);
        }
        Command::Build => {
            let reporter = Reporter { globals: globals.clone() };
            // Each stage tells its own end; the caller gets one summary.
            let (_, summary) =
                globals.on_batch(Opening::Existing, async |context| commands::build::run(context, &reporter).await)?;
            return reporter.finished(&summary);
        }
        Command::Derive => return globals.stage(Opening::Existing, async |context| derive::run(context).await),
        Command::Air { explain: None } => return globals.stage(Opening::Existing, async |context| air::run(context).await),
        Command::Air { explain: Some(rollout) } => globals.explain(async |context| air::explain(context, &rollout).await)?,
        Command::Credit { explain: None } => return globals.stage(Opening::Existing, async |context| credit::run(context).await),
        Command::Credit { explain: Some(rollout) } => {
            globals.explain(async |context| credit::explain(context, &rollout).await)?
        }
        #[cfg(feature = "torch")]
        Command::Values => return globals.stage(Opening::Existing, async |context| crate::values::run(context).await),
        #[cfg(feature = "torch")]
        Command::Train => return globals.stage(Opening::Existing, async |context| crate::train::run(context).await),
        #[cfg(feature = "torch")]
        Command::Serve(args) => {
            let (config, progress, stop) = globals.surroundings()?;
            runtime(&config)?.block_on(async {
                let lake = match globals.lake.as_deref() {
                    Some(location) => Some(Lake::open_existing(location).await?),
                    None => None,
                };
                commands::serve::run(lake.as_ref(), globals.batch.as_deref(), &config, &progress, &stop, args).await
            })?;
        }
        #[cfg(feature = "torch")]
        Command::Rollout { version, shard } => {
            let options = crate::rollout::Options { version, shard };
            return globals.stage(Opening::Existing, async |context| crate::rollout::run(context, &options).await);
        }
        #[cfg(feature = "torch")]
        Command::Eval { version, split } => {
            return globals.named("eval").stage(Opening::Existing, async |context| {
                context.config.eval.split = split.unwrap_or(std::mem::take(&mut context.config.eval.split));
                let (summary, scores) = crate::eval::run(context, version).await?;
                context.progress.message(scores.to_string());
                Ok(summary)
            });
        }
        #[cfg(feature = "torch")]
        Command::Loop { iterations, until } => {
            return globals.named("loop").stage(Opening::Existing, async |context| {
                let config = &mut context.config.iterate;
                config.iterations = iterations.unwrap_or(config.iterations);
                config.until = until.unwrap_or(std::mem::take(&mut config.until));
                crate::iterate::run(context).await
            });
        }
        Command::Sql(args) => globals.on_lake(async |lake, config, progress, stop| {
            commands::sql::run(lake, globals.batch.as_deref(), config, progress, stop, args).await
        })?,
        Command::Diff(args) => {
            let sides = globals.sides(&args)?;
            let summary = globals.on_lake(async |lake, config, progress, stop| {
                commands::diff::run(lake, sides, config, progress, stop, args).await
            })?;
            return Reporter { globals: globals.clone() }.finished(&summary);
        }
        #[cfg(feature = "torch")]
        Command::Report(args) => {
            let summary = globals.on_lake(async |lake, config, progress, stop| {
                commands::report::run(lake, globals.batch.as_deref(), config, progress, stop, args).await
            })?;
            return Reporter { globals: globals.clone() }.finished(&summary);
        }
        #[cfg(feature = "torch")]
        Command::Policy(command) => return globals.policy(command),
        Command::Status => globals.on_lake(async |lake, config, _, _| {
            let current = if globals.names_settings() { commands::status::current(lake, config).await? } else { BTreeMap::new() };
            commands::status::run(lake, globals.batch.as_deref(), &current, globals.json).await
        })?,
        Command::Seal { stage } => globals
            .on_lake(async |lake, _, progress, _| commands::upkeep::seal(lake, &stage, globals.batch()?, progress).await)?,
        Command::Vacuum { grace } => globals.on_lake(async |lake, _, progress, _| {
            commands::upkeep::vacuum(lake, grace, globals.dry_run, globals.json, progress).await
        })?,
        Command::Config { format } => commands::config::run(&globals.config()?, format)?,
        Command::Doctor => {
            let config = globals.config()?;
            runtime(&config)?.block_on(commands::doctor::run(globals.lake.as_deref(), globals.json))?;
        }
        Command::Completions { shell } => commands::shell::completions(self::command(), shell)?,
        Command::Man { subcommand } => commands::shell::man(self::command(), subcommand.as_deref())?,
    }
    Ok(ExitCode::Done as u8)
}

impl Cli {
    /// Tells the caller how it ended, also where the work fails.
    pub fn reporter(&self) -> Reporter {
        Reporter { globals: self.globals.clone() }
    }
}

impl Globals {
    /// The pipeline file with `--set` and `--threads` applied.
    fn config(&self) -> Result<Config> {
        let mut config = Config::load(self.pipeline.as_deref(), &self.settings)?;
        config.threads = self.threads.unwrap_or(config.threads);
        Ok(config)
    }

    /// Whether the caller says what the settings are.
    fn names_settings(&self) -> bool {
        self.pipeline.is_some() || !self.settings.is_empty()
    }

    fn batch(&self) -> Result<&str, Fault> {
        let missing = "which batch? name it with `--batch ID`, such as a day (2026-11-22) or an iteration (iter-0003)";
        self.batch.as_deref().ok_or_else(|| Fault::Usage(missing.to_owned()))
    }

    /// What `fulgurite diff` compares: two batches as they are committed, or what settings give where any are named.
    fn sides(&self, args: &commands::diff::DiffArgs) -> Result<(Side, Side)> {
        let batch = self.batch()?.to_owned();
        let other_batch = args.other_batch.clone().unwrap_or_else(|| batch.clone());
        if !self.names_settings() && !args.names_settings() {
            return Ok((Side { batch, config: None }, Side { batch: other_batch, config: None }));
        }
        let pipeline = args.other_pipeline.clone().or_else(|| self.pipeline.clone());
        let settings = [self.settings.as_slice(), &args.other_settings].concat();
        let other = Globals { pipeline, settings, ..self.clone() };
        Ok((Side { batch, config: Some(self.config()?) }, Side { batch: other_batch, config: Some(other.config()?) }))
    }

    /// For a command that names its batches itself.
    #[cfg(feature = "torch")]
    fn named(&self, batch: &str) -> Globals {
        Globals { batch: Some(batch.to_owned()), ..self.clone() }
    }

    fn lake(&self) -> Result<&str, Fault> {
        let missing = "which lake? name it with `--lake URL`, a directory or s3://, gs:// or az://";
        self.lake.as_deref().ok_or_else(|| Fault::Usage(missing.to_owned()))
    }

    /// Runs a stage on the batch and reports it.
    fn stage(&self, opening: Opening, work: impl AsyncFnOnce(&mut Context) -> Result<Summary>) -> Result<u8> {
        let (context, summary) = self.on_batch(opening, work)?;
        let reporter = Reporter { globals: self.clone() };
        reporter.tell(&context.progress, &summary);
        reporter.finished(&summary)
    }

    /// Runs a command on policies.
    #[cfg(feature = "torch")]
    fn policy(mut self, command: commands::policy::PolicyCommand) -> Result<u8> {
        use crate::policy::{self, As};
        use commands::policy::PolicyCommand;
        match command {
            PolicyCommand::Import { from, as_next } => {
                self.batch = Some(policy::batch(0));
                return self.stage(Opening::Make, async |context| policy::import(context, &from, As::next(as_next)).await);
            }
            PolicyCommand::New { sizes, texts, as_next } => {
                self.batch = Some(policy::batch(0));
                return self.stage(Opening::Make, async |context| policy::make(context, &sizes, &texts, As::next(as_next)).await);
            }
            PolicyCommand::Generate(args) => {
                self.on_lake(async |lake, config, _, stop| commands::policy::generate(lake, config, stop, args, self.json).await)?
            }
            PolicyCommand::List => self.on_lake(async |lake, _, _, _| commands::policy::list(lake, self.json).await)?,
            PolicyCommand::Export { version, to } => {
                self.on_lake(async |lake, _, progress, _| commands::policy::export(lake, version, &to, progress).await)?
            }
        }
        Ok(ExitCode::Done as u8)
    }

    /// Prints what a stage found out about one rollout.
    fn explain(&self, work: impl AsyncFnOnce(&mut Context) -> Result<String>) -> Result<()> {
        let (_, text) = self.on_batch(Opening::Existing, work)?;
        Ok(writeln!(std::io::stdout(), "{}", text.trim_end())?)
    }

    fn on_batch<T>(&self, opening: Opening, work: impl AsyncFnOnce(&mut Context) -> Result<T>) -> Result<(Context, T)> {
        let (config, progress, stop) = self.surroundings()?;
        let (location, batch) = (self.lake()?, self.batch()?.to_owned());
        runtime(&config)?.block_on(async {
            let lake = match opening {
                Opening::Make => Lake::open(location).await?,
                Opening::Existing => Lake::open_existing(location).await?,
            };
            let mut context = Context { lake, batch, config, rebuild: self.rebuild, dry_run: self.dry_run, progress, stop };
            let done = work(&mut context).await?;
            Ok((context, done))
        })
    }

    /// Does something with a lake that is there already.
    fn on_lake<T>(&self, work: impl AsyncFnOnce(&Lake, &Config, &Progress, &Stop) -> Result<T>) -> Result<T> {
        let (config, progress, stop) = self.surroundings()?;
        let location = self.lake()?;
        runtime(&config)?.block_on(async {
            let lake = Lake::open_existing(location).await?;
            work(&lake, &config, &progress, &stop).await
        })
    }

    fn surroundings(&self) -> Result<(Config, Progress, Stop)> {
        let stop = Stop::default();
        install_signals(&stop)?;
        Ok((self.config()?, Progress::new(self.quiet), stop))
    }
}

/// Whether a lake that is not there is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Opening {
    Make,
    Existing,
}

/// The async runtime: its workers wait for stores and drive DataFusion, as many as `threads` says.
fn runtime(config: &Config) -> Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(config.threads()).enable_all().build().context("cannot start the async runtime")
}

/// Tells the caller how a stage ended: a sentence on stderr, with `--json` one line on stdout, with `--summary-out` a file.
#[derive(Debug, Clone)]
pub struct Reporter {
    globals: Globals,
}

impl Reporter {
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

/// `timeout` and some shells send one wish to end twice, to the process and to its group.
const ONE_WISH: Duration = Duration::from_secs(1);

/// Sets `stop` when Ctrl-C or SIGTERM comes, so that the stage cleans up and ends; who asks again later ends the process at once.
pub fn install_signals(stop: &Stop) -> Result<()> {
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
                std::process::exit(128 + signal);
            }
        }
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }
}
