//! Rollouts that are under way: what was recorded of each, and the file that it becomes when it ends.
//!
//! Everything of a rollout stays in memory until it ends, and is then written at once: a rollout that is in the lake is whole.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use object_store::path::Path;
use object_store::{ObjectStoreExt as _, PutPayload};
use serde_json::Value;

use super::openai::ApiError;
use super::outcome::{Outcome, Reward};
use super::record::{self, CallRecord, now_ns};
use super::rollout::Rollout;
use super::splice::Turn;
use crate::exit::Fault;
use crate::lake::{Lake, check_name};

/// Compression of recorded rollouts: what a call repeats of the one before costs next to nothing.
const ZSTD_LEVEL: i32 = 6;

/// How long the end of a rollout waits for its last calls, and how often it looks.
const SETTLE: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(10);

/// The rollouts that are under way, by id and attempt. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Sessions(Arc<Mutex<HashMap<(String, u32), Arc<Session>>>>);

impl Sessions {
    /// Begins a rollout: from now on its calls, spans and rewards are taken.
    ///
    /// # Errors
    /// `Fault::Usage` for an id that cannot be a file's name, and for an attempt that is under way already.
    pub fn begin(&self, rollout: Rollout) -> Result<Arc<Session>> {
        check_name("rollout", &rollout.id)?;
        let key = (rollout.id.clone(), rollout.attempt);
        let mut sessions = lock(&self.0);
        if sessions.contains_key(&key) {
            return Err(Fault::Usage(format!("attempt {} at rollout `{}` is under way already", key.1, key.0)).into());
        }
        let session = Arc::new(Session::new(rollout));
        sessions.insert(key, Arc::clone(&session));
        Ok(session)
    }

    pub fn get(&self, id: &str, attempt: u32) -> Option<Arc<Session>> {
        lock(&self.0).get(&(id.to_owned(), attempt)).cloned()
    }

    /// Ends a rollout and writes what was recorded of it; what still comes from its agent is refused. Returns the file's path in the
    /// lake: `traces/batch=<batch>/<rollout>.otlp.jsonl.zst`, or `<rollout>.attempt-<n>.otlp.jsonl.zst` of an attempt that is followed by
    /// another.
    pub async fn finish(&self, session: &Session, outcome: &Outcome, lake: &Lake, batch: &str) -> Result<String> {
        self.discard(session);
        session.settle().await;
        let path = trace_path(batch, &session.rollout, outcome.retried);
        let lines = session.lines(outcome);
        let bytes = zstd::bulk::compress(lines.as_bytes(), ZSTD_LEVEL).context("cannot compress what was recorded")?;
        // A put of an object store is there whole or not at all.
        let put = lake.store().put(&Path::from(path.as_str()), PutPayload::from(bytes)).await;
        put.map_err(|error| crate::lake::store_fault(error, &format!("cannot write `{path}`")))?;
        Ok(path)
    }

    /// Ends a rollout without a trace of it.
    pub fn discard(&self, session: &Session) {
        lock(&self.0).remove(&(session.rollout.id.clone(), session.rollout.attempt));
    }

    /// Those that are under way, in no order.
    pub fn all(&self) -> Vec<Arc<Session>> {
        lock(&self.0).values().cloned().collect()
    }
}

/// Where a rollout's trace lies in the lake.
pub fn trace_path(batch: &str, rollout: &Rollout, retried: bool) -> String {
    let attempt = if retried { format!(".attempt-{}", rollout.attempt) } else { String::new() };
    format!("traces/batch={batch}/{}{attempt}.otlp.jsonl.zst", rollout.id)
}

/// One attempt at a rollout.
#[derive(Debug)]
pub struct Session {
    pub rollout: Rollout,
    /// Of the server's spans, where a client sends none.
    pub trace_id: String,
    begun_ns: i64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    calls: Vec<CallRecord>,
    /// Calls that were begun, answered or not.
    begun_calls: u64,
    /// What the agent's exporter sent, made lines of this rollout.
    received: Vec<String>,
    received_bytes: usize,
    rewards: Vec<(i64, Reward)>,
    turns: Vec<Arc<Turn>>,
    /// How often each prompt was asked for.
    prompts: HashMap<[u8; 32], u64>,
    busy: Busy,
}

impl Session {
    fn new(rollout: Rollout) -> Session {
        let begun_ns = now_ns();
        let trace_id = hex(&format!("trace\0{}\0{}\0{begun_ns}", rollout.id, rollout.attempt), 32);
        Session { rollout, trace_id, begun_ns, state: Mutex::default() }
    }

    /// Counts a call that begins.
    ///
    /// # Errors
    /// The rollout has made as many as it may.
    pub fn begin_call(&self) -> Result<(), ApiError> {
        let mut state = lock(&self.state);
        if let Some(limit) = self.rollout.max_calls.filter(|limit| state.begun_calls >= *limit) {
            let message = format!("this rollout has made the {limit} calls that it may make");
            return Err(ApiError { code: Some("max_calls"), ..ApiError::invalid("messages", message) });
        }
        state.begun_calls += 1;
        state.busy.begin();
        Ok(())
    }

