//! Tasks: a file of JSON lines, and which of them an iteration takes.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::Result;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::exit::Fault;
use crate::lake::check_name;

/// The splits that a task can belong to.
pub const SPLITS: [&str; 3] = ["train", "val", "test"];

/// One line of a tasks file.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Task {
    /// Unique in the file; part of the ids of its rollouts, so it is as plain as the name of a batch.
    pub id: String,
    /// What the agent is given: text, or any JSON.
    pub input: Value,
    /// The right answer, or an array of several; for the grader, never shown to the agent.
    #[serde(default)]
    pub expected: Value,
    /// train, val or test; train where nothing is said.
    #[serde(default = "train")]
    pub split: String,
    /// Shown to the agent and to the grader.
    #[serde(default)]
    pub metadata: Value,
}

fn train() -> String {
    SPLITS[0].to_owned()
}

impl Task {
    /// What the agent sees.
    pub fn shown(&self) -> Value {
        json!({ "id": self.id, "input": self.input, "metadata": self.metadata })
    }

    /// The whole task, for a grader that is a program of the user's own.
    pub fn whole(&self) -> Value {
        json!({
            "id": self.id, "input": self.input, "expected": self.expected, "split": self.split, "metadata": self.metadata,
        })
    }
}

/// Reads a tasks file. `Fault::Usage` names the line that is no task, or repeats an id.
pub fn read(path: &Path) -> Result<Vec<Task>> {
    let shown = path.display();
    let text = std::fs::read_to_string(path)
        .map_err(|error| Fault::Usage(format!("cannot read the tasks `{shown}`: {error}; name the file in `rollout.tasks`")))?;
    let (mut tasks, mut ids) = (Vec::new(), BTreeSet::new());
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let wrong = |what: String| Fault::Usage(format!("`{shown}`, line {}: {what}", index + 1));
        let task: Task = serde_json::from_str(line).map_err(|error| wrong(format!("no task: {error}")))?;
        check_name("task", &task.id).map_err(|error| wrong(error.to_string()))?;
        if !SPLITS.contains(&task.split.as_str()) {
            return Err(wrong(format!("split `{}` is none of train, val and test", task.split)).into());
        }
        if !ids.insert(task.id.clone()) {
            return Err(wrong(format!("the id `{}` stands there before", task.id)).into());
        }
        tasks.push(task);
    }
    Ok(tasks)
}

/// The tasks of one split that an iteration takes, in the order in which they are begun.
///
/// Every epoch is a shuffle of its own, cut into iterations of `count` tasks; what is left over at its end waits for a later epoch. The
/// shuffle follows from `seed`, the epoch and the ids alone, not from the order of the file.
///
/// * `count`: tasks of an iteration; 0, or more than there are, takes all.
pub fn choose<'a>(tasks: &'a [Task], split: &str, count: usize, seed: u64, iteration: u64) -> Vec<&'a Task> {
    let mut chosen: Vec<&Task> = tasks.iter().filter(|task| task.split == split).collect();
    let count = if count == 0 { chosen.len() } else { count.min(chosen.len()) };
    if count == 0 {
        return Vec::new();
    }
    let iterations = (chosen.len() / count) as u64;
    let (epoch, place) = (iteration / iterations, (iteration % iterations) as usize);
    chosen.sort_by_cached_key(|task| place_of(b"tasks", seed, epoch, task));
    chosen.drain(..).skip(place * count).take(count).collect()
}

/// Further tasks of an iteration, drawn from all of the split that it has not taken. Later iterations take them all the same.
///
/// * `count`: how many; fewer come back where fewer are left.
/// * `taken`: what the iteration has run before.
pub fn further<'a>(tasks: &'a [Task], split: &str, count: usize, seed: u64, iteration: u64, taken: &[&Task]) -> Vec<&'a Task> {
    let taken: BTreeSet<&str> = taken.iter().map(|task| task.id.as_str()).collect();
    let mut left: Vec<&Task> = tasks.iter().filter(|task| task.split == split && !taken.contains(task.id.as_str())).collect();
    left.sort_by_cached_key(|task| place_of(b"refill", seed, iteration, task));
    left.truncate(count);
    left
}

