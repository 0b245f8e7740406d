//! What the tests call must be what `tests/install` installs: a minimal Debian lacks more than one thinks.
#![allow(clippy::unwrap_used, reason = "a test that cannot read its own sources should fail there and then")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// On every Debian: packages marked as essential.
const ALWAYS_THERE: [&str; 1] = ["id"];

/// Names in `Command::new("…")` in all files below a folder.
fn called(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            called(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(path).unwrap();
            let names = text.split("Command::new(\"").skip(1).filter_map(|rest| rest.split_once('"'));
            found.extend(
                names
                    .map(|(name, _)| name.to_owned())
                    .filter(|name| name.bytes().all(|byte| byte.is_ascii_lowercase())),
            );
        }
    }
}

#[test]
fn every_program_that_tests_and_benchmarks_call_is_installed_by_the_script() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut programs = BTreeSet::new();
    called(&root.join("tests"), &mut programs);
    called(&root.join("benches"), &mut programs);
    assert!(programs.contains("slapd") && programs.contains("kill"), "{programs:?}");
    let script = fs::read_to_string(root.join("tests/install")).unwrap();
    let needs = script.split("<<'NEEDS'").nth(1).and_then(|rest| rest.split("\nNEEDS").next()).unwrap();
    let provided: BTreeSet<&str> =
        needs.lines().filter_map(|line| line.split_whitespace().next()?.rsplit('/').next()).collect();
    // The SCIM benchmark's peers have a script of their own.
    let peers = fs::read_to_string(root.join("benches/scim/install")).unwrap();
    let peers: BTreeSet<&str> = peers.split_whitespace().collect();
    let known = |name: &str| ALWAYS_THERE.contains(&name) || provided.contains(name) || peers.contains(name);
    let missing: Vec<&String> = programs.iter().filter(|name| !known(name)).collect();
    assert_eq!(missing, [""; 0]);
}
