//! One arm a command.

use std::collections::BTreeMap;

use anyhow::Result;

use super::globals::{Opening, runtime};
use super::{Cli, Command, Reporter};
use crate::commands;
use crate::exit::ExitCode;
use crate::{air, credit, derive, ingest};

/// Does what was asked. Returns the exit code of success: 0, or `--skip-exit-code` where nothing was to do.
pub fn run(cli: Cli) -> Result<u8> {
    let Cli { globals, command } = cli;
    match command {
        Command::Ingest { paths, max_rejects, add, build, since, until } => {
            let reporter = Reporter::new(&globals);
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
            let reporter = Reporter::new(&globals);
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
        Command::Sql(args) => globals.on_lake(async |lake, config, progress, stop| {
            commands::sql::run(lake, globals.batch.as_deref(), config, progress, stop, args).await
        })?,
        Command::Diff(args) => {
            let sides = globals.sides(&args)?;
            let summary = globals.on_lake(async |lake, config, progress, stop| {
                commands::diff::run(lake, sides, config, progress, stop, args).await
            })?;
            return Reporter::new(&globals).finished(&summary);
        }
        #[cfg(feature = "torch")]
        Command::Report(args) => {
            let summary = globals.on_lake(async |lake, config, progress, stop| {
                commands::report::run(lake, globals.batch.as_deref(), config, progress, stop, args).await
            })?;
            return Reporter::new(&globals).finished(&summary);
        }
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
        #[cfg(feature = "torch")]
        Command::Torch(command) => return super::torch::run(globals, command),
        Command::Doctor => {
            let config = globals.config()?;
            runtime(&config)?.block_on(commands::doctor::run(globals.lake.as_deref(), globals.json))?;
        }
        Command::Completions { shell } => commands::shell::completions(super::command(), shell)?,
        Command::Man { subcommand } => commands::shell::man(super::command(), subcommand.as_deref())?,
    }
    Ok(ExitCode::Done as u8)
}
