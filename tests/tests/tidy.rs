//! Rules of layout that a compiler does not keep: which crate may depend on
//! which, what the pure crate must never reach, and the shape of files.

#![allow(clippy::unwrap_used)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

/// The crates and those of ours that each may use.
const DIRECTIONS: [(&str, &[&str]); 5] = [
    ("tally-ledger", &[]),
    ("tally-proto", &["tally-ledger"]),
    ("tally-consensus", &["tally-ledger"]),
    (
        "tally-node",
        &[
            "tally-consensus",
            "tally-proto",
            "tally-ledger",
            "tally-gateway-adapter",
        ],
    ),
    ("tally-gateway-adapter", &["tally-proto", "tally-ledger"]),
];

/// What the pure crate never reaches: async, network, disk, protobuf,
/// clocks, randomness of its own.
const BANNED_IN_LEDGER: [&str; 18] = [
    "tokio",
    "futures",
    "async-trait",
    "libp2p",
    "sled",
    "tonic",
    "prost",
    "hyper",
    "axum",
    "mio",
    "socket2",
    "rustls",
    "chrono",
    "time",
    "getrandom",
    "tempfile",
    "memmap2",
    "rayon",
];

/// Most lines of a source file before its tests.
const MOST_LINES: usize = 600;

fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap().to_path_buf()
}

fn cargo(arguments: &[&str]) -> String {
    let output = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".into()))
        .current_dir(root())
        .args(arguments)
        .output()
        .expect("cargo runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "cargo {arguments:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// Direct dependencies per package; those for tests only are left out.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let metadata = cargo(&[
        "metadata",
        "--format-version=1",
        "--no-deps",
        "--offline",
        "--locked",
    ]);
    let metadata: Value = serde_json::from_str(&metadata).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_string();
    let packages = metadata["packages"].as_array().unwrap();
    packages
        .iter()
        .map(|package| {
            let used = package["dependencies"].as_array().unwrap().iter();
            let used = used
                .filter(|dependency| dependency["kind"] != "dev")
                .map(|dependency| text(&dependency["name"]))
                .collect();
            (text(&package["name"]), used)
        })
        .collect()
}

/// Every file of the repository that git would track, as far as its ignore
/// rules of folders go.
fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().to_string();
        if path.is_dir() {
            if name != "target" && name != ".git" {
                files(&path, found);
            }
        } else if name != ".git" {
            found.push(path);
        }
    }
}

fn sources() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    files(&root(), &mut found);
    found
        .into_iter()
        .filter(|path| path.extension().is_some_and(|e| e == "rs"))
        .map(|path| {
            let text = fs::read_to_string(&path).unwrap();
            (path.strip_prefix(root()).unwrap().to_path_buf(), text)
        })
        .collect()
}

/// Whether a file holds nothing but tests.
fn is_test(path: &Path) -> bool {
    path.ends_with("tests.rs") || path.iter().skip(1).any(|part| part == "tests")
}

/// Lines before the file's test module.
fn lines_without_tests(text: &str) -> usize {
    let lines: Vec<&str> = text.lines().collect();
    let tests = lines
        .windows(2)
        .position(|pair| pair[0] == "#[cfg(test)]" && pair[1].starts_with("mod tests {"));
    tests.unwrap_or(lines.len())
}

#[test]
fn the_pure_crate_reaches_nothing_impure() {
    let tree = cargo(&[
        "tree",
        "--package=tally-ledger",
        "--edges=normal,build",
        "--prefix=none",
        "--format={p}",
        "--offline",
        "--locked",
    ]);
    let reached: BTreeSet<&str> = (tree.lines())
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert!(reached.contains("sha2"), "the tree is read");
    let bad: Vec<&&str> = (reached.iter())
        .filter(|name| {
            BANNED_IN_LEDGER.contains(name)
                || name.starts_with("arc-malachitebft")
                || name.starts_with("libp2p")
        })
        .collect();
    assert!(bad.is_empty(), "ledger depends on {bad:?}");
}

#[test]
fn crates_depend_in_one_direction() {
    let used = dependencies();
    for (name, may) in DIRECTIONS {
        let ours = (used[name].iter()).filter(|dependency| dependency.starts_with("tally-"));
        let bad: Vec<&String> = ours.filter(|d| !may.contains(&d.as_str())).collect();
        assert!(bad.is_empty(), "{name} depends on {bad:?}");
    }
    assert!(used.contains_key("tally-tests"));
}

#[test]
fn the_engine_stays_inside_consensus() {
    for (name, used) in dependencies() {
        let engine = |d: &&String| d.starts_with("arc-malachitebft") || d.starts_with("libp2p");
        let bad: Vec<&String> = used.iter().filter(engine).collect();
        let may = ["tally-consensus", "tally-tests"].contains(&name.as_str());
        assert!(may || bad.is_empty(), "{name} depends on {bad:?}");
    }
}

#[test]
fn only_the_command_line_of_node_knows_the_adapter() {
    for (path, text) in sources() {
        let in_node = path.starts_with("node/src") && !path.starts_with("node/src/cli");
        let is_cli = path.ends_with("cli.rs") || path.ends_with("main.rs");
        assert!(
            !in_node || is_cli || !text.contains("tally_gateway_adapter"),
            "{} uses the gateway adapter",
            path.display()
        );
    }
}

#[test]
fn files_are_short_and_say_what_they_guarantee() {
    let sources = sources();
    assert!(sources.len() > 20, "sources are found");
    let mut wrong = Vec::new();
    for (path, text) in sources {
        let shown = path.display();
        let lines = lines_without_tests(&text);
        if lines > MOST_LINES && !is_test(&path) {
            wrong.push(format!("{shown} has {lines} lines before its tests"));
        }
        if !text.starts_with("//!") {
            wrong.push(format!("{shown} does not open with //!"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn nothing_points_out_of_the_repository() {
    let outside = ["..", "shared"].join("/");
    let mut found = Vec::new();
    files(&root(), &mut found);
    for path in found {
        let bytes = fs::read(&path).unwrap();
        let text = String::from_utf8_lossy(&bytes);
        assert!(!text.contains(&outside), "{}", path.display());
    }
}

#[test]
fn no_test_is_skipped_or_expected_to_panic() {
    let banned = ["ignore", "should_panic"].map(|name| format!("#[{name}"));
    for (path, text) in sources() {
        for word in &banned {
            assert!(!text.contains(word), "{} has {word}", path.display());
        }
    }
}
