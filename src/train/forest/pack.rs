//! The rows of a step dealt into micro-batches, so that what rows share is computed once wherever the budget allows.

use super::trie::common_prefix;
use std::cmp::Reverse;

/// Rows to compute together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MicroBatch {
    /// Indices of the rows, ascending.
    pub rows: Vec<usize>,
    /// Nodes of their trie.
    pub tokens: usize,
}

/// Deals rows into micro-batches of at most `budget_tokens` nodes each.
///
/// Rows that share a prefix stay together if they fit. Those that do not are split where they share least, and what they share is computed once
/// in each part. The parts are dealt largest first, each to the first micro-batch that has room. A single row longer than the budget gets a
/// micro-batch of its own.
///
/// * `rows`: tokens of each row, as they go through the model. Empty ones cost nothing and come with the first micro-batch.
pub fn pack(rows: &[&[u32]], budget_tokens: usize) -> Vec<MicroBatch> {
    let mut sorted: Vec<usize> = (0..rows.len()).collect();
    sorted.sort_by_key(|&row| rows[row]);
    let shared: Vec<usize> = sorted.windows(2).map(|pair| common_prefix(rows[pair[0]], rows[pair[1]])).collect();
    let mut batches = split(rows, &sorted, &shared, budget_tokens);
    for batch in &mut batches {
        batch.rows.sort();
    }
    batches
}

/// * `sorted`: rows in the order of their tokens.
/// * `shared`: how many tokens each but the last shares with the next.
///
/// Each micro-batch's tokens hold the prefix that all of `sorted` share.
fn split(rows: &[&[u32]], sorted: &[usize], shared: &[usize], budget_tokens: usize) -> Vec<MicroBatch> {
    let tokens = sorted.iter().map(|&row| rows[row].len()).sum::<usize>() - shared.iter().sum::<usize>();
    let Some(&least) = shared.iter().min().filter(|_| tokens > budget_tokens) else {
        return if sorted.is_empty() { vec![] } else { vec![MicroBatch { rows: sorted.to_vec(), tokens }] };
    };
    let mut parts = vec![];
    let mut start = 0;
    for end in (1..=sorted.len()).filter(|&end| end == sorted.len() || shared[end - 1] == least) {
        parts.extend(split(rows, &sorted[start..end], &shared[start..end - 1], budget_tokens));
        start = end;
    }
    parts.sort_by_key(|part| Reverse(part.tokens));
    let mut batches = Vec::<MicroBatch>::new();
    for part in parts {
        let more = part.tokens - least;
        match batches.iter_mut().find(|batch| batch.tokens + more <= budget_tokens) {
            Some(batch) => {
                batch.tokens += more;
                batch.rows.extend(part.rows);
            }
            None => batches.push(part),
        }
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::super::trie::Trie;
    use super::super::trie::tests::grown;
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_row_is_in_one_micro_batch_within_the_budget(
            cuts in prop::collection::vec((any::<usize>(), any::<usize>(), prop::collection::vec(0u32..3, 0..40)), 0..20),
            budget in 1usize..120,
        ) {
            let rows = grown(&cuts);
            let rows: Vec<&[u32]> = rows.iter().map(Vec::as_slice).collect();
            let batches = pack(&rows, budget);
            let mut all: Vec<usize> = batches.iter().flat_map(|batch| batch.rows.iter().copied()).collect();
            all.sort();
            prop_assert_eq!(all, (0..rows.len()).collect::<Vec<_>>());
            for batch in &batches {
                let own: Vec<&[u32]> = batch.rows.iter().map(|&row| rows[row]).collect();
                let nodes = Trie::new(&own).len();
                prop_assert!(nodes <= batch.tokens, "{nodes} nodes in a micro-batch said to have {}", batch.tokens);
                prop_assert!(batch.tokens <= budget || own.iter().filter(|row| !row.is_empty()).count() == 1);
            }
        }
    }

    #[test]
    fn a_trie_too_large_is_split_at_its_branch() {
        // Two tasks: four samples of 10 tokens on a prompt of 20, and one row of 15.
        let sample = |sample: u32| (0..20).chain((0..10).map(|token| 100 * (sample + 1) + token)).collect::<Vec<u32>>();
        let mut rows: Vec<Vec<u32>> = (0..4).map(sample).collect();
        rows.push((1000..1015).collect());
        let rows: Vec<&[u32]> = rows.iter().map(Vec::as_slice).collect();
        let dealt = |budget| pack(&rows, budget).into_iter().map(|batch| (batch.rows, batch.tokens)).collect::<Vec<_>>();
        assert_eq!(dealt(75), vec![(vec![0, 1, 2, 3, 4], 75)]);
        assert_eq!(dealt(60), vec![(vec![0, 1, 2, 3], 60), (vec![4], 15)]);
        assert_eq!(dealt(55), vec![(vec![0, 1, 2], 50), (vec![3, 4], 45)]);
        assert_eq!(dealt(10), vec![(vec![0], 30), (vec![1], 30), (vec![2], 30), (vec![3], 30), (vec![4], 15)]);
    }
}
