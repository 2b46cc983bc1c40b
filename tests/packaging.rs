//! Manifests: lean default members, and complete tables of features.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use serde_json::Value;

use crate::language;

/// Crates that only users of an integration, of the file backend or of the command line tool build.
const HEAVY: &[&str] =
    &["axum", "axum-core", "clap", "http", "hyper", "libsqlite3-sys", "rusqlite", "sha2", "tower", "tower-layer"];

/// Runs cargo in the root of the repository and returns its output.
fn cargo(arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO"));
    let output = command.args(arguments).args(["--locked", "--offline"]).current_dir(language::root()).output();
    let output = output.expect("cargo runs");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("it is text")
}

/// Returns the names of the crates that cargo builds for these packages.
fn tree(packages: &[&str]) -> BTreeSet<String> {
    let text = cargo(&[&["tree", "--prefix", "none", "--format", "{p}"], packages].concat());
    text.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}

#[test]
fn default_members_build_no_web_framework() {
    let built = tree(&[]);
    assert!(built.contains("kvtyped") && built.contains("kvtyped-examples"), "{built:?}");
    let heavy: Vec<_> = HEAVY.iter().filter(|name| built.contains(**name)).collect();
    assert!(heavy.is_empty(), "`cargo run --example quickstart` builds {heavy:?}");
    let service = tree(&["-p", "kvtyped-web-service"]);
    assert!(service.contains("axum") && service.contains("tower-layer"), "the names are correct");
    assert!(tree(&["-p", "kvtyped-cli"]).contains("clap"));
}

#[test]
fn feature_tables_are_complete() {
    let metadata: Value = serde_json::from_str(&cargo(&["metadata", "--format-version", "1", "--no-deps"])).unwrap();
    let packages = metadata["packages"].as_array().expect("packages");
    let library = packages.iter().find(|package| package["name"] == "kvtyped").expect("the library");
    let features = library["features"].as_object().expect("features");
    let mut features: BTreeSet<_> = features.keys().cloned().collect();
    features.remove("default");

    let table = |file: &str| {
        let text = fs::read_to_string(language::root().join("kvtyped/src").join(file)).expect("it is text");
        let table = text.split("| feature |").nth(1).expect("a table").to_owned();
        let rows = table.lines().skip(2).map_while(|line| line.strip_prefix("//! | `")?.split('`').next());
        rows.map(str::to_owned).collect::<BTreeSet<_>>()
    };
    assert_eq!(table("lib.rs"), features);
    let integrations = table("integrations/mod.rs");
    assert!(integrations.len() >= 4 && integrations.is_subset(&features), "{integrations:?}");
}
