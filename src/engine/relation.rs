//! The order of a stage's files: each after those that write what it reads.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;

use super::sql_file::SqlFile;
use super::statement::usage;
use crate::exit::Fault;

/// A table or relation with the files that write it.
#[derive(Debug)]
pub(super) struct Relation {
    pub(super) name: String,
    pub(super) files: Vec<SqlFile>,
}

impl Relation {
    /// Whether what it says of a rollout follows from that rollout's rows alone.
    pub(super) fn is_within_rollouts(&self) -> bool {
        self.files.iter().all(|file| file.header.within_rollouts)
    }
}

/// What the files write, each after everything that it reads.
///
/// * `known`: tables and relations that are there before any file runs.
/// * `wanted`: what the stage is for. Everything else has to be read by some file.
pub(super) fn in_order(files: &[SqlFile], known: &BTreeSet<String>, wanted: &[&str]) -> Result<Vec<Relation>> {
    let mut writers: BTreeMap<&str, Vec<&SqlFile>> = BTreeMap::new();
    for file in files {
        writers.entry(&file.header.writes).or_default().push(file);
    }
    if let Some(missing) = wanted.iter().find(|table| !writers.contains_key(**table)) {
        return Err(Fault::Usage(format!("no SQL file of this stage writes `{missing}`")).into());
    }
    for file in files {
        let target = file.header.writes.as_str();
        if known.contains(target) {
            return Err(usage(file, &format!("writes `{target}`, which another stage or the settings make")));
        }
        let is_read = files.iter().any(|other| other.header.reads.iter().any(|read| read == target));
        if !wanted.contains(&target) && !is_read {
            return Err(usage(file, &format!("writes `{target}`, which no file reads; the stage writes {}", wanted.join(", "))));
        }
    }
    let mut order = Order { writers: &writers, known, done: Vec::new(), open: Vec::new() };
    for name in wanted {
        order.visit(name, None)?;
    }
    for name in writers.keys() {
        order.visit(name, None)?;
    }
    let relation =
        |name: &str| Relation { name: name.to_owned(), files: writers[name].iter().map(|file| (*file).clone()).collect() };
    Ok(order.done.iter().map(|name| relation(name)).collect())
}

struct Order<'a> {
    writers: &'a BTreeMap<&'a str, Vec<&'a SqlFile>>,
    known: &'a BTreeSet<String>,
    done: Vec<String>,
    open: Vec<String>,
}

impl Order<'_> {
    fn visit(&mut self, name: &str, reader: Option<&SqlFile>) -> Result<()> {
        if self.known.contains(name) || self.done.iter().any(|done| done == name) {
            return Ok(());
        }
        let Some(files) = self.writers.get(name) else {
            let names: BTreeSet<&str> = self.known.iter().map(String::as_str).chain(self.writers.keys().copied()).collect();
            let names: Vec<&str> = names.into_iter().collect();
            let message = format!("there is no table or relation `{name}`; there are {}", names.join(", "));
            return Err(reader.map_or_else(|| Fault::Usage(message.clone()).into(), |file| usage(file, &message)));
        };
        if self.open.iter().any(|open| open == name) {
            let message = format!("the SQL files read each other in a circle: {} and `{name}` again", self.open.join(", "));
            return Err(Fault::Usage(message).into());
        }
        self.open.push(name.to_owned());
        for file in files {
            for read in &file.header.reads {
                self.visit(read, Some(file))?;
            }
        }
        self.open.pop();
        self.done.push(name.to_owned());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, reads: &str, writes: &str) -> SqlFile {
        let text = format!("-- air/{name}: test.\n--\n-- reads {reads}\n-- writes {writes}\n-- grain a\n\nselect 1");
        SqlFile::parse(&format!("air/{name}"), &text, None).expect("parses")
    }

    fn order(files: &[SqlFile], wanted: &[&str]) -> Result<Vec<String>> {
        let known = BTreeSet::from(["calls".to_owned()]);
        Ok(in_order(files, &known, wanted)?.into_iter().map(|relation| relation.name).collect())
    }

    #[test]
    fn a_relation_comes_after_what_it_reads() {
        let files =
            [file("end", "findings, caps", "air_rewards"), file("cap", "findings", "caps"), file("rule", "calls", "findings")];
        assert_eq!(order(&files, &["air_rewards"]).expect("ordered"), ["findings", "caps", "air_rewards"]);
    }

    #[test]
    fn what_cannot_run_is_named() {
        let circle = [file("one", "b", "a"), file("two", "a", "b")];
        let cases: [(&[SqlFile], &[&str], &str); 4] = [
            (&circle, &["a"], "in a circle"),
            (&[file("one", "cals", "a")], &["a"], "no table or relation `cals`; there are a, calls"),
            (
                &[file("one", "calls", "a"), file("typo", "calls", "aa")],
                &["a"],
                "`pipelines/air/typo.sql`: writes `aa`, which no file reads",
            ),
            (&[file("one", "calls", "a")], &["a", "b"], "no SQL file of this stage writes `b`"),
        ];
        for (files, wanted, expected) in cases {
            let error = order(files, wanted).expect_err(expected).to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
