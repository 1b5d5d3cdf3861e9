//! SQL files: the built-in ones and a user's own, each with a header that says what it reads, writes and takes.
//!
//! ```sql
//! -- credit/discounted: a call's share of its rollout's advantage shrinks with the calls that came after it.
//! --
//! -- reads   calls
//! -- writes  weights
//! -- grain   rollout_id, call_id
//! -- within  rollout_id
//! -- params  $gamma Float64              -- discount per call, 0 to 1
//! ```
//!
//! `within rollout_id` promises that the rows of a rollout follow from that rollout's rows alone, so that a large batch can be worked on
//! piece by piece. `order` may be there too: columns that sort the rows as their table is sorted, at less cost. An audit names its table
//! after `audits`, instead of `writes` and `grain`. Here headers are only parsed. `check` holds them against the statement.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result};
use arrow::datatypes::DataType;

use super::builtin;
use super::ranges::ROLLOUT_ID;
use crate::exit::Fault;

/// Folders of a pipeline that SQL files are looked for in.
const FOLDERS: [&str; 4] = ["derive", "air", "credit", "audits"];

/// One statement with its header.
#[derive(Debug, Clone, PartialEq)]
pub struct SqlFile {
    /// `<stage>/<file stem>`, such as `credit/discounted`.
    pub name: String,
    /// The whole file.
    pub text: String,
    pub header: Header,
    /// Where the user keeps it; `None` for a built-in file.
    pub path: Option<String>,
}

/// The comment block at the top of a SQL file.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Header {
    /// What the file does, as a sentence.
    pub about: String,
    /// Tables and relations that the statement reads, sorted.
    pub reads: Vec<String>,
    /// The table or relation that its rows go to; empty for an audit.
    pub writes: String,
    /// Columns that no two of its rows share.
    pub grain: Vec<String>,
    /// Columns that put the rows into the order of their table, where sorting by these costs less than by its own (a `row_number` has the
    /// order of what it counts, but the engine cannot know). Empty for the table's own. The order that comes out is checked either way.
    pub order: Vec<String>,
    /// Whether what it says of a rollout follows from that rollout's rows alone.
    pub within_rollouts: bool,
    pub params: Vec<Param>,
    /// The table that an audit watches over.
    pub audits: Option<String>,
}

/// One `$name` placeholder.
#[derive(Debug, Clone, PartialEq)]
pub struct Param {
    /// Without the `$`.
    pub name: String,
    pub data_type: DataType,
    pub doc: String,
}

/// Every SQL file in force, by name: the built-in ones, with a user's own added or put in their place.
#[derive(Debug, Clone)]
pub struct SqlFiles {
    files: BTreeMap<String, SqlFile>,
}

impl SqlFiles {
    /// The built-in files alone.
    pub fn builtin() -> Result<SqlFiles> {
        let mut files = BTreeMap::new();
        for (name, text) in builtin::FILES {
            files.insert((*name).to_owned(), SqlFile::parse(name, text, None)?);
        }
        Ok(SqlFiles { files })
    }

    /// The built-in files, and those of `<folder>/{derive,air,credit,audits}/*.sql`, which replace built-in ones of the same name.
    ///
    /// A folder that does not exist adds nothing.
    pub fn load(folder: Option<&Path>) -> Result<SqlFiles> {
        let mut all = SqlFiles::builtin()?;
        let Some(folder) = folder else { return Ok(all) };
        for stage in FOLDERS {
            let stage_folder = folder.join(stage);
            if !stage_folder.is_dir() {
                continue;
            }
            let entries =
                std::fs::read_dir(&stage_folder).with_context(|| format!("cannot list `{}`", stage_folder.display()))?;
            for entry in entries {
                let path = entry.with_context(|| format!("cannot list `{}`", stage_folder.display()))?.path();
                if path.extension().is_none_or(|extension| extension != "sql") {
                    continue;
                }
                let Some(stem) = path.file_stem().and_then(|stem| stem.to_str()) else {
                    return Err(Fault::Usage(format!("`{}`: the file's name is not UTF-8", path.display())).into());
                };
                let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read `{}`", path.display()))?;
                let name = format!("{stage}/{stem}");
                // A copy of ours is no file of the user's: a pipeline file may stand beside the built-in ones.
                if all.files.get(&name).is_none_or(|ours| ours.text != text) {
                    let file = SqlFile::parse(&name, &text, Some(path.display().to_string()))?;
                    all.files.insert(name, file);
                }
            }
        }
        Ok(all)
    }

