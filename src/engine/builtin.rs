//! The SQL files and relations that come with the program, embedded by name.

use std::sync::Arc;

use anyhow::Result;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use crate::schema::{self, Table};

/// `<stage>/<file stem>` and text of every file of `pipelines/{derive,air,credit,audits}/`.
pub(super) const FILES: &[(&str, &str)] = &[
    ("audits/calls_dense", include_str!("../../pipelines/audits/calls_dense.sql")),
    ("audits/rewards_attached", include_str!("../../pipelines/audits/rewards_attached.sql")),
    ("audits/rewards_outcomes", include_str!("../../pipelines/audits/rewards_outcomes.sql")),
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
const RELATIONS: &[&str] = &[];

/// The columns that a file which writes this table or relation has to give; `None` where it may give any.
pub(super) fn schema_of(name: &str) -> Result<Option<SchemaRef>> {
    if name == "counts" {
        let fields = vec![Field::new("name", DataType::Utf8, false), Field::new("value", DataType::Int64, false)];
        return Ok(Some(Arc::new(Schema::new(fields))));
    }
    if let Some(table) = schema::tables().iter().find(|table| table.doc.name == name) {
        return Ok(Some(table.arrow.clone()));
    }
    for text in RELATIONS {
        let relation = Table::parse(text)?;
        if relation.doc.name == name {
            return Ok(Some(relation.arrow));
        }
    }
    Ok(None)
}
