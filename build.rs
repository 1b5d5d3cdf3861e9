//! Lets the binary find libtorch where it was linked, with no `LD_LIBRARY_PATH`, and keeps it when nothing names it directly.

use std::path::PathBuf;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=LIBTORCH");
    if std::env::var_os("CARGO_FEATURE_TORCH").is_none() {
        return;
    }
    // Set by the build script of tch, which took it from LIBTORCH (see `.cargo/config.toml`).
    let Some(library) = std::env::var_os("DEP_TCH_LIBTORCH_LIB").map(PathBuf::from) else { return };
    let library = library.canonicalize().unwrap_or(library);
    println!("cargo::rustc-link-arg=-Wl,-rpath,{}", library.display());
    println!("cargo::rustc-link-arg=-Wl,--no-as-needed");
    println!("cargo::rustc-link-arg=-ltorch");
    println!("cargo::rustc-env=FULGURITE_LIBTORCH_VERSION={}", version(&library));
}

/// The version that the wheel states, or a word that says that it states none.
fn version(library: &std::path::Path) -> String {
    let text = std::fs::read_to_string(library.join("../version.py")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("__version__ = "));
    line.map_or("of unknown version".to_owned(), |version| version.trim_matches(['\'', '"']).to_owned())
}
