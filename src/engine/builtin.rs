//! The SQL files and relations that come with the program, embedded by name.

use std::sync::{Arc, LazyLock};

use anyhow::Result;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use crate::schema::{self, Table};

/// `<stage>/<file stem>` and text of every file of `pipelines/{derive,air,credit,audits}/`.
pub(super) const FILES: &[(&str, &str)] = &[
    ("air/counts", include_str!("../../pipelines/air/counts.sql")),
    ("air/empty_result", include_str!("../../pipelines/air/empty_result.sql")),
    ("air/guardrail_tripped", include_str!("../../pipelines/air/guardrail_tripped.sql")),
    ("air/malformed_arguments", include_str!("../../pipelines/air/malformed_arguments.sql")),
    ("air/potential", include_str!("../../pipelines/air/potential.sql")),
    ("air/recovery", include_str!("../../pipelines/air/recovery.sql")),
    ("air/refusal_or_empty", include_str!("../../pipelines/air/refusal_or_empty.sql")),
    ("air/repeated_call", include_str!("../../pipelines/air/repeated_call.sql")),
    ("air/scaled", include_str!("../../pipelines/air/scaled.sql")),
    ("air/slow_tool", include_str!("../../pipelines/air/slow_tool.sql")),
    ("air/tool_error", include_str!("../../pipelines/air/tool_error.sql")),
    ("air/tool_success", include_str!("../../pipelines/air/tool_success.sql")),
    ("air/truncated_response", include_str!("../../pipelines/air/truncated_response.sql")),
    ("air/unknown_tool", include_str!("../../pipelines/air/unknown_tool.sql")),
    ("audits/air_rewards_attached", include_str!("../../pipelines/audits/air_rewards_attached.sql")),
    ("audits/air_rewards_bounded", include_str!("../../pipelines/audits/air_rewards_bounded.sql")),
    ("audits/calls_dense", include_str!("../../pipelines/audits/calls_dense.sql")),
    ("audits/credits_comparable", include_str!("../../pipelines/audits/credits_comparable.sql")),
    ("audits/credits_complete", include_str!("../../pipelines/audits/credits_complete.sql")),
    ("audits/credits_finite", include_str!("../../pipelines/audits/credits_finite.sql")),
    ("audits/rewards_attached", include_str!("../../pipelines/audits/rewards_attached.sql")),
    ("audits/rewards_outcomes", include_str!("../../pipelines/audits/rewards_outcomes.sql")),
    ("audits/transitions_explained", include_str!("../../pipelines/audits/transitions_explained.sql")),
    ("credit/batch_mean", include_str!("../../pipelines/credit/batch_mean.sql")),
    ("credit/batch_std", include_str!("../../pipelines/credit/batch_std.sql")),
    ("credit/batch_whiten", include_str!("../../pipelines/credit/batch_whiten.sql")),
    ("credit/best_of", include_str!("../../pipelines/credit/best_of.sql")),
    ("credit/by_agent", include_str!("../../pipelines/credit/by_agent.sql")),
    ("credit/counts", include_str!("../../pipelines/credit/counts.sql")),
    ("credit/credits_of_estimates", include_str!("../../pipelines/credit/credits_of_estimates.sql")),
    ("credit/credits_of_weights", include_str!("../../pipelines/credit/credits_of_weights.sql")),
    ("credit/discounted", include_str!("../../pipelines/credit/discounted.sql")),
    ("credit/discounted_sums", include_str!("../../pipelines/credit/discounted_sums.sql")),
    ("credit/edges_none", include_str!("../../pipelines/credit/edges_none.sql")),
    ("credit/edges_previous", include_str!("../../pipelines/credit/edges_previous.sql")),
    ("credit/gae_batch_whiten", include_str!("../../pipelines/credit/gae_batch_whiten.sql")),
    ("credit/gae_none", include_str!("../../pipelines/credit/gae_none.sql")),
    ("credit/group_mean", include_str!("../../pipelines/credit/group_mean.sql")),
    ("credit/group_std", include_str!("../../pipelines/credit/group_std.sql")),
    ("credit/identical", include_str!("../../pipelines/credit/identical.sql")),
    ("credit/leave_one_out", include_str!("../../pipelines/credit/leave_one_out.sql")),
    ("credit/none", include_str!("../../pipelines/credit/none.sql")),
    ("credit/return_to_go_batch_whiten", include_str!("../../pipelines/credit/return_to_go_batch_whiten.sql")),
    ("credit/return_to_go_leave_one_out", include_str!("../../pipelines/credit/return_to_go_leave_one_out.sql")),
    ("credit/return_to_go_none", include_str!("../../pipelines/credit/return_to_go_none.sql")),
    ("credit/reward_terms", include_str!("../../pipelines/credit/reward_terms.sql")),
    ("credit/scored_calls", include_str!("../../pipelines/credit/scored_calls.sql")),
    ("credit/scored_rollouts", include_str!("../../pipelines/credit/scored_rollouts.sql")),
    ("credit/state_group_group_mean", include_str!("../../pipelines/credit/state_group_group_mean.sql")),
    ("credit/state_group_group_std", include_str!("../../pipelines/credit/state_group_group_std.sql")),
    ("credit/state_group_leave_one_out", include_str!("../../pipelines/credit/state_group_leave_one_out.sql")),
    ("credit/step_rewards", include_str!("../../pipelines/credit/step_rewards.sql")),
    ("credit/td_errors", include_str!("../../pipelines/credit/td_errors.sql")),
    ("credit/terminal", include_str!("../../pipelines/credit/terminal.sql")),
    ("credit/transitions", include_str!("../../pipelines/credit/transitions.sql")),
    ("credit/uniform", include_str!("../../pipelines/credit/uniform.sql")),
    ("credit/units_of_rollouts", include_str!("../../pipelines/credit/units_of_rollouts.sql")),
    ("credit/units_of_rows", include_str!("../../pipelines/credit/units_of_rows.sql")),
    ("credit/units_of_transitions", include_str!("../../pipelines/credit/units_of_transitions.sql")),
    ("derive/calls", include_str!("../../pipelines/derive/calls.sql")),
    ("derive/counts", include_str!("../../pipelines/derive/counts.sql")),
    ("derive/moments", include_str!("../../pipelines/derive/moments.sql")),
    ("derive/outcomes", include_str!("../../pipelines/derive/outcomes.sql")),
    ("derive/reward_links", include_str!("../../pipelines/derive/reward_links.sql")),
    ("derive/reward_order", include_str!("../../pipelines/derive/reward_order.sql")),
    ("derive/rewards", include_str!("../../pipelines/derive/rewards.sql")),
    ("derive/rollouts", include_str!("../../pipelines/derive/rollouts.sql")),
    ("derive/run_facts", include_str!("../../pipelines/derive/run_facts.sql")),
    ("derive/run_records", include_str!("../../pipelines/derive/run_records.sql")),
    ("derive/stated_rewards", include_str!("../../pipelines/derive/stated_rewards.sql")),
    ("derive/tool_calls", include_str!("../../pipelines/derive/tool_calls.sql")),
];

