//! Agents as child processes: each in a process group of its own, which ends with it, and with output that is kept but bounded.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, ChildStdin, ChildStdout};
use tokio::task::JoinHandle;

use crate::exit::Fault;

/// Between looks at a group that was asked to end.
const POLL: Duration = Duration::from_millis(10);

/// How long a group that gets SIGKILL over and over may live on: processes in uninterruptible sleep die when that ends.
const KILL_PATIENCE: Duration = Duration::from_secs(5);

/// What is started.
#[derive(Debug, Clone, Default)]
pub struct Program {
    /// The program and its arguments.
    pub command: Vec<String>,
    /// Added to the environment of this process.
    pub environment: BTreeMap<String, String>,
    pub folder: PathBuf,
    /// Bytes of each of standard output and standard error that are kept: the first half and the last.
    pub output_bytes: usize,
    /// Between SIGTERM and SIGKILL.
    pub grace: Duration,
}

/// A running program with its group. Dropped, the whole group is killed.
#[derive(Debug)]
pub struct Running {
    child: Child,
    group: Group,
    grace: Duration,
    stdout: Option<Reader>,
    stderr: Reader,
}

/// A task that reads one stream of the program to its end.
#[derive(Debug)]
struct Reader {
    task: JoinHandle<()>,
    kept: Arc<Mutex<Kept>>,
}

/// The group of a program. Its number cannot be another's as long as the program was not waited for, or one of its group lives.
#[derive(Debug)]
struct Group(Option<Pid>);

impl Running {
    /// Starts the program. `Fault::Usage` where there is none of that name.
    ///
    /// * `lines`: leaves standard output to the caller, who talks with the program line by line.
    pub fn start(program: &Program, lines: bool) -> Result<(Running, ChildStdin, Option<ChildStdout>)> {
        let Some((name, arguments)) = program.command.split_first() else {
            return Err(Fault::Usage("there is no command to run: set `agent.command`".to_owned()).into());
        };
        let mut command = tokio::process::Command::new(name);
        command.args(arguments).envs(&program.environment).current_dir(&program.folder).process_group(0);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied => anyhow::Error::new(Fault::Usage(format!(
                "cannot run `{name}` in `{}`: {error}; see `agent.command` and `agent.folder`",
                program.folder.display()
            ))),
            _ => anyhow::Error::new(error).context(format!("cannot start `{name}`")),
        })?;
        let group = Group(child.id().map(|id| Pid::from_raw(id.cast_signed())));
        let stdin = child.stdin.take().context("the program has no standard input")?;
        let stdout = child.stdout.take().context("the program has no standard output")?;
        let stderr = child.stderr.take().context("the program has no standard error")?;
        let stderr = Reader::start(stderr, program.output_bytes);
        let (stdout, lines) = match lines {
            true => (None, Some(stdout)),
            false => (Some(Reader::start(stdout, program.output_bytes)), None),
        };
        Ok((Running { child, group, grace: program.grace, stdout, stderr }, stdin, lines))
    }

    /// Waits until the program itself ends; its children may live on until `end`.
    pub async fn exited(&mut self) -> Result<ExitStatus> {
        // Waiting takes the zombie away, after which the number of the group is only safe while one of its members lives.
        self.child.wait().await.context("cannot wait for the program")
    }

    /// Ends the program and everything that it started: SIGTERM, and SIGKILL after the grace time. Returns what it wrote.
    pub async fn end(mut self) -> Output {
        self.group.end(&mut self.child, self.grace).await;
        let stdout = match self.stdout.take() {
            Some(reader) => reader.finish().await,
            None => String::new(),
        };
        Output { stdout, stderr: self.stderr.finish().await }
    }

    /// What was written to standard error since the last time, for a program that serves several tasks.
    pub fn take_stderr(&self) -> String {
        self.stderr.kept.lock().map(|mut kept| kept.take()).unwrap_or_default()
    }
}

/// What a program wrote, without the middle where it was too much.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Output {
    pub stdout: String,
    pub stderr: String,
}

impl Group {
    fn signal(&self, signal: Signal) -> bool {
        // EPERM: a member changed its user; it can be left to its new owner.
        self.0.is_some_and(|group| killpg(group, signal).is_ok())
    }

    async fn end(&mut self, child: &mut Child, grace: Duration) {
        let mut asked = Duration::ZERO;
        let mut alive = self.signal(Signal::SIGTERM);
        while alive && asked < grace {
            tokio::time::sleep(POLL).await;
            asked += POLL;
            // A zombie counts as a member of its group until it is waited for.
            let _ = child.try_wait();
            alive = self.lives();
        }
        let mut waited = Duration::ZERO;
        // Over and over: a group that keeps forking may be ahead of one signal.
        while self.signal(Signal::SIGKILL) && waited < KILL_PATIENCE {
            let _ = child.try_wait();
            tokio::time::sleep(POLL).await;
            waited += POLL;
        }
        let _ = child.wait().await;
        self.0 = None;
    }

    fn lives(&self) -> bool {
        self.0.is_some_and(|group| killpg(group, None) != Err(Errno::ESRCH))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::SIGKILL);
    }
}