    /// Files of one folder, by name.
    pub fn stage(&self, stage: &str) -> Vec<SqlFile> {
        let prefix = format!("{stage}/");
        self.files.values().filter(|file| file.name.starts_with(&prefix)).cloned().collect()
    }

    /// One file. Wrong use where there is none, with the names of those there are.
    pub fn get(&self, name: &str) -> Result<&SqlFile> {
        self.files.get(name).ok_or_else(|| {
            let stage = name.split('/').next().unwrap_or_default();
            let names: Vec<String> = self.stage(stage).into_iter().map(|file| format!("`{}`", file.name)).collect();
            Fault::Usage(format!("there is no SQL file `{name}`; there are {}", names.join(", "))).into()
        })
    }

    /// Audits of one table.
    pub fn audits(&self, table: &str) -> Vec<SqlFile> {
        self.files.values().filter(|file| file.header.audits.as_deref() == Some(table)).cloned().collect()
    }
}

impl SqlFile {
    /// Reads the header of `text`. Errors are wrong use, and name the file and the line that is wrong.
    pub fn parse(name: &str, text: &str, path: Option<String>) -> Result<SqlFile> {
        let shown = path.clone().unwrap_or_else(|| format!("pipelines/{name}.sql"));
        let header = Header::parse(name, text).map_err(|wrong| Fault::Usage(format!("`{shown}`: {wrong}")))?;
        Ok(SqlFile { name: name.to_owned(), text: text.to_owned(), header, path })
    }

    /// Path for messages.
    pub fn shown(&self) -> String {
        self.path.clone().unwrap_or_else(|| format!("pipelines/{}.sql", self.name))
    }

    /// Hash of the text.
    pub fn hash(&self) -> String {
        blake3::hash(self.text.as_bytes()).to_hex().to_string()
    }
}

impl Header {
    fn parse(name: &str, text: &str) -> Result<Header, String> {
        let first = text.lines().next().unwrap_or_default();
        let about = first
            .strip_prefix(&format!("-- {name}: "))
            .ok_or_else(|| format!("the first line is `{first}`; write `-- {name}: what it does.`"))?;
        let mut header = Header { about: about.to_owned(), ..Header::default() };
        let mut key = "";
        let mut seen = Vec::new();
        for line in text.lines().skip(1).map_while(|line| line.strip_prefix("--")).map(str::trim) {
            let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
            match word {
                "reads" | "writes" | "grain" | "within" | "order" | "params" | "audits" => {
                    if seen.contains(&word) {
                        return Err(format!("`{word}` stands in the header twice"));
                    }
                    seen.push(word);
                    key = word;
                    header.add(key, rest.trim())?;
                }
                "" => key = "",
                _ if key.is_empty() && seen.is_empty() => {
                    header.about.push(' ');
                    header.about.push_str(line);
                }
                _ if key.is_empty() => {} // remarks below the keys
                _ => header.add(key, line)?,
            }
        }
        header.reads.sort();
        header.about = header.about.trim().to_owned();
        if header.audits.is_some() {
            if !header.writes.is_empty() || !header.grain.is_empty() {
                return Err("an audit writes nothing: `writes` and `grain` do not belong here".to_owned());
            }
            return Ok(header);
        }
        for (key, missing) in [("writes", header.writes.is_empty()), ("grain", header.grain.is_empty())] {
            if missing {
                let example = if key == "writes" { "-- writes  <table or relation>" } else { "-- grain   <columns>" };
                return Err(format!("the header does not say `{key}`; add a line `{example}`"));
            }
        }
        Ok(header)
    }

    /// Takes what stands behind a key, on its line or on a further one.
    fn add(&mut self, key: &str, text: &str) -> Result<(), String> {
        let names =
            |list: &str| list.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect::<Vec<_>>();
        match key {
            "reads" => self.reads.extend(names(text)),
            "grain" => self.grain.extend(names(text)),
            "order" => self.order.extend(names(text)),
            "within" if text == ROLLOUT_ID => self.within_rollouts = true,
            "within" => return Err(format!("`within` may say `{ROLLOUT_ID}`, not `{text}`")),
            "writes" | "audits" if text.contains([',', ' ']) => {
                return Err(format!("`{key}` names one table, not `{text}`"));
            }
            "writes" => self.writes = text.to_owned(),
            "audits" => self.audits = Some(text.to_owned()),
            _ => self.params.push(Param::parse(text)?),
        }
        Ok(())
    }
}

