//! Choosing files: where several write the same relation in different ways, the stage names the one it wants, and everything that the
//! chosen files read comes along.

use super::sql_file::{SqlFile, SqlFiles};

impl SqlFile {
    /// The file's name without its folder.
    pub fn stem(&self) -> &str {
        self.name.split_once('/').map_or(self.name.as_str(), |(_, stem)| stem)
    }
}

impl SqlFiles {
    /// The chosen files, and those of the stage that write what these read, and so on.
    ///
    /// * `alternatives`: relations whose files are chosen by name; a file that writes one comes only if it is among the chosen.
    pub fn with_what_they_read(&self, stage: &str, chosen: Vec<SqlFile>, alternatives: &[&str]) -> Vec<SqlFile> {
        let others: Vec<SqlFile> =
            self.stage(stage).into_iter().filter(|file| !alternatives.contains(&file.header.writes.as_str())).collect();
        let mut files = chosen;
        let mut next = 0;
        while next < files.len() {
            for read in files[next].header.reads.clone() {
                let writers = others.iter().filter(|file| file.header.writes == read);
                let new: Vec<SqlFile> =
                    writers.filter(|file| files.iter().all(|known| known.name != file.name)).cloned().collect();
                files.extend(new);
            }
            next += 1;
        }
        files
    }
}
