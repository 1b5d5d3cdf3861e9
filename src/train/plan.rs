//! Which rows go into which step: the same for the same seed, whatever happened before.

use super::rows::Row;

/// The steps of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    pub epoch: u64,
    /// Indices of rows, ascending.
    pub rows: Vec<usize>,
}

/// Cuts the rows of each epoch into `minibatches` steps of about as many rows each, in an order drawn from the seed. Rollouts are never
/// cut, and those of a group stay next to each other, so that they mostly share a step and their prompt is computed once. There are no more
/// steps in an epoch than rollouts.
pub fn plan(rows: &[Row], epochs: u64, minibatches: u64, seed: u64) -> Vec<Step> {
    let mut steps = Vec::new();
    for epoch in 0..epochs {
        let mut rollouts: Vec<Vec<usize>> = Vec::new();
        for (index, row) in rows.iter().enumerate() {
            match rollouts.last_mut().filter(|rollout| rows[rollout[0]].rollout == row.rollout) {
                Some(rollout) => rollout.push(index),
                None => rollouts.push(vec![index]),
            }
        }
        // With one step there is nothing to draw, and rows stay as they are.
        if minibatches > 1 {
            rollouts.sort_by_cached_key(|rollout| {
                let row = &rows[rollout[0]];
                (draw(seed, epoch, &row.group_id), row.group, draw(seed, epoch, &row.rollout_id), row.rollout)
            });
        }
        let count = (minibatches as usize).clamp(1, rollouts.len().max(1));
        let mut rollouts = rollouts.into_iter();
        let mut left = rows.len();
        for remaining in (1..=count).rev() {
            let wanted = left.div_ceil(remaining);
            let mut step = Vec::new();
            // Every later step has to get a rollout of its own.
            while step.len() < wanted && rollouts.len() >= remaining {
                step.extend(rollouts.next().into_iter().flatten());
            }
            left -= step.len();
            step.sort_unstable();
            steps.push(Step { epoch, rows: step });
        }
    }
    steps
}

fn draw(seed: u64, epoch: u64, id: &str) -> [u8; 32] {
    *blake3::Hasher::new().update(&seed.to_le_bytes()).update(&epoch.to_le_bytes()).update(id.as_bytes()).finalize().as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// * `sizes`: rows of each rollout; two rollouts make a group.
    fn rows(sizes: &[usize]) -> Vec<Row> {
        let of = |rollout: usize| Row {
            group_id: format!("g{}", rollout / 2),
            rollout_id: format!("r{rollout}"),
            call_id: String::new(),
            step: 0,
            group: rollout / 2,
            rollout,
            prompt: vec![],
            response: vec![],
            behaviour_logp_t: None,
            temperature: 1.0,
            advantage: 0.0,
            weight: 1.0,
            outcome: None,
            return_value: None,
            truncated: false,
            policy_version: None,
        };
        sizes.iter().enumerate().flat_map(|(rollout, size)| vec![of(rollout); *size]).collect()
    }

    #[test]
    fn every_row_is_in_one_step_of_each_epoch() {
        for minibatches in 1..9 {
            let rows = rows(&[3, 1, 1, 5, 2, 1]);
            let steps = plan(&rows, 2, minibatches, 7);
            assert_eq!(steps.len() as u64, 2 * minibatches.min(6));
            for epoch in 0..2 {
                let mut seen: Vec<usize> =
                    steps.iter().filter(|step| step.epoch == epoch).flat_map(|step| step.rows.clone()).collect();
                seen.sort_unstable();
                assert_eq!(seen, (0..13).collect::<Vec<_>>());
            }
            assert!(steps.iter().all(|step| !step.rows.is_empty()), "{steps:?}");
            for step in &steps {
                let whole = |rollout: usize| {
                    rows.iter().enumerate().filter(move |(_, row)| row.rollout == rollout).map(|(index, _)| index)
                };
                assert!(step.rows.iter().all(|row| whole(rows[*row].rollout).all(|other| step.rows.contains(&other))));
            }
            assert_eq!(plan(&rows, 2, minibatches, 7), steps);
        }
        assert_ne!(plan(&rows(&[1; 20]), 1, 5, 7), plan(&rows(&[1; 20]), 1, 5, 8));
        assert_eq!(plan(&rows(&[2, 1]), 1, 1, 7), [Step { epoch: 0, rows: vec![0, 1, 2] }]);
    }
}