impl Param {
    fn parse(text: &str) -> Result<Param, String> {
        let (declared, doc) = text.split_once("--").unwrap_or((text, ""));
        let mut words = declared.split_whitespace();
        let (Some(name), Some(type_name), None) =
            (words.next().and_then(|word| word.strip_prefix('$')), words.next(), words.next())
        else {
            return Err(format!("`{text}` is no parameter; write `$name Type -- meaning, unit, range`"));
        };
        let data_type: DataType = type_name.parse().map_err(|_| {
            format!("parameter `${name}` has the unknown type `{type_name}`; write Float64, Int64, Utf8 or Boolean")
        })?;
        if doc.trim().is_empty() {
            return Err(format!("parameter `${name}` has no meaning; write `${name} {type_name} -- meaning, unit, range`"));
        }
        Ok(Param { name: name.to_owned(), data_type, doc: doc.trim().to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DISCOUNTED: &str = "\
-- credit/discounted: a call's share shrinks
-- with the calls that came after it.
--
-- reads   rollouts,
--         calls
-- writes  weights
-- grain   rollout_id, call_id
-- within  rollout_id
-- params  $gamma Float64              -- discount per call, 0 to 1
--         $floor Int64                -- smallest share, in percent

select 1
";

    #[test]
    fn a_header_is_read_whole() {
        let header = SqlFile::parse("credit/discounted", DISCOUNTED, None).expect("parses").header;
        assert_eq!(header.about, "a call's share shrinks with the calls that came after it.");
        assert_eq!(header.reads, ["calls", "rollouts"]);
        assert_eq!(header.writes, "weights");
        assert_eq!(header.grain, ["rollout_id", "call_id"]);
        assert!(header.within_rollouts);
        let params: Vec<_> =
            header.params.iter().map(|param| (param.name.as_str(), &param.data_type, param.doc.as_str())).collect();
        let expected = [
            ("gamma", &DataType::Float64, "discount per call, 0 to 1"),
            ("floor", &DataType::Int64, "smallest share, in percent"),
        ];
        assert_eq!(params, expected);
    }

    #[test]
    fn a_wrong_header_is_told_what_is_right() {
        let cases = [
            ("select 1", "write `-- air/x: what it does.`"),
            ("-- air/y: other name.\n-- writes t\n-- grain a\n", "write `-- air/x: what it does.`"),
            ("-- air/x: no target.\n--\n-- grain a\n", "does not say `writes`"),
            ("-- air/x: no grain.\n--\n-- writes t\n", "does not say `grain`"),
            ("-- air/x: two targets.\n--\n-- writes t, u\n", "names one table"),
            ("-- air/x: twice.\n--\n-- writes t\n-- writes u\n", "twice"),
            ("-- air/x: type.\n--\n-- writes t\n-- grain a\n-- params $g Flaot -- doc\n", "unknown type `Flaot`"),
            ("-- air/x: within.\n--\n-- writes t\n-- grain a\n-- within group_id\n", "may say `rollout_id`"),
            ("-- air/x: undocumented.\n--\n-- writes t\n-- grain a\n-- params $g Float64\n", "has no meaning"),
            ("-- air/x: audit.\n--\n-- audits t\n-- writes u\n", "an audit writes nothing"),
        ];
        for (text, expected) in cases {
            let error = SqlFile::parse("air/x", text, Some("mine/air/x.sql".to_owned())).expect_err(text).to_string();
            assert!(error.contains(expected) && error.contains("`mine/air/x.sql`"), "{text}: {error}");
        }
    }

    #[test]
    fn every_built_in_file_is_embedded_and_parses() {
        SqlFiles::builtin().expect("every header parses");
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines");
        for stage in FOLDERS {
            let Ok(entries) = std::fs::read_dir(root.join(stage)) else { continue };
            for path in entries.map(|entry| entry.expect("lists").path()) {
                let name = format!("{stage}/{}", path.file_stem().expect("named").to_string_lossy());
                assert!(builtin::FILES.iter().any(|(known, _)| *known == name), "add `{name}` to src/engine/builtin.rs");
            }
        }
    }
}
