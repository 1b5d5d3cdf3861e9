//! The handle of a running engine.

use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use anyhow::{Context as _, Result};
use tokio::sync::mpsc::unbounded_channel;

use super::forward::{Forward, token_bytes};
use super::schedule::Scheduler;
use super::worker::{Command, TILE_ROWS, Worker};
use super::{Event, Events, Finish, GenerateConfig, Refusal, Request, Stats};
use crate::exit::Fault;
use crate::model::Model;
use crate::openmp;

/// A model that answers requests on a thread of its own. Dropping the engine ends it, and every request with it.
pub struct Engine {
    commands: Sender<Command>,
    stats: Arc<Mutex<Stats>>,
    thread: Option<JoinHandle<()>>,
    vocabulary: usize,
    /// Longest that prompt and response may become together.
    limit: usize,
    queue_limit: usize,
}

impl Engine {
    /// Takes the model over and allocates the cache. Set libtorch's threads before.
    ///
    /// `Fault::Usage` where a setting cannot be or the cache would not hold a block; other errors where memory or the thread cannot be had.
    pub fn start(model: Model, config: GenerateConfig) -> Result<Engine> {
        config.check()?;
        let block_bytes = token_bytes(&model.config, model.kind()) * config.block_tokens as u64;
        let blocks = (config.kv_mib << 20) / block_bytes;
        if blocks == 0 {
            return Err(Fault::Usage(format!(
                "`generate.kv_mib` is {}, but one block of {} tokens takes {:.1} MiB",
                config.kv_mib,
                config.block_tokens,
                block_bytes as f64 / f64::from(1 << 20)
            ))
            .into());
        }
        let of_model = model.config.max_positions.max(1) as usize;
        let context = if config.max_context == 0 { of_model } else { config.max_context.min(of_model) };
        // More blocks than this could never be used at once.
        let most = (config.max_batch * 2 * context.div_ceil(config.block_tokens)) as u64;
        let blocks = blocks.min(most) as usize;
        let vocabulary = model.config.vocab_size as usize;
        let forward = tch::no_grad(|| Forward::new(model, (blocks * config.block_tokens).max(TILE_ROWS)))
            .with_context(|| format!("the KV cache of {} MiB cannot be allocated", config.kv_mib))?;
        // From here on the engine's thread computes alone.
        openmp::release();
        let scheduler = Scheduler::new(&config, blocks, context);
        let stats = Arc::new(Mutex::new(scheduler.stats()));
        let (commands, receiver) = channel();
        let limit = context.min(blocks * config.block_tokens);
        let queue_limit = config.queue_limit;
        let shared = Arc::clone(&stats);
        let thread = std::thread::Builder::new()
            .name("generate".to_owned())
            .spawn(move || Worker::new(forward, scheduler, &config, receiver, shared).run())
            .context("the engine's thread cannot be started")?;
        Ok(Engine { commands, stats, thread: Some(thread), vocabulary, limit, queue_limit })
    }

    /// Longest that prompt and response may become together, in tokens.
    pub fn max_context(&self) -> usize {
        self.limit
    }

    /// Hands a request over and returns where its events arrive; dropping that cancels it.
    pub fn submit(&self, request: Request) -> Result<Events, Refusal> {
        self.check(&request)?;
        let (sender, events) = unbounded_channel();
        let stopped = |_| Refusal::Stopped("its thread has ended".to_owned());
        self.lock().waiting += 1;
        self.commands.send(Command::Generate(Box::new(request), sender)).map_err(stopped)?;
        Ok(events)
    }

    fn check(&self, request: &Request) -> Result<(), Refusal> {
        if request.prompt.is_empty() {
            return Err(Refusal::Empty);
        }
        if request.prompt.len() >= self.limit {
            return Err(Refusal::TooLong { prompt: request.prompt.len(), limit: self.limit - 1 });
        }
        if let Some(id) = request.prompt.iter().find(|id| **id as usize >= self.vocabulary) {
            return Err(Refusal::UnknownId { id: *id, vocabulary: self.vocabulary });
        }
        request.sampling.check(self.vocabulary).map_err(Refusal::Sampling)?;
        if self.queue_limit > 0 && self.lock().waiting >= self.queue_limit {
            return Err(Refusal::QueueFull { limit: self.queue_limit });
        }
        Ok(())
    }

    /// Counts as of the last step. What was submitted since is among the waiting.
    pub fn stats(&self) -> Stats {
        self.lock().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Stats> {
        self.stats.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Ends the thread after its present step; what is under way is cancelled.
    pub fn shutdown(self) {}
}

impl Drop for Engine {
    fn drop(&mut self) {
        // Where the thread is gone already, there is nobody to tell and nothing to wait for.
        let _ = self.commands.send(Command::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// One whole response.
#[derive(Debug, Clone, PartialEq)]
pub struct Completion {
    pub ids: Vec<u32>,
    /// `[ids]`; see `Event::Token`.
    pub behaviour_logprobs: Vec<f32>,
    /// `[ids]`.
    pub sampled_logprobs: Vec<f32>,
    pub finish: Finish,
    /// Tokens of the prompt that came out of the cache.
    pub cached_tokens: usize,
}

/// Waits for the responses to all of these, in their order. Not for async code: it blocks.
pub fn complete(engine: &Engine, requests: Vec<Request>) -> Result<Vec<Completion>> {
    let receivers = requests.into_iter().map(|request| engine.submit(request)).collect::<Result<Vec<_>, _>>()?;
    receivers.into_iter().map(gather).collect()
}

fn gather(mut events: Events) -> Result<Completion> {
    let mut completion = Completion {
        ids: Vec::new(),
        behaviour_logprobs: Vec::new(),
        sampled_logprobs: Vec::new(),
        finish: Finish::Cancelled,
        cached_tokens: 0,
    };
    while let Some(event) = events.blocking_recv() {
        match event {
            Event::Started { cached_tokens } => completion.cached_tokens = cached_tokens,
            Event::Token { id, behaviour_logprob, sampled_logprob, .. } => {
                completion.ids.push(id);
                completion.behaviour_logprobs.push(behaviour_logprob);
                completion.sampled_logprobs.push(sampled_logprob);
            }
            Event::Finished(finish) => return Ok(Completion { finish, ..completion }),
            Event::Failed(message) => return Err(Fault::Failed(message).into()),
        }
    }
    Err(Fault::Failed("the engine has stopped".to_owned()).into())
}
