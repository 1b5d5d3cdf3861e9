//! Who is worked on in the next step: places, blocks and the order of waiting. No tensor is touched here.
//!
//! Running requests go first, one token each; what is left of the step goes to prompts, in the order of their arrival. A request waits
//! while the cache is full, and while another is computing the very prefix that it would begin with. Where running requests fill the
//! cache, the latest gives back its blocks and waits in front; its tokens are kept, and computed again from the first that is missing.

use std::collections::VecDeque;
use std::ops::Range;

use tokio::sync::mpsc::UnboundedSender;

use super::blocks::{Block, Blocks, Content, extend_contents};
use super::sample::{Sampled, Sampler};
use super::{Event, Finish, GenerateConfig, Request, Stats};
use crate::openmp;

/// A request on its way.
#[derive(Debug)]
struct Sequence {
    sampler: Sampler,
    events: UnboundedSender<Event>,
    /// Prompt and response so far.
    ids: Vec<u32>,
    /// Length of `ids` at which it is full.
    limit: usize,
    stop_ids: Vec<u32>,
    prompt_tokens: usize,
    /// Tokens whose keys and values are in `blocks`.
    computed: usize,
    blocks: Vec<Block>,
    /// Contents of the whole blocks of `ids`; empty where prefixes are not reused.
    contents: Vec<Content>,
}

/// The part of a sequence in a step.
#[derive(Debug, Clone, PartialEq)]
pub struct Part {
    /// Place among the running.
    pub running: usize,
    pub rows: Range<usize>,
    /// Tokens before the first row.
    pub past: usize,
    /// Enough for `past` and the rows.
    pub blocks: Vec<Block>,
    /// Whether the last row's logits are wanted.
    pub samples: bool,
}

/// What one pass through the model computes: `n` tokens, each a row.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Step {
    /// Sorted by blocks, so that what is shared stands together; the rows are in the same order.
    pub parts: Vec<Part>,
    /// `[N]`.
    pub ids_n: Vec<i64>,
    /// `[N]`: place of each row's token in its sequence.
    pub positions_n: Vec<i64>,
    /// `[N]`: place of each row's keys and values in the cache, in tokens.
    pub slots_n: Vec<i64>,
    /// Blocks to copy before the pass, all at once: from, to.
    pub copies: Vec<(Block, Block)>,
}

/// A running sequence, the logits that it samples from where it does, and what came of that.
type Draw<'a> = (&'a mut Sequence, Option<&'a [f32]>, Option<Result<Sampled, String>>);

#[derive(Debug)]
pub struct Scheduler {
    config: GenerateConfig,
    /// Longest that a sequence may become.
    limit: usize,
    blocks: Blocks,
    /// In the order of arrival.
    running: Vec<Sequence>,
    waiting: VecDeque<Sequence>,
    counts: Stats,
    /// Of the step that is being put together.
    copies: Vec<(Block, Block)>,
    /// What is to be told, in order, by `flush`.
    told: Vec<(UnboundedSender<Event>, Event)>,
}

impl Scheduler {
    /// * `blocks`: how many the cache has.
    /// * `limit`: longest that a sequence may become, in tokens.
    pub fn new(config: &GenerateConfig, blocks: usize, limit: usize) -> Scheduler {
        let limit = limit.min(blocks * config.block_tokens);
        Scheduler {
            config: config.clone(),
            limit,
            blocks: Blocks::new(blocks),
            running: Vec::new(),
            waiting: VecDeque::new(),
            counts: Stats { block_tokens: config.block_tokens, ..Stats::default() },
            copies: Vec::new(),
            told: Vec::new(),
        }
    }

    pub fn is_idle(&self) -> bool {
        self.running.is_empty() && self.waiting.is_empty()
    }

    pub fn stats(&self) -> Stats {
        Stats {
            running: self.running.len(),
            waiting: self.waiting.len(),
            blocks_used: self.blocks.total() - self.blocks.available(),
            blocks_cached: self.blocks.idle(),
            blocks_total: self.blocks.total(),
            ..self.counts.clone()
        }
    }