/// What a shuffle sorts a task by.
fn place_of(what: &[u8], seed: u64, round: u64, task: &Task) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(what).update(&seed.to_le_bytes()).update(&round.to_le_bytes()).update(task.id.as_bytes());
    *hasher.finalize().as_bytes()
}

/// The number of an iteration, from the name of its batch: `iter-0003` is 3, a name without a number at its end is 0.
pub fn iteration_of(batch: &str) -> u64 {
    let digits = batch.len() - batch.trim_end_matches(|c: char| c.is_ascii_digit()).len();
    batch[batch.len() - digits..].parse().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tasks(count: usize) -> Vec<Task> {
        let line =
            |n| format!(r#"{{"id": "t{n:02}", "input": "{n}?", "split": "{}"}}"#, if n % 5 == 4 { "val" } else { "train" });
        (0..count).map(|n| serde_json::from_str(&line(n)).unwrap()).collect()
    }

    #[test]
    fn an_epoch_takes_every_task_once_and_another_epoch_shuffles_anew() {
        let all = tasks(20); // 16 of them to train on
        let ids = |iteration| choose(&all, "train", 4, 7, iteration).iter().map(|task| task.id.clone()).collect::<Vec<_>>();
        let epoch: BTreeSet<String> = (0..4).flat_map(ids).collect();
        assert_eq!(epoch.len(), 16);
        let orders: BTreeSet<Vec<String>> = (0..40).step_by(4).map(ids).collect();
        assert_eq!(orders.len(), 10, "ten epochs begin in ten ways");
        let reversed: Vec<Task> = all.iter().rev().cloned().collect();
        let again: Vec<String> = choose(&reversed, "train", 4, 7, 2).iter().map(|task| task.id.clone()).collect();
        assert_eq!(again, ids(2), "the order of the file does not matter");
        assert_eq!(choose(&all, "val", 0, 7, 3).len(), 4);
        assert_eq!(choose(&all, "val", 100, 7, 3).len(), 4);
        assert!(choose(&all, "test", 4, 7, 0).is_empty());
    }

    #[test]
    fn further_tasks_are_others_and_follow_from_the_seed() {
        let all = tasks(20); // 16 of them to train on
        let taken = choose(&all, "train", 4, 7, 2);
        let ids =
            |count, seed| further(&all, "train", count, seed, 2, &taken).iter().map(|task| task.id.clone()).collect::<Vec<_>>();
        assert_eq!(ids(3, 7).len(), 3);
        assert!(taken.iter().all(|task| !ids(3, 7).contains(&task.id)));
        assert_eq!(ids(12, 7)[..3], ids(3, 7), "more begins with the same");
        assert_ne!(ids(12, 7), ids(12, 8));
        assert_eq!(ids(100, 7).len(), 12, "never one twice");
    }

    #[test]
    fn iterations_are_numbered_by_their_batch() {
        for (batch, number) in [("iter-0003", 3), ("iter-0000", 0), ("eval-v0012", 12), ("demo", 0), ("2026-11-22", 22)] {
            assert_eq!(iteration_of(batch), number, "{batch}");
        }
    }

    #[test]
    fn a_line_that_is_no_task_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tasks.jsonl");
        let good = r#"{"id": "a", "input": "?"}"#;
        for (second, reason) in [
            (r#"{"id": "b"}"#, "line 2: no task: missing field `input`"),
            (r#"{"id": "b", "input": 1, "answer": 2}"#, "unknown field `answer`"),
            (r#"{"id": "b", "input": 1, "split": "dev"}"#, "split `dev`"),
            (r#"{"id": "a", "input": 1}"#, "the id `a` stands there before"),
            (r#"{"id": "a/b", "input": 1}"#, "cannot be the name of a task"),
        ] {
            std::fs::write(&path, format!("{good}\n{second}\n")).unwrap();
            let error = read(&path).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
        std::fs::write(&path, format!("{good}\n\n")).unwrap();
        assert_eq!(read(&path).unwrap().len(), 1);
        assert_eq!(read(&path).unwrap()[0].split, "train");
    }
}
