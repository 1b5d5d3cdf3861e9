//! The commands that compute with tensors, and what each does.

use anyhow::Result;
use clap::Subcommand;

use super::Globals;
use super::globals::{Opening, runtime};
use crate::commands;
use crate::commands::policy::PolicyCommand;
use crate::exit::ExitCode;
use crate::lake::Lake;
use crate::policy::{self, As};

#[derive(Debug, Subcommand)]
pub enum TorchCommand {
    /// What a policy's value head expects at each call, for `credit.method = "gae"`
    #[command(before_help = "Example:
  fulgurite values --lake runs/lake --batch iter-0003")]
    Values,
    /// Transitions and policy N into policy N+1
    #[command(before_help = "Examples:
  fulgurite train --lake runs/lake --batch iter-0003
  fulgurite train --lake runs/lake --batch warm --set train.algorithm=sft --set train.min_outcome=1 --set train.learning_rate=1e-5")]
    Train,
    /// A policy, or another server, behind OpenAI's APIs
    #[command(before_help = "Examples:
  fulgurite serve --lake runs/lake --version 3
  fulgurite serve --lake runs/lake --batch 2026-11-22                    calls under /rollout/<id>/attempt/0/v1 are recorded
  fulgurite serve --set serve.upstream=http://127.0.0.1:8000/v1 --set serve.dialect=vllm")]
    Serve(commands::serve::ServeArgs),
    /// Tasks and a policy into fresh traces
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
    /// Policies: bring models in, list them, copy them out
    #[command(subcommand)]
    Policy(commands::policy::PolicyCommand),
}

/// As [`run`](super::run).
pub(super) fn run(globals: Globals, command: TorchCommand) -> Result<u8> {
    match command {
        TorchCommand::Values => return globals.stage(Opening::Existing, async |context| crate::values::run(context).await),
        TorchCommand::Train => return globals.stage(Opening::Existing, async |context| crate::train::run(context).await),
        TorchCommand::Serve(args) => {
            let (config, progress, stop) = globals.surroundings()?;
            runtime(&config)?.block_on(async {
                let lake = match globals.lake.as_deref() {
                    Some(location) => Some(Lake::open_existing(location).await?),
                    None => None,
                };
                commands::serve::run(lake.as_ref(), globals.batch.as_deref(), &config, &progress, &stop, args).await
            })?;
        }
        TorchCommand::Rollout { version, shard } => {
            let options = crate::rollout::Options { version, shard };
            return globals.stage(Opening::Existing, async |context| crate::rollout::run(context, &options).await);
        }
        TorchCommand::Eval { version, split } => {
            return named(globals, "eval").stage(Opening::Existing, async |context| {
                context.config.eval.split = split.unwrap_or(std::mem::take(&mut context.config.eval.split));
                let (summary, scores) = crate::eval::run(context, version).await?;
                context.progress.message(scores.to_string());
                Ok(summary)
            });
        }
        TorchCommand::Loop { iterations, until } => {
            return named(globals, "loop").stage(Opening::Existing, async |context| {
                let config = &mut context.config.iterate;
                config.iterations = iterations.unwrap_or(config.iterations);
                config.until = until.unwrap_or(std::mem::take(&mut config.until));
                crate::iterate::run(context).await
            });
        }
        TorchCommand::Policy(command) => return policy(globals, command),
    }
    Ok(ExitCode::Done as u8)
}

/// For a command that names its batches itself.
fn named(globals: Globals, batch: &str) -> Globals {
    Globals { batch: Some(batch.to_owned()), ..globals }
}

/// Runs a command on policies.
fn policy(globals: Globals, command: PolicyCommand) -> Result<u8> {
    match command {
        PolicyCommand::Import { from, as_next } => {
            let globals = named(globals, &policy::batch(0));
            return globals.stage(Opening::Make, async |context| policy::import(context, &from, As::next(as_next)).await);
        }
        PolicyCommand::New { sizes, texts, as_next } => {
            let globals = named(globals, &policy::batch(0));
            return globals.stage(Opening::Make, async |context| policy::make(context, &sizes, &texts, As::next(as_next)).await);
        }
        PolicyCommand::Generate(args) => globals
            .on_lake(async |lake, config, _, stop| commands::policy::generate(lake, config, stop, args, globals.json).await)?,
        PolicyCommand::List => globals.on_lake(async |lake, _, _, _| commands::policy::list(lake, globals.json).await)?,
        PolicyCommand::Export { version, to } => {
            globals.on_lake(async |lake, _, progress, _| commands::policy::export(lake, version, &to, progress).await)?
        }
    }
    Ok(ExitCode::Done as u8)
}
