//! What holds for every batch.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::random;
use crate::cases::{Dice, block_on, numbers, query, run, settings, texts};

/// Group, rollout and advantage of every call.
fn advantages(seed: u64, pairs: &[(&str, &str)]) -> Vec<(String, String, f64)> {
    let tables = random(&mut Dice(seed), 25);
    block_on(async {
        let (context, _) = run(&tables, &settings(pairs), &["credit"]).await.expect("credit runs");
        let sql = "select group_id, rollout_id, advantage from credits order by rollout_id, step";
        let found = query(&context, sql).await.expect("reads");
        let names = texts(&found, "group_id").into_iter().zip(texts(&found, "rollout_id"));
        names
            .zip(numbers(&found, "advantage"))
            .map(|((group, rollout), value)| (group, rollout, value.expect("compared")))
            .collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn identical_gives_one_advantage_per_rollout(
        seed in any::<u64>(),
        comparison in prop::sample::select(vec!["none", "group_mean", "group_std", "batch_std", "leave_one_out", "batch_whiten", "best_of"]),
    ) {
        let mut seen: BTreeMap<String, f64> = BTreeMap::new();
        for (_, rollout, advantage) in advantages(seed, &[("credit.comparison", comparison)]) {
            prop_assert_eq!(*seen.entry(rollout).or_insert(advantage), advantage);
        }
    }

    /// Over the rollouts of a group at level rollout, over its calls at level transition.
    #[test]
    fn leave_one_out_sums_to_zero_in_a_group(seed in any::<u64>(), calls in any::<bool>()) {
        let level = if calls { "transition" } else { "rollout" };
        let found = advantages(seed, &[("credit.comparison", "leave_one_out"), ("credit.level", level)]);
        let mut sums: BTreeMap<String, f64> = BTreeMap::new();
        let mut last = String::new();
        for (group, rollout, advantage) in found {
            if calls || rollout != last {
                *sums.entry(group).or_default() += advantage;
            }
            last = rollout;
        }
        for (group, sum) in sums {
            prop_assert!(sum.abs() < 1e-12, "{}: {}", group, sum);
        }
    }

    /// Nothing that a rollout does after a step changes what the others are compared with at it, and the baselines of a step need only others.
    #[test]
    fn return_to_go_sums_to_zero_at_the_first_step(seed in any::<u64>()) {
        let pairs = [("credit.method", "return_to_go"), ("credit.comparison", "leave_one_out"), ("credit.gamma", "0.9")];
        let mut sums: BTreeMap<String, f64> = BTreeMap::new();
        let mut last = String::new();
        for (group, rollout, advantage) in advantages(seed, &pairs) {
            if rollout != last {
                *sums.entry(group).or_default() += advantage;
            }
            last = rollout;
        }
        for (group, sum) in sums {
            prop_assert!(sum.abs() < 1e-12, "{}: {}", group, sum);
        }
    }
}
