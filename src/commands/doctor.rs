//! `fulgurite doctor`: what this machine has and what it lacks, with the command that mends it.

use std::io::Write as _;

use anyhow::Result;
use serde::Serialize;

use crate::exit::Fault;
use crate::lake::Lake;

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Check {
    name: &'static str,
    status: Status,
    detail: String,
    /// What to do about it; empty where nothing is to be done.
    mend: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Ok,
    /// Something optional is not there.
    Absent,
    Failed,
}

/// Looks at everything that a stage may need and prints a line for each; exit 1 where something needed does not work.
pub async fn run(lake: Option<&str>, json: bool) -> Result<()> {
    let checks = vec![threads(), spill(), libtorch(), python(), store(lake).await];
    let mut out = std::io::stdout().lock();
    if json {
        writeln!(out, "{}", serde_json::to_string(&checks)?)?;
    } else {
        for Check { name, status, detail, mend } in &checks {
            let mark = match status {
                Status::Ok => "ok",
                Status::Absent => "absent",
                Status::Failed => "FAILED",
            };
            let mend = if mend.is_empty() { String::new() } else { format!(" ({mend})") };
            writeln!(out, "{mark:<7} {name}: {detail}{mend}")?;
        }
    }
    let failed: Vec<&str> = checks.iter().filter(|check| check.status == Status::Failed).map(|check| check.name).collect();
    if failed.is_empty() { Ok(()) } else { Err(Fault::Failed(format!("not working: {}", failed.join(", "))).into()) }
}

fn threads() -> Check {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    Check { name: "threads", status: Status::Ok, detail: format!("{cores} cores"), mend: String::new() }
}

/// Sorts and joins that outgrow their memory spill into the temporary directory.
fn spill() -> Check {
    let directory = std::env::temp_dir();
    match tempfile::NamedTempFile::new() {
        Ok(_) => Check {
            name: "temporary directory",
            status: Status::Ok,
            detail: format!("`{}` can be written", directory.display()),
            mend: String::new(),
        },
        Err(error) => Check {
            name: "temporary directory",
            status: Status::Failed,
            detail: format!("`{}`: {error}", directory.display()),
            mend: "set TMPDIR to a directory that can be written".to_owned(),
        },
    }
}

#[cfg(feature = "torch")]
fn libtorch() -> Check {
    let device = if tch::Cuda::is_available() { tch::Device::Cuda(0) } else { tch::Device::Cpu };
    let product = || -> Result<f64, tch::TchError> {
        let left = tch::Tensor::f_from_slice(&[1.0_f64, 2.0, 3.0, 4.0])?.f_reshape([2, 2])?.f_to_device(device)?;
        left.f_matmul(&left)?.f_sum(tch::Kind::Double)?.f_double_value(&[])
    };
    // [[1, 2], [3, 4]] squared is [[7, 10], [15, 22]], whose entries add up to 54.
    let (status, detail) = match product() {
        Ok(54.0) => (Status::Ok, format!("{LIBTORCH_VERSION}, device {device:?}, a 2 x 2 product is right")),
        Ok(other) => (Status::Failed, format!("{LIBTORCH_VERSION}, device {device:?}, a 2 x 2 product sums to {other}, not 54")),
        Err(error) => (Status::Failed, error.to_string()),
    };
    let mend = if status == Status::Ok { String::new() } else { "fetch it again: `make libtorch`".to_owned() };
    Check { name: "libtorch", status, detail, mend }
}

/// Read by `build.rs` from the libtorch that was linked.
#[cfg(feature = "torch")]
const LIBTORCH_VERSION: &str = env!("FULGURITE_LIBTORCH_VERSION");

#[cfg(not(feature = "torch"))]
fn libtorch() -> Check {
    Check {
        name: "libtorch",
        status: Status::Absent,
        detail: "this build leaves it out; no stage of it needs libtorch".to_owned(),
        mend: "`make build` builds with it".to_owned(),
    }
}

/// Only the tests need it: they compare with DuckDB, Polars and pyarrow.
fn python() -> Check {
    let name = "python of the tests";
    match std::fs::metadata(".venv/bin/python") {
        Ok(_) => Check { name, status: Status::Ok, detail: "`.venv` is there".to_owned(), mend: String::new() },
        Err(_) => {
            let detail = "there is no `.venv` here; only `make test` wants one".to_owned();
            Check { name, status: Status::Absent, detail, mend: "`scripts/python-env.sh` makes it".to_owned() }
        }
    }
}

/// Whether the lake's store does what commits rest on.
async fn store(lake: Option<&str>) -> Check {
    let name = "lake";
    let Some(location) = lake else {
        let mend = "try one: `fulgurite doctor --lake URL`".to_owned();
        return Check { name, status: Status::Absent, detail: "none named".to_owned(), mend };
    };
    let tried = async { Lake::open_existing(location).await?.check().await };
    match tried.await {
        Ok(()) => {
            let detail = format!("`{location}` creates a name once and refuses it the second time");
            Check { name, status: Status::Ok, detail, mend: String::new() }
        }
        Err(error) => Check { name, status: Status::Failed, detail: format!("{error:#}"), mend: String::new() },
    }
}
