//! Ranges of rollouts: a large batch is worked on range by range, and as many ranges at once as there are threads.
//!
//! Most files say of a rollout what follows from that rollout's rows alone; their headers state it (`within rollout_id`). Over a range of
//! rollouts such a file gives the same rows as over all of them, so that what its joins and windows hold is bounded by a range, however
//! large the batch is. Tables are sorted by rollout: a range is read from its part of the files, and ranges written one after the other
//! are in order.

use anyhow::Result;
use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use datafusion::common::TableReference;
use datafusion::error::DataFusionError;
use datafusion::functions_aggregate::expr_fn::count;
use datafusion::logical_expr::expr::Sort;
use datafusion::logical_expr::{LogicalPlan, LogicalPlanBuilder};
use datafusion::prelude::{SessionContext, ident, lit};
use futures::StreamExt;

/// The column that ranges are of.
pub(super) const ROLLOUT_ID: &str = "rollout_id";

/// The rollouts from one id on, up to another that is left out; no bound where there is none.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Range {
    from: Option<String>,
    to: Option<String>,
}

impl Range {
    /// The rows of the range, if the plan's rows are of rollouts; else all of them.
    pub(super) fn of(&self, plan: LogicalPlan) -> Result<LogicalPlan, DataFusionError> {
        if !plan.schema().has_column_with_unqualified_name(ROLLOUT_ID) {
            return Ok(plan);
        }
        let from = self.from.iter().map(|id| ident(ROLLOUT_ID).gt_eq(lit(id.clone())));
        let to = self.to.iter().map(|id| ident(ROLLOUT_ID).lt(lit(id.clone())));
        from.chain(to).try_fold(LogicalPlanBuilder::from(plan), LogicalPlanBuilder::filter)?.build()
    }
}

/// Cuts the rollouts of a table into ranges of equal numbers of rows, none of more than `range_rows` unless a rollout is larger.
///
/// * `table`: one of the session's, sorted by rollout.
/// * `rows`: how many it has.
///
/// Returns no range where one would hold everything.
pub(super) async fn cut(session: &SessionContext, table: &str, rows: u64, range_rows: u64) -> Result<Vec<Range>> {
    if range_rows == 0 || rows <= range_rows {
        return Ok(Vec::new());
    }
    let most = rows.div_ceil(rows.div_ceil(range_rows));
    let counted = session
        .table(TableReference::bare(table.to_owned()))
        .await?
        .aggregate(vec![ident(ROLLOUT_ID)], vec![count(lit(1)).alias("rows")])?
        .sort(vec![Sort::new(ident(ROLLOUT_ID), true, false)])?;
    let mut rollouts = counted.execute_stream().await?;
    let (mut ranges, mut from, mut held) = (Vec::new(), None, 0);
    while let Some(batch) = rollouts.next().await {
        let batch = batch?;
        for (id, rows) in batch.column(0).as_string::<i32>().iter().zip(batch.column(1).as_primitive::<Int64Type>().values()) {
            let rows = rows.unsigned_abs();
            if held > 0 && held + rows > most {
                let to = id.map(str::to_owned);
                ranges.push(Range { from: from.take(), to: to.clone() });
                (from, held) = (to, 0);
            }
            held += rows;
        }
    }
    if from.is_some() {
        ranges.push(Range { from, to: None });
    }
    Ok(ranges)
}
