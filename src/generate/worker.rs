//! The engine's thread: takes commands, runs steps, answers.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, TryRecvError};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use tch::Tensor;
use tokio::sync::mpsc::UnboundedSender;

use super::attend::{Attention, Keys};
use super::forward::Forward;
use super::plan::{self, Member};
use super::schedule::{Part, Scheduler, Step};
use super::{Event, GenerateConfig, Request, Stats};

/// Rows of every product of matrices in a deterministic step.
pub const TILE_ROWS: usize = 16;

/// Tokens whose logits are compared in every place of a tile, before a tile is trusted.
const TRIED_IDS: i64 = 4;

pub enum Command {
    Generate(Box<Request>, UnboundedSender<Event>),
    Stop,
}

pub struct Worker {
    forward: Forward,
    scheduler: Scheduler,
    commands: Receiver<Command>,
    /// What `Engine::stats` reads.
    stats: Arc<Mutex<Stats>>,
    block_tokens: usize,
    /// Rows of a tile where every row must get the same bytes wherever it stands.
    tile: Option<usize>,
    /// Of the last step, kept for the room that they take.
    logits: Vec<f32>,
    model_seconds: f64,
    other_seconds: f64,
}

impl Worker {
    pub fn new(
        forward: Forward,
        scheduler: Scheduler,
        config: &GenerateConfig,
        commands: Receiver<Command>,
        stats: Arc<Mutex<Stats>>,
    ) -> Worker {
        let tile = config.deterministic.then(|| if places_agree(&forward) { TILE_ROWS } else { 1 });
        Worker {
            forward,
            scheduler,
            commands,
            stats,
            block_tokens: config.block_tokens,
            tile,
            logits: Vec::new(),
            model_seconds: 0.0,
            other_seconds: 0.0,
        }
    }

    /// Works until it is told to stop, or nobody is left to tell it.
    pub fn run(mut self) {
        while self.take_commands() {
            let outcome = catch_unwind(AssertUnwindSafe(|| tch::no_grad(|| self.step())));
            if let Err(panic) = outcome {
                self.scheduler.fail_running(&format!("the engine broke off: {}", text_of(panic.as_ref())));
            }
            self.publish();
        }
        self.scheduler.cancel_all();
        self.publish();
    }

    /// Takes what has come, and waits for something where there is nothing to do. False where it is time to stop.
    fn take_commands(&mut self) -> bool {
        loop {
            let command = match self.scheduler.is_idle() {
                true => self.commands.recv().map_err(|_| TryRecvError::Disconnected),
                false => self.commands.try_recv(),
            };
            match command {
                Ok(Command::Generate(request, events)) => self.scheduler.add(*request, events),
                Ok(Command::Stop) | Err(TryRecvError::Disconnected) => return false,
                Err(TryRecvError::Empty) => return true,
            }
        }
    }

    fn step(&mut self) {
        let start = Instant::now();
        self.scheduler.drop_cancelled();
        let Some(step) = self.scheduler.step() else { return };
        let planned = Instant::now();
        if !step.copies.is_empty() {
            let (from, to): (Vec<i64>, Vec<i64>) =
                step.copies.iter().map(|(from, to)| (i64::from(*from), i64::from(*to))).unzip();
            self.forward.copy(&self.tensor(&from), &self.tensor(&to), self.block_tokens as i64);
        }
        let logits_mv = match self.tile {
            None => self.fast(&step),
            Some(rows) => self.in_tiles(&step, rows),
        };
        self.logits.clear();
        let width = logits_mv.map_or(1, |logits_mv| read(&logits_mv, &mut self.logits));
        let computed = Instant::now();
        self.scheduler.computed(&step);
        self.scheduler.sample(&step, self.logits.chunks_exact(width), tch::get_num_threads().max(1) as usize);
        self.model_seconds += (computed - planned).as_secs_f64();
        self.other_seconds += (planned - start).as_secs_f64() + computed.elapsed().as_secs_f64();
    }

    /// The whole step at once. Returns the logits of the parts that sample, `[M, V]`.
    fn fast(&self, step: &Step) -> Option<Tensor> {
        let members: Vec<Member> =
            step.parts.iter().map(|part| Member { rows: part.rows.clone(), blocks: &part.blocks, past: part.past }).collect();
        let pieces = plan::pieces(&members, self.block_tokens);
        let attention =
            Attention::of_pieces(pieces, step.ids_n.len(), self.block_tokens, self.forward.kind(), self.forward.device());
        // Pieces are read to the end of their last block.
        let begun: Vec<i64> = step
            .slots_n
            .iter()
            .filter(|slot| **slot % self.block_tokens as i64 == 0)
            .map(|slot| slot / self.block_tokens as i64)
            .collect();
        if !begun.is_empty() {
            self.forward.clear(&self.tensor(&begun), self.block_tokens as i64);
        }
        let wanted: Vec<i64> = step.parts.iter().filter(|part| part.samples).map(|part| part.rows.end as i64 - 1).collect();
        let wanted = (!wanted.is_empty()).then(|| self.tensor(&wanted));
        self.forward.step(
            &self.tensor(&step.ids_n),
            &self.tensor(&step.positions_n),
            &self.tensor(&step.slots_n),
            &attention,
            wanted.as_ref(),
        )
    }