    /// Keeps a call that has ended, however it ended.
    pub fn end_call(&self, record: CallRecord) {
        let mut state = lock(&self.state);
        state.busy.end();
        state.calls.push(record);
    }

    /// Waits a little for calls under way: those of an agent that was ended are noticed, and recorded as given up, an instant later.
    async fn settle(&self) {
        let until = Instant::now() + SETTLE;
        while lock(&self.state).busy.under_way > 0 && Instant::now() < until {
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Keeps what the server said, so that it is known when it comes back in a prompt.
    pub fn said(&self, turns: impl IntoIterator<Item = Turn>) {
        lock(&self.state).turns.extend(turns.into_iter().map(Arc::new));
    }

    /// Everything that the server said in this rollout, oldest first.
    pub fn turns(&self) -> Vec<Arc<Turn>> {
        lock(&self.state).turns.clone()
    }

    /// How often this prompt was asked for before in the rollout.
    pub fn repeat_of(&self, prompt: &[u32]) -> u64 {
        let mut hasher = blake3::Hasher::new();
        prompt.iter().for_each(|id| {
            hasher.update(&id.to_le_bytes());
        });
        let mut state = lock(&self.state);
        let count = state.prompts.entry(*hasher.finalize().as_bytes()).or_default();
        *count += 1;
        *count - 1
    }

    /// Keeps lines of OTLP JSON.
    ///
    /// # Errors
    /// The rollout has sent more than `limit_bytes` in all.
    pub fn receive(&self, lines: Vec<String>, limit_bytes: usize) -> Result<(), ApiError> {
        let mut state = lock(&self.state);
        let size: usize = lines.iter().map(String::len).sum();
        if state.received_bytes + size > limit_bytes {
            return Err(ApiError::too_large("this rollout has sent more spans than `serve.max_trace_mib` allows"));
        }
        state.received_bytes += size;
        state.received.extend(lines);
        Ok(())
    }

    /// Keeps a reward, stated now.
    pub fn reward(&self, reward: Reward) {
        lock(&self.state).rewards.push((now_ns(), reward));
    }

    /// The rewards so far, oldest first.
    pub fn rewards(&self) -> Vec<Reward> {
        lock(&self.state).rewards.iter().map(|(_, reward)| reward.clone()).collect()
    }

    /// Calls begun so far.
    pub fn calls(&self) -> u64 {
        lock(&self.state).begun_calls
    }

    /// Whether the newest call failed by the server's fault, which is then why its client did.
    pub fn server_failed(&self) -> bool {
        lock(&self.state).calls.last().is_some_and(|call| call.http_status >= 500)
    }

    /// How long the server has worked for this rollout: an agent's clock stands still meanwhile.
    pub fn busy(&self) -> Duration {
        lock(&self.state).busy.total()
    }

    /// Everything as lines of OTLP JSON: our spans first, then what was received.
    fn lines(&self, outcome: &Outcome) -> String {
        let state = lock(&self.state);
        let mut spans: Vec<Value> =
            state.calls.iter().map(|call| record::call_span(&self.trace_id, call, asked_again(&state.calls, call))).collect();
        for (number, (at_ns, reward)) in state.rewards.iter().enumerate() {
            spans.push(record::reward_span(&self.trace_id, &self.span_id("reward", number), *at_ns, reward));
        }
        let record =
            record::rollout_span(&self.trace_id, &self.span_id("rollout", 0), self.begun_ns, now_ns(), &self.rollout, outcome);
        spans.push(record);
        let mut lines = record::line(&self.rollout, spans);
        for received in &state.received {
            lines.push('\n');
            lines.push_str(received);
        }
        lines.push('\n');
        lines
    }

    fn span_id(&self, what: &str, number: usize) -> String {
        hex(&format!("{what}\0{}\0{number}", self.trace_id), 16)
    }
}

/// Whether the client of a call that was given up asked the same again.
fn asked_again(calls: &[CallRecord], call: &CallRecord) -> bool {
    call.cancelled
        && calls.iter().any(|later| {
            later.start_ns >= call.end_ns.min(later.end_ns)
                && later.span_id != call.span_id
                && later.start_ns >= call.start_ns
                && (&later.messages, &later.tools) == (&call.messages, &call.tools)
                && (!call.messages.is_empty() || later.prompt_ids == call.prompt_ids)
        })
}

/// Time in which at least one call was under way.
#[derive(Debug, Default)]
struct Busy {
    under_way: usize,
    since: Option<Instant>,
    total: Duration,
}

impl Busy {
    fn begin(&mut self) {
        self.under_way += 1;
        self.since.get_or_insert_with(Instant::now);
    }

    fn end(&mut self) {
        self.under_way = self.under_way.saturating_sub(1);
        if self.under_way == 0
            && let Some(since) = self.since.take()
        {
            self.total += since.elapsed();
        }
    }

    fn total(&self) -> Duration {
        self.total + self.since.map_or(Duration::ZERO, |since| since.elapsed())
    }
}

/// The first `digits` hexadecimal digits of a text's hash.
pub fn hex(text: &str, digits: usize) -> String {
    blake3::hash(text.as_bytes()).to_hex()[..digits].to_owned()
}

/// A panic elsewhere leaves what is recorded as it was.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
