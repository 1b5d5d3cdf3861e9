//! The manifest: what one run of a stage committed, what that was made from, and whether it still stands.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::folder::StoredFolder;
use super::policy::PolicyEntry;
use crate::schema;

/// Written into every manifest; a reader that does not know it stops instead of guessing.
pub const FORMAT: &str = "fulgurite.manifest/1";

/// What a stage that reads a policy calls it among its inputs.
const POLICY: &str = "policy";

/// Stages whose work is too dear to redo because something before them was: a changed input alone never makes them stale.
const NEVER_STALE_BY_CASCADE: [&str; 2] = ["rollout", "train"];

/// The commit of one stage on one batch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    pub format: String,
    pub stage: String,
    pub batch: String,
    /// Number of this manifest, from 1; the largest one counts.
    pub version: u64,
    /// Random name of the run; part of the names of its files.
    pub run_id: String,
    pub code_version: String,
    /// RFC 3339, UTC.
    pub started_at: String,
    pub committed_at: String,
    /// `Lineage::fingerprint` of what follows: equal means that a run would give the same rows.
    pub fingerprint: String,
    pub sealed: bool,
    #[serde(flatten)]
    pub lineage: Lineage,
    pub tables: BTreeMap<String, TableEntry>,
    /// The policy that the stage made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<PolicyEntry>,
    /// What the stage can go on from, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub states: BTreeMap<String, StoredFolder>,
    /// Counts worth telling, such as files read or records rejected.
    pub counts: BTreeMap<String, u64>,
}

/// Everything that a stage's output depends on.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Lineage {
    pub inputs: Vec<Input>,
    /// Hash of each SQL text that runs, by the name of its file.
    pub sql: BTreeMap<String, String>,
    /// The stage's configuration.
    pub config: Value,
    /// Schema hash of each table that the stage writes.
    pub schemas: BTreeMap<String, String>,
}