    /// Sends what there is to tell. Kept apart from where it happens, so that whoever hears of an end finds it in the counts.
    pub fn flush(&mut self) {
        for (events, event) in self.told.drain(..) {
            // Whoever does not listen any more is taken out before the next step.
            let _ = events.send(event);
        }
    }

    /// A new request, to wait for its turn. It was checked when it was submitted.
    pub fn add(&mut self, request: Request, events: UnboundedSender<Event>) {
        let sampler = Sampler::new(&request);
        let prompt_tokens = request.prompt.len();
        let mut sequence = Sequence {
            sampler,
            events,
            limit: self.limit.min(prompt_tokens.saturating_add(request.sampling.max_tokens)),
            stop_ids: request.sampling.stop_ids,
            ids: request.prompt,
            prompt_tokens,
            computed: 0,
            blocks: Vec::new(),
            contents: Vec::new(),
        };
        self.update_contents(&mut sequence);
        self.waiting.push_back(sequence);
    }

    fn update_contents(&self, sequence: &mut Sequence) {
        if self.config.prefix_reuse {
            extend_contents(&mut sequence.contents, &sequence.ids, self.config.block_tokens);
        }
    }

    /// Takes out the requests whose receivers are gone.
    pub fn drop_cancelled(&mut self) {
        let waiting = self.waiting.len();
        self.waiting.retain(|sequence| !sequence.events.is_closed());
        self.counts.cancelled += (waiting - self.waiting.len()) as u64;
        for index in (0..self.running.len()).rev() {
            if self.running[index].events.is_closed() {
                self.end(index, Some(Finish::Cancelled));
            }
        }
    }

    /// The next pass through the model; `None` where there is nothing to do.
    pub fn step(&mut self) -> Option<Step> {
        let mut room = self.config.prefill_chunk;
        // Rows of each running sequence, in the order of arrival.
        let mut rows: Vec<usize> = Vec::new();
        let mut index = 0;
        while index < self.running.len() {
            let sequence = &self.running[index];
            let pending = sequence.ids.len() - sequence.computed;
            let taken = if pending == 1 { 1 } else { pending.min(room) };
            if !self.grow(index, taken) {
                // Everyone that arrived later has given way, and at last this one itself.
                break;
            }
            if pending > 1 {
                room -= taken;
            }
            rows.push(taken);
            index += 1;
        }
        while room > 0 && self.running.len() < self.config.max_batch {
            let Some(place) = self.next_waiting() else { break };
            let sequence = self.waiting.remove(place).expect("it is there");
            let pending = self.admit(sequence);
            rows.push(pending.min(room));
            room -= pending.min(room);
        }
        self.assemble(&rows)
    }

    /// Sees to it that this running sequence has blocks for its next `taken` tokens; the latest gives way where there are none. False
    /// where it gave way itself.
    fn grow(&mut self, index: usize, taken: usize) -> bool {
        loop {
            let sequence = &mut self.running[index];
            let needed = (sequence.computed + taken).div_ceil(self.config.block_tokens);
            while sequence.blocks.len() < needed {
                let Some(block) = self.blocks.take(sequence.blocks.last().copied()) else { break };
                sequence.blocks.push(block);
            }
            if sequence.blocks.len() >= needed {
                return true;
            }
            let mut latest = self.running.pop().expect("one is running");
            self.blocks.release(&latest.blocks);
            latest.blocks.clear();
            latest.computed = 0;
            self.counts.preempted += 1;
            self.waiting.push_front(latest);
            if self.running.len() == index {
                return false;
            }
        }
    }

    /// The first of the waiting that can start now.
    fn next_waiting(&self) -> Option<usize> {
        for (place, sequence) in self.waiting.iter().enumerate() {
            let contents = self.reusable(sequence);
            let found = self.blocks.count(contents);
            let beginning = contents.get(found);
            if beginning.is_some() && self.running.iter().any(|running| running.contents.get(found) == beginning) {
                continue;
            }
            let needed = (sequence.ids.len() + 1).min(self.limit).div_ceil(self.config.block_tokens) - found;
            // Who comes later does not overtake one that waits for room, or a long prompt would wait for ever.
            let fits = needed + self.blocks.idle_among(contents) <= self.blocks.available();
            return fits.then_some(place);
        }
        None
    }

