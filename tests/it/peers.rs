//! Other programs that tests talk to: Python with other readers of Parquet, and object stores that run here.

use std::io::{BufRead, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

/// Says why a test is skipped: past the harness, which shows nothing of a test that passes.
pub fn skip(reason: &str) {
    let _ = writeln!(std::io::stderr(), "skipped: {reason}");
}

/// The Python that `scripts/python-env.sh` prepares; says why a test is skipped where there is none.
pub fn python() -> Option<PathBuf> {
    let home = std::env::var_os("FULGURITE_VENV").map_or_else(|| root().join(".venv"), PathBuf::from);
    let python = home.join("bin/python");
    if !python.exists() {
        skip(&format!("no `{}`; scripts/python-env.sh makes it", python.display()));
        return None;
    }
    Some(python)
}

pub fn script(name: &str) -> PathBuf {
    root().join("tests/peers").join(name)
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// A server that is killed when the test is done with it, and ends by itself where the test process was killed.
pub struct Server {
    child: Child,
    pub url: String,
}

impl Server {
    /// Starts a program that prints its URL as its first line.
    pub fn start(command: &mut Command) -> Server {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut said = BufReader::new(child.stdout.take().unwrap());
        let mut url = String::new();
        said.read_line(&mut url).unwrap();
        // Some servers end when nobody reads what they go on to say.
        std::thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
        assert!(!url.is_empty(), "{command:?} ended without a word");
        Server { child, url: url.trim().to_owned() }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
