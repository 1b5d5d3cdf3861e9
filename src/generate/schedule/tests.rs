//! The scheduler without a model: the "logits" of a step are made here, and always favour the id after the last one.

use tokio::sync::mpsc::{UnboundedReceiver, error::TryRecvError, unbounded_channel};

use super::*;
use crate::generate::{Key, Sampling};

const VOCABULARY: usize = 50;

fn scheduler(blocks: usize, config: GenerateConfig) -> Scheduler {
    Scheduler::new(&GenerateConfig { block_tokens: 4, ..config }, blocks, 1000)
}

fn add(scheduler: &mut Scheduler, prompt: &[u32], max_tokens: usize) -> UnboundedReceiver<Event> {
    let sampling = Sampling { temperature: 0.0, max_tokens, stop_ids: vec![49], ..Sampling::default() };
    let (sender, receiver) = unbounded_channel();
    scheduler.add(Request { prompt: prompt.to_vec(), sampling, key: Key::default() }, sender);
    receiver
}

/// One step; returns how many rows it had.
fn step(scheduler: &mut Scheduler) -> usize {
    scheduler.drop_cancelled();
    scheduler.flush();
    let Some(step) = scheduler.step() else { return 0 };
    scheduler.computed(&step);
    let last_ids = step.parts.iter().filter(|part| part.samples).map(|part| step.ids_n[part.rows.end - 1] as usize);
    let logits: Vec<Vec<f32>> =
        last_ids.map(|last| (0..VOCABULARY).map(|id| if id == (last + 1) % VOCABULARY { 5.0 } else { 0.0 }).collect()).collect();
    scheduler.sample(&step, logits.iter().map(Vec::as_slice), 2);
    scheduler.flush();
    step.ids_n.len()
}

fn run(scheduler: &mut Scheduler) -> Vec<usize> {
    let mut rows = Vec::new();
    while !scheduler.is_idle() {
        let count = step(scheduler);
        assert!(count > 0, "nothing moves: {:?}", scheduler.stats());
        rows.push(count);
    }
    rows
}

/// Tokens and the end of a request; `started` lists what was cached at each start.
fn heard(receiver: &mut UnboundedReceiver<Event>) -> (Vec<usize>, Vec<u32>, Event) {
    let (mut started, mut ids) = (Vec::new(), Vec::new());
    loop {
        match receiver.try_recv() {
            Ok(Event::Started { cached_tokens }) => started.push(cached_tokens),
            Ok(Event::Token { id, .. }) => ids.push(id),
            Ok(end) => return (started, ids, end),
            Err(error) => panic!("no end: {error}, {ids:?}"),
        }
    }
}

#[test]
fn prompts_share_the_step_with_running_requests() {
    let mut scheduler = scheduler(100, GenerateConfig { prefill_chunk: 6, ..GenerateConfig::default() });
    let mut first = add(&mut scheduler, &[1, 2, 3], 5);
    let mut second = add(&mut scheduler, &[10, 11, 12, 13, 14, 15, 16, 17, 18, 19], 2);
    // 3 of the first and 3 of the second prompt; then one token of the first beside 6, then 1, of the second's prompt.
    assert_eq!(run(&mut scheduler), [6, 7, 2, 2, 1]);
    assert_eq!(heard(&mut first), (vec![0], vec![4, 5, 6, 7, 8], Event::Finished(Finish::Length)));
    assert_eq!(heard(&mut second), (vec![0], vec![20, 21], Event::Finished(Finish::Length)));
}

#[test]
fn the_stop_id_is_the_last_token() {
    let mut scheduler = scheduler(100, GenerateConfig::default());
    let mut receiver = add(&mut scheduler, &[46], 10);
    run(&mut scheduler);
    assert_eq!(heard(&mut receiver).1, [47, 48, 49]);
    let stats = scheduler.stats();
    assert_eq!((stats.finished, stats.new_tokens, stats.blocks_used), (1, 3, 0));
}

#[test]
fn equal_prompts_that_arrive_together_are_computed_once() {
    let prompt: Vec<u32> = (0..21).collect();
    for (prefix_reuse, expected, cached) in [(true, vec![21, 4, 3], 60), (false, vec![84, 4], 0)] {
        let mut scheduler = scheduler(100, GenerateConfig { prefix_reuse, ..GenerateConfig::default() });
        let mut receivers: Vec<_> = (0..4).map(|_| add(&mut scheduler, &prompt, 2)).collect();
        assert_eq!(run(&mut scheduler), expected);
        assert_eq!(scheduler.stats().cached_tokens, cached);
        for receiver in &mut receivers {
            assert_eq!(heard(receiver).1, [21, 22]);
        }
    }
}