    /// Contents that may come out of the cache: all but the last token's block, since that token's logits are wanted.
    fn reusable<'a>(&self, sequence: &'a Sequence) -> &'a [Content] {
        let whole = (sequence.ids.len() - 1) / self.config.block_tokens;
        &sequence.contents[..whole.min(sequence.contents.len())]
    }

    /// Gives a sequence a place and the blocks of all its tokens. Returns how many tokens are to be computed.
    fn admit(&mut self, mut sequence: Sequence) -> usize {
        let whole = self.reusable(&sequence).len();
        sequence.blocks = self.blocks.find(&sequence.contents[..whole]);
        sequence.computed = sequence.blocks.len() * self.config.block_tokens;
        // Neighbours are handed out one by one, so all that a prompt needs are taken before another sequence starts among them.
        let begun = self.begun(&sequence);
        for _ in sequence.blocks.len()..sequence.ids.len().div_ceil(self.config.block_tokens) {
            sequence.blocks.extend(self.blocks.take(sequence.blocks.last().copied()));
        }
        if let Some((tokens, block)) = begun {
            self.copies.push((block, sequence.blocks[sequence.computed / self.config.block_tokens]));
            sequence.computed += tokens;
        }
        self.counts.prompt_tokens += sequence.prompt_tokens as u64;
        self.counts.cached_tokens += sequence.computed as u64;
        self.told.push((sequence.events.clone(), Event::Started { cached_tokens: sequence.computed }));
        let pending = sequence.ids.len() - sequence.computed;
        self.running.push(sequence);
        pending
    }

    /// How many tokens after the whole blocks that a sequence shares are in a block of somebody else's, and in which: samples of one prompt
    /// differ only after its end, which is hardly ever that of a block. The last token is never among them, since its logits are wanted.
    fn begun(&self, sequence: &Sequence) -> Option<(usize, Block)> {
        let block = sequence.blocks.len();
        let wanted = &sequence.ids[sequence.computed..sequence.ids.len() - 1];
        let wanted = &wanted[..wanted.len().min(self.config.block_tokens)];
        if !self.config.prefix_reuse || wanted.is_empty() {
            return None;
        }
        let before = |sequence: &Sequence| block.checked_sub(1).and_then(|last| sequence.contents.get(last).copied());
        let of = |running: &Sequence| {
            let computed =
                running.ids.get(sequence.computed..running.computed).filter(|_| before(running) == before(sequence))?;
            let tokens = computed.iter().zip(wanted).take_while(|(a, b)| a == b).count();
            (tokens > 0).then(|| (tokens, running.blocks[block]))
        };
        let whole = sequence.contents.get(block).and_then(|content| self.blocks.get(content)).map(|block| (wanted.len(), block));
        // Of equally long ones the first, so that the same requests are worked on in the same way.
        whole.or_else(|| self.running.iter().filter_map(of).reduce(|best, next| if next.0 > best.0 { next } else { best }))
    }

    fn assemble(&mut self, rows: &[usize]) -> Option<Step> {
        let mut order: Vec<usize> = (0..rows.len()).filter(|index| rows[*index] > 0).collect();
        order.sort_by(|a, b| self.running[*a].blocks.cmp(&self.running[*b].blocks));
        let mut step = Step { copies: std::mem::take(&mut self.copies), ..Step::default() };
        for index in order {
            let sequence = &self.running[index];
            let (first, past) = (step.ids_n.len(), sequence.computed);
            for position in past..past + rows[index] {
                let block = sequence.blocks[position / self.config.block_tokens] as usize;
                step.ids_n.push(i64::from(sequence.ids[position]));
                step.positions_n.push(position as i64);
                step.slots_n.push((block * self.config.block_tokens + position % self.config.block_tokens) as i64);
            }
            step.parts.push(Part {
                running: index,
                rows: first..step.ids_n.len(),
                past,
                blocks: sequence.blocks.clone(),
                samples: past + rows[index] == sequence.ids.len(),
            });
        }
        (!step.parts.is_empty()).then_some(step)
    }

    /// Says that a step's keys and values are in the cache.
    pub fn computed(&mut self, step: &Step) {
        self.counts.steps += 1;
        for part in &step.parts {
            let sequence = &mut self.running[part.running];
            let before = sequence.computed / self.config.block_tokens;
            sequence.computed += part.rows.len();
            let whole = (sequence.computed / self.config.block_tokens).min(sequence.contents.len());
            for index in before..whole {
                self.blocks.publish(sequence.blocks[index], sequence.contents[index]);
            }
        }
    }

    /// Samples the next token of every part that wants one.
    ///
    /// * `logits`: of each such part, in the order of the parts.
    /// * `threads`: how many draw at once. An id is a matter of its own logits and key alone, so that this changes none.
    pub fn sample<'a>(&mut self, step: &Step, logits: impl Iterator<Item = &'a [f32]>, threads: usize) {
        let sampling = || step.parts.iter().filter(|part| part.samples);
        let mut logits_of: Vec<Option<&[f32]>> = vec![None; self.running.len()];
        for (part, logits) in sampling().zip(logits) {
            logits_of[part.running] = Some(logits);
        }
        let mut drawn: Vec<Draw> =
            self.running.iter_mut().zip(logits_of).map(|(sequence, logits)| (sequence, logits, None)).collect();
        openmp::each(threads, &mut drawn, |(sequence, logits, drawn)| {
            *drawn = logits.map(|logits| sequence.sampler.next(logits))
        });
        let mut drawn: Vec<_> = drawn.into_iter().map(|(_, _, drawn)| drawn).collect();
        // A place is freed with a finish, or after a failure that was told already.
        let mut ended: Vec<(usize, Option<Finish>)> = Vec::new();
        for part in sampling() {
            let sequence = &mut self.running[part.running];
            match drawn[part.running].take().expect("one was drawn for each") {
                Ok(sampled) => {
                    self.counts.new_tokens += 1;
                    ended.extend(sequence.accept(sampled.id).map(|finish| (part.running, Some(finish))));
                    let Sampled { id, behaviour_logprob, sampled_logprob, top } = sampled;
                    self.told.push((sequence.events.clone(), Event::Token { id, behaviour_logprob, sampled_logprob, top }));
                }
                Err(message) => {
                    self.counts.failed += 1;
                    self.told.push((sequence.events.clone(), Event::Failed(message)));
                    ended.push((part.running, None));
                }
            }
        }
        ended.sort_unstable_by_key(|(running, _)| std::cmp::Reverse(*running));
        for (running, finish) in ended {
            self.end(running, finish);
        }
        if self.config.prefix_reuse {
            for sequence in &mut self.running {
                extend_contents(&mut sequence.contents, &sequence.ids, self.config.block_tokens);
            }
        }
    }

    /// Frees the place of a running sequence.
    fn end(&mut self, running: usize, finish: Option<Finish>) {
        let sequence = self.running.remove(running);
        self.blocks.release(&sequence.blocks);
        let Some(finish) = finish else { return };
        match finish {
            Finish::Cancelled => self.counts.cancelled += 1,
            Finish::Stop | Finish::Length => self.counts.finished += 1,
        }
        self.told.push((sequence.events, Event::Finished(finish)));
    }

    /// Fails every running request, and forgets what is in the cache: a step broke off, and what it wrote is not known.
    pub fn fail_running(&mut self, message: &str) {
        for sequence in self.running.drain(..) {
            self.counts.failed += 1;
            self.told.push((sequence.events, Event::Failed(message.to_owned())));
        }
        self.blocks = Blocks::new(self.blocks.total());
    }

    /// Ends everything.
    pub fn cancel_all(&mut self) {
        for sequence in self.running.drain(..).chain(self.waiting.drain(..)) {
            self.counts.cancelled += 1;
            self.told.push((sequence.events, Event::Finished(Finish::Cancelled)));
        }
        self.blocks = Blocks::new(self.blocks.total());
    }
}

impl Sequence {
    /// Appends a sampled id; tells whether it was the last.
    fn accept(&mut self, id: u32) -> Option<Finish> {
        self.ids.push(id);
        match (self.stop_ids.contains(&id), self.ids.len() >= self.limit) {
            (true, _) => Some(Finish::Stop),
            (false, true) => Some(Finish::Length),
            (false, false) => None,
        }
    }
}

#[cfg(test)]
mod tests;
