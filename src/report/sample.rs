//! Which rollouts are shown whole: a few of each batch, as different from each other as can be.

use std::collections::BTreeMap;

use anyhow::Result;
use polars::prelude::{ChunkAgg as _, DataFrame};

use super::query::{first, numbers, parts, texts, wholes};

/// Batches whose rollouts are shown at most; the first and the last are among them.
const BATCHES: usize = 12;

/// What kinds of rollouts are told apart: failure class, whether the reward is none, low or high, whether a tool failed.
type Kind = (String, u8, bool);

/// Batch and id of the rollouts that are shown.
///
/// Of each kind there is one, rare kinds first, then a second of each, until `each` are chosen; within a kind a hash decides, so that neither
/// the order of tasks nor that of time does. Rare kinds are shown more often than they happen.
///
/// * `rollouts`: the rows of `report/rollouts`.
/// * `each`: of one batch; 0 for none.
pub fn choose(rollouts: &DataFrame, each: usize) -> Result<Vec<(String, String)>> {
    let batches = parts(rollouts, &["batch"])?;
    let mut chosen = Vec::new();
    for index in spread(batches.len(), BATCHES) {
        let batch = first(&batches[index], "batch")?;
        for rollout in of_batch(&batch, &batches[index], each)? {
            chosen.push((batch.clone(), rollout));
        }
    }
    Ok(chosen)
}

/// Indices of `limit` of `count` things, evenly spread, the first and the last among them.
fn spread(count: usize, limit: usize) -> Vec<usize> {
    if count <= limit {
        return (0..count).collect();
    }
    (0..limit).map(|index| (index * (count - 1) + (limit - 1) / 2) / (limit - 1)).collect()
}

fn of_batch(batch: &str, rollouts: &DataFrame, each: usize) -> Result<Vec<String>> {
    let (ids, classes) = (texts(rollouts, "rollout_id")?, texts(rollouts, "failure_class")?);
    let (rewards, errors) = (numbers(rollouts, "reward")?, wholes(rollouts, "tool_errors")?);
    let mean = rewards.mean().unwrap_or(0.0);
    let mut kinds: BTreeMap<Kind, Vec<([u8; 32], &str)>> = BTreeMap::new();
    for row in 0..rollouts.height() {
        let id = ids.get(row).unwrap_or_default();
        let level = rewards.get(row).map_or(0, |reward| if reward > mean { 2 } else { 1 });
        let kind = (classes.get(row).unwrap_or_default().to_owned(), level, errors.get(row).unwrap_or(0) > 0);
        let hash = *blake3::hash(format!("{batch}/{id}").as_bytes()).as_bytes();
        kinds.entry(kind).or_default().push((hash, id));
    }
    let mut kinds: Vec<Vec<([u8; 32], &str)>> = kinds.into_values().collect();
    kinds.sort_by_key(Vec::len);
    kinds.iter_mut().for_each(|kind| kind.sort_unstable());
    let longest = kinds.iter().map(Vec::len).max().unwrap_or(0);
    let in_turn = (0..longest).flat_map(|place| kinds.iter().filter_map(move |kind| kind.get(place)));
    Ok(in_turn.take(each).map(|(_, id)| (*id).to_owned()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use polars::prelude::Column;

    #[test]
    fn batches_are_spread_evenly() {
        assert_eq!(spread(3, 12), [0, 1, 2]);
        assert_eq!(spread(61, 3), [0, 30, 60]);
        assert_eq!(spread(13, 12).len(), 12);
        assert_eq!((spread(100, 12)[0], spread(100, 12)[11]), (0, 99));
    }

    #[test]
    fn each_kind_is_shown_before_a_second_of_one() {
        let ids: Vec<String> = (0..10).map(|id| format!("r{id}")).collect();
        let rewards: Vec<Option<f64>> = (0..10).map(|id| (id != 9).then_some(f64::from(u8::from(id > 4)))).collect();
        let classes: Vec<Option<&str>> = (0..10).map(|id| (id == 9).then_some("timeout")).collect();
        let columns = vec![
            Column::new("batch".into(), vec!["b"; 10]),
            Column::new("rollout_id".into(), ids),
            Column::new("failure_class".into(), classes),
            Column::new("reward".into(), rewards),
            Column::new("tool_errors".into(), vec![0i64; 10]),
        ];
        let frame = DataFrame::new(10, columns).unwrap();
        let chosen = choose(&frame, 3).unwrap();
        let number = |index: usize| chosen[index].1[1..].parse::<usize>().unwrap();
        assert_eq!(chosen.len(), 3);
        // One timed out, four earned 1, five earned 0: the rarest comes first.
        assert_eq!(number(0), 9);
        assert!((5..9).contains(&number(1)) && number(2) < 5, "{chosen:?}");
        assert_eq!(choose(&frame, 3).unwrap(), chosen);
        assert_eq!(choose(&frame, 0).unwrap(), []);
        assert_eq!(choose(&frame, 99).unwrap().len(), 10);
    }
}