#[test]
fn what_is_shared_of_a_last_block_is_copied() {
    for length in [3, 21, 22, 23, 24] {
        let prompt: Vec<u32> = (0..length).collect();
        // All but the last token, whose logits are wanted; of one with another token before that, what stands before it.
        let other: Vec<u32> = prompt.iter().map(|id| if *id == length - 2 { 40 } else { *id }).collect();
        for (prefix_reuse, second, cached) in
            [(true, &prompt, length - 1), (true, &other, length - 2), (false, &prompt, 0)].map(|(a, b, c)| (a, b, c as usize))
        {
            let mut scheduler = scheduler(100, GenerateConfig { prefix_reuse, ..GenerateConfig::default() });
            let mut receivers = [add(&mut scheduler, &prompt, 3), add(&mut scheduler, &[46], 1)];
            assert_eq!(step(&mut scheduler), length as usize + 1);
            let mut receiver = add(&mut scheduler, second, 2);
            assert_eq!(step(&mut scheduler), 1 + second.len() - cached, "{length} {cached}");
            run(&mut scheduler);
            assert_eq!(heard(&mut receiver), (vec![cached], vec![length, length + 1], Event::Finished(Finish::Length)));
            assert_eq!(heard(&mut receivers[0]).1, [length, length + 1, length + 2]);
            assert_eq!(scheduler.stats().blocks_used, 0);
        }
    }
}

#[test]
fn the_next_turn_finds_the_last_one() {
    let mut scheduler = scheduler(100, GenerateConfig::default());
    let mut first = add(&mut scheduler, &[1, 2, 3, 4, 5], 8);
    run(&mut scheduler);
    assert_eq!(heard(&mut first).1, [6, 7, 8, 9, 10, 11, 12, 13]);
    // Twelve of its thirteen tokens were computed, which is three blocks.
    let mut second = add(&mut scheduler, &(1..20).collect::<Vec<u32>>(), 1);
    assert_eq!(run(&mut scheduler), [7]);
    assert_eq!(heard(&mut second).0, [12]);
}

#[test]
fn a_full_cache_makes_requests_wait_and_never_fail() {
    // Eight blocks of 4 hold 32 tokens; three requests come to 30 each.
    let mut scheduler = scheduler(8, GenerateConfig::default());
    let prompts: Vec<Vec<u32>> = vec![(0..10).collect(), (1..11).collect(), (2..12).collect()];
    let mut receivers: Vec<_> = prompts.iter().map(|prompt| add(&mut scheduler, prompt, 20)).collect();
    let mut most = 0;
    while !scheduler.is_idle() {
        assert!(step(&mut scheduler) > 0);
        most = most.max(scheduler.stats().running);
    }
    assert_eq!(most, 2);
    for (receiver, prompt) in receivers.iter_mut().zip(&prompts) {
        let (started, ids, end) = heard(receiver);
        let next = prompt[9] + 1;
        assert_eq!((ids, end), ((next..next + 20).collect(), Event::Finished(Finish::Length)));
        assert!(!started.is_empty());
    }
    let stats = scheduler.stats();
    assert!(stats.preempted > 0 && stats.failed == 0 && stats.blocks_used == 0, "{stats:?}");
}

#[test]
fn a_sequence_as_long_as_the_cache_ends_by_length() {
    let mut scheduler = scheduler(2, GenerateConfig::default());
    let mut receiver = add(&mut scheduler, &[1, 2, 3], 100);
    run(&mut scheduler);
    assert_eq!(heard(&mut receiver), (vec![0], vec![4, 5, 6, 7, 8], Event::Finished(Finish::Length)));
}

#[test]
fn a_dropped_receiver_frees_the_place() {
    let mut scheduler = scheduler(100, GenerateConfig { max_batch: 1, ..GenerateConfig::default() });
    let first = add(&mut scheduler, &[1], 1000);
    let mut second = add(&mut scheduler, &[5], 2);
    let third = add(&mut scheduler, &[9], 2);
    step(&mut scheduler);
    assert!(matches!(second.try_recv(), Err(TryRecvError::Empty)));
    drop((first, third));
    run(&mut scheduler);
    assert_eq!(heard(&mut second).1, [6, 7]);
    let stats = scheduler.stats();
    assert_eq!((stats.cancelled, stats.finished, stats.blocks_used), (2, 1, 0));
}

#[test]
fn a_broken_step_fails_who_ran_and_nobody_else() {
    let mut scheduler = scheduler(100, GenerateConfig { max_batch: 1, ..GenerateConfig::default() });
    let mut first = add(&mut scheduler, &[1, 2, 3, 4, 5, 6], 10);
    let mut second = add(&mut scheduler, &[1, 2, 3, 4, 5, 6], 1);
    step(&mut scheduler);
    scheduler.fail_running("out of memory");
    scheduler.flush();
    assert_eq!(heard(&mut first).2, Event::Failed("out of memory".to_owned()));
    run(&mut scheduler);
    assert_eq!(heard(&mut second), (vec![0], vec![7], Event::Finished(Finish::Length)));
}
