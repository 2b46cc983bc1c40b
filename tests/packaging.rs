//! Manifests, workflows, the README and the pages of the documentation.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;

use regex::Regex;
use serde_json::Value;

use crate::language;

/// Crates that only users of an integration, of the file backend or of the command line tool build.
const HEAVY: &[&str] =
    &["axum", "axum-core", "clap", "http", "hyper", "libsqlite3-sys", "rusqlite", "sha2", "tower", "tower-layer"];

/// The number of crates of the default features. More than two further crates need a reason.
const DEFAULT_CRATES: usize = 109;

/// Words that people search, which are in the headings of the pages.
const SEARCHED: &[&str] = &[
    "backup and restore",
    "blue-green",
    "cache in front of a database",
    "cron on one node",
    "distributed lock",
    "etag",
    "feature flags",
    "graceful shutdown",
    "health check",
    "idempotent post",
    "live configuration",
    "metrics",
    "migration",
    "multi-tenant",
    "pagination",
    "permissions",
    "presence",
    "rate limiting",
    "secondary index",
    "server-sent events",
    "sessions in axum",
    "tombstones",
    "tracing",
    "ttl",
    "unique values",
    "upsert",
    "work queue",
];

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

fn read(path: &str) -> String {
    fs::read_to_string(language::root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Returns the packages of the workspace.
fn packages() -> Vec<Value> {
    let metadata: Value = serde_json::from_str(&cargo(&["metadata", "--format-version", "1", "--no-deps"])).unwrap();
    metadata["packages"].as_array().expect("packages").clone()
}

fn library() -> Value {
    packages().into_iter().find(|package| package["name"] == "kvtyped").expect("the library")
}

/// Returns the features of the library, apart from `default`.
fn features() -> BTreeSet<String> {
    let features = library()["features"].as_object().expect("features").keys().cloned().collect::<BTreeSet<_>>();
    features.into_iter().filter(|feature| feature != "default").collect()
}

/// Returns the lines of Markdown outside of code.
fn prose(text: &str) -> Vec<&str> {
    let mut is_code = false;
    let lines = text.lines().filter(|line| {
        let is_fence = line.trim_start().starts_with("```");
        is_code ^= is_fence;
        !is_code && !is_fence
    });
    lines.collect()
}

/// Returns the anchor of a heading, as rustdoc and GitHub generate it.
fn anchor(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = text.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

/// Returns the headings of a text by their anchors, each with the text up to the next heading.
fn sections(text: &str) -> BTreeMap<String, String> {
    let (mut sections, mut current, mut is_code) = (BTreeMap::<String, String>::new(), String::new(), false);
    for line in text.lines() {
        is_code ^= line.starts_with("```");
        if line.starts_with('#') && line.trim_start_matches('#').starts_with(' ') && !is_code {
            current = anchor(line);
        }
        let section = sections.entry(current.clone()).or_default();
        section.push_str(line);
        section.push('\n');
    }
    sections
}

/// Returns the pages of the documentation: each module without items, and its files in `kvtyped/docs/`.
fn pages() -> BTreeMap<String, Vec<String>> {
    let (file, module) = (Regex::new(r"docs/([\w-]+\.md)").unwrap(), Regex::new(r"^pub mod (\w+) \{\}").unwrap());
    let (mut pages, mut files) = (BTreeMap::new(), Vec::new());
    for line in read("kvtyped/src/lib.rs").lines() {
        files.extend(file.captures(line).map(|found| found[1].to_owned()));
        if let Some(found) = module.captures(line) {
            pages.insert(found[1].to_owned(), std::mem::take(&mut files));
        }
    }
    assert!(pages.len() >= 9 && files.is_empty(), "{pages:?}");
    pages
}

fn page(files: &[String]) -> String {
    files.iter().map(|file| read(&format!("kvtyped/docs/{file}")) + "\n").collect()
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
fn default_tree_does_not_grow() {
    let options = ["tree", "-p", "kvtyped", "--edges", "normal", "--target", "x86_64-unknown-linux-gnu"];
    let text = cargo(&[&options[..], &["--prefix", "none", "--format", "{p}"]].concat());
    // The name and the version of each crate.
    let built: BTreeSet<_> = text.lines().map(|line| line.split(' ').take(2).collect::<Vec<_>>()).collect();
    assert!(built.len() > 50, "{built:?}");
    assert!(built.len() <= DEFAULT_CRATES + 2, "{} crates: {built:?}", built.len());
}

#[test]
fn feature_tables_are_complete() {
    let features = features();
    let table = |file: &str, start: &str| {
        let text = read(file);
        let table = text.split(&format!("{start}| feature |")).nth(1).expect("a table").to_owned();
        let row = format!("{start}| `");
        let rows = table.lines().skip(2).map_while(|line| line.strip_prefix(row.as_str())?.split('`').next());
        rows.map(str::to_owned).collect::<BTreeSet<_>>()
    };
    assert_eq!(table("kvtyped/src/lib.rs", "//! "), features);
    assert_eq!(table("README.md", ""), features);
    let integrations = table("kvtyped/src/integrations/mod.rs", "//! ");
    assert!(integrations.len() >= 4 && integrations.is_subset(&features), "{integrations:?}");

    let shown = &library()["metadata"]["docs"]["rs"]["features"];
    let shown = shown.as_array().expect("docs.rs shows a list").iter().filter_map(Value::as_str).map(str::to_owned);
    assert_eq!(shown.collect::<BTreeSet<_>>(), features);
}

#[test]
fn published_manifests_are_complete() {
    let precise = Regex::new(r"^[\^~]?=?\d+\.\d+").unwrap();
    let packages = packages();
    let published: Vec<_> = packages.iter().filter(|package| package["publish"].is_null()).collect();
    assert!(published.len() >= 2, "{} packages are published", published.len());
    for package in published {
        let name = &package["name"];
        let description = package["description"].as_str().expect("a description");
        assert!(description.len() <= 120 && !description.ends_with('.'), "{name}: {description}");
        for field in ["license", "rust_version", "readme"] {
            assert!(package[field].is_string(), "{name} has no `{field}`");
        }
        let keywords: Vec<_> = package["keywords"].as_array().expect("keywords").iter().collect();
        assert!((1..=5).contains(&keywords.len()), "{name}: {keywords:?}");
        assert!(keywords.iter().all(|word| word.as_str().is_some_and(|word| word.len() <= 20)), "{name}: {keywords:?}");
        assert!(package["categories"].as_array().is_some_and(|some| (1..=5).contains(&some.len())), "{name}");
        let dependencies = package["dependencies"].as_array().expect("dependencies");
        // Cargo leaves development dependencies without a version out of the published manifest.
        let is_published = |dependency: &&Value| dependency["kind"] != "dev" || dependency["path"].is_null();
        for dependency in dependencies.iter().filter(is_published) {
            let requirement = dependency["req"].as_str().expect("a requirement");
            assert!(precise.is_match(requirement), "{name}: {} = {requirement:?} is imprecise", dependency["name"]);
        }
    }
}

#[test]
fn badges_show_manifest() {
    let (readme, library) = (read("README.md"), library());
    let first = readme.lines().find(|line| line.contains("img.shields.io")).expect("a line of badges");
    let version = library["version"].as_str().expect("a version");
    let rust = library["rust_version"].as_str().expect("a version");
    assert!(first.contains(&format!("badge/version-{version}")), "{first}");
    assert!(first.contains(&format!("badge/Rust-{rust}")), "{first}");
    assert!(readme.contains(&format!("* Rust {rust}.")), "the requirements name Rust {rust}");
}

/// The first screen: the code first, then the two commands, and the URLs.
#[test]
fn readme_begins_with_code_and_two_commands() {
    let readme = read("README.md");
    let code = readme.split("```").nth(1).expect("code").to_owned();
    let lines = code.lines().filter(|line| !line.trim().is_empty()).count();
    assert!(code.starts_with("rust\n") && lines <= 25, "{lines} lines");
    let commands = readme.split("```").nth(3).expect("commands").to_owned();
    assert!(commands.starts_with("sh\ncargo run --example quickstart "), "{commands}");
    assert_eq!(commands.trim().lines().count(), 3, "two commands: {commands}");
    for url in ["| `memory:` |", "| `file:app.kv` |", "| `nats://host:4222` |"] {
        assert!(readme.contains(url), "{url}");
    }
}

#[test]
fn links_of_readme_and_root_files_exist() {
    let root = language::root();
    let link = Regex::new(r"\]\(([^)\s]+)\)").unwrap();
    let mut count = 0;
    for file in ["README.md", "CONTRIBUTING.md", "SECURITY.md", "CODE_OF_CONDUCT.md", "CHANGELOG.md"] {
        let text = read(file);
        let anchors = sections(&text);
        for target in prose(&text).iter().flat_map(|line| link.captures_iter(line)) {
            let target = &target[1];
            // Another site, or a page of the forge.
            if target.starts_with("https://") || target.starts_with("../../actions/") {
                continue;
            }
            count += 1;
            let (path, fragment) = target.split_once('#').unwrap_or((target, ""));
            assert!(path.is_empty() || root.join(path).exists(), "{file}: {path} does not exist");
            let is_markdown = path.is_empty() || path.ends_with(".md");
            if !fragment.is_empty() && is_markdown {
                let exists = if path.is_empty() {
                    anchors.contains_key(fragment)
                } else {
                    sections(&read(path)).contains_key(fragment)
                };
                assert!(exists, "{file}: {target} is no heading");
            }
        }
    }
    assert!(count > 30, "{count} links");
}

#[test]
fn picture_is_small() {
    let picture = fs::read(language::root().join("examples/web_service/page.png")).expect("the picture exists");
    assert!(picture.starts_with(b"\x89PNG"), "it is a PNG");
    assert!(picture.len() < 150 * 1024, "{} bytes", picture.len());
}

#[test]
fn links_between_pages_lead_to_headings() {
    let link = Regex::new(r"\]\((?:crate::([a-z_]+))?#([^)]+)\)").unwrap();
    let pages = pages();
    let headings: BTreeMap<_, _> = pages.iter().map(|(module, files)| (&**module, sections(&page(files)))).collect();
    let mut count = 0;
    for (module, files) in &pages {
        for line in prose(&page(files)) {
            for target in link.captures_iter(line) {
                let page = target.get(1).map_or(&**module, |page| page.as_str());
                // Other modules have their headings in Rust.
                let Some(headings) = headings.get(page) else { continue };
                count += 1;
                assert!(headings.contains_key(&target[2]), "{module}: {} is no heading of `{page}`", &target[2]);
            }
        }
    }
    assert!(count > 60, "{count} links");
    let shown: BTreeSet<_> = pages.into_values().flatten().collect();
    let files = fs::read_dir(language::root().join("kvtyped/docs")).expect("the folder is readable");
    let names = files.map(|entry| entry.expect("an entry").file_name().into_string().expect("text"));
    assert_eq!(names.filter(|name| name.ends_with(".md")).collect::<BTreeSet<_>>(), shown, "each file is shown");
}

#[test]
fn pages_are_short_and_tested() {
    for file in pages().into_values().flatten() {
        let text = page(std::slice::from_ref(&file));
        assert!(text.lines().count() <= 420, "{file}: {} lines", text.lines().count());
        for fence in text.lines().filter(|line| line.starts_with("```") && line.len() > 3) {
            assert!(["```text", "```toml", "```no_run"].contains(&fence), "{file}: {fence} is not tested");
        }
    }
}

/// GitHub shows the line, because it drops the style. Rustdoc, where the links work, hides it.
#[test]
fn pages_name_the_place_of_their_links() {
    let link = Regex::new(r"\]\((crate::|derive@)").unwrap();
    for file in pages().into_values().flatten() {
        let text = read(&format!("kvtyped/docs/{file}"));
        let names = text.contains("<p style=\"display: none\">The links to items of the crate work in the pages that");
        assert_eq!(names, link.is_match(&text), "{file}");
    }
}

#[test]
fn searched_words_are_headings() {
    let headings: Vec<_> = pages().values().flat_map(|files| sections(&page(files)).into_keys()).collect();
    for searched in SEARCHED {
        let wanted = anchor(searched);
        assert!(headings.iter().any(|heading| heading.contains(&wanted)), "no heading contains {searched:?}");
    }
}

/// Each entry of the cookbook has an example, or says why not by a table.
#[test]
fn cookbook_entries_have_examples() {
    for (heading, text) in sections(&page(&pages()["cookbook"])) {
        let has_example = text.contains("\n```\n# use kvtyped::prelude::*;") || text.contains("\n|---|");
        assert!(has_example, "the section {heading:?} has no example");
    }
}

/// Each row of the tables of the other systems links to an example, or says that there is no counterpart.
#[test]
fn migration_rows_have_examples() {
    let text = read("kvtyped/docs/migrating.md");
    let (sections, link) = (sections(&text), Regex::new(r"\]\(#([^)]+)\) \|$").unwrap());
    let (mut rows, mut linked) = (0, BTreeSet::new());
    for line in prose(&text).into_iter().filter(|line| line.starts_with("| ") && !line.contains("| example |")) {
        rows += 1;
        match link.captures(line) {
            Some(target) => {
                assert!(sections[&target[1]].contains("\n```\n"), "{line}: the section has no example");
                linked.insert(target[1].to_owned());
            }
            None => assert!(line.ends_with("| not supported |"), "{line}"),
        }
    }
    assert!(rows >= 35, "{rows} rows");
    let examples: Vec<_> = sections.iter().filter(|(_, text)| text.contains("\n```\n")).map(|(name, _)| name).collect();
    assert_eq!(linked.iter().collect::<Vec<_>>(), examples, "each example belongs to a row");
}

#[test]
fn workflows_are_pinned_and_restricted() {
    let root = language::root();
    let uses = Regex::new(r"uses: (\S+)").unwrap();
    let pinned = Regex::new(r"^[\w./-]+@[0-9a-f]{40}$").unwrap();
    let script = Regex::new(r"\.ci/\w+").unwrap();
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(root.join(".github/workflows")).expect("the folder exists") {
        let path = entry.expect("an entry").path();
        let text = fs::read_to_string(&path).expect("it is text");
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        for action in uses.captures_iter(&text) {
            assert!(pinned.is_match(&action[1]), "{name}: {} is not pinned by a hash", &action[1]);
        }
        assert!(text.contains("\npermissions:\n  contents: read\n"), "{name} may write");
        assert!(!text.contains("pull_request_target"), "{name} runs with secrets on foreign code");
        for found in script.find_iter(&text) {
            assert!(root.join(found.as_str()).exists(), "{name}: {} does not exist", found.as_str());
        }
        names.insert(name);
    }
    assert_eq!(names.iter().map(String::as_str).collect::<Vec<_>>(), ["ci.yml", "nightly.yml", "release.yml"]);
    let is_everything_checked = read(".github/workflows/ci.yml").contains("- run: .ci/run\n");
    assert!(is_everything_checked, "the workflow and the local gate agree");
}
