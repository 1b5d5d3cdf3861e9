//! Lets the binary find libtorch where it was linked, with no `LD_LIBRARY_PATH`, and keeps it when nothing names it directly.

use std::path::{Path, PathBuf};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=LIBTORCH");
    if std::env::var_os("CARGO_FEATURE_TORCH").is_none() {
        return;
    }
    // From `.cargo/config.toml`, unless the environment names another. torch-sys complains where there is none.
    let Some(libtorch) = std::env::var_os("LIBTORCH").map(PathBuf::from) else { return };
    let libtorch = libtorch.canonicalize().unwrap_or(libtorch);
    println!("cargo::rustc-link-arg=-Wl,-rpath,{}", libtorch.join("lib").display());
    println!("cargo::rustc-link-arg=-Wl,--no-as-needed");
    println!("cargo::rustc-link-arg=-ltorch");
    println!("cargo::rerun-if-changed={}", libtorch.join("version.py").display());
    println!("cargo::rustc-env=FULGURITE_LIBTORCH_VERSION={}", version(&libtorch));
}

/// The version that the wheel states, or a word that says that it states none.
fn version(libtorch: &Path) -> String {
    let text = std::fs::read_to_string(libtorch.join("version.py")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("__version__ = "));
    line.map_or("of unknown version".to_owned(), |version| version.trim_matches(['\'', '"']).to_owned())
}
