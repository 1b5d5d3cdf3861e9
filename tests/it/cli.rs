//! Transcripts of the command line: what is typed, what comes back, the exit code.

#[test]
fn transcripts() {
    trycmd::TestCases::new()
        .register_bin("fulgurite", std::path::Path::new(env!("CARGO_BIN_EXE_fulgurite")))
        .case("tests/it/cli/*.trycmd");
}
