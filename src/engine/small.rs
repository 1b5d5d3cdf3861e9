//! Sessions for few rows, which run for a shorter time than they are planned: they are planned with fewer rules.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::catalog::Session;
use datafusion::error::Result;
use datafusion::execution::context::QueryPlanner;
use datafusion::execution::session_state::{SessionState, SessionStateBuilder};
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_planner::{DefaultPhysicalPlanner, PhysicalPlanner};
use datafusion::prelude::SessionContext;

/// Rules of DataFusion's that change no row, make only large inputs faster, and take much of the time that planning takes.
const FOR_LARGE_INPUTS: [&str; 7] = [
    "aggregate_statistics",
    "common_sub_expression_eliminate",
    "eliminate_join",
    "extract_leaf_expressions",
    "rewrite_set_comparison",
    "FilterPushdown",
    "FilterPushdown(Post)",
];

/// The session of `whole`, in which statements over few rows are planned quickly.
pub(super) fn session(whole: SessionState) -> SessionContext {
    let mut config = whole.config().clone().with_collect_statistics(false);
    let optimizer = &mut config.options_mut().optimizer;
    optimizer.max_passes = 1;
    optimizer.enable_dynamic_filter_pushdown = false;

    let pays = |name: &str| !FOR_LARGE_INPUTS.contains(&name);
    let logical = whole.optimizers().iter().filter(|rule| pays(rule.name())).cloned().collect();
    let physical = whole.physical_optimizers().iter().filter(|rule| pays(rule.name())).cloned().collect();
    let state = SessionStateBuilder::new_from_existing(whole.clone())
        .with_config(config)
        .with_optimizer_rules(logical)
        .with_physical_optimizer_rules(physical)
        .with_query_planner(Arc::new(SmallPlanner { whole }));
    SessionContext::new_with_state(state.build())
}

/// Plans with the few rules, and with all of them what cannot be planned so.
///
/// DataFusion 55 moves a sort below a join without a column that is constant there, and then misses the column above the join. Which of its
/// rules have run decides whether a statement comes to that.
#[derive(Debug)]
struct SmallPlanner {
    whole: SessionState,
}

#[async_trait]
impl QueryPlanner for SmallPlanner {
    async fn create_physical_plan(&self, plan: &LogicalPlan, session: &dyn Session) -> Result<Arc<dyn ExecutionPlan>> {
        let planner = DefaultPhysicalPlanner::default();
        match planner.create_physical_plan(plan, session).await {
            Ok(planned) => Ok(planned),
            Err(error) => {
                tracing::debug!("planned again with every rule: {}", error.strip_backtrace());
                planner.create_physical_plan(&self.whole.optimize(plan)?, &self.whole).await
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn what_is_left_out_is_named_as_datafusion_names_it() {
        let whole = SessionContext::new().state();
        let names = |state: &SessionState| -> BTreeSet<String> {
            let logical = state.optimizers().iter().map(|rule| rule.name().to_owned());
            logical.chain(state.physical_optimizers().iter().map(|rule| rule.name().to_owned())).collect()
        };
        let few = names(&session(whole.clone()).state());
        let left_out: BTreeSet<String> = names(&whole).difference(&few).cloned().collect();
        assert_eq!(left_out, FOR_LARGE_INPUTS.map(str::to_owned).into());
    }
}