/// Something that a stage reads.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Input {
    /// `<stage>/<batch>` for tables of the lake, else the path or URL of a file.
    pub name: String,
    /// Tables of the lake that are read; empty for a file.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tables: Vec<String>,
    /// Hash of the contents (of those tables, or of the file).
    pub hash: String,
    pub size_bytes: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct TableEntry {
    pub rows: u64,
    /// In the order of their rows.
    pub files: Vec<DataFile>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DataFile {
    /// Relative to the lake.
    pub path: String,
    pub rows: u64,
    pub size_bytes: u64,
    /// BLAKE3 of the file.
    pub hash: String,
}

/// Whether a stage's output stands, with the reasons where it does not, in words.
#[derive(Debug, Clone, PartialEq)]
pub enum Freshness {
    /// Never run.
    Missing,
    Fresh,
    Stale(Vec<String>),
    /// Done for good; the reasons say what has changed since, and are empty where nothing has.
    Sealed(Vec<String>),
}

impl Manifest {
    /// Path of this manifest, relative to the lake.
    pub fn path(&self) -> String {
        format!("_manifests/{}/{}/v{:08}.json", self.stage, self.batch, self.version)
    }

    /// What a stage that reads these tables of this commit writes down as its input. Depends on contents alone: a run that gave the
    /// same bytes again leaves those after it fresh. The policy of a commit is read under the name `policy`.
    pub fn input(&self, tables: &[&str]) -> Result<Input> {
        let mut hasher = blake3::Hasher::new();
        let mut size_bytes = 0;
        let mut names: Vec<&str> = tables.to_vec();
        names.sort_unstable();
        for name in &names {
            if let (POLICY, Some(policy)) = (*name, &self.policy) {
                hasher.update(format!("{POLICY} {} {}\n", policy.version, policy.stored.hash()).as_bytes());
                size_bytes += policy.stored.size_bytes();
                continue;
            }
            let Some(entry) = self.tables.get(*name) else {
                bail!("manifest `{}` has no table `{name}`", self.path());
            };
            hasher.update(format!("{name} {}\n", self.lineage.schemas.get(*name).map_or("", String::as_str)).as_bytes());
            for file in &entry.files {
                hasher.update(format!("{} {}\n", file.rows, file.hash).as_bytes());
                size_bytes += file.size_bytes;
            }
        }
        let tables = names.into_iter().map(str::to_owned).collect();
        Ok(Input {
            name: format!("{}/{}", self.stage, self.batch),
            tables,
            hash: hasher.finalize().to_hex().to_string(),
            size_bytes,
        })
    }

    /// Paths of all files that this names, relative to the lake.
    pub fn paths(&self) -> impl Iterator<Item = String> + '_ {
        let tables = self.tables.values().flat_map(|entry| &entry.files).map(|file| file.path.clone());
        tables.chain(self.folders().flat_map(StoredFolder::paths))
    }

    /// The policy and the states.
    pub fn folders(&self) -> impl Iterator<Item = &StoredFolder> {
        self.policy.iter().map(|policy| &policy.stored).chain(self.states.values())
    }

    /// Size of all files that this names.
    pub fn size_bytes(&self) -> u64 {
        let tables = self.tables.values().flat_map(|entry| &entry.files).map(|file| file.size_bytes);
        tables.sum::<u64>() + self.folders().map(StoredFolder::size_bytes).sum::<u64>()
    }

    /// Whether another run's commit says what this one would: then the two are one.
    pub(super) fn agrees_with(&self, other: &Manifest) -> bool {
        let states = |manifest: &Manifest| -> Vec<(String, String)> {
            manifest.states.iter().map(|(name, state)| (name.clone(), state.hash())).collect()
        };
        self.fingerprint == other.fingerprint && self.policy_version() == other.policy_version() && states(self) == states(other)
    }

    /// Whether a changed input makes this stale.
    pub(super) fn goes_stale_by_cascade(&self) -> bool {
        !NEVER_STALE_BY_CASCADE.contains(&self.stage.as_str())
    }

    pub(super) fn from_json(bytes: &[u8]) -> Result<Manifest, serde_json::Error> {
        let manifest: Manifest = serde_json::from_slice(bytes)?;
        if manifest.format != FORMAT {
            let message = format!("its format is `{}`, and this program knows only `{FORMAT}`; use a newer one", manifest.format);
            return Err(serde::de::Error::custom(message));
        }
        Ok(manifest)
    }

    pub(super) fn to_json(&self) -> Vec<u8> {
        let mut json = serde_json::to_vec_pretty(self).expect("maps with text keys always serialise");
        json.push(b'\n');
        json
    }
}

impl Lineage {
    /// The lineage of a stage that has read nothing yet: the schemas of its tables, and its configuration.
    pub fn new(stage: &str, config: Value) -> Result<Lineage> {
        let schemas = schema::tables_of(stage).into_iter().map(|name| Ok((name.to_owned(), schema::table(name)?.hash.clone())));
        Ok(Lineage { config, schemas: schemas.collect::<Result<_>>()?, ..Lineage::default() })
    }

    /// Equal for equal lineages, whatever the order of inputs and of the configuration's keys.
    pub fn fingerprint(&self, stage: &str) -> String {
        let mut inputs: Vec<&Input> = self.inputs.iter().collect();
        inputs.sort_by_key(|input| &input.name);
        let inputs: Vec<_> = inputs.iter().map(|input| (&input.name, &input.hash)).collect();
        let all = serde_json::json!([stage, inputs, self.sql, sorted(&self.config), self.schemas]);
        hash_hex(all.to_string().as_bytes())
    }

    /// Whether the output of a run that this would make again is there already.
    pub fn freshness(&self, manifest: Option<&Manifest>) -> Freshness {
        let Some(manifest) = manifest else { return Freshness::Missing };
        // Equal first: a manifest that was read back may hold a number of its settings an ulp away from what was hashed.
        let equal = self.fingerprint(&manifest.stage) == manifest.fingerprint;
        let reasons = if equal { Vec::new() } else { self.changes_since(manifest) };
        match (manifest.sealed, reasons.is_empty()) {
            (true, _) => Freshness::Sealed(reasons),
            (false, true) => Freshness::Fresh,
            (false, false) => Freshness::Stale(reasons),
        }
    }