    /// The step in tiles of so many rows, the last one padded, each through the whole model; every row attends alone. So no shape depends
    /// on what else is in the step, nor on how much of a sequence was in the cache.
    fn in_tiles(&self, step: &Step, rows: usize) -> Option<Tensor> {
        let mut logits = Vec::new();
        for start in (0..step.ids_n.len()).step_by(rows) {
            let tile = start..(start + rows).min(step.ids_n.len());
            let padded = |values: &[i64]| {
                let padding = std::iter::repeat_n(0, rows - tile.len());
                self.tensor(&values[tile.clone()].iter().copied().chain(padding).collect::<Vec<i64>>())
            };
            let keys = tile.clone().map(|row| self.keys(part_of(step, row), step.positions_n[row] as usize)).collect();
            // Logits of all rows are made, for the sake of the shape.
            let logits_nv = self.forward.step(
                &padded(&step.ids_n),
                &padded(&step.positions_n),
                &self.tensor(&step.slots_n[tile.clone()]),
                &Attention::Rows(keys),
                Some(&self.tensor(&(0..rows as i64).collect::<Vec<i64>>())),
            )?;
            for part in step.parts.iter().filter(|part| part.samples && tile.contains(&(part.rows.end - 1))) {
                logits.push(logits_nv.narrow(0, (part.rows.end - 1 - start) as i64, 1));
            }
        }
        (!logits.is_empty()).then(|| Tensor::cat(&logits, 0))
    }

    /// The keys of a sequence up to this position.
    fn keys(&self, part: &Part, position: usize) -> Keys {
        let blocks = &part.blocks[..position / self.block_tokens + 1];
        let first = blocks[0] as usize * self.block_tokens;
        if blocks.windows(2).all(|pair| pair[1] == pair[0] + 1) {
            return Keys::Neighbours(first..first + position + 1);
        }
        let place = |at: usize| (blocks[at / self.block_tokens] as usize * self.block_tokens + at % self.block_tokens) as i64;
        Keys::Scattered(self.tensor(&(0..=position).map(place).collect::<Vec<i64>>()))
    }

    fn tensor(&self, values: &[i64]) -> Tensor {
        Tensor::from_slice(values).to_device(self.forward.device())
    }

    /// Tells what happened, after the counts of it.
    fn publish(&mut self) {
        let stats = Stats { model_seconds: self.model_seconds, other_seconds: self.other_seconds, ..self.scheduler.stats() };
        *self.stats.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = stats;
        self.scheduler.flush();
    }
}

/// The part that has this row.
fn part_of(step: &Step, row: usize) -> &Part {
    let index = step.parts.partition_point(|part| part.rows.end <= row);
    &step.parts[index]
}

/// Whether a row gets the same bytes in every place of a tile. A product of matrices may treat the last rows of a block of its own making
/// differently, and which rows these are is up to the library, so it is tried out: a tile of one and the same token must give one and the
/// same row, and so must a tile with other tokens between.
fn places_agree(forward: &Forward) -> bool {
    let tensor = |values: Vec<i64>| Tensor::from_slice(&values).to_device(forward.device());
    let rows = TILE_ROWS as i64;
    tch::no_grad(|| {
        let logits = |ids: Vec<i64>| {
            let keys = (0..TILE_ROWS).map(|row| Keys::Neighbours(row..row + 1)).collect();
            let (zeros, places) = (tensor(vec![0; TILE_ROWS]), tensor((0..rows).collect()));
            forward.step(&tensor(ids), &zeros, &places, &Attention::Rows(keys), Some(&places))
        };
        (0..TRIED_IDS).all(|id| {
            let (Some(same), Some(mixed)) =
                (logits(vec![id; TILE_ROWS]), logits((0..rows).map(|row| (id + row) % TRIED_IDS).collect()))
            else {
                return false;
            };
            let first = same.get(0);
            (0..rows).all(|row| same.get(row).equal(&first) && ((id + row) % TRIED_IDS != id || mixed.get(row).equal(&first)))
        })
    })
}

/// Copies `[M, V]` to this side of the device, row after row. Returns `V`.
fn read(logits_mv: &Tensor, values: &mut Vec<f32>) -> usize {
    let logits_mv = logits_mv.to_device(tch::Device::Cpu).contiguous();
    values.resize(logits_mv.numel(), 0.0);
    logits_mv.copy_data(values, logits_mv.numel());
    logits_mv.size()[1] as usize
}

/// What a panic says.
fn text_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    let text = text.unwrap_or("for a reason it did not say");
    // libtorch's message comes as `...: Torch("message\nstack")`, the stack longer than anyone reads.
    let message = text.split_once("Torch(\"").map_or(text, |(_, message)| message);
    message.split("\\n").next().unwrap_or(message).to_owned()
}
