//! The prose of the repository is plain technical English.
//!
//! Comments, documentation, Markdown and string literals are compared with patterns of phrases that readers stumble over
//! (`language.txt`). A hit is not always an error, so a small share is allowed.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use regex::Regex;

/// The allowed share of lines with a hit, in percent, in all and in each folder. Each folder may have one hit.
const ALL: f64 = 1.0;
const FOLDER: f64 = 3.0;

/// Directories without prose of the project, and fixtures.
const SKIPPED: &[&str] = &["target", ".git", "tests/ui", "tests/golden", "tests/fuzz/corpus", "node_modules"];

struct Patterns {
    patterns: Vec<(String, Regex)>,
    literal: Regex,
}

impl Patterns {
    fn new() -> Self {
        let patterns = include_str!("language.txt").lines().map(|line| {
            let (name, pattern) = line.split_once('\t').expect("a name and a pattern");
            (name.to_owned(), Regex::new(pattern).expect("a regular expression"))
        });
        let literal = Regex::new(r#""((?:[^"\\]|\\.)*)""#).expect("a regular expression");
        Self { patterns: patterns.collect(), literal }
    }

    /// Returns the names of the patterns that the text contains.
    fn hits(&self, text: &str) -> Vec<&str> {
        let hits = self.patterns.iter().filter(|(_, pattern)| pattern.is_match(text));
        hits.map(|(name, _)| name.as_str()).collect()
    }

    /// Returns the prose of a line: of Markdown, of a comment, or of the string literals.
    fn prose(&self, is_markdown: bool, line: &str, is_code: &mut bool) -> String {
        let line = line.trim();
        let comment = ["///", "//!", "//"].iter().find_map(|start| line.strip_prefix(start));
        let Some(text) = (if is_markdown { Some(line) } else { comment }) else {
            *is_code = false;
            let literals = self.literal.captures_iter(line).filter_map(|literal| literal.get(1));
            let sentences: Vec<_> = literals.map(|text| text.as_str()).filter(|text| text.contains(' ')).collect();
            return sentences.join(" ");
        };
        let text = text.trim();
        if text.starts_with("```") {
            *is_code = !*is_code;
            return String::new();
        }
        let is_heading = !is_markdown && text.starts_with('#');
        if *is_code || is_heading { String::new() } else { text.to_owned() }
    }
}

/// Returns the root of the repository.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().expect("the root exists")
}

/// Returns all Markdown and Rust files below a folder.
pub(crate) fn files(root: &Path) -> Vec<PathBuf> {
    let (mut files, mut folders) = (Vec::new(), vec![root.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("the folder is readable") {
            let path = entry.expect("the entry is readable").path();
            let relative = path.strip_prefix(root).expect("it is below the root");
            if SKIPPED.iter().any(|skipped| relative == Path::new(skipped) || path.ends_with(skipped)) {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs" || extension == "md") {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

fn share((lines, hits): (usize, usize)) -> f64 {
    100.0 * hits as f64 / lines.max(1) as f64
}

#[test]
fn prose_is_plain_english() {
    let root = root();
    let patterns = Patterns::new();
    let (mut folders, mut found) = (BTreeMap::<PathBuf, (usize, usize)>::new(), Vec::new());
    for path in files(&root) {
        let text = fs::read_to_string(&path).expect("the file is readable");
        let is_markdown = path.extension().is_some_and(|extension| extension == "md");
        let relative = path.strip_prefix(&root).expect("it is below the root");
        let mut is_code = false;
        for (number, line) in (1..).zip(text.lines()) {
            let prose = patterns.prose(is_markdown, line, &mut is_code);
            if prose.is_empty() {
                continue;
            }
            let hits = patterns.hits(&prose);
            let folder = folders.entry(relative.parent().expect("a file has a folder").to_owned()).or_default();
            folder.0 += 1;
            if !hits.is_empty() {
                folder.1 += 1;
                found.push(format!("{}:{number}: {hits:?} {prose}", relative.display()));
            }
        }
    }
    let all = folders.values().fold((0, 0), |all, folder| (all.0 + folder.0, all.1 + folder.1));
    assert!(all.0 > 5_000, "{} lines of prose were found", all.0);
    let found = found.join("\n");
    assert!(share(all) <= ALL, "{} of {} lines are suspicious:\n{found}", all.1, all.0);
    for (folder, counts) in folders {
        let is_small = counts.1 <= 1;
        assert!(is_small || share(counts) <= FOLDER, "{} of {} lines of {folder:?}:\n{found}", counts.1, counts.0);
    }
}

#[test]
fn sample_phrases_match_their_patterns() {
    let patterns = Patterns::new();
    let phrases = [
        ("riddle", "It belongs to whoever holds it."),
        ("what-is", "A list of what is stored."),
        ("told", "The caller is told."),
        ("archaic", "It begins anew."),
        ("relative", "The bucket in which it is stored."),
    ];
    for (name, phrase) in phrases {
        assert!(patterns.hits(phrase).contains(&name), "{phrase}");
    }
    assert_eq!(patterns.hits("Returns the newest entry of a key."), Vec::<&str>::new());
    let mut is_code = false;
    assert_eq!(patterns.prose(false, "    let a = \"two words\";", &mut is_code), "two words");
    assert_eq!(patterns.prose(false, "/// A comment.", &mut is_code), "A comment.");
    assert_eq!(patterns.prose(false, "/// ```", &mut is_code) + &patterns.prose(false, "/// code", &mut is_code), "");
}
