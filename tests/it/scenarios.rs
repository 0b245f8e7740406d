//! Scenarios: a world in, the whole plan text out; one file a usage scenario or a bug, and no code to add one.
//!
//! A file in `tests/scenarios` holds `title`, `rules`, `config`, `directory`, `homeserver` and the expected `plan`, then steps under
//! `then:` that change the world (maps merge, lists replace, `null` deletes) and expect the next plan. After every plan its pending
//! steps are done to the observed world, people accept their invitations, the ledger learns, and a further plan must have nothing to
//! do. `UPDATE_SCENARIOS=1` writes what came out into the files: read every line of the difference.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "what cannot be set up fails the test")]

mod expect;
mod short;
pub mod world;

use std::path::{Path, PathBuf};

use serde_json::Value;

use world::Stage;

/// Every scenario, in the order of the file names.
fn files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    files.sort();
    files
}

/// Runs one scenario: the plans that came out, and what else went wrong.
fn play(scenario: &Value) -> (Vec<String>, Vec<String>) {
    let mut stage = Stage::set(scenario);
    let mut plans = Vec::new();
    let mut faults = Vec::new();
    if scenario["settled"] == true {
        stage.pass(&Value::Null, &mut faults);
    } else {
        plans.push(stage.pass(scenario, &mut faults));
    }
    for step in scenario["then"].as_array().into_iter().flatten() {
        stage.change(step);
        plans.push(stage.pass(step, &mut faults));
    }
    (plans, faults)
}

#[test]
fn every_scenario_plans_what_it_says() {
    let update = std::env::var_os("UPDATE_SCENARIOS").is_some();
    let only = std::env::var("SCENARIO").unwrap_or_default();
    let mut failures = Vec::new();
    let files = files();
    assert!(files.len() > 1, "the scenarios are there");
    for path in files.iter().filter(|path| path.to_string_lossy().contains(&only)) {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(path).unwrap();
        let scenario: Value = serde_yaml::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(
            scenario["title"].is_string() && !scenario["rules"].as_array().unwrap().is_empty(),
            "{name}: a scenario has a title and names its rules"
        );
        let (plans, faults) = play(&scenario);
        failures.extend(faults.into_iter().map(|fault| format!("{name}: {fault}")));
        if update {
            std::fs::write(path, expect::written(&text, &plans)).unwrap();
            continue;
        }
        let wanted = expect::read(&scenario);
        assert_eq!(wanted.len(), plans.len(), "{name}: every step expects a plan");
        for (at, (wanted, got)) in wanted.iter().zip(&plans).enumerate() {
            if wanted.trim_end() != got.trim_end() {
                failures.push(format!("{name}, plan {at}:\n{}", expect::difference(wanted, got)));
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}