    fn changes_since(&self, manifest: &Manifest) -> Vec<String> {
        let before = &manifest.lineage;
        let mut reasons = Vec::new();
        if manifest.goes_stale_by_cascade() {
            reasons.extend(changed_keys("input ", &by_name(&before.inputs), &by_name(&self.inputs)));
        }
        reasons.extend(changed_keys("", &before.sql, &self.sql));
        setting_changes("", &before.config, &self.config, &mut reasons);
        reasons.extend(changed_keys("the schema of ", &before.schemas, &self.schemas));
        reasons
    }
}

impl Freshness {
    /// As `status` shows it.
    pub fn word(&self) -> &'static str {
        match self {
            Freshness::Missing => "missing",
            Freshness::Fresh => "fresh",
            Freshness::Stale(_) => "stale",
            Freshness::Sealed(reasons) if reasons.is_empty() => "sealed",
            Freshness::Sealed(_) => "sealed (older settings)",
        }
    }

    pub fn reasons(&self) -> &[String] {
        match self {
            Freshness::Missing | Freshness::Fresh => &[],
            Freshness::Stale(reasons) | Freshness::Sealed(reasons) => reasons,
        }
    }
}

/// BLAKE3 of some bytes, as hex: for SQL texts and input files.
pub fn hash_hex(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

fn by_name(inputs: &[Input]) -> BTreeMap<String, String> {
    inputs.iter().map(|input| (input.name.clone(), input.hash.clone())).collect()
}

/// One sentence for each key whose value differs.
fn changed_keys(what: &str, before: &BTreeMap<String, String>, now: &BTreeMap<String, String>) -> Vec<String> {
    let keys: BTreeSet<&String> = before.keys().chain(now.keys()).collect();
    let sentences = keys.into_iter().filter_map(|key| match (before.get(key), now.get(key)) {
        (Some(_), None) => Some(format!("{what}`{key}` is gone")),
        (None, Some(_)) => Some(format!("{what}`{key}` is new")),
        (before, now) => (before != now).then(|| format!("{what}`{key}` changed")),
    });
    sentences.collect()
}

/// One sentence for each setting that differs, named by its path.
fn setting_changes(path: &str, before: &Value, now: &Value, reasons: &mut Vec<String>) {
    if let (Value::Object(before), Value::Object(now)) = (before, now) {
        let keys: BTreeSet<&String> = before.keys().chain(now.keys()).collect();
        for key in keys {
            let inner = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            setting_changes(&inner, before.get(key).unwrap_or(&Value::Null), now.get(key).unwrap_or(&Value::Null), reasons);
        }
    } else if before != now && !same_number(before, now) {
        let shown = |value: &Value| if value.is_null() { "not set".to_owned() } else { value.to_string() };
        reasons.push(format!("setting `{path}` was {}, is {}", shown(before), shown(now)));
    }
}

/// Equal but for what reading a number back may change.
fn same_number(before: &Value, now: &Value) -> bool {
    let (Some(before), Some(now)) = (before.as_f64(), now.as_f64()) else { return false };
    (before - now).abs() <= 2.0 * f64::EPSILON * now.abs()
}

/// The same JSON with the keys of every object in order.
fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let in_order: BTreeMap<&String, Value> = map.iter().map(|(key, value)| (key, sorted(value))).collect();
            Value::Object(in_order.into_iter().map(|(key, value)| (key.clone(), value)).collect())
        }
        Value::Array(values) => Value::Array(values.iter().map(sorted).collect()),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn lineage(config: Value) -> Lineage {
        let mut lineage = Lineage::new("air", config).unwrap();
        lineage.inputs.push(Input { name: "derive/b".into(), tables: vec!["calls".into()], hash: "1".into(), size_bytes: 1 });
        lineage.sql.insert("air/slow_tool.sql".into(), "2".into());
        lineage
    }

    fn manifest(lineage: Lineage) -> Manifest {
        let entry = TableEntry { rows: 1, files: vec![DataFile { path: "p".into(), rows: 1, size_bytes: 9, hash: "h".into() }] };
        Manifest {
            format: FORMAT.into(),
            stage: "air".into(),
            batch: "b".into(),
            version: 3,
            run_id: "r".into(),
            code_version: "0".into(),
            started_at: String::new(),
            committed_at: String::new(),
            fingerprint: lineage.fingerprint("air"),
            sealed: false,
            lineage,
            tables: [("air_rewards".to_owned(), entry)].into(),
            policy: None,
            states: BTreeMap::new(),
            counts: BTreeMap::new(),
        }
    }

    #[test]
    fn the_order_of_keys_and_inputs_does_not_matter() {
        let one = lineage(json!({"a": 1, "b": {"c": 2, "d": 3}}));
        let other = lineage(json!({"b": {"d": 3, "c": 2}, "a": 1}));
        assert_eq!(one.fingerprint("air"), other.fingerprint("air"));
        assert_ne!(one.fingerprint("air"), one.fingerprint("credit"));
        assert_eq!(other.freshness(Some(&manifest(one))), Freshness::Fresh);
    }

    #[test]
    fn staleness_is_told_in_words() {
        let old = manifest(lineage(json!({"gamma": 0.9, "cap": {"sum": 1}})));
        let mut now = lineage(json!({"gamma": 1.0, "cap": {"sum": 1}, "omega": 2}));
        now.inputs[0].hash = "other".into();
        now.sql.insert("air/mine.sql".into(), "3".into());
        now.sql.remove("air/slow_tool.sql");
        now.schemas.insert("air_rewards".into(), "x".into());
        let expected = [
            "input `derive/b` changed",
            "`air/mine.sql` is new",
            "`air/slow_tool.sql` is gone",
            "setting `gamma` was 0.9, is 1.0",
            "setting `omega` was not set, is 2",
            "the schema of `air_rewards` changed",
        ];
        assert_eq!(now.freshness(Some(&old)).reasons(), expected);
        assert_eq!(now.freshness(Some(&old)).word(), "stale");
        let sealed = Manifest { sealed: true, ..old };
        assert_eq!(now.freshness(Some(&sealed)).word(), "sealed (older settings)");
        assert_eq!(sealed.lineage.freshness(Some(&sealed)).word(), "sealed");
        assert_eq!(now.freshness(None), Freshness::Missing);
    }

    #[test]
    fn a_manifest_read_back_is_fresh_whatever_its_numbers() {
        for bits in (0..1000).map(|n: u64| 0x3fb9_9999_9999_999a + n * 0x0000_00f1_2345_6789) {
            let now = lineage(json!({"rate": f64::from_bits(bits)}));
            let read_back = Manifest::from_json(&manifest(now.clone()).to_json()).unwrap();
            assert_eq!(now.freshness(Some(&read_back)), Freshness::Fresh);
            let reasons = lineage(json!({"rate": f64::from_bits(bits), "other": 1})).freshness(Some(&read_back));
            assert_eq!(reasons.reasons(), ["setting `other` was not set, is 1"]);
        }
    }

    #[test]
    fn an_input_is_known_by_its_contents() {
        let first = manifest(lineage(json!({})));
        let again = Manifest { run_id: "other".into(), version: 4, ..first.clone() };
        assert_eq!(first.input(&["air_rewards"]).unwrap(), again.input(&["air_rewards"]).unwrap());
        assert!(first.input(&["calls"]).is_err());
    }

    #[test]
    fn manifests_round_trip_and_an_unknown_format_is_refused() {
        let manifest = manifest(lineage(json!({"a": [1, null]})));
        assert_eq!(Manifest::from_json(&manifest.to_json()).unwrap(), manifest);
        assert!(Manifest::from_json(&manifest.to_json()[..200]).unwrap_err().is_eof());
        let newer = Manifest { format: "fulgurite.manifest/9".into(), ..manifest };
        assert!(Manifest::from_json(&newer.to_json()).unwrap_err().to_string().contains("use a newer one"));
    }
}