/// Relations that SQL files of one stage hand to each other and that a user's file may write too, from `pipelines/relations/`, as
/// `create table` statements. A relation that is not here may have any columns, as long as all files that write it agree.
const RELATIONS: &[&str] = &[
    include_str!("../../pipelines/relations/air_findings.sql"),
    include_str!("../../pipelines/relations/air_weights.sql"),
    include_str!("../../pipelines/relations/comparisons.sql"),
    include_str!("../../pipelines/relations/estimates.sql"),
    include_str!("../../pipelines/relations/scored_calls.sql"),
    include_str!("../../pipelines/relations/scored_rollouts.sql"),
    include_str!("../../pipelines/relations/weights.sql"),
];

static PARSED: LazyLock<Vec<Table>> = LazyLock::new(|| {
    RELATIONS.iter().map(|text| Table::parse(text)).collect::<Result<_>>().expect("every stage's tests parse these")
});

/// The columns that a file which writes this table or relation has to give; `None` where it may give any.
pub(super) fn schema_of(name: &str) -> Option<SchemaRef> {
    if name == "counts" {
        let fields = vec![Field::new("name", DataType::Utf8, false), Field::new("value", DataType::Int64, false)];
        return Some(Arc::new(Schema::new(fields)));
    }
    if let Some(table) = schema::tables().iter().find(|table| table.doc.name == name) {
        return Some(table.arrow.clone());
    }
    let relation = PARSED.iter().find(|relation| relation.doc.name == name);
    relation.map(|relation| Arc::clone(&relation.arrow))
}