impl Reader {
    fn start(mut stream: impl AsyncRead + Unpin + Send + 'static, limit: usize) -> Reader {
        let kept = Arc::new(Mutex::new(Kept::new(limit)));
        let shared = Arc::clone(&kept);
        let task = tokio::spawn(async move {
            let mut buffer = vec![0; 16 << 10];
            // A stream that breaks has ended.
            while let Ok(read @ 1..) = stream.read(&mut buffer).await {
                if let Ok(mut kept) = shared.lock() {
                    kept.add(&buffer[..read]);
                }
            }
        });
        Reader { task, kept }
    }

    async fn finish(self) -> String {
        // A process that left the group may hold the stream open for ever.
        let _ = tokio::time::timeout(Duration::from_millis(500), self.task).await;
        self.kept.lock().map(|mut kept| kept.take()).unwrap_or_default()
    }
}

/// The first and the last bytes of a stream, in bounded memory.
#[derive(Debug)]
struct Kept {
    half: usize,
    first: Vec<u8>,
    last: VecDeque<u8>,
    dropped: u64,
}

impl Kept {
    fn new(limit: usize) -> Kept {
        Kept { half: limit / 2, first: Vec::new(), last: VecDeque::new(), dropped: 0 }
    }

    fn add(&mut self, bytes: &[u8]) {
        let to_first = bytes.len().min(self.half - self.first.len());
        self.first.extend_from_slice(&bytes[..to_first]);
        self.last.extend(&bytes[to_first..]);
        let excess = self.last.len().saturating_sub(self.half);
        self.last.drain(..excess);
        self.dropped += excess as u64;
    }

    fn take(&mut self) -> String {
        let (mut bytes, last) = (std::mem::take(&mut self.first), std::mem::take(&mut self.last));
        if self.dropped > 0 {
            bytes.extend(format!("\n[... {} bytes left out ...]\n", self.dropped).bytes());
        }
        bytes.extend(last);
        self.dropped = 0;
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;
    use std::time::Instant;
    use tokio::io::AsyncWriteExt as _;

    fn shell(script: &str) -> Program {
        Program {
            command: ["sh", "-c", script].map(str::to_owned).to_vec(),
            folder: PathBuf::from("."),
            output_bytes: 1000,
            grace: Duration::from_millis(300),
            ..Program::default()
        }
    }

    /// Processes whose command line holds a word, by `/proc`.
    fn living(word: &str) -> usize {
        let processes = std::fs::read_dir("/proc").unwrap().flatten();
        let lines = processes.filter_map(|entry| std::fs::read(Path::new(&entry.path()).join("cmdline")).ok());
        lines.filter(|line| String::from_utf8_lossy(line).contains(word)).count()
    }

    #[tokio::test]
    async fn a_program_reads_its_input_and_is_waited_for() {
        let (mut running, mut stdin, _) =
            Running::start(&shell("read line; echo got $line; echo oops >&2; exit 3"), false).unwrap();
        stdin.write_all(b"task\n").await.unwrap();
        drop(stdin);
        assert_eq!(running.exited().await.unwrap().code(), Some(3));
        assert_eq!(running.end().await, Output { stdout: "got task\n".into(), stderr: "oops\n".into() });
    }

    #[tokio::test]
    async fn children_end_with_the_program() {
        let word = "61.0625"; // a time to sleep that no other process has
        // The shell ignores SIGTERM, and has left two sleepers behind by the time that it is ended.
        let script = format!("trap '' TERM; sleep {word} & (sleep {word} &) ; echo up; wait");
        let (running, _stdin, stdout) = Running::start(&shell(&script), true).unwrap();
        let mut up = [0; 3];
        stdout.unwrap().read_exact(&mut up).await.unwrap();
        assert!(living(word) >= 2);
        running.end().await;
        assert_eq!(living(word), 0);
    }

    #[tokio::test]
    async fn sleepers_of_a_program_that_ended_by_itself_are_ended() {
        let word = "61.125";
        let (mut running, _stdin, _) = Running::start(&shell(&format!("sleep {word} & exit 0")), false).unwrap();
        assert!(running.exited().await.unwrap().success());
        running.end().await;
        assert_eq!(living(word), 0);
    }

    #[tokio::test]
    async fn a_group_is_killed_when_it_is_dropped() {
        let word = "61.1875";
        let (running, _stdin, stdout) = Running::start(&shell(&format!("sleep {word} & echo up; wait")), true).unwrap();
        let mut up = [0; 3];
        stdout.unwrap().read_exact(&mut up).await.unwrap();
        drop(running);
        let started = Instant::now();
        while living(word) > 0 && started.elapsed() < Duration::from_secs(5) {
            tokio::time::sleep(POLL).await;
        }
        assert_eq!(living(word), 0);
    }

    #[tokio::test]
    async fn a_flood_is_kept_in_part_and_never_blocks() {
        let (mut running, _stdin, _) = Running::start(&shell("yes | head -c 3000000; echo end"), false).unwrap();
        assert!(running.exited().await.unwrap().success());
        let output = running.end().await.stdout;
        assert!(output.len() < 1100, "{}", output.len());
        assert!(output.starts_with("y\ny\n") && output.ends_with("y\nend\n"), "{output}");
        assert!(output.contains("bytes left out"), "{output}");
    }

    #[tokio::test]
    async fn a_program_that_is_not_there_is_wrong_use() {
        let program = Program { command: vec!["no-such-agent".into()], ..shell("") };
        let error = Running::start(&program, false).unwrap_err();
        assert!(matches!(error.downcast_ref::<Fault>(), Some(Fault::Usage(_))), "{error:#}");
    }
}
